#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""exec - a program once on every host: folded output, exit codes, stops, and no trace left.

On names of this machine, each with an agent of its own; on real hosts over ssh; in an allocation of Slurm.
"""
import json
import re
import signal
import time

import harness as h
import places

NODES = [f"node{i}" for i in range(1, 5)]
place = None  # where the cases run


def run(*words, hosts=None, options=(), **env):
    """(code, stdout, stderr) as bytes."""
    ran = place.run("exec", *options, "--", *words, hosts=hosts, **env)
    return ran.returncode, ran.stdout, ran.stderr


def ok(good, name, detail=""):
    h.ok(good, f"{place.name}: {name}", detail)


def case(name, words, code, out, err=b"", **more):
    got = run(*words, **more)
    ok(got == (code, out, err), name, f"{got}\nnot {(code, out, err)}")


def shell(script):
    return ["sh", "-c", script]


def wait_for(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def nothing_left(name):
    still = place.left()
    ok(not still, f"{name}: nothing is left running", still)
    if still:
        place.reap()


def test_fold():
    case("what all say alike is shown once", ["echo", "hi"], 0, b"node[1-4]:\nhi\n")
    case("what differs is shown apart, by the first host",
         shell("echo $((RANK % 2))"), 0, b"node[1,3]:\n0\nnode[2,4]:\n1\n")
    case("every line counts", shell("echo same; [ $RANK != 2 ] || echo more"), 0,
         b"node[1-2,4]:\nsame\nnode3:\nsame\nmore\n")
    case("who says nothing is not named", shell("[ $RANK != 1 ] || echo me"), 0, b"node2:\nme\n")
    case("nothing said, nothing shown", ["true"], 0, b"")
    case("stderr is folded apart", shell("echo out; echo err >&2"), 0, b"node[1-4]:\nout\n", b"node[1-4]:\nerr\n")
    case("a last line without an end", ["printf", "a"], 0, b"node[1-4]:\na\n")
    case("an empty line is a line", ["echo"], 0, b"node[1-4]:\n\n")
    case("control characters are shown, not obeyed", ["printf", r"\033[2J\a\200\r\n\tx\0y\n"], 0,
         b"node[1-4]:\n\\x1b[2J\\x07\\x80\n\tx\\x00y\n")
    case("only the hosts that are included", ["echo", "hi"], 0, b"node[2,4]:\nhi\n", options=["-i", "node2@node4"])
    case("a host with many slots runs it once", ["echo", "hi"], 0, b"node1:\nhi\n",
         hosts=place.hostfile(place.line(0, slots=7) + "\n", "slots"))


def test_arguments():
    words = ["I am 6' tall", 'I am 72" tall', "$HOME `id` $(id)", "%n %h", "two\nlines", "*", ";", "", "-x", "--", "\\"]
    got = run("printf", "%s\\0", *words)
    want = "".join(w + "\\x00" for w in words).encode()
    ok(got == (0, b"node[1-4]:\n" + want + b"\n", b""), "arguments arrive byte for byte", got)
    got = run("sh", "-c", "printf %s \"$1\" | od -An -tx1", "sh", b"\xff\xfe\x80\n")
    ok(got[1] == b"node[1-4]:\n ff fe 80 0a\n", "even if they are not UTF-8", got)
    got = run(*shell("printf %s \"$VALUE\" | od -An -tx1"), options=["--env", b"VALUE=\xff '\"$x"])
    ok(got[1] == b"node[1-4]:\n ff 20 27 22 24 78\n", "so do values of variables", got)
    got = run(*shell("cat; echo end"))
    ok(got == (0, b"node[1-4]:\nend\n", b""), "stdin is empty", got)
    got = run("pwd", HOME="/usr")
    ok(got == (0, b"node[1-4]:\n%s\n" % place.home("/usr").encode(), b""), "it runs in the home folder", got)
    got = run("pwd", options=["--cwd", "/etc"])
    ok(got == (0, b"node[1-4]:\n/etc\n", b""), "or where --cwd says", got)


def test_codes():
    case("the highest code wins", shell("exit $RANK"), 3, b"",
         b"dsrun: error: node2: ended with code 1\ndsrun: error: node3: ended with code 2\n"
         b"dsrun: error: node4: ended with code 3\n")
    case("ends alike are told once", shell("[ $RANK = 2 ] || exit 9"), 9, b"",
         b"dsrun: error: node[1-2,4]: ended with code 9\n")
    case("a signal is 128 and its number", shell("[ $RANK != 1 ] || kill -SEGV $$"), 139, b"",
         b"dsrun: error: node2: killed by signal 11 (Segmentation fault)\n")
    case("75 is a code like another", shell("exit 75"), 75, b"", b"dsrun: error: node[1-4]: ended with code 75\n")
    case("a failure stops nobody else", shell("[ $RANK = 0 ] && exit 1; sleep 0.5; echo done"), 1,
         b"node[2-4]:\ndone\n", b"dsrun: error: node1: ended with code 1\n")
    case("no such program", ["no-such-program"], 127, b"",
         b"node[1-4]:\ndsrun-agent: cannot start 'no-such-program': no such program in PATH\n"
         b"dsrun: error: node[1-4]: ended with code 127\n")
    case("no such folder", ["true"], 126, b"",
         b"node[1-4]:\ndsrun-agent: working directory '/no/such': No such file or directory\n"
         b"dsrun: error: node[1-4]: ended with code 126\n", options=["--cwd", "/no/such"])
    case("a file that may not be executed", ["/etc/passwd"], 126, b"",
         b"node[1-4]:\ndsrun-agent: cannot start '/etc/passwd': Permission denied\n"
         b"dsrun: error: node[1-4]: ended with code 126\n")
    nothing_left("codes")


def test_usage():
    for name, options, code, text in [
            ("a hostfile that is not there", ["-H", "none"], 2, "cannot open 'none'"),
            ("a host that is not in it", ["-i", "node9"], 2, "--include: unknown host 'node9'"),
            ("nothing is left of it", ["-e", "node[1-4]"], 2, "leaves no host"),
            ("more hosts than there are", ["--nodes", 9], 2, "there are only 4 hosts"),
            ("live and JSON", ["--live", "--json"], 2, "exclude each other"),
            ("a relative folder", ["--cwd", "x"], 2, "must start with '/'"),
            ("a variable that is not set", ["--env", "NOT_SET"], 2, "no such variable"),
            ("a file of variables that is not there", ["--env-file", "none"], 2, "none"),
            ("an option of ranks", ["--slots", 2], 2, "does not go with 'exec'"),
    ]:
        hosts = [] if "-H" in options else ["-H", place.hosts]
        ran = h.dsrun("exec", *hosts, *options, "--", "echo", "it ran")
        ok(ran.returncode == code and text in ran.stderr and "it ran" not in ran.stdout, f"usage: {name}",
             f"{ran.returncode}: {ran.stdout}{ran.stderr}")
    ran = h.dsrun("exec", "-H", place.hosts, "--dry-run", "--", "echo", "it ran")
    ok(ran.returncode == 0 and ran.stdout == "".join(f"host {n}\n" for n in NODES), "--dry-run lists the hosts",
         ran.stdout + ran.stderr)


def test_variables():
    (h.work() / ".env").write_text("# two\nexport FROM_FILE='a b'\n\nBOTH=file\n")
    got = run(*shell("echo $FROM_FILE $BOTH $GIVEN $MY_1 $MY_2"), MY_1="one", MY_2="two",
              options=["--env-file", h.work() / ".env", "--env", "BOTH=option", "--env", "GIVEN=x", "--env", "MY_*"])
    ok(got == (0, b"node[1-4]:\na b option x one two\n", b""), "variables of a file, a name and a pattern", got)
    (h.work() / "bad.env").write_text("A=1\nnonsense\n")
    got = run("true", options=["--env-file", "bad.env"])
    ok(got == (65, b"", b"dsrun: error: bad.env:2:1: expected NAME=value\n"), "a wrong line has its place", got)


def test_json():
    code, out, err = run(*shell("printf 'x\\0\\377\\n'; echo e >&2; [ $RANK = 0 ] || exit $RANK"), options=["--json"])
    lines = [json.loads(line) for line in out.splitlines()]
    ok(code == 3 and err == b"" and [line["host"] for line in lines] == NODES, "json: an object a host, in order", out)
    ok([line["code"] for line in lines] == [0, 1, 2, 3] and "error" not in lines[0] and
         lines[1]["error"] == "ended with code 1", "json: codes", out)
    ok(all(line["stdout"] == "x\0\ufffd\n" and line["stderr"] == "e\n" for line in lines), "json: output", out)


def test_live():
    code, out, err = run(*shell("echo out; echo err >&2"), options=["--live"])
    ok(code == 0 and sorted(out.splitlines()) == [f"[{n}] out".encode() for n in NODES] and
         sorted(err.splitlines()) == [f"[{n}] err".encode() for n in NODES], "live: labelled lines", (out, err))
    code, out, err = run(*shell("i=0; while [ $i -lt 2000 ]; do printf '%s ' $RANK.$i; i=$((i+1)); done; echo"),
                         options=["--live"])
    whole = all(re.fullmatch(rb"\[node(\d)\] (\d\.\d+ ){2000}", line) for line in out.splitlines())
    ok(whole and len(out.splitlines()) == 4, "live: long lines are not torn", out[:200])
    code, out, err = run(*shell("yes 0123456789abcdef | head -c 3000000"))
    lines = out.splitlines()
    ok(code == 0 and len(lines) == 4 * -(-3000000 // 17) and lines[0].startswith(b"[node"),
         "who writes more than is kept is shown line by line", (code, len(lines), err))


def test_stop():
    def begin(script, *options, before=""):
        flag = h.work() / "flags"
        for old in flag.glob("*") if flag.exists() else []:
            old.unlink()
        flag.mkdir(exist_ok=True)
        process = place.start("exec", *options, "--", "sh", "-c", f"{before} touch {flag}/$RANK; {script}")
        wait_for(lambda: len(list(flag.iterdir())) == 4)
        return process

    process = begin("sleep 1000", before="echo begun;")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    ok(process.returncode == 130 and out == b"node[1-4]:\nbegun\n" and b"killed by signal 15" in err,
         "SIGINT ends it on every host; what they said is shown", (process.returncode, out, err))
    nothing_left("SIGINT")
    process = begin("trap '' TERM; sleep 1000 & wait; wait", "--grace", "0.5")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    ok(process.returncode == 143 and b"signal 9" in err, "who does not listen is killed after the grace",
         (process.returncode, err))
    nothing_left("grace")
    process = begin("sleep 1000")
    process.kill()
    process.communicate()
    nothing_left("SIGKILL to dsrun")
    process = begin("setsid sleep 1000 & exit 0")
    process.communicate(timeout=30)
    ok(process.returncode == 0, "a daemon that is left behind", process.returncode)
    nothing_left("daemons")
    process = begin("sleep 2; echo fine")
    place.kill("dsrun-agent", host=2)
    out, err = process.communicate(timeout=30)
    ok(process.returncode == 69 and re.search(rb"node\[.*\]:\nfine\n", out) and
         re.search(rb"error: node\d: its agent was killed by signal 9" if place.name != "slurm" else
                   rb"error: node\d: its agent went away", err),
         "a lost host is named, the others go on", (process.returncode, out, err))
    nothing_left("a lost agent")


for place in places.each(4):
    test_fold()
    test_arguments()
    test_codes()
    if place.name == "here":  # told before any host is reached
        test_usage()
    test_variables()
    test_json()
    test_live()
    test_stop()
h.done()
