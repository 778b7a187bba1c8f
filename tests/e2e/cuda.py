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
import ctypes
import json
import os
import shutil
import struct
import subprocess

import harness as h
import reference
from devices import FAKES, LIMIT, case_job, done, events, planned, require, train, worst

LARGE = """\
name: large
model: {{arch: gpt2, layers: 200, hidden: 8192, heads: 64, context: 16}}
data: {{train: [{text}], format: text}}
train: {{steps: 1, global_batch: 1, micro_batch: 1}}
launch: {{device: cuda}}
"""


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
    fails("no plug-in", 2, ["built without CUDA", "'launch.device' or '--device' cpu"], libexec=folder)
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
    said = events(run, "memory")
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
    said = events(h.work() / "watched", "waits")
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


def masked_samples(steps):
    """The tokens of a case, some of which are targets, in each step another number; in the third none."""
    (shape, tokens), path = h.safetensors(reference.CASES / "gpt2-tiny" / "tokens.safetensors")["tokens"], h.work() / "masked.safetensors"
    step = len(tokens) // shape[0]
    mask = bytes(i // step != 2 and i % 7 <= i // step for i in range(len(tokens)))
    head = {"tokens": {"dtype": "I32", "shape": shape, "data_offsets": [0, 4 * len(tokens)]},
            "loss_mask": {"dtype": "BOOL", "shape": shape, "data_offsets": [4 * len(tokens), 5 * len(tokens)]}}
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tokens.tobytes() + mask)
    return [f"data.train={path}", "schedule.steps=6", f"train.steps={steps}"]


def masked():
    """Targets have another factor in every step, which is in no recording: the bits of a run without, and the CPU's numbers."""
    extra = masked_samples(5)
    job, _ = case_job("gpt2-tiny", steps=5, every=0)
    cpu, _ = case_job("gpt2-tiny", steps=5, every=0, device="cpu")
    _, texts, _ = counted("a mask without graphs", job, "masked-plain", extra=extra, DSRUN_CUDA_GRAPHS="0")
    calls, got, said = counted("a mask", job, "masked", extra=extra)
    h.ok(got == texts and calls["cudaGraphInstantiate"] == 2, "a mask: the same bits, and no recording more", f"{got}\n{texts}\n{calls}")
    h.ok("step 2: 'loss_mask' leaves no token as a target, update skipped" in said, "a mask: a step without targets is told", said)
    ran = train(cpu, "masked-cpu", extra=extra)
    want = h.metrics(h.work() / "masked-cpu")
    for name, slots, words in (("masked", 1, None), ("masked-2", 2, ["zero.stage=2"]), ("masked-offload", 1, ["offload.optim=cpu"]),
                               ("masked-parts", 2, ["parallel.pipeline=2"])):
        if words is not None:
            ran = train(job, name, slots, extra=[*extra, *words])
        steps = h.metrics(h.work() / name) if ran.returncode == 0 else []
        near = len(steps) == 5 and all(abs(a[k] - b[k]) <= LIMIT * abs(b[k]) for a, b in zip(steps, want) for k in ("loss", "grad_norm"))
        h.ok(near, f"a mask, {words[0] if words else 'one device'}: within {LIMIT:g} of the CPU's", f"{steps}\n{want}\n{ran.stderr}")


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
    told = (h.work() / "attention-as it is" / "events.jsonl").read_text()
    h.ok("attention by cuDNN 9.19.0" in told and "own kernels" not in said, "attention: by cuDNN, and said", told)
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


require()
trains("gpt2-tiny", 1)
trains("llama-tiny", 1, limit=1e-2, compute="bf16")
trains("mixtral-tiny", 2, stage=2)
trains("qwen2-tiny", 1)
trains("mistral-tiny", 2, stage=2)
trains("qwen3-moe-tiny", 1)
trains("phi3-tiny", 1)
trains("olmo2-tiny", 2, stage=2)
trains("gemma3-tiny", 1)
trains("longrope-tiny", 1)
trains("smollm3-tiny", 1)
trains("granite-tiny", 2, stage=2)
trains("pythia-tiny", 1)
zero = {stage: trains("gpt2-tiny", 2, stage=stage) for stage in (0, 2, 3)}
# Stage 0 sums over ranks after the passes of a step, the others after each pass: not the same order.
h.ok(zero[2] == zero[3], "ZeRO 2 and 3 on 2 devices: the same bits", zero)
h.ok(all(abs(float(a[k]) - float(b[k])) <= 1e-6 * abs(float(a[k])) for a, b in zip(zero[0], zero[2]) for k in (1, 2)),
     "ZeRO 0 and 2 on 2 devices: within 1e-6", zero)
graphs()
graphs_follow()
masked()
profile()
products()
epilogues()
attention()
tests_for_a_gpu()
no_plugin()
no_device()
device_failures()
nccl_failures()
restarts(zero[2])
done()
