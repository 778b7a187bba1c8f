#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""tfevents - the files that log.sinks: tensorboard writes, of a run that is killed and goes on.

The reader below checks lengths and checksums, and drops what a SessionLog START says is made again, as
TensorBoard does. Where the package tensorboard is installed, its own reader is asked, too.
"""
import json
import os
import signal
import struct
import time

import harness as h

SKIPPED = ("step", "time")


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def records(data):
    """The messages of a file; a record that is cut off ends it."""
    at = 0
    while at + 12 <= len(data):
        head = data[at:at + 8]
        size, check = struct.unpack_from("<QI", data, at)
        if at + 16 + size > len(data):
            return
        body = data[at + 12:at + 12 + size]
        assert check == masked(head), "checksum of a length"
        assert struct.unpack_from("<I", data, at + 12 + size)[0] == masked(body), "checksum of a message"
        yield body
        at += 16 + size
    assert at == len(data), "bytes behind the last record"


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data):
    """(number, value) of a message."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            form, size = {1: ("<d", 8), 5: ("<f", 4)}[tag & 7]
            value, at = struct.unpack_from(form, data, at)[0], at + size
        yield tag >> 3, value


def read(run_dir):
    """{tag: {step: number}} as TensorBoard shows it, the files' versions, and the steps of START."""
    scalars, versions, starts = {}, [], []
    for path in sorted(run_dir.glob("events.out.tfevents.*")):
        for record in records(path.read_bytes()):
            event = dict(fields(record))
            step = event.get(2, 0)
            if 3 in event:
                versions.append(event[3])
            if 7 in event:
                assert dict(fields(event[7])) == {1: 1}
                starts.append(step)
                for tag in scalars.values():
                    for old in [s for s in tag if s >= step]:
                        del tag[old]
            for _, value in fields(event.get(5, b"")):
                one = dict(fields(value))
                assert step not in scalars.setdefault(one[1].decode(), {}), "a step stands twice"
                scalars[one[1].decode()][step] = one[2]
    return scalars, versions, starts


def wanted(run_dir):
    """The same of metrics.jsonl."""
    scalars = {}
    for line in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        step = line["step"] - 1 if "valid_loss" in line else line["step"]
        for tag, value in line.items():
            if tag not in SKIPPED and value is not None:
                scalars.setdefault(tag, {})[step] = struct.unpack("<f", struct.pack("<f", value))[0]
    return scalars


def official(run_dir):
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return None
    board = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in board.Tags()["scalars"]}


def compare(run_dir, name):
    scalars, versions, starts = read(run_dir)
    want = wanted(run_dir)
    h.ok(scalars == want, f"{name}: the numbers of metrics.jsonl",
         [(tag, scalars.get(tag), want.get(tag)) for tag in want if scalars.get(tag) != want[tag]])
    files = list(run_dir.glob("events.out.tfevents.*"))
    h.ok(versions == [b"brain.Event:2"] * len(files), f"{name}: every file begins with its version", versions)
    theirs = official(run_dir)
    if theirs is None:
        h.skip(f"{name}: tensorboard's own reader sees the same", "the package tensorboard is not installed")
    else:
        h.ok(theirs == want, f"{name}: tensorboard's own reader sees the same", theirs)
    return starts


def run(name, *more):
    return h.dsrun(job, f"run_dir={h.work() / name}", "log.sinks=[jsonl, tensorboard]", *more)


job = h.write_job(steps=12, every=4, eval=4)

got = run("whole")
whole = h.work() / "whole"
h.ok(got.returncode == 0, "a run with tensorboard alone beside jsonl", got.stderr)
starts = compare(whole, "whole")
h.ok(starts == [0], "it starts at 0", starts)
h.ok({"loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_ms", "skipped", "valid_loss"} <= set(read(whole)[0]),
     "all that is measured is there", read(whole)[0].keys())
h.ok(not (whole / "metrics.csv").exists(), "csv was not asked for")

# Stopped after a save at step 4 and two steps more, which are made again.
cut = h.work() / "cut"
child = h.start(job, f"run_dir={cut}", "log.sinks=[jsonl, tensorboard]", "train.steps=100000", "schedule.steps=12",
                "checkpoint.every=4", "checkpoint.async=false")
end = time.monotonic() + 60 * h.PATIENCE
while time.monotonic() < end:
    try:
        if sum("loss" in m and m["step"] >= 6 for m in h.metrics(cut)) > 0:
            break
    except (OSError, ValueError):
        pass
    time.sleep(0.01)
os.kill(child.pid, signal.SIGKILL)
child.wait()
h.left()
before = read(cut)[0]
with open(max(cut.glob("events.out.tfevents.*")), "ab") as last:
    last.write(b"\x40\0\0\0\0\0\0\0torn")  # as a crash leaves it
made = max(before["loss"]) + 1
got = run("cut", f"train.steps={made + 2}", "schedule.steps=12")
starts = compare(cut, "killed and gone on")
h.ok(got.returncode == 0 and len(starts) == 2 and 0 < starts[1] <= made, "it went on from a checkpoint",
     f"{starts} {got.stderr}")
h.ok(max(read(cut)[0]["loss"]) == made + 1 and sorted(read(cut)[0]["loss"]) == list(range(made + 2)),
     "each step stands once", sorted(read(cut)[0]["loss"]))
h.ok(starts[1] - 1 in read(cut)[0]["valid_loss"], "the evaluation at the checkpoint stays", read(cut)[0]["valid_loss"])

got = run("cut", "train.steps=6", "checkpoint.resume=never", "schedule.steps=12")
h.ok(got.returncode == 0 and compare(cut, "begun anew")[-1] == 0, "a run that begins anew drops all", got.stderr)

if os.getuid() != 0:
    locked = h.work() / "locked"
    locked.mkdir(mode=0o555)
    got = run("locked")
    h.ok(got.returncode == 1, "a folder that cannot be written is an error", got.stderr)
h.done()
