#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""desk - dsrun as a person and a script at a desk use it: --json that is JSON whatever else is asked for, output
that cannot be written, a bare environment, paths with blanks, and help where one looks for it."""
import json
import os
import re
import signal
import subprocess
import time

import harness as h

JOB = h.write_job()


def documents(text):
    """The JSON values of a text, one a line, or None where it is something else."""
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return None


def help_of_groups():
    for group, command in (("ckpt", "ckpt verify"), ("bench", "bench machine"), ("hosts", "dsrun hosts")):
        ran = h.dsrun(group, "--help")
        h.ok(ran.returncode == 0 and command in ran.stdout and "JOB.yaml" not in ran.stdout,
             f"dsrun {group} --help is about {group}", ran.stdout)
    ran = h.dsrun("help")
    h.ok(ran.returncode == 2 and "neither a command nor a job file" in ran.stderr, "a word that is nothing", ran.stderr)
    (h.work() / "bare").write_text(open(JOB, encoding="utf-8").read())
    ran = h.dsrun("check", "bare")
    h.ok(ran.returncode == 0, "a job file whose name has no dot", ran.stderr)


def dry_runs():
    for words, key in ((["--dry-run", JOB], "placement"), (["plan", JOB], "placement"),
                       (["launch", "--dry-run", "--", "true"], "placement"),
                       (["exec", "--dry-run", "--", "true"], "host"), (["hosts", "--dry-run"], "host")):
        ran = h.dsrun(words[0], "--json", *words[1:])
        found = documents(ran.stdout)
        h.ok(ran.returncode == 0 and found is not None and len(found) == 1 and key in found[0],
             f"JSON of dsrun {' '.join(w for w in words if w is not JOB)}", ran.stdout + ran.stderr)
    ran = h.dsrun("launch", "--json", "--dry-run", "--slots", "2", "--", "true")
    ranks = documents(ran.stdout)[0]["placement"]
    h.ok([rank["rank"] for rank in ranks] == [0, 1] and all(rank["cpus"] for rank in ranks), "every rank is placed", ranks)
    words = ["sh", "-c", 'echo "$RANK"\n', "a b"]
    ran = h.dsrun("launch", "--json", "--dry-run", "--env", "TOKEN=hush", "--", *words)
    found = documents(ran.stdout)[0]
    h.ok(found["program"] == words and found["env"] == ["TOKEN"] and "hush" not in ran.stdout,
         "the program to the letter, names of variables and no value", ran.stdout)
    ran = h.dsrun("launch", "--dry-run", "--env", "TOKEN=hush", "--", *words)
    h.ok(ran.stdout.startswith('program  ["sh","-c","echo \\"$RANK\\"\\n","a b"]\nrank 0  ') and
         ran.stdout.endswith("\nenv  TOKEN\n"), "the same as text", ran.stdout)
    ran = h.dsrun("--dry-run", "--env", "TOKEN=hush", JOB, "launch.env={OTHER: hush}")
    h.ok(ran.returncode == 0 and ran.stdout.endswith("\nenv  OTHER TOKEN\n"), "variables of a job", ran.stdout + ran.stderr)
    (h.work() / "many").write_text("hosts: ['node[1-1000]']\n")
    ran = h.dsrun("launch", "-v", "--dry-run", "--hostfile", "many", "--", "true")
    h.ok(ran.stderr == "dsrun: info: 1000 hosts (ssh): node[1-1000]\n", "-v tells the hosts and how they are reached",
         ran.stderr)
    h.ok(ran.stdout.count("\n") == 1001 and "rank 999  host node1000  slot 0  " in ran.stdout, "a thousand hosts, dry",
         ran.stdout[-200:])


def lost_output():
    """(words, code): what cannot be written is an error, but of a training run, which has its record."""
    own = h.work() / "runtime"  # no job of others is listed
    own.mkdir()
    for words, code in ((["--help"], 1), (["ps", "--json"], 0), (["plan", JOB], 1), (["hosts"], 1),
                        (["exec", "--", "echo", "hi"], 1), (["exec", "--json", "--", "echo", "hi"], 1),
                        (["launch", "--", "echo", "hi"], 1), (["launch", "--dry-run", "--", "echo", "hi"], 1),
                        (["exec", "--", "true"], 0), (["--run-dir", "full", JOB], 0)):
        with open("/dev/full", "wb") as full:
            ran = subprocess.run([h.DSRUN, *map(str, words)], stdout=full, stderr=subprocess.PIPE, cwd=h.work(),
                                 timeout=120, text=True, env=h.environment(XDG_RUNTIME_DIR=str(own)), check=False)
        told = "No space left on device" in ran.stderr
        h.ok(ran.returncode == code and told == (code == 1 or "full" in words),
             f"a full disk behind dsrun {' '.join(map(str, words[:3]))}: {code}", f"{ran.returncode} {ran.stderr}")
    lines = subprocess.run(["bash", "-c", '"$0" exec -- seq 100000 | head -n 1; echo "${PIPESTATUS[0]}"', h.DSRUN],
                           cwd=h.work(), capture_output=True, text=True, timeout=60, env=h.environment(), check=False)
    h.ok(re.fullmatch(r"\S+:\n0\n", lines.stdout) and not lines.stderr, "a reader that has seen enough is no error",
         lines.stdout + lines.stderr)


def bare_environment():
    def bare(*words, **env):
        mark = dict([h.MARK.split("=")])
        return subprocess.run([h.DSRUN, *map(str, words)], env={**mark, **env}, cwd=h.work(), capture_output=True,
                              text=True, timeout=60, check=False)

    ran = bare("ps")
    h.ok(ran.returncode == 1 and "HOME is set to a path" in ran.stderr, "dsrun ps without HOME says what it misses",
         ran.stderr)
    home = h.work() / "home"
    home.mkdir()
    ran = bare("ps", HOME=str(home))
    h.ok(ran.returncode == 0 and not ran.stdout + ran.stderr and not os.listdir(home), "dsrun ps leaves nothing behind",
         ran.stderr)
    ran = bare("kill", "nobody", HOME=str(home))
    h.ok(ran.returncode == 2 and "no job 'nobody'" in ran.stderr, "dsrun kill where no job has ever run", ran.stderr)
    ran = bare("--run-dir", "a run, ä", JOB)
    h.ok(ran.returncode == 0 and ran.stderr.count("warning") == 1 and "dsrun ps" in ran.stderr,
         "training with an empty environment, in a folder with a blank", ran.stderr)
    ran = bare("ckpt", "ls", "--json", "a run, ä")
    h.ok(ran.returncode == 0 and documents(ran.stdout), "and its checkpoints are found", ran.stdout + ran.stderr)


def going_on():
    """A run that goes on with another job says what is other."""
    first = h.dsrun(JOB, "train.steps=2", "run_dir=on", "checkpoint.every=1", "log.trace=step")
    h.ok(first.returncode == 0 and "changed since" not in first.stdout and "log.trace: no trace" in first.stderr,
         "two steps have no third one to trace, which is said", first.stdout + first.stderr)
    ran = h.dsrun(JOB, "train.steps=3", "run_dir=on", "checkpoint.every=1", "optim.lr=0.25", "zero.stage=1")
    h.ok(ran.returncode == 0 and re.search(r"^changed since the last run here: .*optim\.lr 0\.25, was ", ran.stdout, re.M)
         and "zero.stage" not in ran.stdout, "the keys that decide the result and have changed are told", ran.stdout)
    h.ok("optim.adamw_lr" not in ran.stdout, "but none that only follows another", ran.stdout)
    again = h.dsrun(JOB, "train.steps=3", "run_dir=on", "checkpoint.every=1", "optim.lr=0.25", "zero.stage=1")
    h.ok(again.returncode == 0 and "changed since" not in again.stdout, "nothing has changed, nothing is told",
         again.stdout)
    ran = h.dsrun(JOB, "train.steps=1", "run_dir=off", "optim.lr=0.5", "checkpoint.every=0")
    ran = h.dsrun(JOB, "train.steps=1", "run_dir=off", "optim.lr=0.25", "checkpoint.every=0")
    h.ok(ran.returncode == 0 and "changed since" not in ran.stdout, "a run that starts anew has not changed", ran.stdout)
    ran = h.dsrun("check", JOB, 'optim.groups=[{match: "*.nosuch", lr_mult: 2}]')
    h.ok(ran.returncode == 65 and "no tensor is left for '*.nosuch'" in ran.stderr, "check sees names that match nothing",
         ran.stderr)
    ran = h.dsrun("ckpt", "export", "on", "hf")
    ran = h.dsrun(JOB, "run_dir=swapped", "checkpoint.resume=hf")
    h.ok(ran.returncode == 2 and "dsrun ckpt import" in ran.stderr, "a folder of Hugging Face is no checkpoint", ran.stderr)
    ran = h.dsrun("check", JOB, "model.init.from=on")
    h.ok(ran.returncode == 2 and "dsrun ckpt export" in ran.stderr, "a run directory is no folder of Hugging Face",
         ran.stderr)
    ran = h.dsrun("ckpt", "ls", "on/checkpoints/step-00000003")
    h.ok(ran.returncode == 0 and "a checkpoint itself, of step 3" in ran.stdout, "ckpt ls of a checkpoint", ran.stdout)


def hangup():
    """The end of a login: SIGHUP to the group of dsrun.  nohup(1) ignores it, and then so does dsrun."""
    for ignored in (False, True):
        begun, go = h.work() / f"begun{ignored}", h.work() / f"go{ignored}"
        process = subprocess.Popen([*(["nohup"] if ignored else []), h.DSRUN, "launch", "--", "sh", "-c",
                                    f": >{begun}; while [ ! -e {go} ]; do sleep 0.05; done"], cwd=h.work(),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=h.environment(), start_new_session=True)
        end = time.monotonic() + 30
        while not begun.exists() and time.monotonic() < end:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGHUP)
        if ignored:
            go.touch()
        code = process.wait(timeout=60)
        h.ok(code == (0 if ignored else 143), f"SIGHUP{' under nohup' if ignored else ''}: {code}", code)


help_of_groups()
dry_runs()
hangup()
going_on()
lost_output()
bare_environment()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
