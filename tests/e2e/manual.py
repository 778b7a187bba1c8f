#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""manual - the examples of the manual pages are true, and completion works in a real bash, and in zsh where there is one.

Every job of dsrun-job(5) passes `dsrun check`, every hostfile of dsrun-hostfile(5) is read, every
command line of dsrun(1) is taken, those that look at a run show it, and the mistake shown there says what the page says.  The examples of dsrun-exec(1),
dsrun-launch(1), dsrun-hosts(1) and dsrun-join(1) are run, and print what is shown; the frames of dsrun-wire(7) are frames.
"""
import os
import re
import shutil
import struct
import subprocess

import harness as h



def page(name):
    """The text of a page with its hyphens and backslashes as they are shown."""
    text = (h.BUILD / "man" / name).read_text()
    return text.replace("\\-", "-").replace("\\e", "\\")


def examples(name):
    return re.findall(r"^\.EX\n(.*?)^\.EE$", page(name), re.S | re.M)


def jobs():
    folder = h.work() / "gpt2-small"
    folder.mkdir()
    shutil.copy(h.ROOT / "tests/reference/gpt2-tiny/config.json", folder)
    for number, text in enumerate(examples("dsrun-job.5")):
        path = h.work() / f"example-{number}.yaml"
        path.write_text(text)
        words = ["train.sequence=16"] if "gpt2-small" in text else []
        ran = h.dsrun("check", path.name, *words, cwd=h.work())
        h.ok(ran.returncode == 0 and not ran.stdout + ran.stderr, f"dsrun-job(5): example {number + 1}",
             ran.stderr)


def hostfiles():
    for number, text in enumerate(examples("dsrun-hostfile.5")):
        (h.work() / "hosts").write_text(text)
        ran = h.dsrun("exec", "--dry-run", "--hostfile", "hosts", "--", "true", cwd=h.work())
        h.ok(ran.returncode == 0 and ran.stdout.startswith("host "),
             f"dsrun-hostfile(5): example {number + 1}", ran.stderr or ran.stdout)


def past_run():
    """A run directory as a job leaves it that was stopped."""
    run = h.work() / "runs" / "hot"
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / "events.jsonl").write_text('{"event":"launch","attempt":0,"ranks":4,"hosts":["here"],"steps":9}\n'
                                      '{"event":"resumed","step":0}\n{"event":"exit","code":75}\n')
    (run / "metrics.jsonl").write_text('{"step":3,"loss":2.5}\n')
    (run / "logs" / "rank-00001.log").write_text("written\n")


def command_lines():
    """Lines that start with "$ dsrun" in dsrun(1); what would train or write is only checked."""
    text = "".join(examples("dsrun.1")).replace("\\\n", " ")
    for line in re.findall(r"^\$ dsrun (.*)$", text, re.M):
        words = line.split()
        if words[0] == "ckpt":
            ran = h.dsrun(*words, cwd=h.work())
            h.ok("hot" in ran.stderr and ran.returncode == 2, f"dsrun(1): dsrun {line}", ran.stderr)
            continue
        if words[0] == "data":
            ran = h.dsrun(*words, cwd=h.work())
            h.ok("tokenizer.json" in ran.stderr and ran.returncode == 2, f"dsrun(1): dsrun {line}", ran.stderr)
            continue
        if words[0] in ("attach", "logs"):
            past_run()
            ran = h.dsrun(*words, cwd=h.work())
            want = {"attach": (75, "step 4/9  loss 2.5000"), "logs": (0, "[here 1] written")}[words[0]]
            h.ok((ran.returncode, ran.stdout.splitlines()[0]) == want, f"dsrun(1): dsrun {line}", ran.stdout + ran.stderr)
            continue
        if words[0] not in ("check", "plan"):
            words.insert(0, "check")
        ran = h.dsrun(*words, cwd=h.ROOT)
        want = 65 if "lr_rate" in line else 0
        h.ok(ran.returncode == want, f"dsrun(1): dsrun {line}", ran.stderr)
        if want:
            shown = re.search(r"^dsrun: error: .*$", text, re.M).group(0)
            h.ok(" ".join(shown.split()) == ran.stderr.strip(), "dsrun(1): the mistake says what is shown",
                 ran.stderr)


def sessions(name):
    """The examples of a page as one who reads it types them: files first, then commands and what they print."""
    texts = examples(name)
    for text in texts:
        if text.startswith("hosts:"):
            (h.work() / "hosts").write_text(text)
    for text in texts:
        for line, shown in re.findall(r"^\$ (dsrun .*)\n((?:(?!\$ ).*\n)*)", text.replace("\\\n", ""), re.M):
            ran = subprocess.run(["bash", "-c", line], cwd=h.work(), capture_output=True, text=True, timeout=60,
                                 env=h.environment(PATH=f"{h.BUILD / 'bin'}:{os.environ['PATH']}"), check=False)
            cores = re.sub(r"cores [0-9,-]+", "cores 0-1", ran.stdout)
            h.ok(cores + ran.stderr == shown, f"{name}: {line}", ran.stdout + ran.stderr)


def frames():
    """The bytes shown in dsrun-wire(7) are frames of the types that the text before them names."""
    header = (h.ROOT / "base/wire.h").read_text()
    numbers = {name: int(number) for name, number in re.findall(r"^ +X\((\w+), +(\d+),", header, re.M)}
    shown = [bytes.fromhex(text) for text in examples("dsrun-wire.7") if re.fullmatch(r"[0-9a-f \n]+", text)]
    want = [(4, numbers["SIGNAL"], 0, 0xffffffff, numbers["STOP"]), (12, numbers["EXIT"], 0, 3, 0, 9, 1)]
    got = [struct.unpack("<IHHI" + "I" * ((len(frame) - 12) // 4), frame) for frame in shown]
    h.ok(got == want, "dsrun-wire(7): the frames that are shown", got)


COMPLETE = r"""
compopt() { :; }
eval "$("$1" --completion bash)" || exit 1
shift
COMP_WORDS=(dsrun "$@"); COMP_CWORD=$#; COMPREPLY=()
_dsrun
printf '%s\n' "${COMPREPLY[@]}"
"""

COMMON = ("--quiet", "--color", "--completion", "--help", "--version")  # options of every command


def completion():
    names = {"a run.yaml", "train.yaml"}  # a blank, and the beginning of a key
    folder = h.work() / "completion"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    for words, wanted in ((["ckp"], ["ckpt"]), (["ckpt", ""], ["ls", "verify", "export", "import", "diff"]),
                          (["--via", ""], ["auto", "local", "ssh", "openssh", "slurm", "join"]), (["--start"], ["--start-timeout"]),
                          (["job.yaml", "train.st"], ["train.steps="]), (["--slots", ""], [""]),
                          (["-H", "tr"], ["train.yaml"]), (["a"], ["attach", "a run.yaml"]), (["check", "a"], ["a run.yaml"]),
                          (["ps", "--"], ["--json", *COMMON]), (["ckpt", "ls", "--"], ["--json", *COMMON]),
                          (["kill", ""], [""]), (["hosts", ""], ["trust"]), (["ckpt", "ls", "t"], ["train.yaml"]),
                          (["train.yaml", "optim.name", "="], ["adamw", "adam", "sgd", "lion", "adagrad", "lamb", "muon"]),
                          (["--slots", "2", "train.yaml", "run_dir", "=", "t"], ["train.yaml"]), (["--env-file", "t"], ["train.yaml"]),
                          (["--via", "=", "s"], ["ssh", "slurm"]), (["exec", "cat", "t"], ["train.yaml"]), (["--include", ""], [""])):
        ran = subprocess.run(["bash", "-c", COMPLETE, "bash", h.DSRUN, *words], cwd=folder, capture_output=True,
                             text=True, check=False)
        h.ok(ran.stdout.split("\n")[:-1] == wanted and not ran.stderr, f"completion: {' '.join(words)}",
             ran.stdout + ran.stderr)


# What zsh's own functions would be given: words to choose from, files.
ZSH = r"""
compdef() { registered="$*"; }
_describe() { [[ $1 == -o ]] && shift; print -rl -- "${(@P)2}"; }
compadd() { [[ $1 == -S ]] && { print -rl -- "${(@P)4}"; return; }; shift; print -rl -- "$@"; }
_files() { print -r -- FILES; }
eval "$("$1" --completion zsh)" || exit 1
[[ $registered == "_dsrun dsrun" ]] || exit 1
shift
words=(dsrun "$@") CURRENT=$#words
_dsrun
"""


def zsh():
    """Without zsh: what bash can say of the script, whose form both can read, and that all is in it."""
    script = h.dsrun("--completion", "zsh").stdout
    ran = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    h.ok(script.startswith("#compdef dsrun\n") and ran.returncode == 0 and not ran.stderr, "zsh: a script", ran.stderr)
    options = re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", h.dsrun("--help").stdout, re.M)
    missing = [option for option in options if f"\n        '{option}:" not in script]
    h.ok(len(options) > 20 and not missing, "zsh: every option of --help, with what it is", missing)
    if not shutil.which("zsh"):
        h.skip("zsh: what it is given", "there is no zsh on this machine")
        return
    for words, wanted in ((["--via", ""], ["auto", "local", "ssh", "openssh", "slurm", "join"]), (["--slots", ""], []), (["-H", ""], ["FILES"]),
                          (["--completion", "z"], ["bash", "zsh"])):
        ran = subprocess.run(["zsh", "-fc", ZSH, "zsh", h.DSRUN, *words], capture_output=True, text=True, check=False)
        h.ok(ran.stdout.split("\n")[:-1] == wanted and not ran.stderr, f"zsh: {' '.join(words)}", ran.stdout + ran.stderr)
    for words, some in ((["ck"], ["ckpt:ls, verify, export, import, diff", "plan:print placement, memory, messages and FLOPs of a job", "FILES"]),
                        (["ckpt", ""], ["ls:list the checkpoints of a run: step, size, whole or damaged"]),
                        (["hosts", ""], ["trust:show the keys of hosts that are not known yet; record them on yes"]),
                        (["plan", "--re"], ["--restart-on:after which failures, as launch.restart_on; 'host-lost,comm'"]),
                        (["job.yaml", "t"], ["train.steps=", "FILES"])):
        ran = subprocess.run(["zsh", "-fc", ZSH, "zsh", h.DSRUN, *words], capture_output=True, text=True, check=False)
        h.ok(set(some) <= set(ran.stdout.split("\n")) and not ran.stderr, f"zsh: {' '.join(words)}", ran.stdout + ran.stderr)
    for words, wanted in ((["ps", "--"], ["--json:print JSON"]), (["kill", ""], []), (["ckpt", "ls", ""], ["FILES"]),
                          (["run", ""], ["FILES"]), (["--env-file", ""], ["FILES"]), (["exec", "cat", "-"], ["FILES"])):
        ran = subprocess.run(["zsh", "-fc", ZSH, "zsh", h.DSRUN, *words], capture_output=True, text=True, check=False)
        shown = [line for line in ran.stdout.split("\n")[:-1] if line.split(":")[0] not in COMMON]
        h.ok(shown == wanted and not ran.stderr, f"zsh, what fits the command: {' '.join(words)}", ran.stdout + ran.stderr)


jobs()
hostfiles()
command_lines()
sessions("dsrun-exec.1")
sessions("dsrun-launch.1")
sessions("dsrun-hosts.1")
sessions("dsrun-join.1")
frames()
completion()
zsh()
h.done()
