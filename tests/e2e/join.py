#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""join - hosts that come to the launcher by themselves, as containers do: no sshd, no Slurm.

On hosts with a network and process numbers of their own: programs, training with the bits of one machine, a
failure that is started anew, and every end that a launcher, a host or a stranger can make of it.  The door itself
under a crowd: slurm.py, tests/launcher/test_slurm.c.
"""
import json
import re
import signal
import subprocess
import time

import beds
import harness as h

LIMIT = 40 * h.PATIENCE
JOB = f"""\
name: joined
model: {{arch: gpt2, layers: 2, hidden: 32, heads: 2, context: 32}}
data: {{train: [{h.ROOT / 'README.md'}], format: text}}
train: {{steps: STEPS, global_batch: 4, micro_batch: 1}}
zero: {{stage: 2}}
checkpoint: {{every: 10, keep: 2}}
launch: {{device: cpu, threads: 1}}
"""
KEY = "join.key"


def job(steps):
    path = h.work() / f"job-{steps}.yaml"
    path.write_text(JOB.replace("STEPS", str(steps)))
    return path


def until(true, seconds=LIMIT):
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class Joined:
    """dsrun join on some hosts of the bed; .said(host) is what each wrote."""

    def __init__(self, bed, *names, key=KEY, wait=2, called=None):
        self.bed, self.logs, self.jobs = bed, {}, {}
        for name in names:
            self.logs[name] = h.work() / f"{name}.{time.monotonic_ns()}.log"
            with open(self.logs[name], "wb") as out:
                self.jobs[name] = subprocess.Popen(
                    [bed.base / "bin" / "on", name, str(h.DSRUN), "join", "head", "--join-key", str(h.work() / key),
                     "--name", called or name, "--wait", str(wait * h.PATIENCE)],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=h.environment())

    def codes(self):
        return {name: each.wait(LIMIT) for name, each in self.jobs.items()}

    def said(self, name):
        return self.logs[name].read_text()

    def signal(self, name, number, word="dsrun join"):
        for pid in (pid for pid, line in self.bed.processes(name).items() if word in line):
            self.bed.on(name, "kill", f"-{number}", str(pid))


def hosts(*names):
    path = h.work() / ("hosts-" + "-".join(names))
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def via(*names, key=KEY):
    return ["--via", "join", "--join-key", h.work() / key, "-H", hosts(*names)]


def left(bed, *names):
    """What still runs on the hosts, but for those that wait for the next job."""
    still = {}

    def none():
        still.clear()
        for name in names:
            if found := [line for line in bed.processes(name).values() if "dsrun join" not in line]:
                still[name] = found
        return not still
    until(none, 10 * h.PATIENCE)
    return still


def keys():
    made = h.dsrun("join", "--make-key", "--join-key", h.work() / KEY)
    path = h.work() / KEY
    text = path.read_text()
    h.ok(made.returncode == 0 and re.fullmatch(r"[0-9a-f]{64}\n", text) and path.stat().st_mode & 0o777 == 0o600,
         "a key is made for its owner alone", made.stderr + text)
    again = h.dsrun("join", "--make-key", "--join-key", path)
    h.ok(again.returncode == 1 and "File exists" in again.stderr and path.read_text() == text,
         "a key that is there is left as it is", again.stderr)
    h.dsrun("join", "--make-key", "--join-key", h.work() / "other.key")
    (h.work() / "open.key").write_text(text)
    (h.work() / "open.key").chmod(0o640)
    (h.work() / "short.key").write_text(text[:40])
    (h.work() / "short.key").chmod(0o600)
    for key, words in (("open.key", "is not for its owner alone"), ("short.key", "is no key"), ("none.key", "No such file")):
        for command in (["join", "127.0.0.1", "--join-key", h.work() / key],
                        ["exec", *via("node1", key=key), "--", "true"]):
            ran = h.dsrun(*command)
            h.ok(ran.returncode not in (0, 124) and words in ran.stderr, f"{command[0]}: {key}: {words}",
                 f"{ran.returncode} {ran.stderr}")


def words():
    key = h.work() / KEY
    for title, command, code, said in (
            ("no key", ["join", "127.0.0.1"], 2, "needs '--join-key'"),
            ("no launcher", ["join", "--join-key", key], 2, "takes LAUNCHER[:PORT]"),
            ("a port that is none", ["join", "127.0.0.1:0", "--join-key", key], 65, "a port is a number from 1 to 65535"),
            ("nobody listens", ["join", "127.0.0.1", "--join-key", key, "--wait", "0"], 69, "Connection refused"),
            ("no hostfile", ["exec", "--via", "join", "--join-key", key, "--", "true"], 2, "'--via join' needs '--hostfile'"),
            ("an address of another machine", ["exec", *via("node1"), "--join-listen", "192.0.2.1", "--", "true"], 69,
             "cannot listen for agents at '192.0.2.1'"),
            ("nobody comes", ["exec", *via("node1"), "--start-timeout", "0.3", "--", "true"], 69, "it did not join in time")):
        ran = h.dsrun(*command)
        h.ok(ran.returncode == code and said in ran.stderr, f"{title}: {code}", f"{ran.returncode} {ran.stderr}")


def programs(bed):
    there = Joined(bed, "node1", "node2")
    for turn in ("at first", "again"):
        ran = bed.run(h.DSRUN, "exec", *via("node1", "node2"), "--", "hostname")
        h.ok(ran.returncode == 0 and ran.stdout == "node1:\nnode1\nnode2:\nnode2\n", f"a program on both, {turn}",
             f"{ran.returncode} {ran.stdout}{ran.stderr}")
    ran = bed.run(h.DSRUN, "exec", *via("node1", "node2"), "--", "sh", "-c", "exit $((3 + RANK))")
    h.ok(ran.returncode == 4, "exit codes come back", f"{ran.returncode} {ran.stderr}")
    secret = (h.work() / KEY).read_text().strip()
    holding = bed.start(h.DSRUN, "exec", *via("node1", "node2"), "--", "sleep", "100")
    until(lambda: any("sleep 100" in line for line in bed.processes("node2").values()))
    seen = bed.on("node2", "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'").stdout
    h.ok("sleep" in seen and "dsrun-agent" in seen and secret not in seen, "the key is in no argument and no variable", seen)
    holding.send_signal(signal.SIGKILL)
    holding.wait()
    h.ok(not left(bed, "node1", "node2"), "dsrun is killed: nothing is left on the hosts", left(bed, "node1", "node2"))
    codes = there.codes()
    h.ok(codes == {"node1": 0, "node2": 0}, "hosts that have served a job end with 0", (codes, there.said("node1")))


def training(bed):
    alone = h.dsrun("-q", "--slots", 2, "--run-dir", h.work() / "alone", job(8))
    there = Joined(bed, "node1", "node2")
    ran = bed.run(h.DSRUN, "-q", *via("node1", "node2"), "--run-dir", h.work() / "joined", job(8))
    h.ok(alone.returncode == ran.returncode == 0 and
         h.metric_texts(h.work() / "joined") == h.metric_texts(h.work() / "alone"),
         "training has the bits of one machine", alone.stderr + ran.stderr)
    there.codes()

    there = Joined(bed, "node1", "node2", wait=10)
    run = h.work() / "again"
    going = bed.start(h.DSRUN, "-q", *via("node1", "node2"), "--run-dir", run, "--restarts", "2", job(4000))
    until(lambda: (run / "checkpoints" / "latest").exists())
    there.signal("node2", "KILL", "dsrun-worker")
    told = until(lambda: [e for e in events(run) if e["event"] == "resumed" and e.get("step", 0) > 0])
    h.ok(told, "a rank is killed: hosts join again, and the run goes on from a checkpoint", events(run)[-3:])
    there.signal("node1", "TERM")  # as a container is told to end
    code = going.wait(LIMIT)
    h.ok(code == 75, "a host is told to end: every rank saves, 75", (code, events(run)[-2:]))
    h.ok(not left(bed, "node1", "node2"), "then nothing is left on the hosts", left(bed, "node1", "node2"))
    codes = there.codes()
    h.ok(codes == {"node1": 143, "node2": 0}, "the host that was told says so by its code", codes)


def events(run):
    try:
        return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return []


def ends(bed):
    there = Joined(bed, "node1", "node2")
    going = bed.start(h.DSRUN, "-q", *via("node1", "node2"), "--run-dir", h.work() / "lost", job(4000),
                      stderr=subprocess.PIPE)
    until(lambda: (h.work() / "lost" / "checkpoints" / "latest").exists())
    there.signal("node2", "KILL")
    said = going.communicate(timeout=LIMIT)[1].decode()
    h.ok(going.returncode == 70 and "node2" in said, "dsrun join is killed: the host is lost, 70", f"{going.returncode} {said}")
    h.ok(not left(bed, "node1", "node2"), "and no rank is left there", left(bed, "node1", "node2"))
    there.codes()

    there = Joined(bed, "node1")
    stubborn = bed.start(h.DSRUN, "exec", *via("node1"), "--grace", "100", "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    until(lambda: any("trap" in line for line in bed.processes("node1").values()))
    there.signal("node1", "TERM")
    time.sleep(0.5)
    there.signal("node1", "TERM")
    h.ok(stubborn.wait(LIMIT) == 137 and there.codes() == {"node1": 143}, "a second signal to a host kills what does not stop",
         (stubborn.returncode, there.said("node1")))

    wrong = Joined(bed, "node2", key="other.key")
    there = Joined(bed, "node1")
    ran = bed.run(h.DSRUN, "exec", *via("node1", "node2"), "--start-timeout", "2", "--", "true")
    codes = wrong.codes()
    h.ok(codes == {"node2": 69} and "has another key" in wrong.said("node2"), "a host with another key is told",
         (codes, wrong.said("node2")))
    h.ok(ran.returncode == 69 and "node2: it did not join in time" in ran.stderr, "and not waited for any longer: 69",
         f"{ran.returncode} {ran.stderr}")
    there.codes()

    stranger = Joined(bed, "node2", called="node9")
    there = Joined(bed, "node1")
    ran = bed.run(h.DSRUN, "exec", *via("node1"), "--", "echo", "here")
    h.ok(ran.returncode == 0 and ran.stdout == "node1:\nhere\n", "a name that is not in the hostfile stays outside",
         f"{ran.returncode} {ran.stdout}{ran.stderr}")
    codes = stranger.codes()
    h.ok(codes == {"node2": 69}, "and ends with 69", (codes, stranger.said("node2")))
    there.codes()


keys()
words()
why = beds.missing()
if why:
    h.skip("on hosts of their own", why)
else:
    with beds.Hosts(2) as the_bed:
        programs(the_bed)
        training(the_bed)
        ends(the_bed)
h.ok(not h.left(), "no process is left", h.left(0))
h.done()
