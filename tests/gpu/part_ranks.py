# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""part_ranks - parts of check.py: ranks that share a GPU over NCCL, that are killed, that stand still."""
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import harness as h
from jobs import LIMITS, MEMORY, PATIENCE_S, clock, environment, events, job_of, log, setting, train, worst

ORDER = 1e-6  # of sums over ranks
ENDLESS = """\
name: endless
model: {{arch: gpt2, layers: 1, hidden: 32, heads: 2, context: 32}}
data: {{train: [{text}], format: text}}
train: {{steps: 1000000, global_batch: 4, micro_batch: 1, sequence: 32}}
zero: {{stage: 2}}
checkpoint: {{every: 0}}
launch: {{device: cuda, threads: 1}}
"""


def zero():
    """Ranks that share the GPU, over real NCCL: stages against float64, and against each other."""
    for ranks in (2, 4):
        texts = {}
        for stage in (0, 1, 2, 3):
            path, want = job_of("gpt2-tiny", stage=stage, steps=3, every=0)
            run, name = f"zero{stage}-{ranks}", f"ZeRO {stage} on {ranks} ranks"
            ran = train(path, run, ranks, 60.0)
            if not h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
                continue
            off = worst(h.metrics(h.work() / run), want, "loss")
            h.ok(off < LIMITS["fp32"], f"{name}: loss within {LIMITS['fp32']:g}: {off:.2g}")
            texts[stage] = h.metric_texts(h.work() / run)
        for one, other in zip(list(texts)[:-1], list(texts)[1:]):
            pairs = list(zip(texts[one], texts[other]))
            same = all(a == b for a, b in pairs)
            off = max(abs(float(a[k]) - float(b[k])) / abs(float(a[k])) for a, b in pairs for k in (1, 2))
            h.ok(off <= ORDER, f"ZeRO {one} and {other} on {ranks} ranks: "
                 f"{'the same bits' if same else f'within {ORDER:g}: {off:.2g}'}", (texts[one], texts[other]))


def shared_losses(path, layouts, *words):
    """Team, ranks of a sequence, parts, ranks, ZeRO stage: the losses of the first, which has all."""
    found, more = {}, "".join(f", {word}" for word in words)
    for team, share, parts, ranks, stage in layouts:
        run = f"{path.stem}-{team}-{share}-{parts}-{ranks}-{stage}-{len(words)}"
        name = f"{path.stem}: {share} of {ranks} ranks, teams of {team}, {parts} part{'s'[:parts - 1]}, ZeRO {stage}{more}"
        ran = train(path, run, ranks, 60.0, (f"parallel.sequence={share}", f"parallel.pipeline={parts}",
                                             f"parallel.tensor={team}", f"zero.stage={stage}", *words))
        if h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
            found[name] = h.metrics(h.work() / run)
    first = next(iter(found.values()), [])
    for name, got in found.items():
        off = worst(got, first, "loss")
        h.ok(off < ORDER * 10, f"{name}: losses of ranks that have all, {off:.2g}", got)


def sharers_jobs():
    """A small GPT-2, and a Llama with one key/value head."""
    path, one, text = h.work() / "sharers.yaml", h.work() / "sharers-one.yaml", h.work() / "sharers.txt"
    text.write_text(h.TEXT * 1000)
    layers, hidden, context = (2, 32, 32) if setting.doubles else (4, 256, 256)
    path.write_text(MEMORY.format(text=text, stage=0, layers=layers, hidden=hidden, heads=4, context=context, batch=4, micro=1)
                    .replace("compute: bf16", "compute: fp32"))
    one.write_text(path.read_text().replace("arch: gpt2", f"arch: llama, kv_heads: 1, ffn: {2 * hidden}"))
    return path, one


def sharers():
    """Ranks that share sequences or layers, and the GPU, over real NCCL: the losses of ranks that have all, at some stages;
    of a model with one key/value head, too, which several ranks then have."""
    path, one = sharers_jobs()
    shared_losses(path, ((1, 1, 1, 2, 0), (1, 2, 1, 2, 0), (1, 2, 1, 4, 0), (1, 4, 1, 4, 3), (1, 1, 2, 2, 0), (1, 1, 2, 4, 2),
                         (1, 2, 2, 4, 1), (2, 1, 1, 2, 0), (4, 1, 1, 4, 0), (2, 1, 1, 4, 3), (2, 2, 1, 4, 0), (2, 1, 2, 4, 0)))
    shared_losses(one, ((1, 1, 1, 2, 0), (1, 2, 1, 2, 0), (2, 1, 1, 4, 2), (4, 1, 1, 4, 0), (2, 2, 1, 4, 3)))


def divided():
    """Ranks that divide the experts of each layer, over real NCCL: the losses of ranks that have all of them."""
    path, text, found = h.work() / "divided.yaml", h.work() / "divided.txt", {}
    text.write_text(h.TEXT * 1000)
    layers, hidden, context = (2, 32, 32) if setting.doubles else (4, 256, 256)
    path.write_text(MEMORY.format(text=text, stage=0, layers=layers, hidden=hidden, heads=4, context=context, batch=4, micro=1)
                    .replace("compute: bf16", "compute: fp32").replace("arch: gpt2", f"arch: mixtral, experts: 4, ffn: {2 * hidden}"))
    for experts, team, parts, ranks, stage in ((1, 1, 1, 2, 0), (2, 1, 1, 2, 0), (2, 1, 1, 4, 3), (4, 1, 1, 4, 2), (2, 2, 1, 4, 0), (2, 1, 2, 4, 1)):
        run = f"divided-{experts}-{team}-{parts}-{ranks}-{stage}"
        name = f"divided: experts by {experts} of {ranks} ranks, teams of {team}, {parts} part{'s'[:parts - 1]}, ZeRO {stage}"
        ran = train(path, run, ranks, 60.0, (f"parallel.expert={experts}", f"parallel.tensor={team}", f"parallel.pipeline={parts}",
                                             f"zero.stage={stage}"))
        if h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
            found[name] = h.metrics(h.work() / run)
    first = next(iter(found.values()), [])
    for name, got in found.items():
        off = worst(got, first, "loss")
        h.ok(off < ORDER * 10, f"{name}: losses of ranks that have all, {off:.2g}", got)


def adapters():
    """Adapters beside frozen weights, held and gathered: the losses of this machine's CPU, and in bf16 of fp32."""
    found = {}
    path, _ = job_of("llama-tiny", "fp32")
    for name, ranks, words in (("on the CPU", 1, ("launch.device=cpu",)), ("on one rank", 1, ()), ("gathered by 2 ranks", 2, ("zero.stage=3",)),
                               ("of a team of 2", 2, ("parallel.tensor=2",)), ("recomputed", 1, ("activation.recompute=full",)), ("in bf16", 1, ("precision.compute=bf16",))):
        ran = train(path, "adapters-" + name.replace(" ", "-"), ranks, 60.0, ("lora.rank=8", "lora.alpha=16", "optim.lr=2e-2", "checkpoint.every=0", *words))
        if h.ok(ran.returncode == 0, f"adapters {name}: the job ends with 0", ran.stdout + ran.stderr):
            found[name] = h.metrics(h.work() / ("adapters-" + name.replace(" ", "-")))
    first = found.pop("on the CPU", [])
    for name, got in found.items():
        off, limit = worst(got, first, "loss"), LIMITS["bf16" if name == "in bf16" else "fp32"]
        h.ok(len(got) == len(first) > 0 and off < limit, f"adapters {name}: the losses of the CPU within {limit:g}: {off:.2g}", got)


def evaluation():
    """Parameters that are gathered for an evaluation: the loss that a rank has which holds them."""
    path, text, found = h.work() / "evaluation.yaml", h.work() / "evaluation.txt", {}
    text.write_text(h.TEXT * 1000)
    for stage in (0, 3):
        path.write_text(MEMORY.format(text=text, stage=stage, layers=4, hidden=64, heads=1, context=32, batch=8, micro=2)
                        .replace("compute: bf16", "compute: fp32"))
        ran = train(path, f"evaluation-{stage}", 2, 60.0, (f"data.valid=[{text}]", "eval.every=1", "eval.batches=2"))
        if h.ok(ran.returncode == 0, f"evaluation, ZeRO {stage} on 2 ranks: the job ends with 0", ran.stdout + ran.stderr):
            lines = (h.work() / f"evaluation-{stage}" / "metrics.jsonl").read_text().splitlines()
            found[stage] = [m["valid_loss"] for m in map(json.loads, lines) if "valid_loss" in m]
    if len(found) == 2:
        far = max((abs(a - b) / b for a, b in zip(found[3], found[0])), default=1.0)
        h.ok(far < LIMITS["fp32"], f"evaluation: ZeRO 3 within {LIMITS['fp32']:g} of 0: {far:.2g}", found)


def offload():
    """The optimizer on the host: against float64, and a job of four micro-batches whose every copy is page-locked; of ranks
    that share sequences, layers or a pipeline, too, which the host's updates must not wait for or be waited for by."""
    for stage in (0, 2, 3):
        path, want = job_of("gpt2-tiny", stage=stage, steps=setting.middling, every=0)
        path.write_text(path.read_text() + "offload: {optim: cpu}\n")
        run, name = f"offload{stage}", f"offload, ZeRO {stage} on 2 ranks"
        ran = train(path, run, 2, 60.0)
        if not h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
            continue
        off = worst(h.metrics(h.work() / run), want, "loss")
        h.ok(off < LIMITS["fp32"], f"{name}: loss within {LIMITS['fp32']:g}: {off:.2g}")
        calls = events(run, "waits")[0]["calls"]
        h.ok(set(calls) <= {"cudaStreamSynchronize", "cudaEventSynchronize"}, f"{name}: no copy waits", calls)
    shared_losses(sharers_jobs()[1], ((1, 1, 1, 2, 1), (1, 2, 1, 2, 2), (2, 1, 1, 4, 1), (1, 1, 2, 2, 2)), "offload.optim=cpu")


def fetched():
    """Parameters and inputs of layers that come up for each use, by whoever updates: the bits of stage 3, which holds them."""
    found, (path, _) = {}, job_of("llama-tiny", "bf16", stage=3, steps=setting.middling, every=0)
    for name, ranks, words in (("held", 2, ()), ("come", 2, ("offload.params=cpu",)), ("held, the host updates", 2, ("offload.optim=cpu",)),
                               ("come, the host updates", 2, ("offload.optim=cpu", "offload.params=cpu")),
                               ("come to one rank", 1, ("offload.optim=cpu", "offload.params=cpu")),
                               ("come for inputs that do", 2, ("offload.params=cpu", "activation.recompute=full", "activation.offload=cpu")),
                               ("come for inputs that stay", 2, ("offload.params=cpu", "activation.recompute=full"))):
        run = "params-" + name.replace(" ", "-").replace(",", "")
        ran = train(path, run, ranks, 60.0, words)
        if h.ok(ran.returncode == 0, f"parameters that {name}: the job ends with 0", ran.stdout + ran.stderr):
            found[name] = h.metrics(h.work() / run)
    for name, like in (("come", "held"), ("come, the host updates", "held, the host updates"), ("come for inputs that do", "come for inputs that stay")):
        got, want = ([(m["loss"], m["grad_norm"]) for m in found.get(one, [])] for one in (name, like))
        h.ok(got == want and got, f"parameters that {name}: the bits of those that are {like}", f"{got} {want}")
    alone = found.get("come to one rank", [])
    off = worst(alone, found["held"], "loss") if alone and "held" in found else 1.0
    h.ok(off < LIMITS["bf16"], f"parameters that come to one rank: the losses of two within {LIMITS['bf16']:g}: {off:.2g}")


def workers():
    """{rank: pid} of this check's workers."""
    found = {}
    for pid, line in h.processes().items():
        if "dsrun-worker" not in line:
            continue
        try:
            env = (pathlib.Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = [word[len(b"RANK="):] for word in env if word.startswith(b"RANK=")]
        if rank:
            found[int(rank[0])] = pid
    return found


def wait_for(what, seconds):
    """Until what() is true; false when it is not in that time."""
    end = time.monotonic() + clock.left(seconds)
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(what())


def finish(job, run, seconds):
    """How a started job ended, and all that it said."""
    try:
        code = job.wait(timeout=clock.left(seconds))
    except subprocess.TimeoutExpired:
        code = None
        h.reap()
        job.wait()
    text = (h.work() / "start.log").read_text(errors="replace")
    (h.work() / "start.log").write_text("")
    log.whole(f"{run}: code {code}", text)
    return code, text


def killed():
    """A rank that is killed ends the job; run again, it goes on to the same end."""
    path, _ = job_of("gpt2-tiny", stage=2, steps=setting.long)
    whole = train(path, "killed-whole", 2, 60.0)
    job = h.start("--slots", 2, "--run-dir", h.work() / "killed", path, **environment())
    saved = wait_for(lambda: list((h.work() / "killed").glob("checkpoints/step-*/manifest.json")) or job.poll() is not None,
                     60.0)
    there = workers()
    if there:
        os.kill(there[min(there)], signal.SIGKILL)
    code, text = finish(job, "killed", 60.0)
    h.ok(saved and code is not None, "killed: the job ends", text)
    print(f"# the killed job ended with {code}; {len(there)} workers were there")
    again = train(path, "killed", 2, 60.0)
    h.ok(whole.returncode == 0 and again.returncode == 0, "killed: the next run ends the job", again.stderr)
    bits = h.metric_texts(h.work() / "killed-whole")
    h.ok(bits and h.metric_texts(h.work() / "killed") == bits, "killed: the same bits as without", bits)


def stopped():
    """One rank of four stands still: the others name it, abort, and the job ends with 124."""
    path, text = h.work() / "endless.yaml", h.work() / "endless.txt"
    text.write_text(h.TEXT * 100)
    path.write_text(ENDLESS.format(text=text))
    run, lost = h.work() / "stopped", 2
    job = h.start("--slots", 4, "--run-dir", run, path, **environment(DSRUN_COMM_TIMEOUT=str(PATIENCE_S)))
    steps = run / "metrics.jsonl"
    running = wait_for(lambda: steps.exists() and steps.stat().st_size > 0 or job.poll() is not None, 60.0)
    there = workers()
    if lost in there:
        os.kill(there[lost], signal.SIGSTOP)
    code, said = finish(job, "stopped", 60.0 + PATIENCE_S)
    h.ok(running and len(there) == 4 and code == 124, "stopped: four ranks, and the job ends with 124",
         f"{code}, ranks {sorted(there)}\n{said}")
    for rank in sorted(set(there) - {lost}):
        line = re.search(rf"collective \d+ .* on rank {rank} for .*rank {lost} has not come", said)
        if line:
            h.ok(True, f"stopped: rank {rank} names rank {lost}")
    h.ok(f"rank {lost} has not come" in said, f"stopped: rank {lost} is named", said)
    for rank in sorted(set(there) - {lost}):
        h.ok(f"rank {rank} has not come" not in said, f"stopped: rank {rank} is not", said)
