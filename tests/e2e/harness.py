# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""harness - what the end-to-end tests share: the built programs, a work folder, TAP, jobs, results.

A test is an executable script beside this file that calls ok() for every point and ends with done().
The work folder is removed at the end; processes of the test carry DSRUN_TEST=<id> in their
environment, so left() can name any that stayed behind.
"""
import array
import atexit
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("B", "build")
DSRUN = str(BUILD / "bin" / "dsrun")
MARK = "DSRUN_TEST=" + uuid.uuid4().hex
SANITIZED = "ASAN_OPTIONS" in os.environ  # slower: tests may take fewer rounds
PATIENCE = 5 if "TEST_SLOW" in os.environ else 1  # times: programs that count what they run take that much longer

_work = None
_count = _failed = _skipped = 0


# --- TAP ----------------------------------------------------------------------------------------

def ok(good, name, detail=""):
    """One TAP line; `detail` is printed under a failure.  Returns `good`."""
    global _count, _failed
    _count += 1
    print(f"{'ok' if good else 'not ok'} {_count} - {name}")
    if not good:
        _failed += 1
        for line in str(detail).splitlines()[:20]:
            print(f"#   {line}")
    sys.stdout.flush()
    return good


def skip(name, why):
    global _count, _skipped
    _count += 1
    _skipped += 1
    print(f"ok {_count} - {name} # SKIP {why}", flush=True)


def counts():
    """Points so far: good, failed, skipped."""
    return _count - _failed - _skipped, _failed, _skipped


def done():
    print(f"1..{_count}", flush=True)
    sys.exit(1 if _failed or not _count else 0)


# --- the work folder and the programs -------------------------------------------------------------

def work():
    """This test's own folder, made on the first call, removed at the end."""
    global _work
    if _work is None:
        _work = pathlib.Path(tempfile.mkdtemp(prefix="dsrun-e2e."))
        atexit.register(shutil.rmtree, _work, ignore_errors=True)
    return _work


def environment(**more):
    name, value = MARK.split("=")
    env = dict(os.environ, **{name: value}, **more)
    env.pop("MAKEFLAGS", None)
    env.pop("MAKELEVEL", None)
    return env


def dsrun(*args, timeout=120, cwd=None, **env):
    """Run dsrun to its end; returns the CompletedProcess with text output."""
    return subprocess.run([DSRUN, *map(str, args)], capture_output=True, text=True, errors="replace",
                          timeout=PATIENCE * timeout, cwd=cwd or work(), env=environment(**env), check=False)


def start(*args, cwd=None, **env):
    """Start dsrun and return its Popen; output goes to files in the work folder."""
    with open(work() / "start.log", "ab") as log:
        return subprocess.Popen([DSRUN, *map(str, args)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                cwd=cwd or work(), env=environment(**env))


def processes():
    """{pid: command line} of this test's own processes but this one."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if MARK.encode() in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if line:
                    found[int(entry.name)] = line.strip()
        except OSError:
            continue  # it has just ended, or is not ours to read
    return found


def left(seconds=5.0):
    """Processes still there after at most `seconds`."""
    import time
    end = time.monotonic() + seconds
    while (still := processes()) and time.monotonic() < end:
        time.sleep(0.05)
    return still


def reap():
    """Kill whatever this test left running, by pid."""
    for pid in processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


atexit.register(reap)


def shared_memory():
    """Names in /dev/shm that no test framework of ours made, nor a double of NCCL: other tests run beside this one."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("bxf", "dsrun-fake-nccl"))}


# --- jobs and results -------------------------------------------------------------------------------

TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. "

JOB = """\
name: {name}
seed: {seed}
model: {{arch: {arch}, layers: {layers}, hidden: {hidden}, heads: {heads}, ffn: {ffn}, context: {context}}}
data: {{train: [{text}], valid: [{text}]}}
train: {{steps: {steps}, global_batch: {batch}, micro_batch: {micro}, sequence: {sequence}}}
optim: {{lr: 3.0e-3}}
schedule: {{kind: cosine, warmup: 2, steps: {steps}, min_lr: 3.0e-4}}
checkpoint: {{every: {every}, keep: {keep}}}
eval: {{every: {eval}, batches: 1}}
launch: {{device: cpu, threads: 1}}
"""

DEFAULTS = dict(name="tiny", seed=1, arch="gpt2", layers=2, hidden=32, heads=2, ffn=64, context=32, steps=4,
                batch=4, micro=1, sequence=32, every=0, keep=2, eval=0)


def text_file(name="train.txt", repeat=200):
    path = work() / name
    if not path.exists():
        path.write_text("".join(f"{i}: {TEXT}\n" for i in range(repeat)))
    return path


def write_job(file_name="job.yaml", **keys):
    """A job file for a tiny model; keys of DEFAULTS may be given.  Returns its path."""
    path = work() / file_name
    path.write_text(JOB.format(text=text_file(), **{**DEFAULTS, **keys}))
    return path


def metrics(run_dir):
    """The step lines of metrics.jsonl."""
    lines = (pathlib.Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [m for m in map(json.loads, lines) if "loss" in m]


def metric_texts(run_dir, keys=("loss", "grad_norm")):
    """(step, loss, grad_norm) of every step line, the numbers as the text they were written as."""
    lines = (pathlib.Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    parsed = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
    return [(m["step"], *(m[k] for k in keys)) for m in parsed if "loss" in m]


def safetensors(path):
    """{name: (shape, array)} of a safetensors file with F32 and I32 tensors."""
    raw = pathlib.Path(path).read_bytes()
    size, = struct.unpack_from("<Q", raw)
    out = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        values = array.array({"F32": "f", "I32": "i"}[entry["dtype"]])
        values.frombytes(raw[begin:end])
        out[name] = (entry["shape"], values)
    return out
