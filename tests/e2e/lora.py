#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""lora - adapters of low rank and frozen tensors: gradients against those of whole matrices, the same numbers in every layout,
checkpoints without what is frozen, what becomes of them when the base is another or gone, and folders for PEFT."""
import json
import shutil

import harness as h

RANK, ALPHA, SCALE = 4, 8, 2.0
BATCH, SEQUENCE = 4, 32
RATE, WHOLE_RATE = 0.5, 4.0
# One batch is all there is, so that every step sees the same.
DATA = h.work() / "data.txt"
DATA.write_bytes((h.TEXT * 4).encode()[:BATCH * SEQUENCE + 1])
PLAIN = ["optim.name=sgd", "optim.clip=0", "optim.weight_decay=0", "schedule.kind=constant", "schedule.warmup=0", "data.order=sequential",
         f"data.train={DATA}", "data.valid=[]"]
LLAMA = {"q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "o_proj": "self_attn.o_proj",
         "gate_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "down_proj": "mlp.down_proj"}


def make_base(arch, *words):
    """A folder of Hugging Face with weights that have learned a little, and a job that starts from it."""
    job = h.write_job(f"{arch}.yaml", arch=arch, every=0, sequence=SEQUENCE, batch=BATCH, micro=2, name=arch)
    run, base = h.work() / f"run-{arch}", h.work() / f"base-{arch}"
    ran = h.dsrun("--run-dir", run, job, "train.steps=8", "schedule.steps=8", "checkpoint.every=8", *words)
    out = h.dsrun("ckpt", "export", run, base)
    h.ok(ran.returncode == 0 and out.returncode == 0, f"{arch}: a base", ran.stderr + out.stderr)
    text = job.read_text()
    begin = text.index("model:")
    path = h.work() / f"{arch}-on.yaml"
    path.write_text(text[:begin] + f"model: {{init: {{from: {base}}}}}\n" + text[text.index("data:"):])
    return base, path


def train(name, job, *words, slots=1, steps=2, fresh=True):
    if fresh:
        shutil.rmtree(h.work() / name, ignore_errors=True)
    return h.dsrun("--slots", slots, "--run-dir", h.work() / name, job, f"train.steps={steps}", "schedule.steps=8", *words)


def adapted(*words):
    return [f"lora.rank={RANK}", f"lora.alpha={ALPHA}", *words]


def saved(name, step):
    folder = h.work() / name / "checkpoints" / f"step-{step:08d}"
    tensors = {}
    for part in sorted(folder.glob("weights-*.safetensors")):
        tensors.update(h.safetensors(part))
    return tensors


# --- gradients ------------------------------------------------------------------------------------

def product(a, b, turn_a=False, turn_b=False):
    """a b of lists of rows."""
    if turn_a:
        a = list(zip(*a))
    columns = b if turn_b else list(zip(*b))
    return [[sum(x * y for x, y in zip(row, column)) for column in columns] for row in a]


def rows_of(entry):
    (rows, columns), values = entry
    return [list(values[i * columns:(i + 1) * columns]) for i in range(rows)]


def far(a, b):
    """The largest difference, as a share of the largest number."""
    most = max(abs(x) for row in b for x in row)
    return max(abs(x - y) for one, other in zip(a, b) for x, y in zip(one, other)) / most


def gradient(arch, name, job, base):
    """Of every matrix of the base that `job` starts from, [out, in], times WHOLE_RATE: what a step without adapters takes away."""
    ran = train(name, job, f"model.init.from={base}", f"optim.lr={WHOLE_RATE}", "checkpoint.every=1", *PLAIN, steps=1)
    h.ok(ran.returncode == 0, f"{arch}: a step of whole matrices", ran.stderr)
    before, after = h.safetensors(base / "model.safetensors"), saved(name, 1)
    out = {}
    for key, entry in before.items():
        if len(entry[0]) != 2:
            continue
        rows = [[x - y for x, y in zip(one, other)] for one, other in zip(rows_of(entry), rows_of(after[key]))]
        out[key] = [list(row) for row in zip(*rows)] if arch == "gpt2" and "wte" not in key and "wpe" not in key else rows
    return out


def gradients(arch, base, job):
    """A step changes B by -rate * scale * dW A^T and A by -rate * scale * B^T dW, dW of the merged matrix: at first B is 0."""
    ran = train(f"{arch}-sgd", job, f"optim.lr={RATE}", "checkpoint.every=1", "checkpoint.keep=9", *PLAIN, *adapted())
    out = h.dsrun("ckpt", "export", h.work() / f"{arch}-sgd" / "checkpoints" / "step-00000001", h.work() / f"{arch}-merged")
    h.ok(ran.returncode == 0 and out.returncode == 0, f"{arch}: two steps of adapters, the first one merged", ran.stderr + out.stderr)
    one, two = saved(f"{arch}-sgd", 1), saved(f"{arch}-sgd", 2)
    h.ok(one and all(".lora_" in key for key in one), f"{arch}: a checkpoint has nothing else", list(one))
    first = gradient(arch, f"{arch}-whole", job, base)
    second = gradient(arch, f"{arch}-whole-2", job, h.work() / f"{arch}-merged")
    worst = {}
    for key in [key for key in one if ".lora_A." in key]:
        matrix = key.replace(".lora_A.", ".")
        a, b, a2, b2 = (rows_of(t[k]) for t in (one, two) for k in (key, key.replace("lora_A", "lora_B")))
        factor = -RATE / WHOLE_RATE * SCALE

        def moved(to, by):
            return [[x + factor * y for x, y in zip(row, other)] for row, other in zip(to, by)]

        none = [[0.0] * RANK for _ in b]
        worst[matrix] = max(far(b, moved(none, product(first[matrix], a, turn_b=True))), far(b2, moved(b, product(second[matrix], a, turn_b=True))),
                            far(a2, moved(a, product(b, second[matrix], turn_a=True))))
    h.ok(worst and max(worst.values()) < 2e-3, f"{arch}: gradients of {len(worst)} adapters follow from those of their matrices", worst)
    whole, merged = h.safetensors(base / "model.safetensors"), h.safetensors(h.work() / f"{arch}-merged" / "model.safetensors")
    changed = sorted(key for key in whole if whole[key] != merged[key])
    h.ok(changed == sorted(worst), f"{arch}: adapters are added to their matrices, the rest is the base's", changed)
    return max(worst.values())


# --- layouts --------------------------------------------------------------------------------------

def layouts(base, job):
    words = adapted("optim.lr=1e-2")
    train("one", job, *words, slots=2, steps=4)
    same = h.metric_texts(h.work() / "one")
    h.ok(len(same) == 4 and len({text[1] for text in same}) == 4, "four steps", same)
    disk = h.work() / "disk"
    disk.mkdir()
    for name, more in (("stage 1", ["zero.stage=1"]), ("stage 2", ["zero.stage=2"]), ("stage 3", ["zero.stage=3"]),
                       ("stage 1, a copy on each", ["zero.stage=1", "zero.once_per_host=false"]),
                       ("stage 3, gathered", ["zero.stage=3", "zero.once_per_host=false", "zero.bucket_mb=1"]),
                       ("small tensors whole", ["zero.stage=3", "zero.once_per_host=false", "zero.replicate_below=200"]),
                       ("states of the host", ["zero.stage=2", "offload.optim=cpu"]), ("states on a disk", ["offload.optim=nvme", f"offload.path={disk}"]),
                       ("parameters of the host", ["zero.stage=3", "offload.params=cpu", "offload.optim=cpu"]),
                       ("layers again", ["activation.recompute=full"]), ("norms again", ["activation.recompute=selective"])):
        ran = train("other", job, *words, *more, slots=2, steps=4)
        h.ok(ran.returncode == 0 and h.metric_texts(h.work() / "other") == same, f"{name}: the same bits", f"{h.metrics(h.work() / 'other')} {same} {ran.stderr}")
    losses = [float(text[1]) for text in same]
    for name, slots, more in (("one rank", 1, []), ("a pipeline", 2, ["parallel.pipeline=2", "train.micro_batch=1"]), ("shared sequences", 2, ["parallel.sequence=2"]),
                              ("bf16", 2, ["precision.compute=bf16", "zero.stage=3", "zero.once_per_host=false"]),
                              ("two passes", 2, ["train.micro_batch=1"])):
        ran = train("other", job, *words, *more, slots=slots, steps=4)
        got = [m["loss"] for m in h.metrics(h.work() / "other")]
        near = 2e-3 if name == "bf16" else 1e-5
        h.ok(ran.returncode == 0 and len(got) == 4 and all(abs(a - b) < near * b for a, b in zip(got, losses)), f"{name}: about the same", f"{got} {losses} {ran.stderr}")
    ran = train("first", job, *words, "lora.targets=[q_proj, v_proj]", "checkpoint.every=2", steps=2)
    h.ok(ran.returncode == 0 and {key.split(".")[-3] for key in saved("first", 2)} == {"q_proj", "v_proj"}, "some matrices only", ran.stderr)
    ran = h.dsrun("plan", "--json", job, *words)
    plan = json.loads(ran.stdout)
    trained = sum(len(values) for _, values in saved("first", 2).values())
    h.ok(ran.returncode == 0 and plan["memory"]["optimizer"] < plan["memory"]["parameters"] / 2 and trained > 0, "states of adapters alone", ran.stdout[:500])


def exported(name):
    """The adapters of a run as one file of PEFT has them, however ranks have written them."""
    out = h.work() / f"peft-of-{name}"
    shutil.rmtree(out, ignore_errors=True)
    ran = h.dsrun("ckpt", "export", "--adapters", h.work() / name, out)
    return h.safetensors(out / "adapter_model.safetensors") if ran.returncode == 0 else {}


def teams(arch, job, ranks, *words):
    """Adapters cut with their matrices, where both of two orders of sums are those of an optimizer that sees whole matrices, too."""
    for optim in ("adamw", "muon", "lamb"):
        all_words = adapted("optim.lr=1e-2", f"optim.name={optim}", "checkpoint.every=4", *words)
        one = train("one", job, *all_words, steps=4)
        team = train("team", job, *all_words, f"parallel.tensor={ranks}", slots=ranks, steps=4)
        a, b = exported("one"), exported("team")
        apart = {key: far([b[key][1]], [a[key][1]]) for key in a if key in b}
        losses = [[m["loss"] for m in h.metrics(h.work() / name)] for name in ("one", "team")]
        h.ok(one.returncode == team.returncode == 0 and len(apart) == len(a) == len(b) > 0 and max(apart.values()) < 2e-3
             and all(abs(x - y) < 1e-6 * x for x, y in zip(*losses)), f"{arch}, {optim}: adapters of a team of {ranks} are those of one rank",
             f"{losses} {apart} {one.stderr} {team.stderr}")
    same = None
    for more in ([], ["zero.stage=1"], ["zero.stage=2"], ["zero.stage=3"], ["zero.stage=3", "zero.once_per_host=false", "zero.replicate_below=200"],
                 ["zero.stage=2", "offload.optim=cpu"], ["activation.recompute=full"]):
        ran = train("team-2", job, *all_words, f"parallel.tensor={ranks}", *more, slots=2 * ranks, steps=4)
        texts = h.metric_texts(h.work() / "team-2")
        same = same or texts
        h.ok(ran.returncode == 0 and len(texts) == 4 and texts == same, f"{arch}: two such teams have the same bits, {more}", f"{texts} {same} {ran.stderr}")
    ran = train("team", job, *all_words, "zero.stage=1", slots=2, steps=6, fresh=False)
    one = train("one", job, *all_words, steps=6, fresh=False)
    losses = [[m["loss"] for m in h.metrics(h.work() / name)] for name in ("one", "team")]
    h.ok(ran.returncode == one.returncode == 0 and len(losses[0]) == len(losses[1]) == 6 and all(abs(x - y) < 1e-6 * x for x, y in zip(*losses)),
         f"{arch}: what a team has saved goes on on ranks of data", f"{losses} {ran.stderr} {one.stderr}")


def by_root(job):
    """RANK is a square: alpha / sqrt(rank) is that of another alpha by alpha / rank."""
    runs = {}
    for name, words in (("by rank", [f"lora.alpha={2 * ALPHA}"]), ("by its root", [f"lora.alpha={ALPHA}", "lora.rslora=true"])):
        ran = train("other", job, f"lora.rank={RANK}", "optim.lr=1e-2", "checkpoint.every=4", *words, steps=4)
        shutil.rmtree(h.work() / "scaled", ignore_errors=True)
        out = h.dsrun("ckpt", "export", h.work() / "other", h.work() / "scaled")
        runs[name] = [h.metric_texts(h.work() / "other"), h.safetensors(h.work() / "scaled" / "model.safetensors")] if ran.returncode == out.returncode == 0 else ran.stderr
    exported("other")
    told = json.loads((h.work() / "peft-of-other" / "adapter_config.json").read_text())
    h.ok(runs["by rank"] == runs["by its root"] and len(runs["by rank"]) == 2 and told["use_rslora"] and told["lora_alpha"] == ALPHA, "rslora: the same bits, and weights", told)
    ran = train("other", job, f"lora.rank={RANK}", "optim.lr=1e-2", f"lora.alpha={ALPHA}", steps=6, fresh=False)
    h.ok(ran.returncode == 65 and "made with another 'lora.rslora'" in ran.stderr, "nor with the other factor", ran.stderr)


def dropout(job):
    """What is dropped goes by the place of a sequence in the run, and that of a number in it."""
    words = adapted("optim.lr=1e-2", "lora.dropout=0.3", "checkpoint.every=2")
    one, without = train("one", job, *words, steps=4), train("other", job, *adapted("optim.lr=1e-2"), steps=4)
    losses, plain = [[m["loss"] for m in h.metrics(h.work() / name)] for name in ("one", "other")]
    h.ok(one.returncode == without.returncode == 0 and losses[0] == plain[0] and all(a != b for a, b in zip(losses[1:], plain[1:])),
         "adapters learn otherwise where something is dropped", f"{losses} {plain} {one.stderr}")
    for name, slots, more in (("two ranks", 2, []), ("a team", 2, ["parallel.tensor=2"]), ("shared sequences", 2, ["parallel.sequence=2"]),
                              ("a pipeline", 2, ["parallel.pipeline=2"]), ("passes of one", 1, ["train.micro_batch=1"]),
                              ("a pipeline of teams", 4, ["parallel.tensor=2", "parallel.pipeline=2", "train.micro_batch=1"])):
        ran = train("other", job, *words, *more, slots=slots, steps=4)
        got = [m["loss"] for m in h.metrics(h.work() / "other")]
        h.ok(ran.returncode == 0 and len(got) == 4 and all(abs(a - b) < 1e-5 * b for a, b in zip(got, losses)), f"the same is dropped: {name}", f"{got} {losses} {ran.stderr}")
    for more in (["activation.recompute=full"], ["activation.recompute=selective"]):
        train("other", job, *words, *more, steps=4)
        h.ok(h.metric_texts(h.work() / "other") == h.metric_texts(h.work() / "one"), f"the same bits, {more[0]}")
    train("other", job, *words, steps=2)
    train("other", job, *words, steps=4, fresh=False)
    h.ok(h.metric_texts(h.work() / "other") == h.metric_texts(h.work() / "one"), "and after a stop")
    h.dsrun("ckpt", "export", "--adapters", h.work() / "one", h.work() / "peft-dropout")
    h.ok(json.loads((h.work() / "peft-dropout" / "adapter_config.json").read_text())["lora_dropout"] == 0.3, "PEFT is told")


def fp8(arch, job, *words):
    """Products with the frozen matrices of FP8, adapters as they are: near bf16, and the same bits wherever these are promised."""
    words = ["optim.lr=1e-2", "precision.compute=bf16", "checkpoint.every=1", *words]
    low = [*words, "precision.matmul=fp8"]
    runs = [train("low", job, *low, slots=2, steps=4), train("plain", job, *words, slots=2, steps=4)]
    losses = [[m["loss"] for m in h.metrics(h.work() / name)] for name in ("low", "plain")]
    norms = [[m["grad_norm"] for m in h.metrics(h.work() / name)] for name in ("low", "plain")]
    h.ok(all(ran.returncode == 0 for ran in runs) and len(losses[0]) == 4 and losses[0] != losses[1] and all(abs(a - b) < 1e-2 * b for a, b in zip(*losses))
         and all(abs(a - b) < 0.1 * b for a, b in zip(*norms)), f"{arch}: fp8 is near bf16, {words[-1]}", f"{losses} {norms} {runs[0].stderr} {runs[1].stderr}")
    for more in (["zero.stage=1"], ["zero.stage=3", "zero.once_per_host=false"], ["activation.recompute=full"], ["activation.recompute=selective"]):
        ran = train("other", job, *low, *more, slots=2, steps=4)
        h.ok(h.metric_texts(h.work() / "other") == h.metric_texts(h.work() / "low"), f"{arch}: the same bits of fp8, {more}", ran.stderr)
    ran = train("other", job, *low, "parallel.tensor=2", slots=2, steps=4)
    got = [m["loss"] for m in h.metrics(h.work() / "other")]
    h.ok(ran.returncode == 0 and all(abs(a - b) < 1e-2 * b for a, b in zip(got, losses[1])), f"{arch}: a team of fp8", f"{got} {losses} {ran.stderr}")


# --- checkpoints ----------------------------------------------------------------------------------

def checkpoints(base, job):
    words = adapted("optim.lr=1e-2", "checkpoint.every=2")
    train("straight", job, *words, slots=2, steps=6)
    train("resumed", job, *words, "zero.stage=3", "zero.once_per_host=false", slots=2, steps=2)
    ran = train("resumed", job, *words, slots=2, steps=6, fresh=False)
    h.ok(ran.returncode == 0 and h.metric_texts(h.work() / "resumed") == h.metric_texts(h.work() / "straight"),
         "a run that goes on at another stage has the same bits", ran.stderr)
    bytes_ = sum(path.stat().st_size for path in (h.work() / "straight" / "checkpoints" / "step-00000006").glob("weights-*"))
    h.ok(h.dsrun("ckpt", "verify", h.work() / "straight").returncode == 0 and bytes_ < (base / "model.safetensors").stat().st_size, "it is whole, and small", bytes_)
    merged, peft, again = h.work() / "merged", h.work() / "peft", h.work() / "again"
    ran = h.dsrun("ckpt", "export", h.work() / "straight", merged)
    told = h.dsrun("ckpt", "import", merged, again)
    says = [h.dsrun("generate", path, "--prompt", "1: the", "--max-tokens", 24, "--temperature", 0).stdout for path in (h.work() / "straight", again)]
    h.ok(ran.returncode == 0 and told.returncode == 0 and says[0] == says[1] and len(says[0]) > 8, "text is that of the merged model", says)
    ran = h.dsrun("ckpt", "export", "--adapters", h.work() / "straight", peft)
    config, tensors = json.loads((peft / "adapter_config.json").read_text()), h.safetensors(peft / "adapter_model.safetensors")
    wanted = {f"base_model.model.model.layers.{i}.{module}.lora_{which}.weight" for i in range(2) for module in LLAMA.values() for which in "AB"}
    h.ok(ran.returncode == 0 and set(tensors) == wanted and config["r"] == RANK and config["lora_alpha"] == ALPHA and config["peft_type"] == "LORA"
         and set(config["target_modules"]) == set(LLAMA.values()) and not config["fan_in_fan_out"], "a folder of PEFT", f"{config} {sorted(tensors)}")
    ran = h.dsrun("ckpt", "export", "--adapters", h.work() / "run-llama", h.work() / "none")
    h.ok(ran.returncode == 65 and "has no adapters" in ran.stderr, "of a checkpoint without", ran.stderr)
    ran = h.dsrun("ckpt", "export", "--base", base, h.work() / "run-llama", h.work() / "none")
    h.ok(ran.returncode == 65 and "has all tensors" in ran.stderr and not (h.work() / "none").exists(), "which has no base, either", ran.stderr)
    ran = h.dsrun("ckpt", "export", "--adapters", "--base", base, h.work() / "straight", h.work() / "none")
    h.ok(ran.returncode == 2 and "leave out '--base'" in ran.stderr, "adapters alone have nothing of a base", ran.stderr)


def changed(base):
    """Export with a base whose last byte is another."""
    late = h.work() / "base-late"
    shutil.copytree(base, late)
    content = bytearray((late / "model.safetensors").read_bytes())
    content[-1] ^= 0x40
    (late / "model.safetensors").write_bytes(content)
    return h.dsrun("ckpt", "export", "--base", late, h.work() / "straight", h.work() / "late")


def bases(base, job):
    """`straight` was made on `base`."""
    words = adapted("optim.lr=1e-2", "checkpoint.every=2")
    away, other = h.work() / "away", h.work() / "base-other"
    base.rename(away)
    try:
        ran = h.dsrun("generate", h.work() / "straight", "--prompt", "1: the", "--max-tokens", 4)
        h.ok(ran.returncode != 0 and str(base) in ran.stderr and "--base" in ran.stderr, "a base that is gone is named", ran.stderr)
        ran = h.dsrun("ckpt", "export", "--base", away, h.work() / "straight", h.work() / "moved")
        same = (h.work() / "moved" / "model.safetensors").read_bytes() == (h.work() / "merged" / "model.safetensors").read_bytes()
        h.ok(ran.returncode == 0 and same, "and may be said to be elsewhere", ran.stderr)
    finally:
        away.rename(base)
    ran = h.dsrun("ckpt", "export", h.work() / "run-llama", other, "--dtype", "bf16")
    ran = h.dsrun("ckpt", "export", "--base", other, h.work() / "straight", h.work() / "wrong")
    h.ok(ran.returncode == 65 and "has other weights than those" in ran.stderr and not (h.work() / "wrong").exists(), "other weights are refused", ran.stderr)
    h.ok(changed(base).returncode == 65, "one byte is enough")
    ran = train("straight", job, *words, f"model.init.from={other}", slots=2, steps=8, fresh=False)
    h.ok(ran.returncode == 65 and "was made on other weights" in ran.stderr, "to go on with, too", ran.stderr)
    for word in (f"lora.alpha={ALPHA + 1}", f"lora.rank={RANK + 1}", "lora.targets=[q_proj]"):
        ran = train("straight", job, *words, word, slots=2, steps=8, fresh=False)
        name = word.split("=")[0]
        h.ok(ran.returncode == 65 and f"was made with another '{name}'" in ran.stderr, f"nor with another {name}", ran.stderr)
    ran = train("straight", job, "optim.lr=1e-2", slots=2, steps=8, fresh=False)
    h.ok(ran.returncode == 65 and "leaves out what was frozen or adapted" in ran.stderr, "a run of all tensors does not go on from it", ran.stderr)
    train("whole", job, "checkpoint.every=2", steps=2)
    ran = train("whole", job, *words, steps=4, fresh=False)
    h.ok(ran.returncode == 65 and "has all tensors" in ran.stderr and "ckpt export" in ran.stderr, "nor one of adapters from a whole one", ran.stderr)


# --- what is trained beside adapters --------------------------------------------------------------

def whole(arch, base, job, globs, names, told):
    """Tensors that are trained as they are: from the base on, as without adapters, in every layout, and where PEFT looks for them."""
    words = adapted("optim.lr=1e-2", "checkpoint.every=2", f"lora.whole={json.dumps(globs)}")
    ran = train("whole", job, *words, slots=2, steps=4)
    same, has = h.metric_texts(h.work() / "whole"), {key for key in saved("whole", 4) if ".lora_" not in key}
    h.ok(ran.returncode == 0 and len(same) == 4 and has == set(names), f"{arch}: {globs} are trained beside adapters, and saved", f"{sorted(has)} {ran.stderr}")
    ones = []
    for name, more in (("alone", []), ("beside", [*adapted(), f"lora.whole={json.dumps(globs)}"])):
        train(name, job, f"optim.lr={RATE}", "checkpoint.every=1", *PLAIN, *more, steps=1)
        ones.append(saved(name, 1))
    apart = {key: far([ones[1][key][1]], [ones[0][key][1]]) for key in names}
    h.ok(max(apart.values()) < 1e-6, f"{arch}: a step moves them as one without adapters does", apart)
    for more in (["zero.stage=2"], ["zero.stage=3", "zero.once_per_host=false"], ["offload.optim=cpu"], ["activation.recompute=full"]):
        ran = train("other", job, *words, *more, slots=2, steps=4)
        h.ok(ran.returncode == 0 and h.metric_texts(h.work() / "other") == same, f"{arch}: the same bits, {more[0]}", ran.stderr)
    losses = [float(text[1]) for text in same]
    for more in (["parallel.tensor=2"], ["parallel.pipeline=2"]):
        ran = train("other", job, *words, *more, slots=2, steps=4)
        got = [m["loss"] for m in h.metrics(h.work() / "other")]
        h.ok(ran.returncode == 0 and len(got) == 4 and all(abs(a - b) < 1e-5 * b for a, b in zip(got, losses)), f"{arch}: about the same, {more[0]}", f"{got} {losses} {ran.stderr}")
    train("other", job, *words, "parallel.tensor=2", slots=2, steps=2)
    ran = train("other", job, *words, slots=2, steps=4, fresh=False)
    got = [m["loss"] for m in h.metrics(h.work() / "other")]
    h.ok(ran.returncode == 0 and len(got) == 4 and all(abs(a - b) < 1e-5 * b for a, b in zip(got, losses)), f"{arch}: and on from a team", f"{got} {losses} {ran.stderr}")
    ran = train("whole", job, *words[:-1], slots=2, steps=6, fresh=False)
    h.ok(ran.returncode == 65 and "or with other tensors frozen" in ran.stderr, f"{arch}: not without them", ran.stderr)
    out = {word: h.work() / f"{arch}-whole-{word}" for word in ("merged", "again", "peft")}
    ran = [h.dsrun("ckpt", "export", h.work() / "whole", out["merged"]), h.dsrun("ckpt", "import", out["merged"], out["again"]),
           h.dsrun("ckpt", "export", "--adapters", h.work() / "whole", out["peft"])]
    before, after = h.safetensors(base / "model.safetensors"), h.safetensors(out["merged"] / "model.safetensors")
    changed = {key for key in before if before[key] != after[key]}
    adapted_ = {key.replace(".lora_A.", ".") for key in saved("whole", 4) if ".lora_A." in key}
    says = [h.dsrun("generate", path, "--prompt", "1: the", "--max-tokens", 24, "--temperature", 0).stdout for path in (h.work() / "whole", out["again"])]
    h.ok(all(one.returncode == 0 for one in ran) and changed == has | adapted_ and says[0] == says[1] and len(says[0]) > 8, f"{arch}: the merged model has them",
         f"{sorted(changed)} {says} {[one.stderr for one in ran]}")
    config, tensors = json.loads((out["peft"] / "adapter_config.json").read_text()), h.safetensors(out["peft"] / "adapter_model.safetensors")
    kept = {key.removeprefix("base_model.model."): value for key, value in tensors.items() if ".lora_" not in key}
    tied = {"lm_head.weight": after[key] for key in has if "lm_head" in told and key.endswith("wte.weight")}
    h.ok(config["modules_to_save"] == told and kept == {**{key: after[key] for key in has}, **tied}, f"{arch}: so has PEFT's folder", f"{config} {sorted(kept)}")


# --- frozen ---------------------------------------------------------------------------------------

def frozen(arch, base, job, pattern, slots=2):
    words = [f"train.freeze={pattern}", "optim.lr=1e-2"]
    train("frozen", job, *words, "checkpoint.every=4", slots=slots, steps=4)
    same, run = h.metric_texts(h.work() / "frozen"), h.work() / "frozen"
    out = h.work() / f"frozen-{arch}-{len(pattern)}"
    ran = h.dsrun("ckpt", "export", run, out)
    before, after = h.safetensors(base / "model.safetensors"), h.safetensors(out / "model.safetensors") if ran.returncode == 0 else {}
    kept = {key for key in before if before[key] == after.get(key)}
    has = set(saved("frozen", 4))
    h.ok(len(same) == 4 and kept and has and kept == set(before) - has, f"{arch}: what '{pattern}' matches stays, and is not saved, all else is trained",
         f"{sorted(kept)} {sorted(has)} {ran.stderr}")
    for more in (["zero.stage=2"], ["zero.stage=3", "zero.once_per_host=false"]):
        ran = train("other", job, *words, *more, slots=slots, steps=4)
        h.ok(ran.returncode == 0 and h.metric_texts(h.work() / "other") == same, f"{arch}: the same bits, {more[0]}", ran.stderr)
    return [float(text[1]) for text in same]


def parts(job, pattern, losses):
    for more in (["parallel.tensor=2"], ["parallel.pipeline=2"]):
        ran = train("other", job, f"train.freeze={pattern}", "optim.lr=1e-2", *more, slots=2, steps=4)
        got = [m["loss"] for m in h.metrics(h.work() / "other")]
        h.ok(ran.returncode == 0 and len(got) == 4 and all(abs(a - b) < 1e-4 * b for a, b in zip(got, losses)), f"{more[0]}: about the same", f"{got} {losses} {ran.stderr}")


def refused(job):
    for words, says in ((["train.freeze=nothing*"], "no tensor matches 'nothing*'"), (["train.freeze=*"], "leaves nothing to train"),
                        (["train.freeze=*q_proj*"], "name both or none"), (adapted("lora.whole=*lora_A*"), "'lora.whole' item 1: no tensor matches '*lora_A*'"),
                        (adapted("lora.whole=*.o_proj.*"), "which has an adapter; leave it out")):
        ran = train("other", job, *words)
        h.ok(ran.returncode == 65 and says in ran.stderr and ran.stderr.count("\n") <= 2, says, ran.stderr)


for arch in ("llama", "gpt2", "olmo2", "phi3", "qwen3"):
    base, job = make_base(arch, *(["model.heads=4", "model.kv_heads=2"] if arch == "qwen3" else []))
    if arch in ("llama", "gpt2", "olmo2"):
        gradients(arch, base, job)
    if arch == "llama":
        layouts(base, job)
        checkpoints(base, job)
        bases(base, job)
        teams(arch, job, 2)
        by_root(job)
        dropout(job)
        whole(arch, base, job, ["model.embed_tokens.*", "lm_head.weight", "*.input_layernorm.*"],
              ["model.embed_tokens.weight", "lm_head.weight", *(f"model.layers.{i}.input_layernorm.weight" for i in range(2))],
              ["model.embed_tokens", "model.layers.0.input_layernorm", "model.layers.1.input_layernorm", "lm_head"])
        fp8(arch, job, *adapted())
        fp8(arch, job, "train.freeze=*.0.*")
        parts(job, "model.layers.0.*", frozen(arch, base, job, "model.layers.0.*"))
        refused(job)
    elif arch == "qwen3":
        teams(arch, job, 4)
    elif arch == "gpt2":
        teams(arch, job, 2)
        fp8(arch, job, *adapted())
        fp8(arch, job, "train.freeze=*.c_*")
        whole(arch, base, job, ["*.w?e.*", "*.ln_f.*"], ["transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight", "transformer.ln_f.bias"],
              ["transformer.wte", "lm_head", "transformer.wpe", "transformer.ln_f"])
        train("parts", job, *adapted("lora.whole=['*.bias']", "checkpoint.every=2"))
        ran = h.dsrun("ckpt", "export", "--adapters", h.work() / "parts", h.work() / "peft-of-parts")
        h.ok(ran.returncode == 65 and "PEFT saves modules whole" in ran.stderr and not (h.work() / "peft-of-parts").exists(), "gpt2: parts of modules are refused", ran.stderr)
        frozen(arch, base, job, "*.bias")
        frozen(arch, base, job, "*.w?e.weight")
    elif arch == "phi3":
        train("packed", job, *adapted("checkpoint.every=2"))
        ran = h.dsrun("ckpt", "export", "--adapters", h.work() / "packed", h.work() / "of-parts")
        h.ok(ran.returncode == 65 and "others in one matrix" in ran.stderr, "phi3: adapters of parts of a packed matrix are refused", ran.stderr)
        train("packed", job, *adapted("checkpoint.every=2", "lora.targets=[o_proj]", "lora.whole=['*.gate_proj.*', '*.up_proj.*']"))
        ran = h.dsrun("ckpt", "export", "--adapters", h.work() / "packed", h.work() / "of-parts")
        h.ok(ran.returncode == 65 and "others in one matrix; export the merged" in ran.stderr, "phi3: and these parts themselves", ran.stderr)
h.ok(not h.left(), "nothing is left", h.left())
h.done()
