# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""draws - random small jobs, and random ways to divide them among ranks, for random_jobs.py.

A job is a map from keys of the job file to values: what decides its numbers.  A layout is the other half: how many
ranks on which hosts, and the keys that must not change the numbers but for the order of sums.  Nothing here asks
whether a draw can run; `dsrun check` does.
"""
import array
import json
import random
import struct

import harness as h

VOCAB = 97  # of files of ids; small, so that separators and repeated ids are many
WORDS = "the of and a to in is you that it he was for on are as with his they at be this from I have or by".split()


# --- data ---------------------------------------------------------------------------------------

def ids(dice, count):
    """Ids with some order in them; 0 ends a document."""
    return [0 if dice.random() < 0.08 else dice.choice((3, 5, 7)) * (i % 11) + dice.randrange(1, 20) for i in range(count)]


def text_file(name):
    path = h.work() / f"{name}.txt"
    if not path.exists():
        dice = random.Random(name)
        path.write_text("\n".join(" ".join(dice.choices(WORDS, k=9)) for _ in range(120)))
    return path


def ids_file(name):
    path = h.work() / name
    if not path.exists():
        path.write_bytes(array.array("I" if ".u32." in name else "H", ids(random.Random(name), 3000)).tobytes())
    return path


def samples_file(name, sequence, masked):
    """Samples of this length; of some nothing, of some all is trained on."""
    path = h.work() / f"{name}-{sequence}-{masked}.safetensors"
    if not path.exists():
        dice, rows = random.Random(path.name), 40
        tokens = array.array("I", ids(dice, rows * (sequence + 1))).tobytes()
        shape = [rows, sequence + 1]
        head = {"tokens": {"dtype": "I32", "shape": shape, "data_offsets": [0, len(tokens)]}}
        mask = b""
        if masked:
            mask = bytes(int(dice.random() < share) for share in (dice.choice((0, 0.3, 0.8, 1)) for _ in range(rows))
                         for _ in range(sequence + 1))
            head["loss_mask"] = {"dtype": "U8", "shape": shape, "data_offsets": [len(tokens), len(tokens) + len(mask)]}
        text = json.dumps(head).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + tokens + mask)
    return path


def data_set(dice, kind, sequence, names):
    """One set, or a mixture of several."""
    make = {"text": lambda n: text_file(n), "ids": lambda n: ids_file(n + dice.choice((".bin", ".u32.bin"))),
            "samples": lambda n: samples_file(n, sequence, False), "masked": lambda n: samples_file(n, sequence, True)}[kind]
    files = [str(make(name)) for name in names]
    if len(files) == 1 or dice.random() < 0.5:
        return files
    return [{"path": file, "weight": dice.choice((1, 2, 0.5))} for file in files]


def draw_data(dice, sequence):
    kind = dice.choice(("text", "ids", "samples", "masked"))
    keys = {"data.train": data_set(dice, kind, sequence, dice.choice((["a"], ["a", "b"], ["a", "b", "c"])))}
    if kind != "text":
        keys["model.vocab"] = dice.choice((VOCAB, 128, 1031, 4096))
    if dice.random() < 0.6:
        keys["data.valid"] = data_set(dice, kind, sequence, dice.choice((["d"], ["d", "e"])))
        keys["eval.every"] = dice.choice((1, 2))
        keys["eval.batches"] = dice.choice((1, 2, 3))
    if dice.random() < 0.3:
        keys["data.documents"] = "apart"
        keys["data.separator"] = 10 if kind == "text" else 0
    if dice.random() < 0.3:
        keys["data.order"] = dice.choice(("shuffle", "sequential"))
    return keys


# --- the job ------------------------------------------------------------------------------------

def draw_model(dice, wide):
    arch = dice.choice(("gpt2", "llama", "mixtral", "qwen2", "qwen3", "qwen3_moe", "phi3", "olmo2", "gemma3", "smollm3", "granite", "gpt_neox"))
    heads = dice.choice((1, 2, 3, 4, 4, 6, 8))
    size = dice.choice((16, 32) if wide else (2, 4, 6, 8, 16))
    keys = {"model.arch": arch, "model.layers": dice.choice((1, 2, 3, 4)), "model.heads": heads,
            "model.hidden": heads * size,
            "model.ffn": dice.choice((256, 384) if wide else (16, 24, 32, 52, 64))}
    classic = arch in ("gpt2", "gpt_neox")
    if not classic and dice.random() < 0.6:
        keys["model.kv_heads"] = dice.choice([k for k in range(1, heads + 1) if heads % k == 0])
    if not classic and dice.random() < 0.3:
        keys["model.hidden"], keys["model.head_size"] = dice.choice((16, 24, 48)), dice.choice((4, 8, 16, 24))
    if arch in ("mixtral", "qwen3_moe"):
        keys["model.experts"] = dice.choice((1, 2, 3, 4, 6, 8))
        keys["model.experts_per_token"] = dice.randrange(1, min(3, keys["model.experts"]) + 1)
        if dice.random() < 0.5:
            keys["model.expert_balance"] = dice.choice((0, 0.01, 0.5))
    if dice.random() < 0.3:
        keys["model.tie_embeddings"] = dice.choice((True, False))
    if arch == "gemma3":
        keys["model.full_every"] = dice.choice((1, 2, 3))
    if arch == "granite":
        keys.update({"model.embedding_multiplier": dice.choice((1, 12)), "model.residual_multiplier": dice.choice((1, 0.22)),
                     "model.attention_multiplier": dice.choice((0, 0.125)), "model.logits_scaling": dice.choice((1, 8))})
    if arch == "smollm3":
        keys["model.nope_every"] = dice.choice((1, 2, 3, 4))
    turned = keys.get("model.head_size", size)
    if arch in ("phi3", "gpt_neox") and dice.random() < 0.5:
        turned = keys["model.rope_dims"] = dice.randrange(2, turned + 1, 2)
    if arch == "gpt_neox":
        keys["model.parallel_residual"] = dice.choice((True, False))
    if arch == "gemma3" or (arch not in ("gpt2", "olmo2", "granite", "gpt_neox") and dice.random() < 0.3):
        keys["model.window"] = dice.choice((1, 3, 8, 100))
    if dice.random() < 0.2:
        keys["model.dropout"] = 0.1
    if dice.random() < 0.2:
        keys["model.attention_dropout"] = 0.2
    if arch != "gpt2" and dice.random() < 0.2:
        keys.update(dice.choice((
            {"model.rope_scaling.type": "linear", "model.rope_scaling.factor": 2},
            {"model.rope_scaling.type": "llama3", "model.rope_scaling.factor": 8, "model.rope_scaling.original_context": 16},
            {"model.rope_scaling.type": "yarn", "model.rope_scaling.factor": 4, "model.rope_scaling.original_context": 16},
            {"model.rope_scaling.type": "longrope", "model.rope_scaling.original_context": dice.choice((4, 1000)),
             **{f"model.rope_scaling.{which}_factor": [by + 0.5 * i for i in range(turned // 2)]
                for which, by in (("short", 1), ("long", 2))}})))
    return keys


OPTIMS = {"adamw": ("betas", "eps"), "adam": ("betas", "eps"), "sgd": ("momentum",), "lion": ("betas",),
          "adagrad": ("eps",), "lamb": ("betas", "eps"), "muon": ("betas", "momentum", "muon_scale", "adamw_lr")}


def draw_optim(dice):
    name = dice.choice(list(OPTIMS))
    keys = {"optim.name": name, "optim.lr": dice.choice((1e-3, 3e-3)) if name != "sgd" else 0.05}
    draws = {"betas": [0.8, 0.9], "eps": 1e-6, "momentum": 0.9, "muon_scale": "adamw", "adamw_lr": 2e-3}
    keys.update({f"optim.{key}": draws[key] for key in OPTIMS[name] if dice.random() < 0.4})
    if keys.get("optim.momentum") and dice.random() < 0.5:
        keys["optim.nesterov"] = True
    if dice.random() < 0.3:
        keys["optim.weight_decay"] = dice.choice((0, 0.2))
    if dice.random() < 0.3:
        keys["optim.groups"] = dice.choice(([{"match": "*.0.*", "lr_mult": 2}],
                                            [{"match": "*.weight", "weight_decay": 0.3}, {"match": "*", "lr_mult": 0.5}]))
    if dice.random() < 0.5:
        keys["optim.clip"] = dice.choice((0, 0, 0.2))
    return keys


def draw_schedule(dice, steps):
    kind = dice.choice(("constant", "linear", "cosine", "wsd", "one_cycle", "warmup_lr", "warmup_decay_lr", "polynomial",
                        "inverse_sqrt"))
    keys = {"schedule.kind": kind, "schedule.steps": steps}
    if dice.random() < 0.5:
        keys["schedule.warmup"] = dice.choice((1, 2, 3))
    if kind == "polynomial":
        keys["schedule.power"] = 2
    return keys


def draw_precision(dice):
    keys = dice.choice(({},) * 5 + (
        {"precision.compute": "bf16"}, {"precision.compute": "bf16"}, {"precision.compute": "bf16", "precision.matmul": "fp8"},
        {"precision.compute": "fp16", "precision.scaler.init_power": 10, "precision.scaler.window": 2},
        {"precision.compute": "fp16", "precision.scaler.init_power": 22, "precision.scaler.window": 1,
         "precision.scaler.hysteresis": 1}, {"precision.compute": "fp16", "precision.loss_scale": 64})).copy()
    if dice.random() < 0.15:
        keys["precision.grad_wire"] = "bf16"
    return keys


def draw_job(dice):
    wide = dice.random() < 0.25
    sequence, steps = dice.choice((8, 12, 16, 24, 32)), dice.choice((3, 4, 5))
    keys = {"name": "drawn", "seed": dice.randrange(1000), **draw_model(dice, wide), **draw_data(dice, sequence),
            "model.context": sequence + dice.choice((0, 0, 8)), "train.sequence": sequence, "train.steps": steps,
            "train.global_batch": dice.choice((4, 6, 8, 8, 12)), "train.micro_batch": 1,
            **draw_optim(dice), **draw_schedule(dice, steps), **draw_precision(dice),
            "checkpoint.every": dice.choice((1, 2, 100)), "checkpoint.keep": dice.choice((1, 2, 9)),
            "launch.device": "cpu", "launch.threads": dice.choice((1, 1, 1, 1, 2, 3)), "log.sinks": ["jsonl"]}
    return keys


# --- the layout ---------------------------------------------------------------------------------

class Layout:
    """Keys that divide a job, and the ranks of each host; one number is this machine as it is."""

    def __init__(self, keys, slots):
        self.keys, self.slots = keys, slots

    @property
    def ranks(self):
        return sum(self.slots)

    def words(self, job):
        """How dsrun is told: where, which job, which keys."""
        if len(self.slots) == 1:
            where = ["--slots", str(self.ranks)]
        else:
            hosts = h.work() / ("hosts-" + "-".join(map(str, self.slots)))
            hosts.write_text("".join(f"node{i + 1} slots={n}\n" for i, n in enumerate(self.slots)))
            where = ["--via", "ssh", "-H", str(hosts)]
        return [*where, str(job)] + [f"{key}={value if isinstance(value, str) else json.dumps(value)}"
                                     for key, value in self.keys.items()]

    def __str__(self):
        return " ".join(["+".join(map(str, self.slots)), "ranks", *(f"{key}={value}" for key, value in self.keys.items())])


def divisors(n):
    return [i for i in range(1, n + 1) if n % i == 0]


def draw_slots(dice, ranks, hosts):
    """At most so many hosts, mostly alike."""
    if ranks == 1 or hosts == 1 or dice.random() < 0.6:
        return [ranks]
    if dice.random() < 0.7:
        some = dice.choice([n for n in divisors(ranks) if 1 < n <= hosts] or [1])
        return [ranks // some] * some
    first = dice.randrange(1, ranks)
    return [first, ranks - first]


def quiet_keys(dice, job):
    """Keys of one rank's own business, which may not change a bit."""
    keys = {}
    no_states = job["optim.name"] == "lamb" or job["optim.name"] == "sgd" and "optim.momentum" not in job
    offload = dice.choice(("none",) * 5 + ("cpu", "cpu" if no_states else "nvme"))
    if offload != "none":
        keys["offload.optim"] = offload
    if offload == "nvme":
        keys["offload.path"] = str(h.work() / "disk")
    recompute = dice.choice(("none", "none", "selective", "full", "auto"))
    if recompute != "none":
        keys["activation.recompute"] = recompute
    if recompute in ("selective", "full") and dice.random() < 0.4:
        keys["activation.layers"] = dice.randrange(1, job["model.layers"] + 1)
    if dice.random() < 0.3:
        keys["checkpoint.async"] = dice.choice((True, False))
    if dice.random() < 0.3:
        keys["zero.once_per_host"] = False
    if dice.random() < 0.3:
        keys["zero.prefetch"] = dice.choice((1, 2, 4))
    if dice.random() < 0.1:
        keys["log.trace"] = dice.choice(("step", "kernels"))
    return keys


def can_divide(job, key, n, keys):
    """Would n of this key do, as far as sizes go?"""
    heads, kv_heads = job["model.heads"], job.get("model.kv_heads", job["model.heads"])
    if key == "pipeline":
        return n <= job["model.layers"]
    if key == "expert":
        return job["model.experts"] % n == 0
    others = keys.get("parallel.sequence" if key == "tensor" else "parallel.tensor", 1)
    if key == "tensor" and job["model.arch"] == "olmo2":
        return False
    wholes = [heads // others, job["model.ffn" if key == "tensor" else "train.sequence"]]
    all_ranks = n * others
    return all(whole % n == 0 for whole in wholes) and (kv_heads % all_ranks == 0 or all_ranks % kv_heads == 0)


def draw_factors(dice, job, ranks, wild):
    """Keys of parallel, and the sets of ranks that are left for sequences of their own."""
    keys, left = {}, ranks
    for key in dice.sample(("tensor", "sequence", "pipeline"), 3):
        fit = [n for n in divisors(left)[1:] if wild or can_divide(job, key, n, keys)]
        if fit and dice.random() < 0.4:
            keys[f"parallel.{key}"] = dice.choice(fit)
            left //= keys[f"parallel.{key}"]
    if "model.experts" in job and dice.random() < 0.5:
        fit = [n for n in divisors(left * keys.get("parallel.sequence", 1)) if wild or can_divide(job, "expert", n, keys)]
        keys["parallel.expert"] = dice.choice(fit)
    return keys, left


def draw_layout(dice, job, hosts):
    """Ranks on at most so many hosts; one in twenty regardless of what goes together."""
    ranks, wild, batch = dice.choice((1, 2, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4, 4, 6, 8)), dice.random() < 0.05, job["train.global_batch"]
    keys, left = draw_factors(dice, job, ranks, wild)
    keys["train.micro_batch"] = dice.choice(divisors(batch // left if batch % left == 0 else batch))
    keys["zero.stage"] = dice.randrange(4 if wild or keys.get("parallel.pipeline", 1) == 1 else 3)
    if dice.random() < 0.4:
        keys["zero.bucket_mb"] = dice.choice((1, 1, 4))
    if dice.random() < 0.25:
        keys["zero.replicate_below"] = dice.choice((40, 500, 5000))
    if dice.random() < 0.25:
        keys["zero.shard_group"] = "node"
    keys = {**keys, **quiet_keys(dice, job)}
    if keys["zero.stage"] == 3 and ranks > 1 and "zero.shard_group" not in keys and keys.get("parallel.tensor", 1) == 1 and \
            dice.random() < 0.3:  # of a rank that shares with nobody the order of sums would be another one
        keys["offload.params"] = "cpu"
        if job.get("precision.compute", "fp32") == "fp32":
            keys.setdefault("offload.optim", "cpu")
    if keys.get("activation.recompute") == "full" and keys.get("parallel.pipeline", 1) == 1 and dice.random() < 0.5:
        keys["activation.offload"] = "cpu"
    return Layout(keys, draw_slots(dice, ranks, hosts))


def passes(job, layout):
    """Passes of a rank for one update."""
    data = layout.ranks
    for key in ("tensor", "sequence", "pipeline"):
        data //= layout.keys.get(f"parallel.{key}", 1)
    return job["train.global_batch"] // (data * layout.keys["train.micro_batch"])


def same_bits(dice, job, layout, hosts):
    """Another layout of the same ranks which dsrun-job(5) promises the same bits, or None where it is the same one."""
    drop = ("offload.", "activation.", "checkpoint.async", "zero.once_per_host", "zero.prefetch", "log.")
    keys = {key: value for key, value in layout.keys.items() if not key.startswith(drop)}
    keys.update(quiet_keys(dice, job))
    stage, slots = layout.keys["zero.stage"], layout.slots
    alike = (0, 1, 2, 3) if passes(job, layout) == 1 else (0, 1) if stage < 2 else (2, 3)
    node = layout.keys.get("zero.shard_group") == "node" and len(slots) > 1
    if node:  # with stage 0 there are no groups
        alike = [one for one in alike if one > 0] if stage > 0 else (0,)
    keys["zero.stage"] = dice.choice([one for one in alike if one < 3 or keys.get("parallel.pipeline", 1) == 1])
    if not node and job.get("precision.grad_wire") != "bf16" and dice.random() < 0.5:
        slots = draw_slots(dice, layout.ranks, hosts)
        if len(slots) > 1:
            keys.pop("zero.shard_group", None)
    return Layout(keys, slots)


def nested(job):
    """The job as maps in maps, for its file."""
    out = {}
    for path, value in job.items():
        *folders, last = path.split(".")
        at = out
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = value
    return out
