#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""attach - dsrun logs and dsrun attach: a job seen from another terminal, while it runs and after.

Ranks are fake_worker.c; they wait for files that the test makes (until:PATH), so that what is seen before
and after is known.  At last on real hosts: a job over ssh on two of them, and one in a batch script of Slurm.
"""
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import beds
import harness as h

LIBEXEC = h.work() / "libexec"
LIBEXEC.mkdir()
shutil.copy(h.BUILD / "libexec" / "dsrun" / "dsrun-agent", LIBEXEC)
shutil.copy(h.BUILD / "tests" / "e2e" / "fake_worker", LIBEXEC / "dsrun-worker")
STATE = h.work() / "state"
STATE.mkdir()
WHERE = dict(DSRUN_LIBEXEC=str(LIBEXEC), XDG_RUNTIME_DIR=str(STATE))
JOB = h.write_job(steps=10)
FRESH = "tell:resumed:0"
NODE = os.uname().nodename
HOST = re.escape(NODE)
_names = 0


def fresh(kind):
    global _names
    _names += 1
    return h.work() / f"{kind}-{_names}"


def wait_for(true, seconds=30.0):
    end = time.monotonic() + h.PATIENCE * seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Background:
    """A dsrun whose output is collected as it comes."""

    def __init__(self, *words, head=(), **env):
        self.process = subprocess.Popen([*map(str, head), h.DSRUN, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, cwd=h.work(), env=h.environment(**WHERE, **env))
        self.text = {"out": "", "err": ""}
        self.threads = [threading.Thread(target=self.collect, args=(name, pipe)) for name, pipe in
                        (("out", self.process.stdout), ("err", self.process.stderr))]
        for thread in self.threads:
            thread.start()

    def collect(self, name, pipe):
        for line in pipe:
            self.text[name] += line.decode(errors="replace")

    def sees(self, text, where="out"):
        return wait_for(lambda: text in self.text[where])

    def end(self):
        """(exit code, stdout, stderr); code None: it did not end."""
        try:
            code = self.process.wait(timeout=h.PATIENCE * 30)
        except subprocess.TimeoutExpired:
            code = None
            self.process.kill()
        for thread in self.threads:
            thread.join()
        return code, self.text["out"], self.text["err"]


class Job(Background):
    """A job of two ranks, which runs when this returns."""

    def __init__(self, *options, run=None, **fake):
        self.run = run or fresh("run")
        before = self.events().count("started")
        super().__init__("--slots", 2, "--run-dir", self.run, *options, JOB, **fake)
        wait_for(lambda: self.events().count("started") > before or self.process.poll() is not None)
        self.number = self.process.pid

    def events(self):
        path = self.run / "events.jsonl"
        return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def ask(*words):
    return h.dsrun(*words, **WHERE)


def nothing_left(name):
    still = h.left()
    h.ok(not still, f"{name}: nothing is left running", still)
    h.reap()


# --- logs -------------------------------------------------------------------------------------------------------------

def test_logs():
    script = "".join(f"out:line {i};" for i in range(30))
    job = Job(FAKE_0=script + r"err:\e[2Jowned", FAKE_1="out:of the other;long:100;exit:0")
    job.end()
    ran = ask("logs", job.run)
    lines = ran.stdout.splitlines()
    h.ok(ran.returncode == 0 and lines[0] == f"[{NODE} 0] line 11" and len(lines) == 23,
         "logs: the last 20 lines of each rank, with host and rank", ran.stdout[:2000] + ran.stderr)
    h.ok(r"\x1b[2Jowned" in ran.stdout and "\x1b" not in ran.stdout, "logs: control characters are escaped", ran.stdout[:2000])
    h.ok(max(map(len, lines)) < 66000, "logs: a long line comes in pieces", [len(line) for line in lines])
    ran = ask("logs", job.run, "--rank", 1, "--lines", 1000)
    h.ok(re.match(rf"\[{HOST} 1\] of the other\n", ran.stdout) and " 0] " not in ran.stdout, "logs: --rank and --lines",
         ran.stdout[:2000])
    ran = ask("logs", "-f", job.run, "--rank", "0", "--lines", "1")
    h.ok(ran.returncode == 0 and len(ran.stdout.splitlines()) == 1, "logs: -f of a job that has ended ends at once", ran.stdout)
    ran = ask("logs", job.run, "--rank", 2)
    h.ok(ran.returncode == 2 and "has no rank 2: its ranks are 0 to 1" in ran.stderr, "logs: a rank that there is not", ran.stderr)
    ran = subprocess.run([h.DSRUN, "logs", job.run, "--lines", "1000"], stdout=open("/dev/full", "w"), stderr=subprocess.PIPE,
                         text=True, env=h.environment(**WHERE), check=False)
    h.ok(ran.returncode == 1 and "No space left" in ran.stderr, "logs: output that is lost is an error", ran)
    (job.run / "logs" / "rank-00001.log").unlink()
    (job.run / "logs" / "rank-00001.log").symlink_to("/etc/passwd")
    ran = ask("logs", job.run)
    h.ok(ran.returncode == 1 and "root:" not in ran.stdout and "rank-00001.log" in ran.stderr, "logs: a link is not followed",
         ran.stdout[-500:] + ran.stderr)
    nothing_left("logs")


def test_logs_of_size():
    run = fresh("run")
    (run / "logs").mkdir(parents=True)
    (run / "events.jsonl").write_text('{"event":"launch","attempt":0,"pid":1,"ranks":1,"hosts":["far"],"local":[1]}\n')
    with open(run / "logs" / "rank-00000.log", "wb") as file:
        file.truncate(1 << 36)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end")
    program = "import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); " \
              "_, status, used = os.wait4(pid, 0); sys.stderr.write(str(used.ru_maxrss)); sys.exit(status != 0)"
    ran = subprocess.run([sys.executable, "-c", program, h.DSRUN, "logs", run, "--lines", "1"], capture_output=True, text=True,
                         env=h.environment(**WHERE), check=False)
    h.ok(ran.returncode == 0 and ran.stdout == "[far 0] the end\n", "logs: the end of 64 GiB", ran)
    h.ok(h.SANITIZED or int(ran.stderr) < 32 << 10, "logs: in little memory", f"{ran.stderr} KiB")


def test_follow():
    gate = [fresh("gate") for _ in range(4)]
    once = fresh("once")
    job = Job("--restarts", 1,
              FAKE_0=f"out:first;until:{gate[0]};out:second;first:{once};metrics:0-1;until:{gate[1]};exit:9",
              FAKE_1=f"until:{gate[0]};wait")
    view = Background("logs", "--follow", "tiny")
    h.ok(view.sees("0] first\n"), "logs -f: what was there", view.text)
    gate[0].touch()
    h.ok(view.sees("0] second\n") and view.process.poll() is None, "logs -f: what comes", view.text)
    gate[1].touch()
    h.ok(wait_for(lambda: view.text["out"].count("second") == 2), "logs -f: goes on over a restart", view.text)
    job.process.send_signal(signal.SIGTERM)
    job.end()
    code, out, err = view.end()
    h.ok(code == 0 and not err, "logs -f: ends with the job", f"{code} {out}{err}")

    job = Job(FAKE_0=f"until:{gate[2]}", FAKE_1=f"until:{gate[2]};out:a new log;env:NONE;exit:3")
    view = Background("logs", "-f", job.number)
    time.sleep(0.5)  # it has looked: the log of rank 1 comes later
    gate[2].touch()
    code, out, err = view.end()
    h.ok(code == 0 and re.fullmatch(rf"\[{HOST} 1\] a new log\n\[{HOST} 1\] \(unset\)\n", out),
         "logs -f: a log that begins later, to its last line", f"{code} {out}{err}")
    job.end()
    nothing_left("follow")


# --- attach -----------------------------------------------------------------------------------------------------------

def test_attach():
    gate = [fresh("gate") for _ in range(3)]
    job = Job(FAKE_0=f"{FRESH};metrics:0-3;until:{gate[0]};out:hello;metrics:3-6;metric:{{\"step\":6,\"valid_loss\":2.5}};"
              f"tell:checkpoint:6;until:{gate[1]};metrics:6-10;exit:0",
              FAKE_1=f"until:{gate[1]};exit:0")
    job.sees("step 3/10")
    view = Background("attach", "tiny")
    h.ok(view.sees("step 3/10"), "attach: what was there", view.text)
    gate[0].touch()
    h.ok(view.sees("checkpoint saved"), "attach: what comes", view.text)
    second = Background("attach", job.number, "--json", "--lines", 2)
    h.ok(second.sees('"checkpoint"'), "attach --json: what was there", second.text)
    gate[1].touch()
    own, out, err = job.end()
    code, seen, said = view.end()
    h.ok(own == 0 and code == 0 and said == err == "", "attach: ends with the job, 0", f"{code} {seen}{said}")
    hello = f"[{NODE} 0] hello\n"  # of another file than steps, so where it stands between them is chance
    h.ok(hello in out and hello in seen and seen.replace(hello, "") == out.replace(hello, ""),
         "attach: shows what the job's own console shows", f"{seen}\n---\n{out}")
    code, seen, said = second.end()
    records = [json.loads(line) for line in seen.splitlines()]
    h.ok(code == 0 and records[0]["event"] == "launch" and [r["step"] for r in records if "loss" in r] == [5, *range(6, 10)] and
         records[-1] == {**records[-1], "event": "exit", "code": 0}, "attach --json: the records, from the last two on", seen + said)
    ran = ask("attach", job.run)
    h.ok(ran.returncode == 0 and ran.stdout == out.replace(hello, ""), "attach: to a job that has ended", ran.stdout + ran.stderr)
    ran = ask("attach", "tiny")
    h.ok(ran.returncode == 2 and "no job 'tiny' of this user runs on this machine" in ran.stderr, "attach: no such job", ran.stderr)
    ran = ask("attach", h.work())
    h.ok(ran.returncode == 2 and "not a run directory" in ran.stderr, "attach: no run directory", ran.stderr)
    ran = ask("logs", "./nothing")
    h.ok(ran.returncode == 2 and "no run directory './nothing'" in ran.stderr, "logs: nothing of that name", ran.stderr)
    nothing_left("attach")


def test_trained():
    """A job of real ranks, afterwards: its console again, line by line."""
    run = fresh("run")
    job = h.write_job("trained.yaml", steps=12, eval=4, every=3)
    ran = h.dsrun("--slots", 2, "--run-dir", run, job, XDG_RUNTIME_DIR=str(STATE))
    again = ask("attach", run, "--lines", 1000)
    saved = lambda text: [line for line in text.splitlines() if "checkpoint saved" in line]
    other = lambda text: [line for line in text.splitlines() if "checkpoint saved" not in line]  # by another thread
    h.ok(ran.returncode == again.returncode == 0 and len(saved(ran.stdout)) == 4 and "valid loss" in ran.stdout and
         saved(again.stdout) == saved(ran.stdout) and other(again.stdout) == other(ran.stdout),
         "attach: a trained job, line by line", f"{ran.stdout}\n---\n{again.stdout}{again.stderr}")
    few = ask("attach", run, "--lines", 2).stdout.splitlines()
    h.ok(few[:5] == ran.stdout.splitlines()[:5] and len(few) < 10 and few[-2].startswith("step 12/12"),
         "attach: the header, then the last two records", few)
    none = ask("attach", run, "--lines", 0)
    h.ok(none.returncode == 0 and none.stdout.splitlines() == [*ran.stdout.splitlines()[:5], ran.stdout.splitlines()[-1]],
         "attach: of no records the header and the end", f"{none.returncode} {none.stdout}{none.stderr}")
    nothing_left("trained")


def test_stopped():
    """A real worker tells of the stop, too, under the same name as dsrun."""
    run = h.work() / "stopped"
    job = subprocess.Popen([h.DSRUN, "--run-dir", run, h.write_job("stopped.yaml", steps=100000, every=1000)],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=h.work(),
                           env={**os.environ, "XDG_RUNTIME_DIR": str(STATE)})
    while "step 3/" not in job.stdout.readline() and job.poll() is None:
        pass
    job.send_signal(signal.SIGTERM)
    own = [line for line in job.communicate(timeout=60)[0].splitlines() if line.startswith("stopp")]
    again = ask("attach", run)
    told = [line for line in again.stdout.splitlines() if line.startswith("stopp")]
    h.ok(job.returncode == again.returncode == 75 and told == own and len(own) == 2,
         "attach: a stop is told once, as the job did", f"{own}\n---\n{again.stdout}{again.stderr}")
    nothing_left("stopped")


def test_codes():
    job = Job(FAKE=FRESH + ";wait")
    view = Background("attach", "tiny")
    view.sees(" ")
    h.ok(ask("kill", "tiny").returncode == 0, "a job that is attached to is stopped by dsrun kill")
    code, out, err = view.end()
    own, own_out, _ = job.end()
    h.ok(own == code == 75 and out == own_out and "stopping: " in out and "run again to go on" in out,
         "attach: 75 of a job that was stopped", f"{code} {out}{err}\n---\n{own_out}")

    gate = fresh("gate")
    job = Job(FAKE_0="wait", FAKE_1=f"until:{gate};err:last words;exit:7")
    view = Background("attach", "tiny")
    view.sees(" ")
    gate.touch()
    own, _, own_err = job.end()
    code, out, err = view.end()
    h.ok(own == 7 and code == 7 and err == own_err and "last words" in err and "rank 1 on" in err,
         "attach: a rank that fails: its code, its last lines, the cause", f"{code} {out}{err}\n---\n{own_err}")

    job = Job(FAKE="wait")
    view = Background("attach", "tiny")
    view.sees(" ")
    view.process.send_signal(signal.SIGINT)
    code, out, err = view.end()
    h.ok(code == 130 and f"'dsrun kill {job.number}' stops it" in out, "attach: Ctrl-C detaches and says how to stop the job",
         f"{code} {out}{err}")
    h.ok(job.process.poll() is None and ask("ps").stdout.count("running") == 1, "and the job runs on", ask("ps").stdout)
    view = Background("attach", "tiny")
    view.sees(" ")
    job.process.kill()
    code, out, err = view.end()
    h.ok(code == 70 and "without saying how" in err, "attach: a dsrun that was killed", f"{code} {out}{err}")
    job.end()
    nothing_left("codes")


def test_resume():
    """Steps are cut and made again: those of an earlier run are not seen, those of both attempts are, each once."""
    run, once, gate = fresh("run"), fresh("once"), fresh("gate")
    Job(run=run, FAKE_0=f"{FRESH};metrics:0-5;exit:0", FAKE_1="exit:0").end()
    job = Job("--restarts", 3, run=run, FAKE_0=f"tell:resumed:3;metrics:3-5;until:{gate};first:{once}-0;exit:9",
              FAKE_1=f"until:{gate};first:{once}-1;wait")
    view = Background("attach", "tiny")
    h.ok(view.sees("step 5/10"), "resume: steps of the first attempt", view.text)
    gate.touch()
    own, out, own_err = job.end()
    code, seen, err = view.end()
    h.ok(own == code == 0 and seen == out and err == own_err, "resume: attach shows both attempts as the console does",
         f"{code} {seen}{err}\n---\n{own} {out}{own_err}")
    h.ok([seen.count(f"step {i}/10") for i in range(1, 7)] == [0, 0, 0, 2, 2, 0], "resume: each step as often as it was made",
         seen)
    nothing_left("resume")


def test_programs():
    gate = fresh("gate")
    script = f"echo from $RANK; while [ ! -e {gate} ]; do sleep 0.05; done; echo bye; exit $((4 * RANK))"
    job = Background("launch", "--slots", 2, "--", "sh", "-c", script)
    job.sees("from 0")
    for command in ("logs", "attach"):
        ran = ask(command, "sh")
        h.ok(ran.returncode == 2 and "started without --run-dir" in ran.stderr and f"dsrun kill {job.process.pid}" in ran.stderr,
             f"{command}: a program without a run directory", ran.stderr)
    gate.touch()
    job.end()
    gate.unlink()
    run = fresh("run")
    job = Background("launch", "--slots", 2, "--run-dir", run, "--", "sh", "-c", script)
    job.sees("from 0")
    job.sees("from 1")
    view = Background("attach", "sh")
    view.sees("from 1")
    gate.touch()
    own, out, own_err = job.end()
    code, seen, err = view.end()
    h.ok(own == code == 4 and err == own_err, "attach: a program that fails", f"{code} {seen}{err}\n---\n{own_err}")
    h.ok(sorted(seen.splitlines()) == sorted(out.splitlines()),
         "attach: a program is shown by what its ranks write", f"{seen}\n---\n{out}")
    nothing_left("programs")


def test_hostile():
    """What ranks write is shown and not obeyed; what is no record is passed over."""
    run = fresh("run")
    (run / "logs").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step":1,"loss":2}\n{"step":\n[1]\n' + "x" * (5 << 20) + '\n{"step":2,"loss":"a"}\n')
    events = [{"event": "launch", "attempt": 0, "pid": 7, "ranks": 1, "hosts": ["\x1b[1m"], "local": [1], "steps": 5,
               "header": "one\x1b[2J\ntwo\r\n"}, {"event": "resumed", "step": 0}, {"event": "where", "rank": 0, "at": "\x07"},
              {"event": "where", "rank": 1 << 60}, {"event": "failure", "cause": "\x1b]0;x\x07", "rank": -1, "victims": 1 << 40},
              {"event": "restart", "attempt": "x"}, {"event": ["exit"]}, {"event": "exit", "code": 1 << 40}]
    (run / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event":"exit","code":0}')
    ran = ask("attach", run)
    h.ok(ran.returncode == 0 and "step 2/5" in ran.stdout and "one\\x1b[2J\n" in ran.stdout, "hostile records: shown", ran.stdout)
    h.ok(not re.search(r"[^\n\x20-\x7e]", ran.stdout + ran.stderr), "hostile records: not obeyed", repr(ran.stdout + ran.stderr))
    (run / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    ran = ask("attach", run)
    h.ok(ran.returncode == 70, "an end that says no code is none", f"{ran.returncode} {ran.stderr}")


def on_terminal(*words):
    """Run on a pseudo terminal; returns its process and what it has shown, as a list that grows."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(h.environment(TERM="xterm", **WHERE))
        os.chdir(h.work())
        os.execv(h.DSRUN, [h.DSRUN, *map(str, words)])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = [""]

    def collect():
        while True:
            try:
                more = os.read(fd, 65536)
            except OSError:
                return
            if not more:
                return
            shown[0] += more.decode(errors="replace")
    thread = threading.Thread(target=collect)
    thread.start()
    return pid, fd, shown, thread


def test_terminal():
    gate = fresh("gate")
    job = Job(FAKE_0=f"{FRESH};metrics:0-4;until:{gate};metrics:4-8;wait", FAKE_1="wait")
    job.sees("step 4/10")
    pid, fd, shown, thread = on_terminal("attach", "tiny")
    h.ok(wait_for(lambda: "\r\x1b[Kstep 4/10" in shown[0]) and "step 3/10" not in shown[0],
         "terminal: the live line is the newest step", repr(shown[0]))
    gate.touch()
    h.ok(wait_for(lambda: "\r\x1b[Kstep 8/10" in shown[0]), "terminal: and stays it", repr(shown[0]))
    os.write(fd, b"\x03")
    thread.join()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    h.ok(code == 130 and f"dsrun kill {job.number}" in shown[0] and job.process.poll() is None,
         "terminal: Ctrl-C detaches", f"{code} {shown[0]!r}")
    ask("kill", "tiny")
    job.end()
    nothing_left("terminal")


def look_on(name, heads, gate, finish):
    """A job of two hosts, which waits for the gate, seen from where its dsrun runs, and by its run directory from elsewhere;
    finish() ends with its exit code and what its console showed."""
    run = finish.run
    views = [(Background("attach", word, head=head), Background("logs", "-f", word, "--rank", 1, head=head))
             for word, head in (("tiny", heads[0]), (run, heads[1]))]
    seen = all(view.sees("step 3/10") and logs.sees("[node2 1] from the second\n") for view, logs in views)
    h.ok(seen, f"{name}: a job that runs on two hosts is seen", [one.text for view in views for one in view])
    listed = subprocess.run([*map(str, heads[0]), h.DSRUN, "ps"], capture_output=True, text=True, check=False,
                            env=h.environment(**WHERE)).stdout
    h.ok(re.search(rf"^\d+ +tiny +running +2 +2 +\d+/10 .* {run}$", listed, re.M), f"{name}: dsrun ps lists it", listed)
    gate.touch()
    code, out = finish()
    for (view, logs), whence in zip(views, ("by its name", "by its run directory from another host")):
        own, shown, err = view.end()
        h.ok(code == own == 0 and err == "" and shown == out and "step 6/10" in out,
             f"{name}: attach {whence} ends with the job and has shown what it did", f"{code} {own}\n{out}\n---\n{shown}{err}")
        own, shown, err = logs.end()
        h.ok(own == 0 and shown == "[node2 1] from the second\n[node2 1] over\n", f"{name}: logs -f {whence}, of a rank on another host",
             f"{own} {shown}{err}")


def two_hosts(gate):
    return ["--env", f"FAKE_0={FRESH};metrics:0-3;until:{gate};metrics:3-6;exit:0",
            "--env", f"FAKE_1=err:from the second;until:{gate};out:over;exit:0", JOB]


def over_ssh(bed):
    gate = fresh("gate")
    job = Background("--via", "ssh", "-H", bed.hostfile, "--run-dir", run := fresh("run"), *two_hosts(gate), head=bed.head)

    def finish():
        code, out, _ = job.end()
        return code, out
    finish.run = run
    job.sees("step 3/10")
    look_on("ssh", (bed.head, [bed.base / "bin" / "on", "node1"]), gate, finish)


def in_batch(bed):
    """Seen from the batch host, and from the one where the job was queued."""
    gate, run, out, ended = fresh("gate"), fresh("run"), fresh("out"), fresh("ended")
    script = fresh("script")
    words = " ".join(f"'{word}'" for word in map(str, ("--run-dir", run, *two_hosts(gate))))
    exports = "".join(f"export {name}='{value}'\n" for name, value in WHERE.items())
    script.write_text(f"#!/bin/sh\n{exports}{h.DSRUN} {words}\necho $? >{ended}.new && mv {ended}.new {ended}\n")
    bed.run("sbatch", "-N2", "--ntasks-per-node=1", "-o", out, script)

    def finish():
        wait_for(ended.exists)
        return int(ended.read_text()), out.read_text()
    finish.run = run
    wait_for(lambda: out.exists() and "step 3/10" in out.read_text())
    look_on("slurm", ([bed.base / "bin" / "on", "node1"], bed.head), gate, finish)


def test_hosts():
    slurm = beds.missing("slurm")
    why = beds.missing()
    if h.SANITIZED:
        why = "what a bed waits for has deadlines that an instrumented program does not keep"
    if why:
        h.skip("on real hosts", why)
        return
    with beds.Hosts(2) if slurm else beds.Slurm(2) as bed:
        over_ssh(bed)
        if slurm:
            h.skip("in a batch script", slurm)
        else:
            in_batch(bed)
        left = {name: found for name in bed.names if (found := bed.processes(name))}
        h.ok(wait_for(lambda: not any(bed.processes(name) for name in bed.names), 20), "hosts: nothing is left on any", left)
    nothing_left("hosts")


chosen = sys.argv[1:] or [name for name in globals() if name.startswith("test_")]
for chosen_name in chosen:
    globals()[chosen_name]()
h.done()
