#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""slurm - dsrun inside the allocations of a real Slurm: run, fail, cancel, time limit, signals, requeue,
two jobs at once, unequal nodes, strangers at the door; and what srun itself would have returned.

The ranks are fake_worker.c (see processes.py) but where training is meant.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import beds
import harness as h

beds.require("slurm")
FAKE = h.BUILD / "tests" / "e2e" / "fake_worker"
AGENT = h.BUILD / "libexec" / "dsrun" / "dsrun-agent"
CPUS = "4 2 8 4"
LIMIT = 60 * h.PATIENCE  # seconds for anything to happen; nothing takes nearly as long
_runs = 0


def libexec(name, *files):
    folder = h.work() / name
    folder.mkdir()
    for source, target in files:
        shutil.copy(source, folder / target)
    return folder


LIBEXEC = libexec("libexec", (AGENT, "dsrun-agent"), (FAKE, "dsrun-worker"))
EMPTY = libexec("empty")
JOB = h.write_job(steps=10, batch=12)


def until(what, seconds=LIMIT):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


class Run:
    """One dsrun, in its own run directory."""

    def __init__(self, bed, *options, job=JOB, **fake):
        global _runs
        _runs += 1
        self.bed, self.dir = bed, h.work() / f"run-{_runs}"
        self.env = {"DSRUN_LIBEXEC": str(LIBEXEC), **fake}
        self.args = [h.DSRUN, "--run-dir", self.dir, *options, job]

    def salloc(self, *options, timeout=LIMIT):
        return self.bed.run("salloc", "-Q", *options, *self.args, timeout=timeout, **self.env)

    def start(self, *options):
        """In the background; the Popen is salloc's, .pid() is dsrun's."""
        self.popen = self.bed.start("salloc", "-Q", *options, *self.args, stderr=subprocess.PIPE, **self.env)
        return self

    def pid(self):
        return next(p for p, line in h.processes().items() if line.startswith(h.DSRUN) and str(self.dir) in line)

    def batch(self, *options, before="", after="echo $? >$CODE"):
        """As a batch script, which writes dsrun's exit code to .code; returns the job's number."""
        self.code = self.dir.with_suffix(".code")
        script = self.dir.with_suffix(".sh")
        words = " ".join(map(str, self.args))
        exports = "".join(f"export {name}='{value}'\n" for name, value in {**self.env, "CODE": self.code}.items())
        script.write_text(f"#!/bin/sh\n{exports}{before} {words}\n{after}\n")
        done = self.bed.run("sbatch", "--parsable", "-o", self.dir.with_suffix(".out"), *options, script)
        self.job = done.stdout.strip()
        return self

    def events(self):
        path = self.dir / "events.jsonl"
        return path.read_text() if path.exists() else ""

    def started(self):
        return until(lambda: '"event":"started"' in self.events())

    def exit_code(self):
        """What dsrun recorded as its own end."""
        until(lambda: '"event":"exit"' in self.events())
        found = re.findall(r'"event":"exit".*"code":(\d+)', self.events())
        return int(found[-1]) if found else None

    def log(self, rank):
        path = self.dir / "logs" / f"rank-{rank:05}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def output(self):
        return self.dir.with_suffix(".out").read_text(errors="replace")


def nothing_left(bed, name, nodes=("node1", "node2", "node3")):
    """No process of a job on these hosts (the job with a time limit is on node4), no shared memory."""
    def left():
        return [(node, list(bed.processes(node).values()) + bed.on(node, "ls", "-A", "/dev/shm").stdout.split())
                for node in nodes]
    until(lambda: not any(found for _, found in left()), 10)
    found = [(node, what) for node, what in left() if what]
    h.ok(not found, f"{name}: nothing is left on any host", found)


def srun_args(bed):
    """More arguments for srun, and those that it cannot be given."""
    words = ("--srun-arg", "--comment=a b;c", "--srun-arg=--hint=nomultithread")
    said = bed.run("salloc", "-Q", "-N2", h.DSRUN, "launch", "--dry-run", *words, "--", "true").stdout
    h.ok("--input=all --comment=a b;c --hint=nomultithread /" in said, "--dry-run shows more arguments of srun", said)
    done = bed.run("salloc", "-Q", "-N2", h.DSRUN, "exec", *words, "--", "true")
    h.ok(done.returncode == 0, "srun takes them", done.stderr)
    done = bed.run("salloc", "-Q", "-N2", h.DSRUN, "launch", "--srun-arg", "--no-such-thing", "--", "true")
    h.ok(done.returncode == 69 and "no-such-thing" in done.stderr, "what srun does not know is told in its words", done.stderr)
    for arg, why in (("--export=NONE", "srun's '--export' is dsrun's to set"), ("--nod=7", "srun's '--nodes' is dsrun's to set"),
                     ("-N7", "'-N7' is not written '--name' or '--name=value'")):
        done = bed.run("salloc", "-Q", "-N2", h.DSRUN, "launch", "--srun-arg", arg, "--", "true")
        h.ok(done.returncode == 2 and why in done.stderr, f"--srun-arg {arg} is refused", f"{done.returncode} {done.stderr}")
    done = bed.run(h.DSRUN, "launch", "--srun-arg", "--network=x", "--", "true")
    h.ok(done.returncode == 2 and "srun, which starts no agents here" in done.stderr, "--srun-arg outside of Slurm is refused",
         f"{done.returncode} {done.stderr}")


def own_signals(bed):
    """USR1 and USR2 of a program of dsrun launch: from dsrun, and from Slurm to the step."""
    flags = h.work() / "own-signals"
    flags.mkdir(mode=0o777)
    flags.chmod(0o777)
    program = ('my $at = "$ENV{FLAGS}/$ENV{RANK}"; my $n = 0; sub flag { open(my $f, ">", $_[0]); }'
               '$SIG{USR1} = sub { flag("$at." . $n++) }; $SIG{USR2} = sub { exit 7 }; flag($at); sleep 1 while 1;')
    job = bed.start("salloc", "-Q", "-N2", "-J", "own", h.DSRUN, "launch", "--run-dir", flags / "run", "--env", f"FLAGS={flags}",
                    "--", "perl", "-e", program)
    h.ok(until(lambda: len(list(flags.glob("[01]"))) == 2 or job.poll() is not None) and job.poll() is None, "programs run",
         list(flags.iterdir()))
    bed.run("scancel", "-n", "own", "-s", "USR1")
    h.ok(until(lambda: len({f.name[0] for f in flags.glob("?.*")}) == 2), "USR1 to the step reaches programs", list(flags.iterdir()))
    time.sleep(0.5)
    before = len(list(flags.glob("?.*")))
    h.ok(before == 2 and job.poll() is None, "once, and nothing ends", list(flags.iterdir()))
    events = [json.loads(line) for line in (flags / "run" / "events.jsonl").read_text().splitlines()]
    pid = next(e["pid"] for e in events if e.get("event") == "launch")
    os.kill(pid, signal.SIGUSR1)
    h.ok(until(lambda: len(list(flags.glob("?.*"))) == 4), "USR1 to dsrun does, too", list(flags.iterdir()))
    os.kill(pid, signal.SIGUSR2)
    h.ok(job.wait(60) == 7, "and USR2", job.returncode)


def dry_run(bed):
    run = Run(bed, "--dry-run")
    done = run.salloc("-N3", "-n6")
    lines = done.stdout.splitlines()
    ranks = [line.split()[3] for line in lines if line.startswith("rank ")]
    h.ok(lines[-1:] and re.fullmatch(
        r"srun --nodes=3 --ntasks=3 --ntasks-per-node=1 --nodelist=node\[1-3\] -K0 --no-kill --wait=0 --overlap "
        r"--cpu-bind=none --mpi=none --export=ALL --input=all \S+/dsrun-agent slurm", lines[-1]),
        "--dry-run prints what srun gets", done.stdout + done.stderr)
    launch = bed.run("salloc", "-Q", "-N3", "-n6", h.DSRUN, "launch", "--dry-run", "--", "true")
    h.ok(launch.returncode == 0 and launch.stdout.splitlines()[-1].split()[:-2] == lines[-1].split()[:-2], "so does that of dsrun launch",
         launch.stdout + launch.stderr)
    for command in (("exec", "--dry-run", "--", "true"), ("hosts", "--dry-run"), ("hosts", "--dry-run", "--json")):
        said = bed.run("salloc", "-Q", "-N3", "-n6", h.DSRUN, *command)
        *hosts, srun = said.stdout.splitlines() or [""]
        if "--json" in command:
            hosts, srun = [f"host {json.loads(line)['host']}" for line in hosts], json.loads(srun)["srun"]
        h.ok(said.returncode == 0 and hosts == [f"host node{i}" for i in (1, 2, 3)] and
             srun.split()[:-2] == lines[-1].split()[:-2], f"so does that of dsrun {' '.join(command)}",
             said.stdout + said.stderr)
    counts = bed.run("salloc", "-Q", "-N3", "-n6", "printenv", "SLURM_TASKS_PER_NODE").stdout.strip()
    h.ok(counts == ",".join(str(ranks.count(n)) for n in ("node1", "node2", "node3")) or "(x" in counts,
         "ranks are placed as Slurm says", f"{counts}\n{ranks}")
    outside = bed.run(h.DSRUN, "--via", "slurm", JOB)
    h.ok(outside.returncode == 2 and "not inside an allocation" in outside.stderr,
         "--via slurm outside of an allocation", f"{outside.returncode} {outside.stderr}")
    hostfile = h.work() / "subset"
    hostfile.write_text("node2 slots=2\n")
    for via in ("slurm", "auto"):
        done = Run(bed, "--via", via, "-H", hostfile, FAKE="env:SLURMD_NODENAME").salloc("-N3")
        h.ok(done.returncode == 0 and "[node2 0] node2" in done.stdout, f"{via}: a hostfile may name some of the nodes",
             done.stdout + done.stderr)
    hostfile.write_text("node4 slots=2\n")
    for via in ("slurm", "auto"):
        done = Run(bed, "--via", via, "-H", hostfile).salloc("-N3")
        h.ok(done.returncode == 65 and "host 'node4' is not in this Slurm allocation" in done.stderr,
             f"{via}: and no other", f"{done.returncode} {done.stderr}")
    hostfile.write_text("node2\nnode1 slots=1\n")
    done = Run(bed, "-H", hostfile, "--dry-run").salloc("-N3", "-n6", "--ntasks-per-node=2")
    h.ok(re.findall(r"^rank \d  host (\S+)", done.stdout, re.M) == ["node2", "node2", "node1"] and "srun " in done.stdout,
         "Slurm says the slots that a hostfile does not", done.stdout + done.stderr)
    hostfile.write_text("localhost slots=1\n")
    done = Run(bed, "--via", "local", "-H", hostfile, "--dry-run").salloc("-N3")
    h.ok(done.returncode == 0 and "srun " not in done.stdout, "--via local goes round Slurm", done.stdout + done.stderr)
    done = bed.run("salloc", "-Q", "-N2", "srun", h.DSRUN, JOB)
    h.ok(done.returncode and "start dsrun once, without srun" in done.stderr, "srun dsrun is refused", done.stderr)


def unequal(bed):
    """-n12 on nodes of 4, 2 and 8 cores: 4, 2 and 6 ranks."""
    run = Run(bed, FAKE="env:RANK;env:LOCAL_RANK;env:LOCAL_WORLD_SIZE;env:NODE_RANK;env:SLURMD_NODENAME")
    done = run.salloc("-N3", "-n12", "-w", "node[1-3]")
    want, rank = [], 0
    for node, ranks in enumerate((4, 2, 6)):
        for local in range(ranks):
            want.append(f"{rank} {local} {ranks} {node} node{node + 1}")
            rank += 1
    seen = [" ".join(run.log(r).split()) for r in range(12)]
    h.ok(done.returncode == 0 and seen == want, "unequal nodes: every rank is where it should be",
         f"{done.returncode} {done.stderr}\n{seen}")
    nothing_left(bed, "a run")


def gpus(bed):
    """A rank for each GPU of a node, however Slurm was asked for them; jobs on the CPU have those of tasks."""
    fakes = h.BUILD / "fakes" / "libexec"  # only that there is a plug-in counts
    if not (fakes / "dsrun-cuda.so").exists():
        h.skip("GPUs of nodes", "the doubles of CUDA are for x86-64 and aarch64 only")
        return
    torchrun = ("--ntasks-per-node=1", "--gpus-per-node=4")
    here = ("launch", "--dry-run", "--", "true")
    for how, options, words, want in (
            ("sbatch", ("--gres=gpu:4",), (), 8), ("sbatch", ("--gres=gpu:4", "--ntasks-per-node=1"), (), 8),
            ("sbatch", torchrun, (), 8), ("salloc", torchrun, (), 8), ("salloc", ("--gpus-per-task=3", "-n2"), (), 6),
            ("sbatch", ("--gres=gpu:4", "-n4"), (), 4), ("sbatch", torchrun, ("launch.slots=3",), 2),
            ("sbatch", torchrun, ("--slots", "3"), 6), ("sbatch", torchrun, ("launch.device=cpu",), 2),
            ("sbatch", ("--gres=gpu:4",), ("launch.device=cpu",), 2), ("sbatch", ("--gres=gpu:4",), here, 8),
            ("sbatch", torchrun, here, 2), ("salloc", ("--gres=gpu:4",), (), 2)):
        command = words if words == here else ("run", "--dry-run", JOB, "train.global_batch=48", "train.micro_batch=1",
                                               "launch.device=auto", *words)
        text = f"{h.DSRUN} {' '.join(map(str, command))}"
        if how == "salloc":
            said = bed.run("salloc", "-Q", "-N2", *options, "sh", "-c", text, DSRUN_LIBEXEC=str(fakes)).stdout
        else:
            script, out = h.work() / "gpus.sh", h.work() / "gpus.out"
            script.write_text(f"#!/bin/sh\nexport DSRUN_LIBEXEC={fakes} FAKE_CUDA_DEVICES=4\n{text}\n")
            bed.run("sbatch", "--wait", "-N2", "-o", out, *options, script)
            said = out.read_text(errors="replace")
        h.ok(len(re.findall(r"^rank \d+ ", said, re.M)) == want,
             f"{' '.join((how, '-N2', *options, *words))}: {want} ranks", said)


def execute(bed):
    """dsrun exec in an allocation: a program once on every node."""
    run = bed.run("salloc", "-Q", "-N3", "-w", "node[1-3]", h.DSRUN, "exec", "--", "hostname")
    h.ok(run.returncode == 0 and all(f"node{i}" in run.stdout for i in (1, 2, 3)), "exec runs on every node",
         f"{run.returncode} {run.stdout}{run.stderr}")
    run = bed.run("salloc", "-Q", "-N2", "-w", "node[1-2]", h.DSRUN, "exec", "--", "sh", "-c",
                  '[ "$SLURMD_NODENAME" = node1 ] || exit 3')
    h.ok(run.returncode == 3, "and returns what failed", f"{run.returncode} {run.stdout}{run.stderr}")


def failures(bed):
    """The first failure is named and its code returned; srun's own codes beside it."""
    run = Run(bed, FAKE="sleep:600000", FAKE_1="err:boom;exit:3")
    begin = time.monotonic()
    done = run.salloc("-N2", "-w", "node[1-2]")
    took = time.monotonic() - begin
    h.ok(done.returncode == 3 and "rank 1 on node2 ended with code 3" in done.stderr,
         f"rank 1 exits 3 on the second node: 3 ({took:.1f} s)", f"{done.returncode} {done.stderr}")
    nothing_left(bed, "a failure")
    script = "if [ $SLURM_PROCID = 1 ]; then exit 3; else exec sleep 4; fi"
    codes = {}
    for option in ("-K1", "-K0"):
        begin = time.monotonic()
        codes[option] = bed.run("srun", "-Q", option, "-N2", "sh", "-c", script).returncode
        codes[option + " s"] = round(time.monotonic() - begin, 1)
    h.ok(codes["-K1"] in (143, 137) and codes["-K0"] == 3 and codes["-K0 s"] >= 4,  # 137: TERM came too early for it
         f"srun -K1 returns the victims' 143 or 137, -K0 waits for them: {codes}", codes)
    done = Run(bed, FAKE="sleep:600000", FAKE_1="kill:9").salloc("-N2", "-w", "node[1-2]")
    own = bed.run("srun", "-Q", "-K1", "-N1", "sh", "-c", "kill -9 $$").returncode
    h.ok(done.returncode == 137 and "rank 1 on node2 was killed by signal 9" in done.stderr,
         f"a rank killed by 9: 137 (srun: {own})", f"{done.returncode} {done.stderr}")
    done = Run(bed, DSRUN_LIBEXEC=str(EMPTY), TMPDIR="/tmp").salloc("-N2", "-w", "node[1-2]")
    h.ok(done.returncode == 69 and "No such file or directory" in done.stderr, "no agent there: 69, in srun's words",
         f"{done.returncode} {done.stderr}")
    run = Run(bed, "--grace", "1", FAKE="deaf").start("-N2", "-w", "node[1-2]")
    run.started()
    os.kill(run.pid(), signal.SIGTERM)
    h.ok(run.popen.wait(LIMIT) == 143, "ranks deaf to a stop are killed after the grace: 143", run.popen.returncode)
    nothing_left(bed, "a hard stop")


def killed(bed):
    """SIGKILL to an agent, to srun, to dsrun: the job ends, and nothing survives."""
    run = Run(bed, FAKE="wait").start("-N2", "-w", "node[1-2]")
    run.started()
    bed.on("node2", "pkill", "-KILL", "-f", "dsrun-agent slurm")
    code = run.popen.wait(LIMIT)
    said = run.popen.stderr.read().decode()
    h.ok(code not in (0, 75) and "host 'node2' was lost" in said, f"an agent is killed: {code}", said)
    nothing_left(bed, "a killed agent")
    for victim in ("srun", "dsrun"):
        run = Run(bed, FAKE="wait").start("-N2", "-w", "node[1-2]")
        run.started()
        pid = run.pid()
        if victim == "srun":
            pid = next(p for p, line in h.processes().items() if line.startswith("srun --nodes=2"))
        os.kill(pid, signal.SIGKILL)
        code = run.popen.wait(LIMIT)  # of salloc, which returns 0 when its command was killed
        h.ok(victim == "dsrun" or code not in (0, 75), f"{victim} is killed: {code}")
        nothing_left(bed, f"a killed {victim}")


def stops(bed):
    """Every way in which Slurm asks a job to end is one stop: all ranks save, 75."""
    cases = (("scancel -s USR1, the step", {}, ("-s", "USR1"), True),
             ("scancel --full -s USR1, step and script", {}, ("--full", "-s", "USR1"), None),
             ("scancel --batch -s USR1, the script is dsrun", {"before": "exec"}, ("--batch", "-s", "USR1"), False),
             ("scancel", {}, (), False))
    for name, script, options, coded in cases:
        run = Run(bed, FAKE="wait").batch("-N2", "-w", "node[1-2]", **script)
        run.started()
        bed.run("scancel", *options, run.job)
        code = run.exit_code()
        h.ok(code == 75 and '"event":"stop"' in run.events(), f"{name}: 75", f"{run.events()}\n{run.output()}")
        if coded:
            h.ok(until(lambda: run.code.exists() and run.code.read_text() == "75\n"), "the script sees 75, too")
    nothing_left(bed, "a cancelled job")


def two_jobs(bed):
    """^C to one of two jobs on the same nodes: the other does not notice."""
    gate = h.work() / "gate"
    first = Run(bed, FAKE="wait").start("-N2", "-w", "node[1,3]")
    second = Run(bed, FAKE="first:" + str(gate) + ";wait").start("-N2", "-w", "node[1,3]")
    h.ok(first.started() and second.started(), "two jobs share their nodes")
    os.kill(first.pid(), signal.SIGINT)
    h.ok(first.popen.wait(LIMIT) == 75, "^C to one: it saves", first.popen.returncode)
    pid = second.pid()
    h.ok("exit" not in second.events() and second.popen.poll() is None, "the other goes on")
    os.kill(pid, signal.SIGTERM)
    h.ok(second.popen.wait(LIMIT) == 75, "until it is its turn", second.popen.returncode)
    nothing_left(bed, "two jobs")


def strangers(bed):
    """Whoever finds the port without the key gets nowhere, and does not disturb."""
    run = Run(bed, FAKE="wait").start("-N2", "-w", "node[1-2]")
    run.started()
    listed = bed.on("head", "ss", "-Hltnp").stdout
    port = re.search(r':(\d+)\s+\S+\s+users:\(\("dsrun",pid=%d,fd=\d+\)\)' % run.pid(), listed)
    probe = ("import socket, sys, os, time\n"
             "def open(): s = socket.create_connection(('127.0.0.1', %s), 5); s.settimeout(5); return s\n"
             "hello = b'DSSEAL1\\n' + os.urandom(32)\n"
             "idle = []\n"
             "for _ in range(100):\n"
             "    try: idle.append(open())\n"
             "    except OSError: pass\n"
             "said = []\n"
             "time.sleep(0.5)\n"
             "for s in idle: s.close()\n"
             "time.sleep(0.5)\n"
             "bad = os.urandom(24)\n"
             "for first, then in ((b'GET / HTTP/1.1\\r\\n' * 9, b''), (hello, bad + b'\\x11\\0\\0\\0' + bad),\n"
             "                    (hello, bad + b'\\xff\\xff\\xff\\xff')):\n"
             "    s = open(); s.sendall(first); time.sleep(0.3 if then else 0); s.sendall(then)\n"
             "    got = b''\n"
             "    try:\n"
             "        while True:\n"
             "            more = s.recv(4096)\n"
             "            if not more: break\n"
             "            got += more\n"
             "    except OSError: pass\n"
             "    said.append(len(got))\n"
             "print(said)\n") % (port.group(1) if port else 0)
    done = bed.run("/usr/bin/env", "python3", "-c", probe)
    h.ok(port and done.stdout == "[0, 85, 85]\n", "no key: a hello and a proof that says nothing, then the end",
         f"{listed}\n{done.stdout}{done.stderr}")
    os.kill(run.pid(), signal.SIGTERM)
    h.ok(run.popen.wait(LIMIT) == 75, "the job did not notice", run.popen.returncode)
    key = [line for node in ("head", *bed.names) for line in bed.on(
        node, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
    ).stdout.splitlines() if "dsrun-join" in line]
    h.ok(not key, "no key in an argument or a variable", key)


def own_codes(bed):
    """srun's own exit code where dsrun's is asserted elsewhere: run, fail, killed, cancel, USR1, stopped, unequal."""
    def step(*words, signal_by=None):
        """srun alone, as a job of its own; `signal_by` is called with the job's number once its tasks run."""
        mark = h.work() / f"own-{time.monotonic_ns()}"
        own = bed.start("srun", "-Q", "-N2", "-w", "node[1-2]", "sh", "-c", f'echo $SLURM_JOB_ID >"$1.$SLURM_PROCID"; {words[0]}',
                        "sh", mark, stdout=subprocess.PIPE)
        if signal_by:
            until(lambda: all(mark.with_suffix(f".{i}").exists() and mark.with_suffix(f".{i}").read_text() for i in (0, 1)))
            signal_by(own, mark.with_suffix(".0").read_text().strip())
        return own.wait(LIMIT)

    counts = bed.run("srun", "-Q", "-N3", "-n12", "-w", "node[1-3]", "hostname").stdout.split()
    h.ok([counts.count(f"node{i}") for i in (1, 2, 3)] == [4, 2, 6], "unequal nodes: srun's tasks are where dsrun's ranks are",
         counts)
    again = h.work() / "again.sh"  # with a step that lasts in its first life, and a code for each life
    again.write_text("#!/bin/sh\ntrap '' TERM\n"
                     "if [ -z $SLURM_RESTART_COUNT ]; then srun -Q sh -c 'echo >$1.$SLURM_PROCID; exec sleep 1000' sh $1\n"
                     "else srun -Q true; fi\necho $? >>$1\n")
    codes = again.with_suffix(".codes")
    job = bed.run("sbatch", "--parsable", "-N2", "-w", "node[1,3]", "-o", "/dev/null", again, codes).stdout.strip()
    requeued = until(lambda: all(pathlib.Path(f"{codes}.{i}").exists() for i in (0, 1))) and not bed.run(
        "scontrol", "requeue", job).returncode
    own = {
        "run": (step("exit 0"), 0, "0"),
        "fail": (step("exit $((SLURM_PROCID * 3))"), 3, "3"),
        "a rank is killed": (step("kill -9 $$"), 137, "137"),
        "scancel": (step("exec sleep 1000", signal_by=lambda _, job: bed.run("scancel", job)), 143, "75"),
        "USR1": (step("exec sleep 1000", signal_by=lambda _, job: bed.run("scancel", "-s", "USR1", job)), 138, "75"),
    }
    for name, (code, want, ours) in own.items():
        h.ok(code == want, f"srun's own code, {name}: {want}; dsrun's: {ours}", code)
    other = bed.start("srun", "-Q", "-N2", "-w", "node[1-2]", "sleep", "4")
    code = step("exec sleep 1000", signal_by=lambda srun, _: srun.send_signal(signal.SIGTERM))
    h.ok(code in (137, 143) and other.wait(LIMIT) == 0,
         f"srun's own codes, TERM to one of two on the same nodes: {code}, and 0 of the other; dsrun's: 75, 75", code)
    until(lambda: codes.exists() and codes.read_text().split()[-1:] == ["0"], 120)
    lives = codes.read_text().split() if codes.exists() else []
    h.ok(requeued and lives in (["137", "0"], ["143", "0"], ["0"]),  # the script may be killed before it can tell
         f"srun's own codes, requeue: {' then '.join(lives)}; dsrun's: 75 then 0", lives)


def own_limit(own):
    code = own.wait(180)
    h.ok(code in (143, 137), f"srun's own code, a time limit: {code}; dsrun's: 75", code)


# In place of an agent on node1: it has the key, and does with it and with what it hears what a stranger would.
ATTACKER = r"""#!/usr/bin/env python3
import json, os, pathlib, socket, subprocess, sys, threading, time
agent, report = pathlib.Path(os.environ["REAL_AGENT"]), pathlib.Path(os.environ["REPORT"])
if os.environ["SLURMD_NODENAME"] != "node1":
    os.execv(agent, [str(agent), "slurm"])
line = b""
while not line.endswith(b"\n"):
    line += os.read(0, 1)
port, key = int(line.split()[2]), line.split()[3]
dsrun = os.environ["SLURM_LAUNCH_NODE_IPADDR"]

def call(said=b""):
    s = socket.create_connection((dsrun, port), 10)
    s.settimeout(30)
    s.sendall(said)
    return s

def heard(s):
    got = b""
    try:
        while more := s.recv(4096):
            got += more
    except ConnectionError:
        pass
    except TimeoutError:
        return -1
    return len(got)

def start(stdin, **env):
    return subprocess.Popen([agent, "slurm"], stdin=stdin, env=dict(os.environ, **env), stderr=subprocess.DEVNULL)

far = call()  # of the true agent, which says nothing until 150 others stand behind it
idle = [call(b"D") for _ in range(150)]  # before anybody has proven anything
door = socket.create_server(("127.0.0.1", 0))
mine = start(subprocess.PIPE, SLURM_LAUNCH_NODE_IPADDR="127.0.0.1")
mine.stdin.write(b"dsrun-join 1 %d %s\n" % (door.getsockname()[1], key))
mine.stdin.flush()
near = door.accept()[0]
tape = []

def pass_on(source, sink, keep):
    try:
        while data := source.recv(65536):
            if keep:
                tape.append(data)
            sink.sendall(data)
    except OSError:
        pass
    for s in (source, sink):
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

for a, b, keep in ((near, far, True), (far, near, False)):
    threading.Thread(target=pass_on, args=(a, b, keep), daemon=True).start()
while not pathlib.Path(os.environ["STARTED"]).exists():
    time.sleep(0.05)
said = b"".join(tape)  # HELLO, the proof, and all frames so far
replayed = call(said[:40])
answer = b""
while len(answer) < 85:
    answer += replayed.recv(85) or sys.exit(9)
replayed.sendall(said[40:])
twin = start(subprocess.PIPE)
twin.stdin.write(line)
twin.stdin.flush()
found = {"loris": sum(heard(s) <= 0 for s in idle), "replay": heard(replayed), "answer": len(answer), "length": len(said)}
twin.wait(60)
found["twin"] = twin.returncode
report.with_suffix(".new").write_text(json.dumps(found))
report.with_suffix(".new").rename(report)
while os.read(0, 4096):  # the lease
    pass
mine.stdin.close()
sys.exit(mine.wait())
"""


def attackers(bed):
    """Before and beside the agents: places held with silence, a conversation said again, a node that is there twice."""
    folder, report, flag = libexec("attacker"), h.work() / "report", h.work() / "all-started"
    (folder / "dsrun-agent").write_text(ATTACKER)
    (folder / "dsrun-agent").chmod(0o755)
    run = Run(bed, DSRUN_LIBEXEC=str(folder), REAL_AGENT=str(LIBEXEC / "dsrun-agent"), REPORT=str(report),
              STARTED=str(flag), FAKE="wait").start("-N2", "-w", "node[1-2]")
    run.started()
    h.ok('"event":"started"' in run.events(), "slow-loris before the agents have connected: the job starts", run.events())
    flag.touch()
    until(report.exists)
    found = json.loads(report.read_text()) if report.exists() else {}
    h.ok(found.get("loris") == 150, "who said too little is sent away", found)
    h.ok(found.get("length", 0) > 200 and found.get("answer") == 85 and found.get("replay") == 0,
         "a replayed HELLO and all behind it: a hello and a proof that says nothing, then the end", found)
    h.ok(found.get("twin") not in (None, 0), "a second agent of the same node, with the key, is sent away", found)
    h.ok("exit" not in run.events() and run.popen.poll() is None, "the job goes on", run.events())
    os.kill(run.pid(), signal.SIGTERM)
    h.ok(run.popen.wait(LIMIT) == 75, "and saves", run.popen.returncode)
    nothing_left(bed, "attackers")


def example(bed, name, *options, args=(), **env):
    """Submit examples/slurm/NAME.sbatch as a user would; returns the job's number."""
    path = f"{h.BUILD / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    done = bed.run("sbatch", "--parsable", *options, h.ROOT / "examples" / "slurm" / f"{name}.sbatch", *args,
                   PATH=path, **env)
    return done.stdout.strip()


def ended(bed, job):
    return until(lambda: not bed.run("squeue", "-h", "-j", job).stdout.strip(), 120)


def manual():
    """The scripts of dsrun-slurm(7) are those of examples/slurm."""
    page = (h.BUILD / "man" / "dsrun-slurm.7").read_text().replace("\\-", "-").replace("\\e", "\\")
    shown = set(re.findall(r"^\.EX\n(#!.*?\n)\.EE$", page, re.S | re.M))
    scripts = {re.sub(r"^# (Copyright|SPDX).*\n", "", p.read_text(), flags=re.M).replace("sh\n#\n", "sh\n")
               for p in (h.ROOT / "examples" / "slurm").glob("*.sbatch")}
    h.ok(len(shown) == 3 and shown == scripts, "dsrun-slurm(7) shows the examples", shown ^ scripts)


def examples(bed):
    """train, array, requeue: with real training, which gives the numbers of a run without Slurm on one machine."""
    steps = 60 if h.SANITIZED or h.PATIENCE > 1 else 1500  # 500 once took 0.7 s: the signal must find it training
    job = h.write_job("train.yaml", steps=steps, layers=4, hidden=64, every=1000, batch=4)
    plain = h.work() / "plain"
    straight = h.dsrun("-q", "--slots", "4", "--run-dir", plain, job)
    run = Run(bed)
    number = example(bed, "requeue", "--time=UNLIMITED", args=("-q", "--run-dir", run.dir, job))
    until(lambda: (run.dir / "metrics.jsonl").exists() and len(h.metrics(run.dir)) > 3)
    bed.run("scancel", "-s", "USR1", number)
    first = run.exit_code()
    saved = list((run.dir / "checkpoints").glob("step-*"))
    h.ok(first == 75 and saved, "requeue.sbatch, USR1: a checkpoint, 75", run.events())
    short = h.write_job("short.yaml", steps=4, batch=4)
    for ranks in (2, 4):
        h.dsrun("-q", "--slots", ranks, "--run-dir", h.work() / f"plain-{ranks}", short, "seed=3")
    trained = example(bed, "train", args=("-q", "--run-dir", h.work() / "trained", short, "seed=3"))
    array = example(bed, "array", args=("-q", short))
    ended(bed, trained)
    ended(bed, array)
    want = {ranks: h.metric_texts(h.work() / f"plain-{ranks}") for ranks in (2, 4)}
    h.ok(len(want[4]) == 4 and h.metric_texts(h.work() / "trained") == want[4],
         "train.sbatch trains, two ranks on each of two nodes")
    seeds = [h.metric_texts(h.work() / "runs" / f"seed-{seed}") for seed in (1, 2, 3)]
    h.ok(seeds[2] == want[2] and seeds[0] != seeds[1], "array.sbatch: three seeds, three runs")
    ended(bed, number)
    codes = re.findall(r'"event":"exit".*"code":(\d+)', run.events())
    h.ok(codes == ["75", "0"], "requeue.sbatch: queued again, it goes on to the end", run.events())
    h.ok(straight.returncode == 0 and len(h.metrics(run.dir)) == steps and
         h.metric_texts(run.dir) == h.metric_texts(plain), "with the numbers of a run that was never stopped")


def fewer(bed):
    """--nodes MIN:MAX: as many nodes as Slurm gave; of three one fails for good, and the job goes on with two."""
    for nodes, code, want in (("1:4", 0, 2), ("3:4", 2, "'--nodes 3:4': there are only 2 hosts")):
        said = bed.run("salloc", "-Q", "-N2", h.DSRUN, "launch", "--dry-run", "--nodes", nodes, "--", "true")
        h.ok(said.returncode == code and (want in said.stderr if code else len(re.findall(r"^rank ", said.stdout, re.M)) == want),
             f"--nodes {nodes} in an allocation of two: {want}", said.stdout + said.stderr)
    job = h.write_job("fewer.yaml", steps=1500, batch=12, every=50)
    run = Run(bed, "--nodes", "2:3", "--restarts", "1", job=job, DSRUN_LIBEXEC=str(AGENT.parent))
    run.start("--no-kill", "-N3", "-n3", "-w", "node[1-3]")
    until(lambda: list(run.dir.glob("checkpoints/step-*")))
    bed.on("head", "scontrol", "update", "nodename=node2", "state=down", "reason=test")  # Slurm is the first to know
    bed.fault("kill", "node2")
    code = run.popen.wait(LIMIT)
    used = re.findall(r'"event":"launch".*?"hosts":(\[.*?\])', run.events())
    h.ok(code == 0 and used == ['["node1","node2","node3"]', '["node1","node3"]'] and len(h.metrics(run.dir)) == 1500,
         "salloc --no-kill: a node fails, the job goes on with the others", f"{code} {used} {run.popen.stderr.read().decode()}")
    bed.fault("boot", "node2")


def time_limit(bed, run):
    """Started first, as Slurm's shortest limit is a minute."""
    code = run.exit_code() if until(lambda: '"event":"exit"' in run.events(), 120) else None
    h.ok(code == 75, "a time limit is a stop: 75", f"{run.events()}\n{run.output()}")


with beds.Slurm(4, cpus=CPUS, gpus=4, user="root" if h.SANITIZED else "tester") as slurm:  # who may write reports
    limited = Run(slurm, FAKE="wait").batch("-N1", "-t", "1", "-w", "node4")
    own_limited = slurm.start("srun", "-Q", "-N1", "-t", "1", "-w", "node4", "sleep", "1000")
    dry_run(slurm)
    srun_args(slurm)
    own_signals(slurm)
    unequal(slurm)
    gpus(slurm)
    execute(slurm)
    failures(slurm)
    own_codes(slurm)
    killed(slurm)
    stops(slurm)
    two_jobs(slurm)
    strangers(slurm)
    attackers(slurm)
    examples(slurm)
    manual()
    time_limit(slurm, limited)
    own_limit(own_limited)
    fewer(slurm)
    nothing_left(slurm, "all of it", slurm.names)
h.done()
