#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""experts - a model with experts (arch: mixtral), as a user has it.

It learns; a run that is killed goes on with the bits of one that is not; ZeRO stages give the same bits; teams, shared
sequences, pipelines and ranks that divide the experts the same losses, and a checkpoint goes from any of them to any other.  What is exported is read
again, and trains on; text is sampled from it.  `plan` says what a token uses.  What cannot be is refused with the key
that would do.
"""
import json
import shutil

import harness as h
import shared
from shared import alike, planned, train

EXPERTS = 4


def job(**sizes):
    return shared.job("mixtral", **{"layers": 3, "batch": 8, "micro": 1, **sizes})


def layouts_are_alike():
    path, folder = job(), h.work()
    whole = folder / "mixtral-1"
    train(path, whole, 1)
    for name, ranks, keys in (("teams of 2", 2, ("parallel.tensor=2",)), ("a shared sequence", 2, ("parallel.sequence=2",)),
                              ("parts", 2, ("parallel.pipeline=2",)), ("ranks of data", 2, ("zero.stage=2",)),
                              ("divided by 2", 2, ("parallel.expert=2",)), ("divided in teams", 4, ("parallel.expert=2", "parallel.tensor=2")),
                              ("divided by 2 of 4", 4, ("parallel.expert=2", "zero.stage=3")),
                              ("all of it", 4, ("parallel.tensor=2", "parallel.pipeline=2"))):
        run = folder / name.replace(" ", "-")
        if train(path, run, ranks, "log.comm=true", *keys):
            alike(name, run, whole)
            plan, events = planned(path, ranks, *keys), shared.comm_events(run)
            h.ok(events and all(e[op]["calls"] == said["calls"] and e[op]["bytes"] == said["bytes"]
                                for e in events for op, said in plan["traffic"].items()), f"{name}: each as planned",
                 events[:1])


def goes_on():
    """Saved halfway by a team, gone on with by ranks of data; and killed as ever."""
    path, folder = job(), h.work()
    shared.goes_on_anywhere("mixtral", path, {"whole": (2, ("zero.stage=3",)), "in a team": (2, ("parallel.tensor=2",)),
                                              "divided": (4, ("parallel.expert=4", "zero.stage=1"))})
    for name, ranks, keys in (("", 2, ("zero.stage=1",)), ("-divided", 4, ("zero.stage=2", "parallel.expert=2"))):
        straight, broken = folder / f"straight{name}", folder / f"broken{name}"
        train(path, straight, ranks, *keys)
        train(path, broken, ranks, *keys, steps=2)
        train(path, broken, ranks, *keys)
        shared.same_bits(f"gone on with{name}", [straight, broken])


def stages_have_the_same_bits():
    path, folder = job(), h.work()
    for ranks, keys in ((2, ("train.micro_batch=4",)), (4, ("train.micro_batch=2", "parallel.expert=2"))):
        runs = [folder / f"stage-{ranks}-{stage}" for stage in range(4)]
        for stage, run in enumerate(runs):
            train(path, run, ranks, f"zero.stage={stage}", *keys)
        shared.same_bits(f"{ranks} ranks", runs)


def is_exchanged():
    path, folder = job(), h.work()
    run, out = folder / "saved", folder / "hf"
    train(path, run, 2, "precision.compute=bf16")
    ran = h.dsrun("ckpt", "export", run, out)
    h.ok(ran.returncode == 0, "it can be exported", ran.stderr)
    config = json.loads((out / "config.json").read_text())
    h.ok((config["architectures"], config["num_local_experts"], config["num_experts_per_tok"], config["router_aux_loss_coef"]) ==
         (["MixtralForCausalLM"], EXPERTS, 2, 0.01), "as a Mixtral", config)
    names = set(h.safetensors(out / "model.safetensors"))
    wanted = {f"model.layers.2.block_sparse_moe.experts.{EXPERTS - 1}.w{i}.weight" for i in (1, 2, 3)}
    h.ok(wanted | {"model.layers.0.block_sparse_moe.gate.weight"} <= names, "with the names of one", sorted(names)[:30])
    ran = h.dsrun("ckpt", "import", out, folder / "back")
    h.ok(ran.returncode == 0, "and be imported", ran.stderr)
    ran = h.dsrun("ckpt", "export", folder / "back", folder / "hf-again")
    h.ok(ran.returncode == 0 and all((folder / "hf-again" / file).read_bytes() == (out / file).read_bytes()
                                     for file in ("config.json", "model.safetensors")), "with the same weights", ran.stderr)
    tuned = folder / "tuned"
    train(path, tuned, 1, f"model.init.from={out}", "model.expert_balance=0")
    resolved = (tuned / "job.yaml").read_text()
    h.ok("expert_balance: 0\n" in resolved and f"experts: {EXPERTS}\n" in resolved, "shape of its config, balance of the job", resolved)
    ran = h.dsrun("generate", "--max-tokens", 16, "--seed", 3, "--prompt", "the ", run)
    h.ok(ran.returncode == 0 and len(ran.stdout) > 4, "text is sampled from it", ran.stdout + ran.stderr)
    again = h.dsrun("generate", "--max-tokens", 16, "--seed", 3, "--prompt", "the ", "--dtype", "bf16", folder / "back")
    h.ok(again.stdout == ran.stdout, "the same from what was imported", again.stdout + ran.stdout)


def is_shown():
    path = job()
    text = h.dsrun("plan", path).stdout
    h.ok("mixtral" in text and "2 of 4 experts" in text and "for a token" in text, "plan says what a token uses", text)
    plan = planned(path, 1)
    hidden, ffn, layers = shared.HIDDEN, 128, 3
    h.ok(plan["parameters"] - plan["active_parameters"] == layers * (EXPERTS - 2) * 3 * hidden * ffn, "in numbers",
         (plan["parameters"], plan["active_parameters"]))
    run = h.work() / "traced"
    train(path, run, 1, "log.trace=kernels")
    table = (run / "trace" / "kernels-00000.txt").read_text()
    text = h.dsrun("plan", "--slots", 4, path, "parallel.expert=2").stdout
    h.ok("2 divide the experts" in text, "plan says who divides them", text)
    h.ok(all(f"\n  {op} " in table for op in ("route", "experts_matmul", "swiglu_rows_bwd")),
         "its operations are rows of the table", table)


def learns():
    path, folder = job(layers=2, batch=8, micro=8), h.work()
    run = folder / "learns"
    train(path, run, 1, "optim.lr=3e-3", "checkpoint.every=0", steps=60)
    losses = [row["loss"] for row in h.metrics(run)]
    h.ok(losses[-1] < 0.75 * losses[0], "it learns", (losses[0], losses[-1]))
    loads = [row["expert_load"] for row in h.metrics(run)]
    h.ok(all(1.0 <= load <= EXPERTS / 2 for load in loads), "the busiest expert's load is told", loads)
    alone = folder / "dense"
    train(shared.job("llama", layers=1, batch=4, micro=4), alone, 1, "checkpoint.every=0", steps=1)
    h.ok("expert_load" not in h.metrics(alone)[0], "of a model without experts it is not", h.metrics(alone))


def is_refused():
    path = job()
    shared.is_refused(path, (
        (1, "model.experts=0", "'model.experts' must be at least 1 for mixtral"),
        (1, "model.experts_per_token=5", "'model.experts_per_token' must be between 1 and 'model.experts' 4, not 5"),
        (1, "precision.compute=bf16 precision.matmul=fp8", "'precision.matmul' fp8 is not supported for models with experts"),
        (1, "model.arch=llama", "'model.experts' is for mixtral and qwen3_moe, not for llama; leave it out"),
        (3, "parallel.expert=3", "'parallel.expert' 3 must divide 'model.experts' 4; 2 or 4 would do"),
        (3, "parallel.expert=2", "'parallel.expert' 2 must divide the number of ranks that have the same layers, 3; 1 or 3 would do"),
        (3, "parallel.tensor=3", "'parallel.tensor' 3 must divide 'model.heads' 8; 2 or 4 would do")))
    folder = h.work() / "spoilt"
    shutil.copytree(h.ROOT / "tests" / "reference" / "mixtral-tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value, words in (("sliding_window", 0, "'sliding_window' is set, which is not supported"),
                              ("router_jitter_noise", 0.1, "'router_jitter_noise' is set, which is not supported"),
                              ("num_experts_per_tok", 9, "'model.experts_per_token' is 9"),
                              ("num_local_experts", 4, "'model.layers.0.block_sparse_moe.gate.weight' has the shape [5, 32], the model's has [4, 32]")):
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        ran = h.dsrun("ckpt", "import", folder, h.work() / "none")
        h.ok(ran.returncode != 0 and words in ran.stderr and not (h.work() / "none").exists(), f"import with {key} {value} is refused",
             ran.stderr)


layouts_are_alike()
learns()
is_shown()
is_exchanged()
is_refused()
if not h.SANITIZED:
    goes_on()
    stages_have_the_same_bits()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
