#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""launch - what users of DeepSpeed's launcher rely on, and what fails there, as cases of dsrun launch.

Selection, hostfiles, arguments, variables and endings, each through the real command line.  The hosts are
names of this machine, each with an agent of its own; at the end real ones, over ssh and under Slurm.
"""
import os
import re
import signal
import socket
import subprocess
import time

import harness as h
import places

P1 = "worker-0 slots=4 address=127.0.0.1\n"
P2 = P1 + "worker-1 slots=4 address=127.0.0.2\n"


def hostfile(text, name="hosts"):
    path = h.work() / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def launch(*words, hosts=None, options=(), timeout=60, **env):
    """(code, stdout, stderr) as bytes."""
    named = ["-H", hosts] if hosts else []
    ran = subprocess.run([h.DSRUN, "launch", *named, *options, "--", *words], stdin=subprocess.DEVNULL,
                         capture_output=True, timeout=timeout, cwd=h.work(), env=h.environment(**env), check=False)
    return ran.returncode, ran.stdout, ran.stderr


def placed(hosts, options, place=None):
    """{host: [slots]} of a dry run, or (code, message) where it is refused."""
    if place:
        ran = place.run("launch", *options, "--dry-run", "--", "true", hosts=hosts)
        code, out, err = ran.returncode, ran.stdout, ran.stderr
    else:
        code, out, err = launch("true", hosts=hosts, options=[*options, "--dry-run"])
    if code:
        return code, err.decode(errors="replace")
    found = {}
    for line in out.decode().splitlines():
        word = line.split()
        if word[0] == "rank":
            found.setdefault(word[3], []).append(int(word[5]))
    return found


def wait_for(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def nothing_left(name):
    still = h.left()
    h.ok(not still, f"{name}: nothing is left running", still)
    h.reap()


# --- which hosts and slots ------------------------------------------------------------------------------

W0, W1 = "worker-0", "worker-1"
ALL = list(range(4))
SELECTIONS = [  # pool, options, hosts and slots or what the refusal says
    (P1, [], {W0: ALL}),
    (P1, ["-e", "worker-0:1"], {W0: [0, 2, 3]}),
    (P1, ["-e", "worker-0:1,2"], {W0: [0, 3]}),
    (P1, ["-i", "worker-0:1"], {W0: [1]}),
    (P1, ["-i", "worker-0:1,1"], {W0: [1]}),
    (P1, ["-i", "worker-0:1@worker-0:0,1"], {W0: [0, 1]}),
    (P1, ["-i", "worker-0"], {W0: ALL}),
    (P1, ["-e", "worker-0"], "leaves no host"),
    (P1, ["-e", "worker-0:0,1,2,3"], "leaves no host"),
    (P2, [], {W0: ALL, W1: ALL}),
    (P2, ["-i", "worker-1:0,3"], {W1: [0, 3]}),
    (P2, ["-e", "worker-1"], {W0: ALL}),
    (P2, ["-e", "worker-0:0,1@worker-1:3"], {W0: [2, 3], W1: [0, 1, 2]}),
    (P2, ["-i", "jeff"], "unknown host 'jeff'"),
    (P2, ["-e", "jeff"], "unknown host 'jeff'"),
    (P2, ["-i", "worker-1:4"], "has no slot 4"),
    (P2, ["-e", "worker-1:4"], "has no slot 4"),
    (P2, ["-e", "worker-1@worker-0:1@5"], "unknown host '5'"),
    (P2, ["-i", "worker-0@worker-1:0,2"], {W0: ALL, W1: [0, 2]}),
    (P2, ["-i", "worker-1:0,2"], {W1: [0, 2]}),
    (P2, ["-e", "worker-0:1"], {W0: [0, 2, 3], W1: ALL}),
    (P2, ["-i", "worker-1:0,2@worker-0"], {W0: ALL, W1: [0, 2]}),  # the order is the hostfile's
    (P2, ["-i", "worker-0:1@worker-0"], {W0: ALL}),
    (P2, ["-i", "worker-[0-1]:0"], {W0: [0], W1: [0]}),
    *[(P1, [option, spec], "no slot") for option in ("-i", "-e") for spec in ("worker-0:4", "worker-0:99", "worker-0:0,4")],
    (P1, ["-i", "worker-0:"], "is not a list of slots"),
    (P1, ["-i", "worker-0:a"], "is not a list of slots"),
    (P1, ["-i", "worker-0:-1"], "is not a list of slots"),
    (P1, ["-i", "worker-0:1,"], "is not a list of slots"),
    (P1, ["-i", "worker-0:1:2"], "is not a list of slots"),
    (P1, ["-i", "worker-0@"], "is not a host name"),
    (P1, ["-i", "worker-0", "-e", "worker-0"], "exclude each other"),
    (P2, ["--nodes", "1"], {W0: ALL}),
    (P2, ["--slots", "1"], {W0: [0], W1: [0]}),
    (P2, ["--nodes", "1", "--slots", "1"], {W0: [0]}),
    (P2, ["--nodes", "1", "--slots", "1", "-i", "worker-1"], {W1: [0]}),
    (P2, ["--nodes", "1", "-e", "worker-0"], {W1: ALL}),
    (P2, ["--nodes", "3"], "there are only 2 hosts"),
    (P2, ["-i", "worker-0:1", "--slots", "2"], "more than the 1 slots"),
    (P2, ["-i", b"worker-\xff"], "is not a host name"),
    (P2, ["-i", "$(touch x)"], "is not a host name"),
    (P2, ["-i", "-oProxyCommand=x"], "is not a host name"),
]


def test_selection():
    for pool, options, want in SELECTIONS:
        got = placed(hostfile(pool), options)
        good = got == want if isinstance(want, dict) else isinstance(got, tuple) and got[0] == 2 and want in got[1]
        h.ok(good, f"select: {options} of {pool.count('slots')} hosts", got)
    got = placed(None, ["--nodes", "2"])
    h.ok(got[0] == 2 and "only 1 host" in got[1], "more hosts than this one, without a hostfile", got)
    for spec, want in (("localhost:2,3", {"localhost": [2, 3]}), ("localhost", {"localhost": [0]}),
                       (f"{socket.gethostname()}:1", {socket.gethostname(): [1]})):
        got = placed(None, ["-i", spec])
        h.ok(got == want, f"this machine, without a hostfile: {spec}", got)
    for options, want in ((["-e", "localhost:0"], "leaves no host"), (["-i", "mars:2"], "unknown host 'mars'"),
                          (["-i", "localhost:1024"], "no slot 1024"), (["-i", "localhost:2", "--slots", "2"], "no slot 2")):
        got = placed(None, options)
        h.ok(got[0] == 2 and want in got[1], f"this machine, without a hostfile: {options}", got)


# --- hostfiles ----------------------------------------------------------------------------------------

GOOD = """
    worker-1 slots=2 address=127.0.0.1
worker-2 slots=2 address=127.0.0.2

localhost slots=1
127.0.0.3 slots=2

#worker-1 slots=3
# a comment
"""
HOSTFILES = [  # text, hosts and slots or (code, what is said)
    (GOOD, {"worker-1": [0, 1], "worker-2": [0, 1], "localhost": [0], "127.0.0.3": [0, 1]}),
    ("worker-1 slots=2\nworker-2 slots=2\nworker-1 slots=2\n", (65, "hosts:3:1: host 'worker-1' is named twice")),
    ("this is bad slots=1\n", (65, "hosts:1:6: expected key=value")),
    ("missingslots slots\n", (65, "hosts:1:14: expected key=value")),
    ("\n\n  \n", (65, "hosts")),
    ("", (65, "hosts")),
    ("worker-1 slots=2\nthis is bad slots=1\nworker-2 slots=4\nmissingslots\n", (65, "hosts:2:6")),
    ("localhost # no slots are one\n", {"localhost": [0]}),
    ("localhost\tslots=3 # three\n", {"localhost": [0, 1, 2]}),
    ("localhost slots=2x\n", (65, "hosts:1:11: slots must be a number")),
    ("localhost slots=0\n", (65, "hosts:1:11: slots must be a number")),
    ("localhost slots=-1\n", (65, "hosts:1:11: slots must be a number")),
    ("localhost slots = 2\n", (65, "hosts:1:11")),
    ("localhost slots=2 max_slots=4\n127.0.0.2 max-slots=2\n", {"localhost": [0, 1], "127.0.0.2": [0]}),  # Open MPI's
    ("localhost slots=5 max_slots=4\n", (65, "hosts:1:19: slots are 5, above max_slots")),
    ("localhost SLOTS=2\n", (65, "hosts:1:11")),
    ("localhost slots=2 slots=3\n", (65, "hosts:1:19: named twice")),
    ("w1,w2 slots=4\n", (65, "hosts:1:1")),
    ("w1:2\n", (65, "hosts")),
    ("user@w1 slots=2\n", (65, "hosts:1:1")),
    ("-oProxyCommand=x slots=2\n", (65, "hosts:1:1")),
    ("$(touch x) slots=2\n", (65, "hosts:1:")),
    ("w'1 slots=2\n", (65, "hosts:1:1")),
    (b"w\xff slots=2\n", (65, "hosts")),
    (b"localhost user=\xff'$(x)\n", {"localhost": [0]}),  # a name is a name
    (b"local\0host slots=2\n", (65, "hosts")),
    ("127.0.0.[1-3] slots=2\n", {f"127.0.0.{i}": [0, 1] for i in (1, 2, 3)}),
    ("hosts: [{name: a, address: 127.0.0.1, devices: [4, 6]}]\n", {"a": [0, 1]}),
    ("hosts: [{name: 'a b', slots: 1}]\n", (65, "hosts:1:9: 'a b' is not a host name")),
    ("hosts: [{name: a, slots: 1, gpus: 2}]\n", (65, "hosts:1:29: unknown key 'gpus'")),
]


def test_hostfiles():
    for text, want in HOSTFILES:
        hostfile(text)
        got = placed("hosts", [])
        good = got == want if isinstance(want, dict) else isinstance(got, tuple) and got[0] == want[0] and want[1] in got[1]
        h.ok(good, f"hostfile: {text[:50]!r}", got)
    bounded = hostfile("localhost max_slots=4\n")
    h.ok(placed(bounded, ["--slots", "4"]) == {"localhost": [0, 1, 2, 3]}, "as many slots as there may be")
    got = placed(bounded, ["--slots", "5"])
    h.ok(got[0] == 2 and "5 slots on host 'localhost': its max_slots are 4" in got[1], "and no more", got)
    got = placed("no/such/hosts", [])
    h.ok(got[0] == 2 and "no/such/hosts" in got[1], "a hostfile that is missing is code 2", got)


# --- what a rank finds --------------------------------------------------------------------------------

def ranks(text, *words, options=(), **env):
    """Lines of output by rank."""
    code, out, err = launch(*words, hosts=hostfile(text), options=options, **env)
    found = {}
    for line in out.decode().splitlines():
        label, _, said = line.partition("] ")
        found.setdefault(int(label.split()[-1]), []).append(said)
    return code, found, err


def test_ranks():
    code, found, err = ranks("a slots=3 address=127.0.0.1\nb slots=2 address=127.0.0.2\n", "sh", "-c",
                             "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $NODE_RANK $GROUP_RANK")
    want = {0: ["0 0 5 3 0 0"], 1: ["1 1 5 3 0 0"], 2: ["2 2 5 3 0 0"], 3: ["3 0 5 2 1 1"], 4: ["4 1 5 2 1 1"]}
    h.ok(code == 0 and found == want, "unequal slots: local ranks count from 0 on each host", (found, err))
    code, found, err = ranks(P2, "sh", "-c", "echo $LOCAL_RANK $CUDA_VISIBLE_DEVICES", options=["-i", "worker-1:1,3"])
    h.ok(found == {0: ["0 1,3"], 1: ["1 1,3"]}, "slots that were chosen are devices, counted from 0", (found, err))
    code, found, err = ranks("hosts: [{name: a, address: 127.0.0.1, devices: [4, 6, 7]}]\n", "sh", "-c",
                             "echo $CUDA_VISIBLE_DEVICES", options=["-e", "a:1"])
    h.ok(found == {0: ["4,7"], 1: ["4,7"]}, "devices that the hostfile names", (found, err))
    code, out, err = launch("sh", "-c", "echo $LOCAL_RANK $WORLD_SIZE $CUDA_VISIBLE_DEVICES", options=["-i", "localhost:2,3"])
    said = sorted(line.partition("] ")[2] for line in out.decode().splitlines())
    h.ok(code == 0 and said == ["0 2 2,3", "1 2 2,3"], "deepspeed's localhost:2,3 without a hostfile", (out, err))
    code, found, err = ranks("localhost slots=3\n", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", options=["-e", "localhost:1"],
                             CUDA_VISIBLE_DEVICES="4,GPU-5a,7")
    h.ok(found == {0: ["4,7"], 1: ["4,7"]}, "slots count what this machine's own variable leaves", (found, err))
    code, found, err = ranks("localhost slots=3\n", "sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]", options=["-i", "localhost:1"],
                             CUDA_VISIBLE_DEVICES="")
    h.ok(found == {0: ["[]"]}, "GPUs that are hidden stay so", (found, err))
    code, found, err = ranks(P1, "sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}", options=["--slots", "1"])
    h.ok(found == {0: ["unset"]}, "no devices are made up", (found, err))
    code, found, err = ranks(P1, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", options=["-i", "worker-0:2", "--env", "CUDA_VISIBLE_DEVICES=9"])
    h.ok(found == {0: ["9"]}, "what the user gives wins", (found, err))
    got = placed(hostfile("hosts: [{name: a, address: 127.0.0.1, slots: 2, devices: [5]}]\n"), [])
    h.ok(got[0] == 2 and "no one for slot 1" in got[1], "a slot without a device", got)
    code, found, err = ranks(P2, "sh", "-c", "echo $MASTER_ADDR:$MASTER_PORT $OMP_NUM_THREADS")
    meet = {line.split()[0] for lines in found.values() for line in lines}
    h.ok(len(meet) == 1 and meet.pop().startswith("127.0.0.1:"), "all meet at rank 0's host", (found, err))
    code, found, err = ranks(P1, "sh", "-c", "echo $OMP_NUM_THREADS $MASTER_ADDR", OMP_NUM_THREADS="77", options=[
        "--env", "MASTER_ADDR=elsewhere"])
    h.ok(set(map(tuple, found.values())) == {("77 elsewhere",)}, "OMP_NUM_THREADS only where unset", (found, err))
    seen = {ranks(P1, "sh", "-c", "echo $MASTER_PORT", options=["--slots", "1"])[1][0][0] for _ in range(3)}
    h.ok(len(seen) > 1 and all(1024 < int(p) < 65536 for p in seen), "the port is not a fixed one", seen)


PROMPTS = ["I am 6' tall", 'I am 72" tall', '"translate English to Romanian: "',
           'I\'m going to tell them "DeepSpeed is the best"', "$HOME", "%n", "%h-%n-%u-%%", "two\nlines", "*", ";", "",
           "`id`", "$(touch x)", "\\", "-x", "--", "{}", "a=b", "\t", "~", "!!", "#"]


SHOW_ARGUMENTS = "printf '%s\\n' \"$#\"; for a; do printf %s \"$a\" | od -An -v -tx1 | tr -d ' \\n'; echo .; done"


def test_arguments():
    script = SHOW_ARGUMENTS
    for name, text in (("one host", P1), ("two hosts", P2)):
        code, found, err = ranks(text, "sh", "-c", script, "sh", *PROMPTS)
        want = [str(len(PROMPTS)), *(p.encode().hex() + "." for p in PROMPTS)]
        h.ok(code == 0 and len(found) == 4 * text.count("slots") and all(lines == want for lines in found.values()),
             f"prompts of all kinds reach every rank of {name} unchanged", (found.get(0), err))
    code, found, err = ranks(P1, "sh", "-c", script, "sh", b"\xff\xfe", options=["--slots", "1"])
    h.ok(found == {0: ["1", "fffe."]}, "even if they are not UTF-8", (found, err))
    ran = subprocess.run(["bash", "-c", 'echo "sh -c \'echo \\$1\' sh --prompt=\\"DeepSpeed is the best\\"" | '
                          f"xargs {h.DSRUN} launch --"], capture_output=True, text=True, cwd=h.work(),
                         env=h.environment(), timeout=60, check=False)
    h.ok(ran.stdout.endswith("] --prompt=DeepSpeed is the best\n"), "an argument through xargs", ran.stdout + ran.stderr)
    odd = h.work() / os.fsdecode(b"a folder'\xff\n$(x)")
    odd.mkdir()
    ran = subprocess.run([h.DSRUN, "launch", "--", "sh", "-c", "pwd | od -An -v -tx1 | tr -d ' \\n'"], cwd=odd,
                         env=h.environment(), capture_output=True, text=True, timeout=60, check=False)
    h.ok(ran.stdout.split()[-1] == (os.fsencode(odd.resolve()) + b"\n").hex(), "a working directory of any name",
         ran.stdout + ran.stderr)
    h.ok(not list(h.work().glob("x")), "nothing was executed by the way")


def test_variables():
    show = ["sh", "-c", "printf '%s|' \"$SLURM_JOB_CPUS_PER_NODE\" \"$PYTHONPATH\" \"$V1\" \"$V2\" \"$V3\" \"$V4\""]
    code, found, err = ranks(P1, *show, options=["--slots", "1", "--env", "SLURM_JOB_CPUS_PER_NODE", "--env", "PYTHON*"],
                             SLURM_JOB_CPUS_PER_NODE="64(x2)", PYTHONPATH="/some/path:/other")
    h.ok(found == {0: ["64(x2)|/some/path:/other|||||"]}, "values are handed on as they are", (found, err))
    (h.work() / ".env").write_text("# comment\n\nexport V1=1\nV2='two words'\nV3=\"x \\\"y\\\"\" # z\n  V4 = no\n")
    code, found, err = ranks(P1, *show, options=["--slots", "1", "--env-file", ".env"])
    h.ok(code == 65 and err == b"dsrun: error: .env:6:3: expected NAME=value\n", "a wrong line of a file", (code, err))
    (h.work() / ".env").write_text("# comment\n\nexport V1=1\nV2='two words'\nV3=\"x \\\"y\\\"\" # z\nV4=$V1;ls\n")
    code, found, err = ranks(P1, *show, options=["--slots", "1", "--env-file", ".env"])
    h.ok(found == {0: ["||1|two words|x \"y\"|$V1;ls|"]}, "blank lines, comments, export and quotes of a file", (found, err))
    secrets()


def secrets():
    """Values reach ranks, and nothing else that others may read: no command line, no file, no message."""
    pipe, end = os.pipe()
    os.write(end, b"V2=hush-2\n")
    os.close(end)
    (h.work() / "secret.env").write_text("V1=hush-1\n")
    # The rank looks at the command lines of all that led to it.
    look = 'echo "$V1$V2$V3" | tr -d -c 0-9; p=$$; while [ $p -gt 1 ]; do tr "\\0" " " </proc/$p/cmdline | grep -c "hus[h]-"; ' \
           'p=$(sed "s/.*) . //" /proc/$p/stat | cut -d" " -f1); done | tr "\\n" +'
    ran = subprocess.run([h.DSRUN, "launch", "-v", "--run-dir", "secrets", "--env-file", "secret.env", "--env-file",
                          f"/dev/fd/{pipe}", "--env", "V3", "--", "sh", "-c", look], cwd=h.work(),
                         env=h.environment(V3="hush-3"), pass_fds=[pipe], capture_output=True, text=True, timeout=60, check=False)
    os.close(pipe)
    h.ok(ran.returncode == 0 and re.search(r"\] 123(0\+){3,}$", ran.stdout, re.M),
         "secrets of a file, a pipe and the environment reach a rank, and no command line", ran)
    kept = [path for path in (h.work() / "secrets").rglob("*") if path.is_file() and b"hush" in path.read_bytes()]
    h.ok(not kept and "hush" not in ran.stderr, "nor a file or a message", (kept, ran.stderr))
    ran = subprocess.run([h.DSRUN, "launch", "-v", "--dry-run", "--env-file", "secret.env", "--env", "V3", "--", "true"],
                         cwd=h.work(), env=h.environment(V3="hush-3"), capture_output=True, text=True, timeout=60, check=False)
    h.ok(ran.returncode == 0 and "hush" not in ran.stdout + ran.stderr, "nor --dry-run", ran)


# --- endings ------------------------------------------------------------------------------------------

def begin(script, *options, text=P2):
    """Start ranks in the background; returns once all run."""
    flags = h.work() / f"flags-{time.monotonic_ns()}"
    flags.mkdir()
    count = 4 * text.count("slots")
    process = subprocess.Popen([h.DSRUN, "launch", "-H", hostfile(text), *options, "--", "sh", "-c",
                                f"{script.split('#')[0]} touch {flags}/$RANK; {script.split('#')[1]}"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=h.work(),
                               env=h.environment())
    if not wait_for(lambda: len(list(flags.iterdir())) == count or process.poll() is not None, 60):
        h.ok(False, f"{count} ranks start", sorted(flag.name for flag in flags.iterdir()))
    return process


def finish(process, seconds=30):
    try:
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        return (None, *process.communicate())


def test_endings():
    for name, script, code, said in [
            ("rank 1 ends with 3 while the other host sleeps", "[ $RANK = 5 ] && exit 3; sleep 1000", 3,
             "rank 5 on worker-1 ended with code 3; 7 other ranks"),
            ("a rank is killed", "[ $RANK = 2 ] && kill -9 $$; sleep 1000", 137, "rank 2 on worker-0 was killed by signal 9"),
            ("a rank ends with 255", "[ $RANK = 0 ] && exit 255; sleep 1000", 255, "rank 0 on worker-0 ended with code 255"),
            ("all end with 0", "exit 0", 0, "")]:
        code_got, _, err = launch("sh", "-c", script, hosts=hostfile(P2))
        h.ok(code_got == code and said in err.decode(), name, (code_got, err))
    there = h.work() / "there"
    there.mkdir()
    code, out, err = launch("sh", "-c", f"""
        if [ $RANK = 5 ]; then until [ "$(ls {there} | wc -l)" = 7 ]; do sleep 0.1; done; exit 3; fi
        trap 'sleep 3; echo saved; exit 0' TERM
        : >{there}/$RANK
        sleep 1000 & wait""", hosts=hostfile(P2))
    h.ok(code == 3 and out.count(b"saved") == 7, "after a failure the others have the whole grace", (code, out, err))
    nothing_left("failures")
    process = begin("#sleep 1000")
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    h.ok(code == 143, "SIGTERM to dsrun", (code, err))
    nothing_left("SIGTERM")
    process = begin("trap '' TERM; #sleep 1000 & wait; wait", "--grace", "0.5")
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    h.ok(code == 143, "eight ranks that ignore SIGTERM are killed after one grace", (code, err))
    nothing_left("deaf ranks")
    process = begin("#sleep 1000")
    process.kill()
    finish(process)
    nothing_left("SIGKILL to dsrun")
    process = begin("#sleep 1000")
    agents = [pid for pid, line in h.processes().items() if "dsrun-agent" in line]
    os.kill(agents[0], signal.SIGKILL)
    code, _, err = finish(process)
    h.ok(code == 70 and "killed by signal 9" in err, "SIGKILL to an agent", (code, err))
    nothing_left("SIGKILL to an agent")
    asleep = lambda: list(h.processes().values()).count("sleep 1000")
    one, other = begin("#sleep 1000"), begin("#sleep 1000")
    began = wait_for(lambda: asleep() == 16, 60)  # a shell has said that it runs before it becomes this
    one.send_signal(signal.SIGINT)
    code, _, err = finish(one)
    h.ok(began and code == 130 and other.poll() is None and asleep() == 8, "two jobs: SIGINT to one leaves the other alone",
         (began, code, err, h.processes()))
    other.send_signal(signal.SIGINT)
    finish(other)
    nothing_left("two jobs")


def test_signals():
    """USR1 and USR2 to dsrun are the programs', and no children's of theirs."""
    process = begin("sleep 1000 & child=$!; trap 'echo one' USR1; trap 'kill $child; exit 7' USR2;#"
                    "while :; do wait $child; kill -0 $child 2>/dev/null || exit 9; done")
    process.send_signal(signal.SIGUSR1)
    first = b"".join(process.stdout.readline() for _ in range(8)).decode()
    h.ok(first.count("one") == 8 and all(f" {rank}] one" in first for rank in range(8)), "USR1 reaches every rank, none ends",
         first)
    process.send_signal(signal.SIGUSR2)
    code, out, err = finish(process)
    h.ok(code == 7 and "one" not in out, "USR2 likewise; children have had none of it", (code, out, err))
    code, _, err = finish(ended(begin("#exec sleep 1000"), signal.SIGUSR1))
    h.ok(code == 128 + signal.SIGUSR1 and "signal 10" in err, "a program that does not expect USR1 ends by it",
         (code, err))
    nothing_left("after USR1 and USR2")


def ended(process, number):
    process.send_signal(number)
    return process


def test_start():
    """Nothing is started anywhere unless every host can start its part."""
    flag = h.work() / "started"
    code, _, err = launch("./only-here", hosts=hostfile(P2), options=["--cwd", "/no/such/folder"])
    h.ok(code == 126 and b"working directory '/no/such/folder': No such file" in err, "a working directory that is not there",
         (code, err))
    code, _, err = launch("no-such-program", hosts=hostfile(P2))
    h.ok(code == 127 and b"no such program in PATH" in err, "a program that is not there", (code, err))
    h.ok(not flag.exists(), "and nothing was started")
    code, out, err = launch("sh", "-c", "cat; echo end", options=["--slots", "1"])
    h.ok(code == 0 and out.endswith(b"] end\n"), "stdin is empty", (out, err))
    nothing_left("starts")


def test_output():
    code, out, err = launch("sh", "-c", "i=0; while [ $i -lt 300 ]; do echo $RANK.$i.abcdefghijklmnopqrstuvwxyz; i=$((i+1)); done",
                            hosts=hostfile(P2))
    lines = out.decode().splitlines()
    good = all(line == f"[worker-{int(line.split('] ')[1][0]) // 4} {line.split('] ')[1][0]}] {line.split('] ')[1]}"
               for line in lines)
    h.ok(code == 0 and len(lines) == 2400 and good, "lines are whole and labelled", lines[:5])
    code, out, err = launch("printf", r"\033]0;x\a\377\n", options=["--slots", "1"])
    h.ok(out.endswith(b"] \\x1b]0;x\\x07\\xff\n"), "control characters are shown, not obeyed", out)
    run = h.work() / "run"
    code, out, err = launch("sh", "-c", "printf 'a\\0%s' $RANK; printf '\\377' >&2", hosts=hostfile(P2), options=["--run-dir", run, "-q"])
    logs = [(run / "logs" / f"rank-{i:05}.log").read_bytes() for i in range(8)]
    h.ok(code == 0 and all(sorted(log) == sorted(b"a\0%d\xff" % i) for i, log in enumerate(logs)) and out == b"",
         "--run-dir keeps every byte of each rank", (logs, out, err))


# --- real hosts ---------------------------------------------------------------------------------------

def renamed(value):
    """A selection, with the names of the hosts of a bed."""
    if isinstance(value, dict):
        return {renamed(name): slots for name, slots in value.items()}
    if isinstance(value, str):
        return value.replace("worker-[0-1]", "node[1-2]").replace(W0, "node1").replace(W1, "node2")
    return value


def test_real(place):
    by = place.name
    hosts = place.hostfile(f"{place.line(0, slots=3)}\n{place.line(1, slots=2)}\n")

    def said(*words):
        ran = place.run("launch", "--", *words, hosts=hosts)
        found = {}
        for line in ran.stdout.decode(errors="replace").splitlines():
            label, _, text = line.partition("] ")
            found.setdefault(label, []).append(text)
        return ran.returncode, found, ran.stderr

    code, found, err = said("sh", "-c", "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $NODE_RANK $(hostname)")
    want = {f"[node1 {r}": [f"{r} {r} 5 3 0 node1"] for r in range(3)}
    want |= {f"[node2 {3 + r}": [f"{3 + r} {r} 5 2 1 node2"] for r in range(2)}
    h.ok(code == 0 and found == want, f"{by}: ranks are where they should be, and know it", (found, err))
    code, found, err = said("sh", "-c", SHOW_ARGUMENTS, "sh", *PROMPTS)
    want = [str(len(PROMPTS)), *(p.encode().hex() + "." for p in PROMPTS)]
    h.ok(code == 0 and len(found) == 5 and all(lines == want for lines in found.values()),
         f"{by}: prompts of all kinds reach every rank of two real hosts unchanged", (found, err))
    code, found, err = said("sh", "-c", "[ $RANK = 4 ] && exit 3; exec sleep 1000")
    h.ok(code == 3 and b"rank 4 on node2 ended with code 3; 4 other ranks" in err, f"{by}: the first failure ends all",
         (code, err))
    h.ok(not place.left(), f"{by}: nothing is left on any host", place.left())
    if by == "slurm":  # over ssh all of it is told before any host is reached
        for pool, options, want in SELECTIONS:
            hosts = place.hostfile("".join(place.line(i, slots=4) + "\n" for i in range(pool.count("slots"))))
            want = renamed(want)
            got = placed(hosts, [renamed(option) for option in options], place)
            good = got == want if isinstance(want, dict) else isinstance(got, tuple) and got[0] == 2 and want in got[1]
            h.ok(good, f"slurm: select: {options} of {pool.count('slots')} nodes", got)


test_selection()
test_hostfiles()
test_ranks()
test_arguments()
test_variables()
test_start()
test_output()
test_endings()
test_signals()
for the_place in places.beds_of(2):
    test_real(the_place)
h.done()
