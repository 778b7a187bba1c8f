#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""cuda - the whole path of `launch.device: cuda` without a GPU.

The plug-in that these jobs load is made of the very C sources of the product; its kernels run under
the emulation of tests/cudaemu/, and CUDA's runtime, cuBLASLt and NCCL are the doubles of tests/fakes/
(their header tells what they check and how they fail).  Memory of the device cannot be touched by the
host there, fresh memory is NaN, and collectives run beside the caller, so a copy, an event or a wait
that is missing shows as a crash or as a wrong loss.
"""
import atexit
import ctypes
import json
import os
import shutil
import subprocess
import tempfile

import harness as h
import reference

FAKES = h.BUILD / "fakes" / "libexec"
LIMIT = 1e-4
SHARED = tempfile.mkdtemp(prefix="dsrun-fake-nccl.", dir="/dev/shm")  # the double's files of these jobs alone
atexit.register(shutil.rmtree, SHARED, ignore_errors=True)
os.environ["FAKE_NCCL_FOLDER"] = SHARED

LARGE = """\
name: large
model: {{arch: gpt2, layers: 200, hidden: 8192, heads: 64, context: 16}}
data: {{train: [{text}], format: text}}
train: {{steps: 1, global_batch: 1, micro_batch: 1}}
launch: {{device: cuda}}
"""
SHARE = {"DSRUN_CUDA_SHARE": "1"}
FP8 = """\
name: fp8
model: {{arch: {arch}, layers: 1, hidden: 16, heads: 1, ffn: 32, context: 16}}
data: {{train: [{text}], format: text}}
train: {{steps: 3, global_batch: 2, micro_batch: 1}}
optim: {{lr: 3.0e-3}}
precision: {{compute: bf16, matmul: {matmul}}}
zero: {{stage: {stage}}}
checkpoint: {{every: 1, keep: 1}}
launch: {{device: {device}, threads: 1, restarts: {restarts}}}
"""
FP8_LIMIT = 1e-2  # of the loss, beside bf16; and beside the CPU's FP8, whose sums have another order
FP8_ORDER = 1e-3


def case_job(name, steps=2, compute="fp32", stage=0, device="cuda", restarts=0, every=1):
    """A job file of a reference case, and what its steps are to give."""
    case = reference.CASES / name
    path = h.work() / f"{name}-{compute[:4]}-{stage}-{device}-{restarts}-{steps}.yaml"
    path.write_text(reference.job_text(case, steps, micro=2, compute=compute) + f"""\
zero: {{stage: {stage}}}
checkpoint: {{every: {every}, keep: 1}}
launch: {{device: {device}, threads: 1, restarts: {restarts}}}
""")
    return path, reference.load(case, "expected")[:steps]


def train(job, run, slots=1, libexec=FAKES, extra=(), **env):
    return h.dsrun("--slots", slots, "--run-dir", h.work() / run, job, *extra, DSRUN_LIBEXEC=str(libexec), **SHARE, **env)


def worst(got, want, key):
    return max(abs(g[key] - w[key]) / max(abs(w[key]), 1e-12) for g, w in zip(got, want))


def trains(name, slots, limit=LIMIT, **keys):
    title = f"{name} on {slots} device{'s' if slots > 1 else ''}, {keys or 'fp32'}"
    job, want = case_job(name, **keys)
    run = title.replace(" ", "-").replace("/", "-")
    ran = train(job, run, slots)
    if not h.ok(ran.returncode == 0, f"{title}: the job ends with 0", ran.stdout + ran.stderr):
        return None
    got = h.metrics(h.work() / run)
    h.ok(len(got) == len(want), f"{title}: every step is there", len(got))
    for key in ("loss", "grad_norm"):
        h.ok(worst(got, want, key) < limit, f"{title}: {key} within {limit:g} of float64",
             f"worst {worst(got, want, key):g}")
    return h.metric_texts(h.work() / run)


def fails(title, code, words, slots=1, libexec=FAKES, keys=None, never=(), **env):
    job, _ = case_job("gpt2-tiny", **(keys or {}))
    ran = train(job, "fail-" + "".join(c if c.isalnum() else "-" for c in title), slots, libexec, **env)
    text = ran.stdout + ran.stderr
    h.ok(ran.returncode == code, f"{title}: exit code {code}", f"{ran.returncode}\n{text}")
    for word in words:
        h.ok(word in text, f"{title}: says '{word}'", text)
    for word in never:
        h.ok(word not in text, f"{title}: does not say '{word}'", text)


def no_plugin():
    """A build without nvcc: nothing but the plug-in is missing."""
    folder = h.work() / "bare"
    folder.mkdir()
    for name in ("dsrun-worker", "dsrun-agent"):
        shutil.copy(FAKES / name, folder)
    fails("no plug-in", 2, ["built without CUDA", "launch.device' to cpu"], libexec=folder)
    job, want = case_job("gpt2-tiny", device="auto")
    ran = train(job, "auto-bare", libexec=folder)
    h.ok(ran.returncode == 0 and worst(h.metrics(h.work() / "auto-bare"), want, "loss") < LIMIT,
         "no plug-in: auto trains on the CPU", ran.stderr)
    (folder / "dsrun-cuda.so").write_bytes(b"not a library")
    fails("a plug-in that is none", 65, ["cannot be loaded"], libexec=folder)


def no_device():
    fails("no driver", 1, ["has no NVIDIA driver"], FAKE_CUDA_DRIVER="0")
    fails("an old driver", 1, ["is for CUDA 12.4 and 13.0 is needed"], FAKE_CUDA_DRIVER="12040")
    fails("no device", 1, ["no GPU that this process may use"], FAKE_CUDA_DEVICES="0")
    fails("an old device", 65, ["compute capability 7.0"], FAKE_CUDA_MAJOR="7")


def planned(job, *words, **env):
    """dsrun plan of a job on this machine, and what it says of memory."""
    ran = h.dsrun("plan", "--json", job, *words, DSRUN_LIBEXEC=str(FAKES), **env)
    return ran, json.loads(ran.stdout)["memory"] if ran.stdout else {}


def memory():
    """The plan goes by the device's memory, before anything starts and again on the rank's own device."""
    job = h.work() / "large.yaml"
    job.write_text(LARGE.format(text=h.ROOT / "README.md"))
    ran = train(job, "large")
    h.ok(ran.returncode == 65 and "the GPU has 2.00 GiB free" in ran.stderr and "optimizer" in ran.stderr,
         "a job of 2 TiB: refused before anything starts, with its table", f"{ran.returncode}\n{ran.stderr}")
    job, _ = case_job("gpt2-tiny", every=0)
    ran, found = planned(job)
    h.ok(ran.returncode == 0 and found["program and libraries"] > 24 << 20, "dsrun plan counts what a device has",
         found)
    run = h.work() / "within"
    ran = train(job, "within", FAKE_CUDA_MEMORY=str(found["total"]))
    said = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    said = [e for e in said if e.get("event") == "memory"]
    # The doubles have no code of kernels on the device: all but that is what the plan says, rounded up to pages.
    least = found["total"] - found["program and libraries"]
    h.ok(ran.returncode == 0 and said and said[0]["planned_bytes"] == found["total"] and
         least <= said[0]["device_bytes"] <= least * 1.03, "as much as the plan says is enough, and what is taken",
         f"{said} {found}\n{ran.stderr}")
    ran, _ = planned(job, FAKE_CUDA_MEMORY=str(found["total"] - 1))
    h.ok(ran.returncode == 65 and "the GPU has" in ran.stderr, "one byte less: dsrun plan says that it does not fit",
         ran)
    # On another host the rank is the first to know: the launcher is told that there is no GPU here.
    blind = h.work() / "blind"
    blind.mkdir()
    for name in FAKES.iterdir():
        (blind / name.name).symlink_to(name)
    (blind / "dsrun-worker").unlink()
    (blind / "dsrun-worker").write_text(f'#!/bin/sh\n[ "$1" != device ] || exit 1\nexec {FAKES}/dsrun-worker "$@"\n')
    (blind / "dsrun-worker").chmod(0o755)
    ran = train(job, "blind", libexec=blind, FAKE_CUDA_MEMORY=str(found["total"] - 1))
    h.ok(ran.returncode == 65 and "dsrun-worker: error: not enough memory" in ran.stderr,
         "one byte less: the rank refuses", f"{ran.returncode}\n{ran.stderr}")
    ran, small = planned(job, "activation.recompute=auto", "train.micro_batch=8",
                         FAKE_CUDA_MEMORY=str(planned(job, "train.micro_batch=8")[1]["total"] - 1))
    h.ok(ran.returncode == 0 and small["activations"] < planned(job, "train.micro_batch=8")[1]["activations"],
         "recompute auto goes by the device's memory", f"{small}\n{ran.stderr}")


def tuned():
    """Layouts go by the memory of the GPU, not by the host's."""
    config = h.work() / "config" / "dsrun"
    config.mkdir(parents=True)
    (config / "machine.yaml").write_text("""\
hosts: 1
ranks: 1
device: {flops: {fp32: 100e9}, bandwidth: 10e9}
link: {host: {bandwidth: 5e9, latency_us: 5}}
""")
    job, _ = case_job("gpt2-tiny", every=0)
    env = {"DSRUN_LIBEXEC": str(FAKES), "XDG_CONFIG_HOME": str(config.parent)}
    ran = h.dsrun("tune", "--json", "--trials", "0", job, **env)
    found = json.loads(ran.stdout)["layouts"] if ran.stdout else []
    h.ok(ran.returncode == 0 and found and all(layout["fits"] for layout in found), "tune: all layouts fit in 1 GiB",
         ran.stdout + ran.stderr)
    least = min((layout["bytes"] for layout in found), default=0)
    h.ok(least > 64 << 20, "tune: a layout's bytes are those of a device", least)
    ran = h.dsrun("tune", "--json", "--trials", "0", job, FAKE_CUDA_MEMORY=str(least), **env)
    fits = [layout["bytes"] for layout in json.loads(ran.stdout)["layouts"] if layout["fits"]] if ran.stdout else []
    h.ok(ran.returncode == 0 and fits and max(fits) <= least, "tune: what the GPU holds fits, and nothing else",
         f"{least} {fits}\n{ran.stderr}")
    ran = h.dsrun("tune", "--trials", "0", job, FAKE_CUDA_MEMORY=str(least - 1), **env)
    h.ok(ran.returncode == 65 and "no layout fits in the memory of a rank" in ran.stderr, "tune: one byte less, and none",
         ran.stderr)


def device_failures():
    memory()
    tuned()
    fails("out of memory", 65, ["bytes free and", "are needed"], FAKE_CUDA_FAIL="cudaMalloc:3:2")
    for at in (36, 38):  # the first of an operation's launches, too, whose last one is not refused
        fails(f"launch {at} is refused", 1, ["was refused: invalid configuration"], FAKE_CUDA_FAIL=f"launch:{at}:9")
    fails("a sticky error", 1, ["CUBLAS_STATUS_EXECUTION_FAILED"], FAKE_CUDA_FAIL="launch:90:700")
    fails("a stream cannot be made", 1, ["make a stream"], FAKE_CUDA_FAIL="cudaStreamCreateWithPriority:2:2")


def nccl_failures():
    fails("NCCL does not start", 1, ["NCCL cannot start"], 2, FAKE_NCCL_FAIL="init:2")
    fails("NCCL is too old", 65, ["install 2.19 or later"], 2, FAKE_NCCL_VERSION="21500")
    fails("NCCL reports an error", 1, ["remote process exited", "a collective failed"], 2, keys={"stage": 2}, FAKE_NCCL_FAIL="async:6")
    fails("a rank that does not come", 124, ["rank 2 has not come", "collective 2 (", "before it: 1 "], 4,
          never=[f"rank {rank} has not come" for rank in (0, 1, 3)], FAKE_CUDA_MEMORY=str(4 << 30),
          FAKE_NCCL_NEVER="2:2", DSRUN_COMM_TIMEOUT="4")
    fails("a rank that does not come at all", 124, ["rank 1 has not come", "collective 1 ("], 2,
          FAKE_NCCL_NEVER="1:1", DSRUN_COMM_TIMEOUT="4")


def restarts(whole):
    """The watchdog ends the job, the policy starts it again, and it goes on from its checkpoint."""
    job, _ = case_job("gpt2-tiny", stage=2, restarts=1)
    once = h.work() / "once"
    ran = train(job, "again", 2, FAKE_NCCL_NEVER=f"1:4:{once}", DSRUN_COMM_TIMEOUT="4")
    h.ok(ran.returncode == 0, "restart: the second attempt ends the job", ran.stdout + ran.stderr)
    h.ok(once.exists(), "restart: a rank did not come the first time")
    if ran.returncode == 0:
        h.ok(h.metric_texts(h.work() / "again") == whole, "restart: the same bits as without a failure")


def counted(title, job, run, code=0, **env):
    """Train, and how often each call of CUDA's runtime was made."""
    counts = h.work() / "counts"
    ran = train(job, run, FAKE_CUDA_COUNT=str(counts), **env)
    h.ok(ran.returncode == code, f"{title}: the job ends with {code}", ran.stdout + ran.stderr)
    calls = {}
    for line in (h.work() / "counts.0").read_text().splitlines():
        name, count = line.split()
        calls[name] = int(count)
    return calls, h.metric_texts(h.work() / run), ran.stdout + ran.stderr


def graphs():
    """Passes are recorded and played: the same bits as without, however it ends, one wait a step."""
    waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
    job, _ = case_job("gpt2-tiny", steps=4, every=0)
    longer, _ = case_job("gpt2-tiny", steps=5, every=0)
    plain, texts, _ = counted("without graphs", job, "plain", DSRUN_CUDA_GRAPHS="0")
    h.ok("cudaGraphLaunch" not in plain, "without graphs: none is launched", plain)
    calls, got, said = counted("with graphs", longer, "graphs")
    # 4 passes a step: one that writes gradients, 3 that add to them; the first of each kind is not recorded.
    h.ok(calls["cudaGraphLaunch"] == 5 * 4 - 2 and calls["cudaGraphInstantiate"] == 2,
         "with graphs: two are made, and launched in each pass but the first of its kind", calls)
    h.ok(got[:4] == texts, "with graphs: the same bits", f"{got}\n{texts}")
    h.ok("CUDA graphs" not in said, "with graphs: nothing is said of them", said)
    h.ok(sum(calls.get(c, 0) for c in waits) - sum(plain.get(c, 0) for c in waits) == 1,
         "a step more is one wait for the device more", f"{calls}\n{plain}")
    h.ok(calls["cudaEventSynchronize"] == 5 and plain["cudaEventSynchronize"] == 4,
         "and that is for what a step came to, behind it", f"{calls}\n{plain}")
    for call, place in (("cudaStreamBeginCapture", 2), ("cudaStreamEndCapture", 2), ("cudaGraphInstantiate", 1)):
        _, got, said = counted(f"{call} fails", job, call, FAKE_CUDA_FAIL=f"{call}:{place}:2")
        h.ok(got == texts and "without CUDA graphs from here on: CUDA cannot" in said,
             f"{call} fails: said, and the same bits", f"{got}\n{texts}\n{said}")


def profile():
    """A step operation by operation: all of its kernels, the bits of a run without, every wait of the host."""
    job, _ = case_job("llama-tiny", steps=5, every=0, compute="bf16", stage=2)
    plain = train(job, "unwatched", 2)
    ran = train(job, "watched", 2, extra=["log.trace=kernels"])
    if not h.ok(ran.returncode == plain.returncode == 0, "profile: the job ends with 0", ran.stdout + ran.stderr):
        return
    h.ok(h.metric_texts(h.work() / "watched") == h.metric_texts(h.work() / "unwatched"), "profile: the same bits")
    h.ok("traced, see" in ran.stdout + ran.stderr, "profile: said where it is", ran.stdout + ran.stderr)
    for rank in range(2):
        read = json.loads((h.work() / "watched" / "trace" / f"kernels-{rank:05}.json").read_text())
        names = {row["name"] for row in read["operations"]}
        h.ok(names >= {"matmul", "attention_fwd", "attention_bwd", "norm_fwd", "norm_bwd", "rope", "xent", "sumsq",
                       "adamw", "embed_fwd", "embed_bwd", "clear", "copy up", "copy down"},
             f"profile: rank {rank} has every operation", names)
        beside = {row["name"] for row in read["operations"] if row["beside"]}
        h.ok("copy up" in beside and "add" in beside and "matmul" not in beside,
             f"profile: rank {rank}: what other queues do is beside", beside)
        h.ok(read["waits"] == [], f"profile: rank {rank} does not wait", read["waits"])
        h.ok(read["queues_ms"]["REDUCE"] > 0 and read["copy_bytes_per_s"] > 0, f"profile: rank {rank}: queues and a copy",
             read["queues_ms"])
    said = [json.loads(line) for line in (h.work() / "watched" / "events.jsonl").read_text().splitlines()]
    said = [e for e in said if e.get("event") == "waits"]
    h.ok(said and said[0]["steps"] == 2 and said[0]["most"] == said[0]["least"] == 0 and said[0]["calls"] == {} and
         said[0]["behind"] == {"cudaEventSynchronize": 3}, "profile: no wait in the other steps, one behind each", said)
    _, texts, said = counted("a mark fails", job, "no-mark", extra=["log.trace=step"], FAKE_CUDA_FAIL="cudaEventElapsedTime:5:2",
                             code=1)
    h.ok("CUDA cannot tell the time of an event" in said, "profile: times that CUDA does not tell end the job", said)


def graphs_follow():
    """What changes from step to step is not what was recorded: the scale of the loss, what is dropped."""
    job, _ = case_job("gpt2-tiny", steps=6, every=0, compute="fp16")
    high = ("precision.scaler.init_power=24", "precision.scaler.hysteresis=1")
    _, texts, _ = counted("fp16 without graphs", job, "fp16-plain", extra=high, DSRUN_CUDA_GRAPHS="0")
    calls, got, said = counted("fp16", job, "fp16", extra=high)
    h.ok(got == texts and "loss scale is" in said, "fp16, the scale of the loss falls: the same bits",
         f"{got}\n{texts}\n{said}")
    h.ok(calls["cudaGraphInstantiate"] == 2, "fp16: another scale is not recorded anew", calls)
    job, _ = case_job("gpt2-tiny", every=0)
    _, _, said = counted("dropout", job, "drops", extra=["model.dropout=0.1"])
    h.ok("without CUDA graphs: dropout draws anew" in said, "dropout: said that nothing is recorded", said)


def products():
    """What ranks measured of matrix products is kept, and nothing is measured again."""
    job, _ = case_job("gpt2-tiny", stage=2)
    kept = h.work() / "products"
    for run in ("measured", "remembered"):
        ran = train(job, run, 2, DSRUN_CUDA_PRODUCTS=str(kept))
        if not h.ok(ran.returncode == 0, f"products: {run}: the job ends with 0", ran.stdout + ran.stderr):
            return
        text = kept.read_text()
        if run == "measured":
            first = text
    lines = first.splitlines()
    h.ok(len(lines) > 5 and len(lines) == len(set(line.split(" = ")[0] for line in lines)),
         "products: one choice each, by two ranks", first)
    h.ok(text == first, "products: the next run chooses nothing", text)
    kept.write_text("a letter\n")
    ran = train(job, "letter", 2, DSRUN_CUDA_PRODUCTS=str(kept))
    h.ok(ran.returncode != 0 and f"'{kept}' is no file of choices" in ran.stderr, "products: another file is refused",
         ran.stderr)


def epilogues():
    """GELU in the products: what is computed again has the bits of the first time.  By itself, before Hopper or
    where nothing else is computed again, it is more launches and the same within rounding; so it is in fp32."""
    job, want = case_job("gpt2-tiny", compute="bf16", every=0)
    exact, _ = case_job("gpt2-tiny", every=0)
    launches, texts = {}, {}
    for run, extra, env in (("in products", (), {}), ("all again", ["activation.recompute=full"], {}),
                            ("alone again", ["activation.recompute=selective"], {}),
                            ("before Hopper", (), {"FAKE_CUDA_MAJOR": "8"})):
        name = "gelu-" + run.replace(" ", "-")
        calls, texts[run], _ = counted(f"GELU {run}", job, name, extra=extra, DSRUN_CUDA_GRAPHS="0",
                                        DSRUN_CUDA_ATTENTION="own", **env)
        launches[run] = calls["launch"]
        h.ok(worst(h.metrics(h.work() / name), want, "loss") < 1e-2, f"GELU {run}: loss within 1e-2 of float64")
    same = [counted(f"GELU in fp32, capability {major}", exact, f"gelu-fp32-{major}", DSRUN_CUDA_GRAPHS="0",
                    FAKE_CUDA_MAJOR=major)[0]["launch"] for major in ("8", "9")]
    h.ok(same[0] == same[1], "GELU in fp32: never in the products", same)
    h.ok(texts["all again"] == texts["in products"], "GELU: all of a layer computed again, the same bits", texts)
    h.ok(launches["in products"] < launches["before Hopper"], "GELU: fewer launches in the products", launches)


def attention():
    """By the double of cuDNN where it is there and serves, by our own kernels else, and what is said of it."""
    job, want = case_job("llama-tiny", compute="bf16", every=0)
    bare = h.work() / "no-cudnn"
    bare.mkdir()
    for name in FAKES.iterdir():
        if not name.name.startswith("libcudnn"):
            shutil.copy(name, bare)
    broken = h.work() / "broken-cudnn"
    shutil.copytree(bare, broken)
    (broken / "libcudnn.so.9").write_bytes(b"not a library")

    def tried(run, libexec=FAKES, code=0, **env):
        ran = train(job, f"attention-{run}", libexec=libexec, **env)
        said = ran.stdout + ran.stderr
        h.ok(ran.returncode == code, f"attention, {run}: the job ends with {code}", said)
        return said, h.metric_texts(h.work() / f"attention-{run}") if code == 0 else None

    said, by_cudnn = tried("as it is")
    events = (h.work() / "attention-as it is" / "events.jsonl").read_text()
    h.ok("attention by cuDNN 9.19.0" in events and "own kernels" not in said, "attention: by cuDNN, and said", events)
    h.ok(worst(h.metrics(h.work() / "attention-as it is"), want, "loss") < 1e-2, "attention: loss within 1e-2")
    h.ok(tried("no graphs", DSRUN_CUDA_GRAPHS="0")[1] == by_cudnn, "attention: in CUDA graphs and without: the same bits")
    said, own = tried("own", DSRUN_CUDA_ATTENTION="own")
    h.ok("own attention" in (h.work() / "attention-own" / "events.jsonl").read_text() and own != by_cudnn,
         "attention: by our own kernels where it is asked for")
    said, got = tried("refused", FAKE_CUDNN_UNFIT="3")
    h.ok(got == own and "is done by dsrun's own kernels: cuDNN refused a plan" in said,
         "attention: refused by cuDNN: own kernels do it, and a warning", said)
    said, got = tried("old", FAKE_CUDNN_VERSION="91001")
    h.ok(got == own and "without cuDNN: cuDNN 9.10.1 is too old" in said, "attention: an old cuDNN is not taken", said)
    said, got = tried("broken", broken)
    h.ok(got == own and "attention is done without cuDNN" in said, "attention: a cuDNN that does not load", said)
    try:
        ctypes.CDLL("libcudnn.so.9")
        h.skip("attention without any cuDNN", "the loader finds one on this machine")
    except OSError:
        said, got = tried("none", bare)
        h.ok(got == own and "cuDNN" not in said, "attention: without cuDNN nothing is said", said)
    said, _ = tried("must", broken, 65, DSRUN_CUDA_ATTENTION="cudnn")
    h.ok("DSRUN_CUDA_ATTENTION asks for cuDNN" in said, "attention: cuDNN is asked for and not there", said)
    said, _ = tried("wrong", code=65, DSRUN_CUDA_ATTENTION="flash")
    h.ok("is 'flash', own or cudnn would do" in said, "attention: no such way", said)
    said, _ = tried("fails", code=1, FAKE_CUDNN_FAIL="5")
    h.ok("cuDNN refused attention: CUDNN_STATUS_EXECUTION_FAILED" in said, "attention: a run that fails ends the job", said)


def fp8_job(arch, matmul="fp8", device="cuda", stage=0, restarts=0):
    path = h.work() / f"fp8-{arch}-{matmul}-{device}-{stage}-{restarts}.yaml"
    path.write_text(FP8.format(arch=arch, text=h.ROOT / "README.md", matmul=matmul, device=device, stage=stage,
                               restarts=restarts))
    return path


def fp8_run(title, run, *words, slots=1, env=None, **keys):
    """The lines of metrics as text, and the losses; None where the job failed."""
    ran = train(fp8_job(**keys), run, slots, extra=words, **(env or {}))
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


def fp8():
    """Products in FP8: numbers, memory as planned, a rank that hangs and a GPU that has none."""
    fp8_numbers("gpt2")
    fp8_numbers("llama")
    whole, _ = fp8_run("ZeRO 3 without graphs", "fp8-zero3", slots=2, arch="gpt2", stage=3, env={"DSRUN_CUDA_GRAPHS": "0"})
    once = h.work() / "fp8-once"
    texts, _ = fp8_run("a rank does not come, once", "fp8-again", slots=2, arch="gpt2", stage=2, restarts=1,
                       env={"FAKE_NCCL_NEVER": f"1:4:{once}", "DSRUN_COMM_TIMEOUT": "4"})
    h.ok(once.exists() and texts is not None and texts == whole,
         "fp8: started again after a failure, at ZeRO 2, with graphs: the same bits", (texts, whole))
    job = fp8_job("gpt2")
    ran, found = planned(job, "checkpoint.every=0")
    h.ok(ran.returncode == 0 and found["codes of fp8"] > 0, "fp8: dsrun plan counts the codes", found)
    ran = train(job, "fp8-within", extra=["checkpoint.every=0"], FAKE_CUDA_MEMORY=str(found["total"]))
    said = [json.loads(line) for line in (h.work() / "fp8-within" / "events.jsonl").read_text().splitlines()]
    said = [e for e in said if e.get("event") == "memory"]
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
        job = {device: fp8_job("gpt2", "compute", device, 2) for device in ("cpu", "cuda")}
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
        said = [json.loads(line) for line in (h.work() / run["cuda"] / "events.jsonl").read_text().splitlines()]
        said = [(e["least"], e["most"]) for e in said if e.get("event") == "waits"]
        h.ok(said == [(0, 0)], f"{title}: the host waits in no step", said)


def evaluation():
    """Between steps, micro-batch after micro-batch, with parameters that are gathered for it: the CPU's loss."""
    words = ("data.valid=[" + str(h.work() / "valid.txt") + "]", "eval.every=1", "eval.batches=2", "train.global_batch=8")
    (h.work() / "valid.txt").write_text(h.TEXT * 20)
    for stage in (0, 2, 3):
        got = {}
        for device in ("cpu", "cuda"):
            run = f"evaluation-{stage}-{device}"
            ran = train(fp8_job("gpt2", "compute", device, stage), run, 2, extra=("model.layers=3", "precision.compute=fp32",
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
    job = {device: fp8_job(arch, "compute", device, stage) for device in ("cpu", "cuda")}
    run = {what: f"{what}-{title.replace(' ', '-').replace(':', '')}" for what in ("cpu", "cuda", "parts", "device")}
    ran = [train(job[device], run[device], slots, extra=words) for device in job]
    ran.append(train(job["cuda"], run["device"], slots, extra=(*words, "offload.optim=none")))
    if not h.ok(all(r.returncode == 0 for r in ran), f"{title}: the jobs end with 0", [r.stderr for r in ran]):
        return None
    limits = {"loss": LIMIT, "grad_norm": LIMIT} if compute == "fp32" else {"loss": FP8_ORDER, "grad_norm": FP8_LIMIT}
    got = {what: h.metrics(h.work() / run[what]) for what in ("cpu", "cuda", "device")}
    for other in ("cpu", "device"):
        for key, limit in limits.items():
            far = worst(got["cuda"], got[other], key)
            h.ok(len(got["cuda"]) == 3 and far < limit,
                 f"{title}: {key} within {limit:g} of {'a CPU' if other == 'cpu' else 'a GPU alone'}", far)
    ran = [train(job["cuda"], run["parts"], slots, extra=(*words, *more))
           for more in (("train.steps=2", "schedule.steps=3"), ())]
    texts = h.metric_texts(h.work() / run["cuda"])
    h.ok(all(r.returncode == 0 for r in ran) and h.metric_texts(h.work() / run["parts"]) == texts,
         f"{title}: the same bits after a restart", [r.stdout + r.stderr for r in ran])
    lines = map(json.loads, (h.work() / run["cuda"] / "events.jsonl").read_text().splitlines())
    calls = next((set(e["calls"]) for e in lines if e["event"] == "waits"), None)
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
    ran = train(fp8_job("gpt2", "compute"), "offload-lamb", extra=("offload.optim=cpu", "optim.name=lamb"))
    h.ok(ran.returncode == 65 and "'optim.name' lamb" in ran.stderr, "offload: lamb is refused",
         f"{ran.returncode} {ran.stderr}")
    job = fp8_job("gpt2", "compute", stage=2)
    for call, number in (("cudaEventSynchronize", 719), ("cudaHostAlloc", 2)):
        ran = train(job, f"offload-{call}", 2, extra=("offload.optim=cpu",), FAKE_CUDA_FAIL=f"{call}:2:{number}",
                    FAKE_CUDA_RANK="1")
        h.ok(ran.returncode not in (0, 124) and "rank 1" in ran.stderr and "CUDA device 0 cannot" in ran.stderr,
             f"offload: {call} fails: said", f"{ran.returncode} {ran.stderr}")


def tests_for_a_gpu():
    """The kernels' tests as gpu-check runs them: one whose operations take pointers of every kind."""
    if "TEST_COUNTED" in os.environ:
        h.skip("tests for a GPU", "a build that counts what runs does not make them")
        return
    program = h.BUILD / "gpu" / "test_loss"
    env = {"LD_LIBRARY_PATH": str(FAKES), "DSRUN_TEST_PLUGIN": str(FAKES / "dsrun-cuda.so"), "FAKE_CUDA_OPEN": "1"}
    for more, code, words in (({}, 0, "shapes_and_types"), ({"FAKE_CUDA_REGISTER": "801"}, 77, "error 801"),
                              ({"FAKE_CUDA_REGISTER": "801", "FAKE_CUDA_PAGEABLE": "1"}, 0, "shapes_and_types")):
        ran = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False,
                             env=h.environment(**env, **more))
        h.ok(ran.returncode == code and words in ran.stdout + ran.stderr, f"tests for a GPU: {words}, code {code}",
             f"{ran.returncode}\n{ran.stdout}{ran.stderr}")


if not (FAKES / "dsrun-cuda.so").exists():
    h.skip("cuda", "the emulation switches stacks on x86-64 only")
    h.done()
trains("gpt2-tiny", 1)
trains("llama-tiny", 1, limit=1e-2, compute="bf16")
zero = {stage: trains("gpt2-tiny", 2, stage=stage) for stage in (0, 2, 3)}
# Stage 0 sums over ranks after the passes of a step, the others after each pass: not the same order.
h.ok(zero[2] == zero[3], "ZeRO 2 and 3 on 2 devices: the same bits", zero)
h.ok(all(abs(float(a[k]) - float(b[k])) <= 1e-6 * abs(float(a[k])) for a, b in zip(zero[0], zero[2]) for k in (1, 2)),
     "ZeRO 0 and 2 on 2 devices: within 1e-6", zero)
graphs()
graphs_follow()
profile()
products()
epilogues()
attention()
fp8()
optimizers()
evaluation()
bf16_wire()
offload()
tests_for_a_gpu()
no_plugin()
no_device()
device_failures()
nccl_failures()
restarts(zero[2])
h.ok(not h.left(), "no process is left", h.left(0))
h.ok(not os.listdir(SHARED), "no shared file is left", os.listdir(SHARED))
h.done()
