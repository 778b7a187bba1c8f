#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""ssh - dsrun over SSH on real hosts: keys, configuration, jumps, pushes, noise, and what sshd is asked to run.

Every sshd of the bed records the command that it is given, so that the last point can say that it was
the same bytes each time, whatever stood in hostfiles, options, arguments and paths.
"""
import base64
import os
import pty
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time

import beds
import harness as h
from places import until


def main():
    beds.require()
    log = h.work() / "asked"
    with beds.Hosts(3, sshd=beds.recording_sshd(log)) as bed:
        home = bed.base / "home" / "root"
        exec_points(bed, home)
        end_points(bed)
        key_points(bed, home)
        gate_points(bed, home, log)
        trust_points(bed, home)
        config_points(bed, home)
        push_points(bed, home)
        fault_points(bed, log)
        string_points(bed)
    asked = set(log.read_text().split("--end--\n")) - {""}
    h.ok(len(asked) == 1 and "touch" not in "".join(asked), "sshd was asked for the same bytes every time", asked)
    h.done()


def run(bed, *args, hosts="node1\nnode2\nnode3\n", command=("exec",), **env):
    bed.hostfile.write_text(hosts)
    return bed.run(h.DSRUN, *command, "-H", bed.hostfile, *args, **env)


def exec_points(bed, home):
    for via in ("ssh", "openssh"):
        ran = run(bed, "--via", via, "--", "hostname")
        h.ok(ran.returncode == 0 and all(f"\n{name}\n" in "\n" + ran.stdout for name in bed.names),
             f"{via}: three hosts answer", ran.stdout + ran.stderr)
        ran = run(bed, "--via", via, "--", "sh", "-c", "exit 7")
        h.ok(ran.returncode == 7, f"{via}: the code of the program", ran.stderr)
    (home / ".bashrc").write_text("echo DSRUN welcome; echo noise >&2; printf '\\033[31m'\n")
    ran = run(bed, "--", "hostname")
    h.ok(ran.returncode == 0 and "welcome" not in ran.stdout, "what a login prints has no effect", ran.stdout)
    (home / ".bashrc").unlink()
    h.ok(not any(bed.processes(name) for name in bed.names), "nothing is left on any host")


def end_points(bed):
    """How an agent ended is said by its guard, over both transports; of a guard only sshd can say it, to libssh2 alone."""
    bed.hostfile.write_text("node2\n")
    for via, which, want in [("ssh", max, "its agent was killed by signal 9 (Killed)"),
                             ("ssh", min, "its agent was killed by signal 9 (Killed)"),
                             ("openssh", max, "its agent was killed by signal 9 (Killed)"),
                             ("openssh", min, "its agent went away")]:
        process = bed.start(h.DSRUN, "exec", "-H", bed.hostfile, "--via", via, "--", "sleep", "300", stderr=subprocess.PIPE)
        until(lambda: "sleep 300" in bed.processes("node2").values())
        agents = [pid for pid, line in bed.processes("node2").items() if line.endswith("dsrun-agent")]
        bed.on("node2", "kill", "-KILL", str(which(agents)))
        _, said = process.communicate(timeout=60)
        h.ok(len(agents) == 2 and process.returncode == 69 and said.decode() == f"dsrun: error: node2: {want}\n",
             f"{via}: the {'agent' if which is max else 'guard'} is killed: {want}", (agents, process.returncode, said))
        h.ok(idle(bed, "node2"), "and what it ran is gone")


def idle(bed, host):
    """Is nothing running there?  The end of a connection that was refused may take sshd a moment."""
    for _ in range(100):
        if not bed.processes(host):
            return True
        time.sleep(0.1)
    return False


def key_points(bed, home):
    known = home / ".ssh" / "known_hosts"
    right = known.read_text()
    line = next(l for l in right.splitlines() if l.startswith("node2,"))
    other = next(l for l in right.splitlines() if l.startswith("node3,")).split()[2]
    for name, text, want in [
            ("unknown", right.replace(line + "\n", ""), "its key is not known: ssh-ed25519 SHA256:"),
            ("changed", right.replace(line, line.replace(line.split()[2], other)), "its key has CHANGED"),
            ("revoked", right + "@revoked * " + " ".join(line.split()[1:]) + "\n", "is revoked (/"),
            ("certified", right.replace(line, "@cert-authority " + line), "needs --via openssh")]:
        known.write_text(text)
        ran = run(bed, "--", "hostname", hosts="node2\n")
        h.ok(ran.returncode == 69 and want in ran.stderr and "node2" not in ran.stdout,
             f"a key that is {name} ends it with 69", f"{ran.returncode} {ran.stderr}")
        h.ok(idle(bed, "node2"), f"and with a key that is {name} nothing was started")
    known.write_text(right)
    bed.run("ssh-keygen", "-H", "-f", known)
    ran = run(bed, "--", "true")
    h.ok("|1|" in known.read_text() and ran.returncode != 69, "hashed names are found", ran.stderr)
    known.write_text(right)


def recording_agent():
    """A folder of programs whose agent leaves a line in a file when it starts."""
    libexec, log = h.work() / "recording", h.work() / "agents"
    libexec.mkdir()
    real = h.BUILD / "libexec" / "dsrun"
    (libexec / "dsrun-agent").write_text(f"#!/bin/sh\necho agent >>{log}\nexec {real / 'dsrun-agent'}\n")
    (libexec / "dsrun-agent").chmod(0o755)
    shutil.copy(real / "dsrun-worker", libexec)
    return libexec, log


def gate_points(bed, home, log):
    """One bad host of three: no agent and no program runs on any, whatever the command and transport."""
    known, mark, job = home / ".ssh" / "known_hosts", h.work() / "ran", h.write_job(batch=3)
    libexec, agents = recording_agent()
    right = known.read_text()
    line = next(l for l in right.splitlines() if l.startswith("node2,"))
    other = next(l for l in right.splitlines() if l.startswith("node3,")).split()[2]
    touch = ("exec", ("--", "touch", str(mark)))
    for name, text in [("unknown", right.replace(line + "\n", "")),
                       ("changed", right.replace(line, line.replace(line.split()[2], other))),
                       ("revoked", right + "@revoked * " + " ".join(line.split()[1:]) + "\n")]:
        known.write_text(text)
        for via, (command, words) in [(via, what) for what in (touch, ("run", ("--run-dir", "gate", str(job))))
                                      for via in ("ssh", "openssh")]:
            before = log.read_text()
            ran = run(bed, "--via", via, *words, command=(command,), DSRUN_LIBEXEC=libexec)
            h.ok(ran.returncode == 69 and "node2: " in ran.stderr.replace("'", "") and not mark.exists()
                 and (via == "openssh" or log.read_text() == before) and not agents.exists()
                 and all(idle(bed, name) for name in bed.names),
                 f"{command} by {via}: one host of three has a key that is {name}, and nothing starts on any",
                 f"{ran.returncode} {ran.stdout} {ran.stderr}")
    known.write_text(right)
    for via in ("ssh", "openssh"):
        ran = run(bed, "--via", via, *touch[1], DSRUN_LIBEXEC=libexec)
        h.ok(ran.returncode == 0 and mark.exists() and agents.read_text() == "agent\n" * 3,
             f"and with the right keys all do, by {via}", ran.stderr)
        mark.unlink()
        agents.unlink()
    bed.fault("poweroff", "node2")
    ran = run(bed, "--via", "openssh", "--start-timeout", 3, "--run-dir", "gate", job, command=("run",), DSRUN_LIBEXEC=libexec)
    h.ok(ran.returncode == 69 and "node2" in ran.stderr and not agents.exists(),
         "run by openssh: nor without a host that is dead", f"{ran.returncode} {ran.stderr}")
    ran = run(bed, "--via", "openssh", "--start-timeout", 3, *touch[1], DSRUN_LIBEXEC=libexec)
    h.ok(ran.returncode == 69 and agents.read_text() == "agent\n" * 2 and mark.exists(),
         "exec by openssh: the others answer without it", f"{ran.returncode} {ran.stderr}")
    bed.fault("boot", "node2")


def at_terminal(bed, answer, *command):
    """Run a command on the head at a terminal of its own, and answer its question: (code, what it showed)."""
    master, slave = pty.openpty()
    child = subprocess.Popen([*bed.head, *map(str, command)], stdin=slave, stdout=slave, stderr=slave, cwd=h.work(),
                             env=h.environment())
    os.close(slave)
    shown, until = "", time.monotonic() + 60
    while time.monotonic() < until:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            data = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        shown += data.decode(errors="replace")
        if answer and "(yes/no): " in shown:
            os.write(master, answer.encode())
            answer = ""
    os.close(master)
    return child.wait(timeout=60), shown


def trust_points(bed, home):
    """dsrun hosts trust: what ssh-keygen says of the keys; recorded on yes at a terminal only."""
    known = home / ".ssh" / "known_hosts"
    right = known.read_text()
    lines = {name: next(l for l in right.splitlines() if l.startswith(name + ",")) for name in bed.names}
    prints = {name: bed.run("ssh-keygen", "-lf", bed.base / "hosts" / name / "key.pub").stdout.split()[1]
              for name in bed.names}
    only_one = lines["node1"] + "\n"
    trust = (h.DSRUN, "hosts", "trust", "-H", bed.hostfile)
    bed.hostfile.write_text("node1\nnode2\nnode3\n")
    known.write_text(only_one)
    ran = bed.run(*trust)
    h.ok(ran.returncode == 69 and known.read_text() == only_one and "node1" not in ran.stdout
         and all(re.search(rf"^{name} +10[.]\S+ +ssh-ed25519 +{re.escape(prints[name])}$", ran.stdout, re.M)
                 for name in ("node2", "node3")), "unknown keys are shown, and not recorded without a terminal",
         f"{ran.returncode} {ran.stdout} {ran.stderr}")
    code, shown = at_terminal(bed, "y\n", *trust)
    h.ok(code == 69 and "(yes/no)" in shown and known.read_text() == only_one, "nor on anything but yes", shown)
    code, shown = at_terminal(bed, "yes\n", *trust)
    h.ok(code == 0 and prints["node2"] in shown, "on yes they are recorded", f"{code} {shown}")
    ran = bed.run("ssh-keygen", "-l", "-F", "node3", "-f", known)
    h.ok(prints["node3"] in ran.stdout, "as ssh-keygen finds them", known.read_text())
    ran = run(bed, "--", "hostname")
    h.ok(ran.returncode == 0 and "node3" in ran.stdout, "and programs run there", ran.stderr)
    ran = bed.run(*trust)
    h.ok(ran.returncode == 0 and "of all 3 hosts are known" in ran.stdout, "then nothing is left to trust", ran.stdout)
    text = only_one + lines["node2"].replace(lines["node2"].split()[2], lines["node3"].split()[2]) + "\n"
    known.write_text(text + "@revoked * " + " ".join(lines["node3"].split()[1:]) + "\n")
    before = known.read_text()
    code, shown = at_terminal(bed, "yes\n", *trust)
    h.ok(code == 69 and "CHANGED" in shown and "is revoked" in shown and "(yes/no)" not in shown
         and known.read_text() == before, "changed and revoked keys are not to be had", shown)
    config = home / ".ssh" / "config"
    plain = config.read_text()
    config.write_text("Host far\n  HostName node3\n  ProxyJump node2\n" + plain)
    bed.hostfile.write_text("far\n")
    known.write_text(only_one)
    bed.run("ssh-keygen", "-H", "-f", known)
    first = at_terminal(bed, "yes\n", *trust)
    second = at_terminal(bed, "yes\n", *trust)
    ran = bed.run(h.DSRUN, "exec", "--via", "ssh", "-H", bed.hostfile, "--", "hostname")
    h.ok(first[0] == 69 and prints["node2"] in first[1] and second[0] == 0 and prints["node3"] in second[1]
         and ran.returncode == 0 and "node3" in ran.stdout and "node" not in known.read_text().replace("node1,", ""),
         "a host behind another: first the one before it, then itself, hashed as the file is",
         f"{first} {second} {ran.stderr} {known.read_text()}")
    config.write_text(plain)
    known.write_text(right)


def config_points(bed, home):
    ran = run(bed, "--", "true", hosts="node1 user=ghost\n")
    h.ok(ran.returncode == 69 and "accepts no key for user 'ghost'" in ran.stderr, "a user without a key", ran.stderr)
    config = home / ".ssh" / "config"
    right = config.read_text()
    config.write_text("Host far\n  HostName node3\n  ProxyJump node1,node2\n" + right)
    ran = run(bed, "--via", "ssh", "--", "sh", "-c", "hostname; echo $SSH_CONNECTION", hosts="far\n")
    h.ok(ran.returncode == 0 and "node3" in ran.stdout, "a host behind two others", ran.stdout + ran.stderr)
    config.write_text("Host node2\n  ProxyCommand nc %h %p\n" + right)
    ran = run(bed, "--", "true", hosts="node2\n")
    h.ok(ran.returncode != 0 and re.search(r"config:2: 'ProxyCommand' .*--via openssh", ran.stderr),
         "what cannot be honoured is named with its line", ran.stderr)
    key = home / ".ssh" / "id_ed25519"
    plain = key.read_bytes()
    bed.run("ssh-keygen", "-p", "-q", "-P", "", "-N", "secret", "-f", key)
    config.write_text(right)
    ran = run(bed, "--", "true", hosts="node1\n", SSH_AUTH_SOCK="")
    h.ok(ran.returncode == 69 and "is encrypted" in ran.stderr and "ssh-add" in ran.stderr,
         "an encrypted key without an agent", ran.stderr)
    key.write_bytes(plain)
    script = f"""eval "$(ssh-agent -s)" >/dev/null; ssh-keygen -y -f {key} >{key}.pub; ssh-add -q {key}; mv {key} {key}.away
        {h.DSRUN} exec -H {bed.hostfile} -- hostname; code=$?; mv {key}.away {key}; ssh-agent -k >/dev/null; exit $code"""
    ran = bed.run("sh", "-c", script)
    h.ok(ran.returncode == 0 and "node1" in ran.stdout, "a key that only the ssh-agent has", ran.stdout + ran.stderr)
    agent_points(bed, home, key)


def agent_points(bed, home, key):
    """Two ssh-agents, one of which lists the key and never signs: what is asked of it ends, all else goes on."""
    path, asked, config = h.work() / "mute-agent", [], home / ".ssh" / "config"
    right = config.read_text()
    blob = base64.b64decode(key.with_suffix(".pub").read_text().split()[1])
    answer = struct.pack(">BIII", 12, 1, len(blob), 0)[:-4] + blob + struct.pack(">I", 0)
    mute = socket.socket(socket.AF_UNIX)
    mute.bind(str(path))
    mute.listen()

    def serve():
        line, _ = mute.accept()
        while head := line.recv(4, socket.MSG_WAITALL):
            asked.append(line.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)[0])
            if asked[-1] == 11:
                line.sendall(struct.pack(">I", len(answer)) + answer)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    config.write_text(f"Host node2\n  IdentityAgent {path}\n" + right)
    script = f"""eval "$(ssh-agent -s)" >/dev/null; ssh-add -q {key}; mv {key} {key}.away
        {h.DSRUN} exec --via ssh -H {bed.hostfile} -- hostname; code=$?; mv {key}.away {key}; ssh-agent -k >/dev/null; exit $code"""
    bed.hostfile.write_text("node1\nnode2\nnode3\n")
    ran = bed.run("sh", "-c", script)
    h.ok(ran.returncode == 69 and "node1" in ran.stdout and "node3" in ran.stdout and "node2" not in ran.stdout
         and f"the ssh-agent at '{path}' did not answer within 10 s" in ran.stderr and asked == [11, 13],
         "an ssh-agent that never signs is named, hosts with another go on", f"{ran.returncode} {asked} {ran.stdout}{ran.stderr}")
    config.write_text(right)
    mute.close()


def push_points(bed, home):
    libexec = h.work() / "libexec"  # where hosts have nothing: their /tmp is their own, and this is hidden there
    shutil.copytree(h.BUILD / "libexec" / "dsrun", libexec)
    for name in bed.names:
        bed.on(name, "mount", "-t", "tmpfs", "none", libexec)
    ran = run(bed, "--", "hostname", DSRUN_LIBEXEC=str(libexec))
    cache = list((home / ".cache" / "dsrun").glob("*"))
    h.ok(ran.returncode == 0 and len(cache) == 1 and (cache[0] / "dsrun-agent").exists(),
         "programs are pushed to hosts that lack them", ran.stdout + ran.stderr)
    h.ok(cache and cache[0].stat().st_mode & 0o7777 == 0o700 and [p.name for p in cache[0].iterdir()] == ["dsrun-agent"],
         "into a folder of the user alone, and nothing else is left there", cache)
    before = (cache[0] / "dsrun-agent").stat().st_ino
    ran = run(bed, "--", "hostname", DSRUN_LIBEXEC=str(libexec))
    h.ok(ran.returncode == 0 and (cache[0] / "dsrun-agent").stat().st_ino == before, "once", ran.stderr)
    with open(cache[0] / "dsrun-agent", "ab") as file:
        file.write(b"x")
    ran = run(bed, "--", "hostname", DSRUN_LIBEXEC=str(libexec))
    h.ok(ran.returncode == 0 and (cache[0] / "dsrun-agent").read_bytes() == (libexec / "dsrun-agent").read_bytes(),
         "a copy that was changed does not run, it is replaced", ran.stderr)
    ran = run(bed, "--push", "never", "--", "hostname", DSRUN_LIBEXEC=str(libexec))
    h.ok(ran.returncode == 69 and "may not be pushed" in ran.stderr, "--push never", ran.stderr)
    agent = (libexec / "dsrun-agent").read_bytes()
    mine = re.search(rb"\d+[.]\d+[.]\d+-([0-9a-f]{12})\0", agent)
    theirs = mine[0][:-13] + b"0" * 12
    other = h.work() / "other-agent"
    other.write_bytes(agent.replace(mine[0][:-1], theirs))
    other.chmod(0o755)
    for name in bed.names:
        bed.on(name, "cp", other if name == "node2" else h.BUILD / "libexec" / "dsrun" / "dsrun-agent",
               libexec / "dsrun-agent")
    ran = run(bed, "--push", "never", "--", "hostname", DSRUN_LIBEXEC=str(libexec))
    h.ok(ran.returncode == 69 and "node2: " in ran.stderr and mine[0][:-1].decode() in ran.stderr
         and theirs.decode() in ran.stderr, "an agent of another build is an error that names both", ran.stderr)


def fault_points(bed, log):
    bed.fault("hang-sshd", "node2")
    ran = run(bed, "--start-timeout", 2, "--", "hostname", hosts="node2\n")
    h.ok(ran.returncode == 69 and "time-out" in ran.stderr and "greeting" in ran.stderr, "an sshd that hangs", ran.stderr)
    bed.fault("cont", "node2")
    bed.fault("poweroff", "node2")
    ran = run(bed, "--start-timeout", 2, "--", "hostname")
    h.ok(ran.returncode == 69 and "node1" in ran.stdout and "node3" in ran.stdout and "connecting" in ran.stderr,
         "a dead host is named, the others answer", f"{ran.returncode} {ran.stdout} {ran.stderr}")
    before = log.read_text()
    ran = run(bed, "--start-timeout", 2, "--run-dir", "dead", h.write_job(batch=3), command=("run",))
    h.ok(ran.returncode == 69 and "node2" in ran.stderr and log.read_text() == before,
         "a job does not start without it, on no host", f"{ran.returncode} {ran.stdout} {ran.stderr}")


def string_points(bed):
    for text in ("$(touch x)", "`touch x`", "a'b\"c", "two\nlines", "-oProxyCommand=touch x", "; touch x", "%h%n", ""):
        ran = run(bed, "--env", f"ODD={text}", "--", "sh", "-c", 'printf "%s|%s" "$1" "$ODD"', "sh", text, hosts="node1\n")
        h.ok(ran.returncode == 0 and f"{text}|{text}" in ran.stdout, f"argument and value {text!r} arrive as they are",
             ran.stdout + ran.stderr)
    for via in ("ssh", "openssh"):
        for line in ("node1 user=-oProxyCommand=x\n", "node1 address=-oProxyCommand=x\n", "node1 user=$(touch\n"):
            ran = run(bed, "--via", via, "--", "true", hosts=line)
            h.ok(ran.returncode not in (0, 70), f"{via}: {line.strip()} is refused", ran.stderr)


main()
