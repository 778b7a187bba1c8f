#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""cuda_kinds - what a job may ask for, on GPUs without one: FP8, every optimizer, bf16 on the wire, offload
of states and of parameters.

As in cuda.py the product's C sources and its kernels run on doubles (tests/fakes/); the CPU has the same
numbers, or nearly.
"""
import json
import os

import harness as h
from devices import LIMIT, case_job, done, events, planned, require, small_job, train, worst

FP8_LIMIT = 1e-2  # of the loss, beside bf16; and beside the CPU's FP8, whose sums have another order
FP8_ORDER = 1e-3
BF16_LIMIT = 3e-3  # of the loss, beside the CPU's bf16


def fp8_run(title, run, *words, slots=1, env=None, **keys):
    """The lines of metrics as text, and the losses; None where the job failed."""
    ran = train(small_job(**keys), run, slots, extra=words, **(env or {}))
    if not h.ok(ran.returncode == 0, f"fp8: {title}: the job ends with 0", ran.stdout + ran.stderr):
        return None, []
    return h.metric_texts(h.work() / run), h.metrics(h.work() / run)


def fp8_numbers(arch):
    """Near bf16, nearer to the CPU, and the same bits after a restart."""
    texts, got = fp8_run(f"{arch}", f"fp8-{arch}", arch=arch)
    _, plain = fp8_run(f"{arch} in bf16", f"fp8-{arch}-bf16", arch=arch, matmul="compute")
    cpu_texts, cpu = fp8_run(f"{arch} on the CPU", f"fp8-{arch}-cpu", arch=arch, device="cpu")
    if not (got and plain and cpu):
        return
    h.ok(worst(got, plain, "loss") < FP8_LIMIT and got[0]["loss"] != plain[0]["loss"],
         f"fp8: {arch}: another loss than bf16, within {FP8_LIMIT:g}", (got, plain))
    h.ok(worst(got, cpu, "loss") < FP8_ORDER, f"fp8: {arch}: the loss of the CPU within {FP8_ORDER:g}",
         worst(got, cpu, "loss"))
    for device, whole in (("cuda", texts), ("cpu", cpu_texts)):
        fp8_run(f"{arch} on {device}, two steps", f"fp8-{arch}-{device}-parts", "train.steps=2", "schedule.steps=3",
                arch=arch, device=device)
        parts, _ = fp8_run(f"{arch} on {device}, resumed", f"fp8-{arch}-{device}-parts", arch=arch, device=device)
        h.ok(parts == whole, f"fp8: {arch} on {device}: the same bits after a restart", (parts, whole))


def fp8_searches(arch, stage, weights, others):
    """Largest elements are looked for once in a step for weights, and in a micro-batch for what nobody knows."""
    ran = train(small_job(arch, stage=stage), f"fp8-looks-{arch}-{stage}", 2, extra=["log.trace=kernels", "train.global_batch=4"])
    read = json.loads((h.work() / f"fp8-looks-{arch}-{stage}" / "trace" / "kernels-00000.json").read_text())
    calls = [sum(row["calls"] for row in read["operations"] if row["name"] == name) for name in ("largest", "fp8_cast")]
    h.ok(ran.returncode == 0 and calls == [weights + 2 * others, 2 * 5 * 4], f"fp8: {arch}, stage {stage}: searches", calls)


def fp8():
    """Products in FP8: numbers, memory as planned, a rank that hangs and a GPU that has none."""
    fp8_numbers("gpt2")
    fp8_numbers("llama")
    fp8_searches("gpt2", 0, 4, 4 + 4)   # by the first of two micro-batches; in rows and gradients
    fp8_searches("llama", 1, 4, 3 + 3)  # SwiGLU has seen the rows of one product, the gradients of another
    fp8_searches("llama", 2, 8, 3 + 3)  # gathered anew
    whole, _ = fp8_run("ZeRO 3 without graphs", "fp8-zero3", slots=2, arch="gpt2", stage=3, env={"DSRUN_CUDA_GRAPHS": "0"})
    once = h.work() / "fp8-once"
    texts, _ = fp8_run("a rank does not come, once", "fp8-again", slots=2, arch="gpt2", stage=2, restarts=1,
                       env={"FAKE_NCCL_NEVER": f"1:4:{once}", "DSRUN_COMM_TIMEOUT": "4"})
    h.ok(once.exists() and texts is not None and texts == whole,
         "fp8: started again after a failure, at ZeRO 2, with graphs: the same bits", (texts, whole))
    job = small_job("gpt2")
    ran, found = planned(job, "checkpoint.every=0")
    h.ok(ran.returncode == 0 and found["codes of fp8"] > 0, "fp8: dsrun plan counts the codes", found)
    ran = train(job, "fp8-within", extra=["checkpoint.every=0"], FAKE_CUDA_MEMORY=str(found["total"]))
    said = events(h.work() / "fp8-within", "memory")
    least = found["total"] - found["program and libraries"]
    h.ok(ran.returncode == 0 and said and least <= said[0]["device_bytes"] <= least * 1.03,
         "fp8: as much as the plan says is enough, and what is taken", f"{said} {found}\n{ran.stderr}")
    counts = h.work() / "fp8-counts"
    ran = train(job, "fp8-old", FAKE_CUDA_MAJOR="8", FAKE_CUDA_COUNT=str(counts))
    h.ok(ran.returncode == 65 and "has compute capability 8.0 and multiplies no FP8" in ran.stderr and
         "'precision.matmul' to compute" in ran.stderr, "fp8: refused on a GPU that has none", f"{ran.returncode}\n{ran.stderr}")
    calls = (h.work() / "fp8-counts.0").read_text()
    h.ok("cudaMalloc " not in calls, "fp8: before anything is allocated", calls)


def optimizers():
    """What an optimizer remembers, none, one or two states, comes down for a checkpoint and goes up again."""
    for kind, slots in (("sgd", 2), ("adam", 2), ("lion", 2), ("adagrad", 2), ("lamb", 2), ("muon", 1), ("muon", 2)):
        title, words = f"{kind} on {slots}", (f"optim.name={kind}", "precision.compute=fp32")
        job = {device: small_job("gpt2", "compute", device, 2) for device in ("cpu", "cuda")}
        run = {device: f"{kind}-{slots}-{device}" for device in ("cpu", "cuda", "parts")}
        ran = [train(job[device], run[device], slots, extra=words) for device in job]
        if not h.ok(all(r.returncode == 0 for r in ran), f"{title}: the jobs end with 0", ran):
            continue
        got, want = (h.metrics(h.work() / run[device]) for device in ("cuda", "cpu"))
        for key in ("loss", "grad_norm"):
            h.ok(worst(got, want, key) < LIMIT, f"{title}: {key} within {LIMIT:g} of the CPU's", worst(got, want, key))
        ran = [train(job["cuda"], run["parts"], slots, extra=(*words, *more))
               for more in (("train.steps=2", "schedule.steps=3"), ())]
        h.ok(all(r.returncode == 0 for r in ran), f"{title}: both parts end with 0", ran)
        h.ok(h.metric_texts(h.work() / run["parts"]) == h.metric_texts(h.work() / run["cuda"]),
             f"{title}: the same bits after a restart")
        said = [(e["least"], e["most"]) for e in events(h.work() / run["cuda"], "waits")]
        h.ok(said == [(0, 0)], f"{title}: the host waits in no step", said)


def evaluation():
    """Between steps, micro-batch after micro-batch, with parameters that are gathered for it: the CPU's loss."""
    words = ("data.valid=[" + str(h.work() / "valid.txt") + "]", "eval.every=1", "eval.batches=2", "train.global_batch=8")
    (h.work() / "valid.txt").write_text(h.TEXT * 20)
    for stage in (0, 2, 3):
        got = {}
        for device in ("cpu", "cuda"):
            run = f"evaluation-{stage}-{device}"
            ran = train(small_job("gpt2", "compute", device, stage), run, 2, extra=("model.layers=3", "precision.compute=fp32",
                                                                                 *words))
            if h.ok(ran.returncode == 0, f"evaluation, stage {stage}, {device}: the job ends with 0", ran.stdout + ran.stderr):
                lines = map(json.loads, (h.work() / run / "metrics.jsonl").read_text().splitlines())
                got[device] = [line["valid_loss"] for line in lines if "valid_loss" in line]
        far = max((abs(a - b) / b for a, b in zip(got.get("cuda", []), got.get("cpu", []))), default=1.0)
        h.ok(len(got.get("cuda", [])) == 3 and far < LIMIT, f"evaluation, stage {stage}: within {LIMIT:g} of the CPU's", got)


def bf16_wire():
    """Gradients that cross as bf16, sums of a part or of all: near float64, and not what F32 on the wire gives."""
    for stage in (0, 2, 3):
        title, job = f"bf16 on the wire, stage {stage}", case_job("gpt2-tiny", stage=stage)
        run = title.replace(" ", "-").replace(",", "")
        ran = train(job[0], run, 2, extra=("precision.grad_wire=bf16",))
        if not h.ok(ran.returncode == 0, f"{title}: the job ends with 0", ran.stdout + ran.stderr):
            continue
        got = h.metrics(h.work() / run)
        far = [worst(got, job[1], key) for key in ("loss", "grad_norm")]
        h.ok(far[0] < 1e-3 and 1e-6 < far[1] < 1e-2, f"{title}: near float64", far)


def offloaded(arch, compute, stage, slots, *words):
    """The host updates and the device goes on: the CPU's numbers, the same bits after a restart, nothing pageable."""
    title = f"offload: {arch} in {compute}, stage {stage} on {slots}" + "".join(f", {w}" for w in words)
    words = ("offload.optim=cpu", f"precision.compute={compute}", "train.global_batch=4", *words)
    job = {device: small_job(arch, "compute", device, stage) for device in ("cpu", "cuda")}
    run = {what: f"{what}-{title.replace(' ', '-').replace(':', '')}" for what in ("cpu", "cuda", "parts", "device")}
    env = {"FAKE_CUDA_MEMORY": str(16 << 30)}
    ran = [train(job[device], run[device], slots, extra=words, **env) for device in job]
    ran.append(train(job["cuda"], run["device"], slots, extra=(*words, "offload.optim=none", "offload.params=none"), **env))
    if not h.ok(all(r.returncode == 0 for r in ran), f"{title}: the jobs end with 0", [r.stderr for r in ran]):
        return None
    limits = {"loss": LIMIT, "grad_norm": LIMIT} if compute == "fp32" else {"loss": FP8_ORDER, "grad_norm": FP8_LIMIT}
    got = {what: h.metrics(h.work() / run[what]) for what in ("cpu", "cuda", "device")}
    for other in ("cpu", "device"):
        for key, limit in limits.items():
            far = worst(got["cuda"], got[other], key)
            h.ok(len(got["cuda"]) == 3 and far < limit,
                 f"{title}: {key} within {limit:g} of {'a CPU' if other == 'cpu' else 'a GPU alone'}", far)
    ran = [train(job["cuda"], run["parts"], slots, extra=(*words, *more), **env)
           for more in (("train.steps=2", "schedule.steps=3"), ())]
    texts = h.metric_texts(h.work() / run["cuda"])
    h.ok(all(r.returncode == 0 for r in ran) and h.metric_texts(h.work() / run["parts"]) == texts,
         f"{title}: the same bits after a restart", [r.stdout + r.stderr for r in ran])
    calls = next((set(e["calls"]) for e in events(h.work() / run["cuda"], "waits")), None)
    h.ok(calls and calls <= {"cudaStreamSynchronize", "cudaEventSynchronize"},
         f"{title}: every copy is of memory that stays", calls)
    return texts


def offload():
    """Optimizer state and updates on the host of a device with memory of its own."""
    texts = {stage: offloaded("gpt2", "fp32", stage, 2) for stage in (0, 1, 2, 3)}
    h.ok(texts[0] == texts[1] and texts[2] == texts[3], "offload: stages 0 and 1, 2 and 3: the same bits", texts)
    offloaded("llama", "bf16", 3, 2, "model.kv_heads=1")
    offloaded("gpt2", "bf16", 1, 2, "optim.name=lion")
    offloaded("llama", "fp16", 0, 1, "model.kv_heads=1")
    disk = h.work() / "disk"
    disk.mkdir()
    for stage in (0, 3):
        ran = train(small_job("gpt2", "compute", "cuda", stage), f"offload-disk{stage}", 2, extra=(
            "offload.optim=nvme", f"offload.path={disk}", "train.global_batch=4", "precision.compute=fp32"))
        got = h.metric_texts(h.work() / f"offload-disk{stage}") if ran.returncode == 0 else None
        h.ok(got == texts[stage] and not os.listdir(disk), f"offload: stage {stage}, states on a disk: the same bits",
             f"{ran.stderr}\n{got}")
    ran = train(small_job("gpt2", "compute"), "offload-lamb", extra=("offload.optim=cpu", "optim.name=lamb"))
    h.ok(ran.returncode == 65 and "'optim.name' lamb" in ran.stderr, "offload: lamb is refused",
         f"{ran.returncode} {ran.stderr}")
    job = small_job("gpt2", "compute", stage=2)
    for call, number in (("cudaEventSynchronize", 719), ("cudaHostAlloc", 2)):
        ran = train(job, f"offload-{call}", 2, extra=("offload.optim=cpu",), FAKE_CUDA_FAIL=f"{call}:2:{number}",
                    FAKE_CUDA_RANK="1")
        h.ok(ran.returncode not in (0, 124) and "rank 1" in ran.stderr and "CUDA device 0 cannot" in ran.stderr,
             f"offload: {call} fails: said", f"{ran.returncode} {ran.stderr}")


def offload_of_sharers():
    """The same of ranks whose passes speak to others, while the host still updates for them; the double of NCCL takes calls of
    one thread alone."""
    offloaded("gpt2", "fp32", 2, 2, "parallel.sequence=2", "model.heads=4")
    offloaded("llama", "bf16", 3, 4, "parallel.sequence=2", "model.heads=4")
    offloaded("llama", "fp32", 1, 4, "parallel.tensor=2", "model.heads=4", "model.kv_heads=1")
    offloaded("llama", "fp32", 3, 4, "parallel.tensor=2", "model.heads=4", "model.kv_heads=1", "offload.params=cpu")
    offloaded("gpt2", "fp32", 2, 4, "parallel.pipeline=2", "model.layers=3")
    offloaded("mixtral", "fp32", 2, 4, "parallel.expert=2", "model.experts=4")


def parameters_of_the_host():
    """Parameters that come up for each use: the bits of stage 3 without that, whoever updates; on one rank, too, with adapters."""
    for arch, compute, slots, words in (("gpt2", "fp32", 2, ["offload.optim=cpu"]), ("llama", "bf16", 2, []), ("llama", "fp16", 2, ["offload.optim=cpu"]),
                                        ("gpt2", "bf16", 3, ["train.global_batch=6", "zero.replicate_below=100"]),
                                        ("llama", "bf16", 2, ["model.layers=3", "model.hidden=128", "model.heads=2", "model.ffn=512", "zero.bucket_mb=1", "offload.optim=cpu"]),
                                        ("llama", "bf16", 2, ["model.layers=4", "activation.recompute=full", "activation.offload=cpu", "train.global_batch=8"]),
                                        ("llama", "bf16", 2, ["optim.name=muon", "activation.recompute=full", "train.global_batch=8"])):
        title = f"parameters of the host: {arch} in {compute} on {slots}" + "".join(f", {w}" for w in words)
        job, runs = small_job(arch, "compute", "cuda", 3), [f"{title.replace(' ', '-').replace(':', '')}-{i}" for i in range(2)]
        words = [f"precision.compute={compute}", "train.global_batch=4", *words]
        ran = [train(job, run, slots, extra=(*words, *more)) for run, more in zip(runs, ([], ["offload.params=cpu"]))]
        if not h.ok(all(r.returncode == 0 for r in ran), f"{title}: the jobs end with 0", [r.stdout + r.stderr for r in ran]):
            continue
        texts = [h.metric_texts(h.work() / run) for run in runs]
        h.ok(texts[0] == texts[1] and len(texts[0]) == 3, f"{title}: the same bits", texts)
        calls = next((e for e in events(h.work() / runs[1], "waits")), None)
        h.ok("offload.optim=cpu" in words or (calls["least"], calls["most"]) == (0, 0), f"{title}: the host waits in no step, if it does not update",
             calls)
    for stage, words in ((0, ["offload.optim=cpu"]), (1, []), (3, ["model.dropout=0.1"])):
        job, title = small_job("gpt2", "compute", "cuda", stage), f"activations of the host, stage {stage}"
        words, texts = ["model.layers=5", "precision.compute=bf16", "train.global_batch=8", "activation.recompute=full", *words], []
        for run, more in ((f"outs-{stage}-{i}", more) for i, more in enumerate(([], ["activation.offload=cpu"]))):
            ran = train(job, run, 2, extra=[*words, *more])
            texts.append(h.metric_texts(h.work() / run) if ran.returncode == 0 else ran.stderr)
        h.ok(texts[0] == texts[1] and len(texts[0]) == 3, f"{title}: the same bits", texts)
        calls = next((e for e in events(h.work() / f"outs-{stage}-1", "waits")), None)
        h.ok("offload.optim=cpu" in words or (calls["least"], calls["most"]) == (0, 0), f"{title}: the host waits in no step, if it does not update", calls)
    for name, words in (("one rank", []), ("one rank with adapters", ["lora.rank=4", "optim.lr=2e-2"])):
        texts = []
        for run, more in ((f"alone-{name}-{i}".replace(" ", "-"), more) for i, more in enumerate(([], ["offload.params=cpu"]))):
            job, _ = case_job("llama-tiny", device="cuda")
            ran = train(job, run, 1, extra=["zero.stage=3", "offload.optim=cpu", "precision.compute=bf16", "train.global_batch=1",
                                              "train.micro_batch=1", *words, *more])
            texts.append(h.metric_texts(h.work() / run) if ran.returncode == 0 else ran.stderr)
        h.ok(texts[0] == texts[1] and len(texts[0]) == 2, f"parameters of the host: {name}: the same bits", texts)


def on_both(what, arch, text, rows, keys, op):
    """Runs of a job of ranks that share something, on the device and on the CPU: what the plan says of collective `op`, and the
    CPU's losses.  Rows are ZeRO stage, ranks, micro-batch, environment; returns the records by device and stage."""
    found = {}
    for device in ("cuda", "cpu"):
        path = h.work() / f"{what}-{arch}-{device}.yaml"
        path.write_text(text.replace("device: cuda", f"device: {device}"))
        for stage, slots, micro, env in rows:
            name = f"{what}: {arch} on {device}, {slots} ranks, ZeRO {stage}, micro-batch {micro}"
            run = f"{what}-{arch}-{device}-{slots}-{stage}"
            ran = train(path, run, slots, extra=[*keys, f"zero.stage={stage}", "log.comm=true", f"train.micro_batch={micro}"],
                        FAKE_CUDA_MEMORY=str(16 << 30), **env)
            if not h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
                continue
            found[device, stage] = h.metrics(h.work() / run)
            told = events(h.work() / run, "comm")
            h.ok(told and all(e[op]["calls"] == e[op]["planned_calls"] > 0 and e[op]["bytes"] == e[op]["planned_bytes"]
                              for e in told), f"{name}: {op} as planned", told[:1])
    for stage, *_ in rows:
        ours, theirs = found.get(("cuda", stage)), found.get(("cpu", stage))
        h.ok(ours and theirs and worst(ours, theirs, "loss") < BF16_LIMIT, f"{what}: {arch}, ZeRO {stage}: the CPU's losses",
             (ours, theirs))
    return found


def sharers():
    """Ranks that share sequences."""
    for arch in ("gpt2", "llama"):
        text = small_job(arch, matmul="compute").read_text().replace("heads: 1", "heads: 4")
        on_both("sharers", arch, text, ((0, 2, 1, {}), (3, 4, 1, {}), (2, 2, 2, {})), ["parallel.sequence=2"], "all_to_all")
    on_both("sharers-one", "llama", text.replace("heads: 4", "heads: 4, kv_heads: 1"), ((0, 2, 1, {}), (2, 4, 2, {})),
            ["parallel.sequence=2", "train.global_batch=4"], "all_to_all")


def pipeline():
    """Ranks that have parts of the layers, with recorded passes and without."""
    for arch in ("gpt2", "llama"):
        text = small_job(arch, matmul="compute").read_text()
        found = on_both("pipeline", arch, text, ((0, 2, 1, {}), (2, 4, 1, {}), (1, 2, 1, {"DSRUN_CUDA_GRAPHS": "0"})),
                        ["model.layers=3", "parallel.pipeline=2"], "pass")
        ours, theirs = found.get(("cuda", 0)), found.get(("cuda", 1))
        h.ok(ours and theirs and [r["loss"] for r in ours] == [r["loss"] for r in theirs],
             f"pipeline: {arch}: the same bits with graphs and without", (ours, theirs))


def team():
    """Ranks that share layers."""
    for arch in ("gpt2", "llama"):
        text = small_job(arch, matmul="compute").read_text().replace("heads: 1", "heads: 4")
        on_both("team", arch, text, ((0, 2, 1, {}), (3, 4, 1, {}), (2, 2, 2, {})), ["parallel.tensor=2"],
                "all_reduce_bf16" if "compute: bf16" in text else "all_reduce_f32")
    few = text.replace("heads: 4", "heads: 4, kv_heads: 1")
    for name, rows, more in (("team-one", ((0, 2, 1, {}), (2, 4, 1, {})), ()), ("team-one-fp8", ((1, 4, 2, {}),), ("precision.matmul=fp8", "model.head_size=8")),
                             ("team-one-shared", ((0, 4, 1, {}), (2, 4, 2, {})), ("parallel.sequence=2",))):
        on_both(name, "llama", few, rows, ["parallel.tensor=2", "train.global_batch=4", *more], "all_reduce_f32")
    on_both("team-muon", "llama", few, ((1, 4, 1, {}),), ["parallel.tensor=2", "optim.name=muon", "optim.lr=1e-3"], "all_gather")
    on_both("team-lamb", "llama", text, ((1, 4, 1, {}),), ["parallel.tensor=2", "optim.name=lamb", "optim.lr=1e-3"], "all_gather")


def experts():
    """Layers with experts: of ranks of data, recorded and not, in teams, in parts."""
    text = small_job("mixtral", matmul="compute").read_text().replace("heads: 1", "heads: 4, experts: 4").replace("compute: bf16", "compute: fp32")
    on_both("experts", "mixtral", text, ((0, 2, 1, {}),), [], "all_reduce_f32")
    on_both("experts-launched", "mixtral", text, ((0, 2, 1, {"DSRUN_CUDA_GRAPHS": "0"}),), ["activation.recompute=full"], "all_reduce_f32")
    on_both("experts-team", "mixtral", text, ((0, 2, 1, {}),), ["parallel.tensor=2"], "all_reduce_f32")
    on_both("heads-team", "qwen3_moe", text.replace("arch: mixtral", "arch: qwen3_moe, head_size: 8"), ((0, 2, 1, {}),), ["parallel.tensor=2"], "all_reduce_f32")
    on_both("experts-parts", "mixtral", text, ((1, 2, 1, {}),), ["model.layers=3", "parallel.pipeline=2"], "pass")
    on_both("experts-divided", "mixtral", text, ((0, 2, 1, {}), (3, 4, 1, {}), (2, 2, 2, {})), ["parallel.expert=2", "train.global_batch=4"],
            "all_to_all")
    on_both("experts-sharers", "mixtral", text, ((0, 2, 2, {}),), ["parallel.sequence=2"], "all_reduce_f32")


def adapters():
    """Adapters and tensors that stay, of ranks that hold or gather what is frozen, kept and not, with states of the host."""
    for title, name, words, slots, env in (
            ("adapters", "llama-tiny", ["lora.rank=4", "optim.lr=2e-2"], 1, {}), ("adapters launched", "llama-tiny", ["lora.rank=4", "optim.lr=2e-2", "activation.recompute=full"], 1, {"DSRUN_CUDA_GRAPHS": "0"}),
            ("adapters of gpt2", "gpt2-tiny", ["lora.rank=8", "lora.alpha=16", "optim.lr=2e-2", "zero.stage=3"], 2, {}),
            ("adapters in bf16", "llama-tiny", ["lora.rank=8", "optim.lr=2e-2", "precision.compute=bf16", "zero.stage=2"], 2, {}),
            ("adapters with states of the host", "llama-tiny", ["lora.rank=4", "optim.lr=2e-2", "zero.stage=3", "offload.optim=cpu"], 2, {}),
            ("adapters of a team", "llama-tiny", ["lora.rank=4", "lora.dropout=0.2", "optim.lr=2e-2", "parallel.tensor=2", "activation.recompute=full"], 2, {}),
            ("adapters and what is beside", "gpt2-tiny", ["lora.rank=4", "lora.whole=*.w?e.weight", "lora.rslora=true", "optim.lr=2e-2", "zero.stage=3"], 2, {}),
            ("frozen", "gpt2-tiny", ["train.freeze=transformer.h.0.*", "zero.stage=3"], 2, {}),
            ("frozen norms", "qwen3-moe-tiny", ["train.freeze=*norm*"], 1, {})):
        found = []
        for device in ("cuda", "cpu"):
            job, _ = case_job(name, device=device)
            run = f"{title}-{device}".replace(" ", "-")
            ran = train(job, run, slots, extra=words, **env)
            if h.ok(ran.returncode == 0, f"{title} on {device}: the job ends with 0", ran.stdout + ran.stderr):
                found.append(h.metrics(h.work() / run))
        near = BF16_LIMIT if "in bf16" in title else LIMIT
        h.ok(len(found) == 2 and len(found[0]) == len(found[1]) and worst(*found, "loss") < near, f"{title}: the loss of the CPU within {near:g}", found)
    job, _ = case_job("llama-tiny", steps=4)
    train(job, "adapters-resumed", extra=["lora.rank=4", "optim.lr=2e-2", "train.steps=2", "schedule.steps=4"])
    train(job, "adapters-resumed", extra=["lora.rank=4", "optim.lr=2e-2", "schedule.steps=4"])
    train(job, "adapters-straight", extra=["lora.rank=4", "optim.lr=2e-2", "schedule.steps=4"])
    texts = [h.metric_texts(h.work() / f"adapters-{name}") for name in ("resumed", "straight")]
    h.ok(texts[0] == texts[1] and len(texts[0]) == 4, "adapters: the same bits after a restart", texts)


require()
adapters()
experts()
fp8()
optimizers()
evaluation()
bf16_wire()
offload()
offload_of_sharers()
parameters_of_the_host()
sharers()
team()
pipeline()
done()
