# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""beds - test beds of tests/hosts for end-to-end tests: real hosts with an sshd each, and a real Slurm.

    beds.require("slurm")                       one counted, named skip and the end where it cannot be
    with beds.Hosts(4, user="tester") as bed:   hosts node1 ... node4 and a head
        bed.run(h.DSRUN, "exec", ...)           on the head, as the login user; a CompletedProcess
        bed.start("ssh", "node1", "sleep 9")    the same, a Popen: signals reach the command itself
        bed.on("node2", "ls", "/tmp")           in a host, as root, without ssh
        bed.fault("freeze", "node2")            see tests/hosts/fault.sh
        bed.processes("node2")                  {pid: command line} of what runs there but its sshd
    with beds.Slurm(4, cpus="4 8 2") as bed:    the same with Slurm on it

A bed is gone when its block ends, however it ends; also when the test is told to stop.
"""
import atexit
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import harness as h

SCRIPTS = h.ROOT / "tests" / "hosts"
PROGRAMS = {"hosts": ("ip", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "sshd", "nft", "pgrep"),
            "slurm": ("slurmctld", "slurmd", "srun", "sbatch", "scancel", "munged")}
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_raised = []


def missing(*groups):
    """Why a bed cannot be raised here, or None."""
    if os.getuid() != 0:
        return "only root can raise hosts"
    for program in (p for group in ("hosts", *groups) for p in PROGRAMS[group]):
        if not shutil.which(program, path=_PATH):
            return f"no program '{program}': tools/deps hosts"
    tried = subprocess.run(["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "mount", "-t",
                            "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False)
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else None


def require(*groups):
    """End the test with one skip where no bed can be raised."""
    why = missing(*groups)
    if why:
        h.skip(pathlib.Path(sys.argv[0]).stem, why)
        h.done()


def _take_down():
    for bed in list(_raised):
        bed.down()


def _stop(number, _frame):
    sys.exit(128 + number)  # runs the blocks' ends and what atexit has


class Hosts:
    """N hosts and a head.  Names of hosts are in .names, the first is .names[0]."""

    def __init__(self, n, user="root", fast=True, aliases=0, one_key=False, disk="", sshd="", seen=()):
        if not _raised:
            atexit.register(_take_down)
            signal.signal(signal.SIGTERM, _stop)
        self.base = pathlib.Path(f"/tmp/dsrun-bed.{os.getpid()}.{len(_raised)}")
        self.names = [f"node{i + 1}" for i in range(n)]
        self.aliases = [f"alias{i + 1}" for i in range(aliases)]
        self.user = user
        self.head = [str(self.base / "bin" / "head")]
        shown = " ".join(map(str, [h.ROOT, h.work(), *seen]))
        _raised.append(self)
        try:
            self._script("up.sh", n, LOGIN=user, FAST="1" if fast else "", ALIASES=str(aliases), SEEN=shown,
                         ONE_KEY="1" if one_key else "", DISK=disk, SSHD=sshd)
            if user != "root":  # may use the test's folder as its own
                os.chmod(h.work(), 0o777)
            self.hostfile = h.work() / f"hosts.{len(_raised)}"
            self.hostfile.write_text("".join(f"{name}\n" for name in self.names))
        except BaseException:
            self.down()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def _script(self, script, *args, **env):
        done = subprocess.run([SCRIPTS / script, self.base, *map(str, args)], capture_output=True, text=True,
                              timeout=300, check=False, env=dict(os.environ, PATH=_PATH, **env))
        if done.returncode:
            raise RuntimeError(f"{script}: {done.stderr.strip() or done.stdout.strip()}")

    def down(self):
        if self in _raised:
            _raised.remove(self)
            self._script("down.sh")

    def run(self, *command, timeout=120, **env):
        """Run a command on the head to its end."""
        return subprocess.run([*self.head, *map(str, command)], capture_output=True, text=True, errors="replace",
                              timeout=h.PATIENCE * timeout, cwd=h.work(), env=h.environment(**env), check=False)

    def start(self, *command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **env):
        """Start a command on the head; the Popen's pid and signals are the command's own."""
        return subprocess.Popen([*self.head, *map(str, command)], stdin=stdin, stdout=stdout, stderr=stderr,
                                cwd=h.work(), env=h.environment(**env))

    def on(self, host, *command, timeout=60):
        return subprocess.run([self.base / "bin" / "on", host, *map(str, command)], capture_output=True, text=True,
                              errors="replace", timeout=timeout, check=False)

    def fault(self, action, *hosts):
        self._script("fault.sh", action, *(hosts or self.names))

    def processes(self, host):
        """What runs in a host but its sshd, the sshd's children that serve a login, zombies, and kernel threads."""
        if host == "head":
            return self._head_processes()
        listed = self.on(host, "ps", "-eo", "pid=,stat=,args=")
        if listed.returncode:
            raise RuntimeError(f"{host}: {listed.stderr.strip()}")
        found = {}
        for line in listed.stdout.splitlines():
            pid, stat, args = line.split(None, 2)
            if pid != "1" and not stat.startswith("Z") and not args.startswith(("sshd:", "ps -eo", "slurmd ")):
                found[int(pid)] = args
        return found


    def _head_processes(self):
        """The head shares this machine's process numbers: what is in its network namespace."""
        def namespace(pid):
            return os.stat(f"/proc/{pid}/ns/net").st_ino
        own = (self.base / "hosts" / "head" / "pid").read_text().strip()
        wanted, found = namespace(own), {}
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and entry.name != own and namespace(entry.name) == wanted:
                    args = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if args and not args.startswith(("sshd:", "slurmctld", "munged")):
                        found[int(entry.name)] = args
            except OSError:
                continue  # it has just ended
        return found


def recording_sshd(log):
    """Options for Hosts(sshd=...): every sshd appends the command that it is given to `log`, each with a line
    --end-- after it, and runs it."""
    record = log.with_suffix(".sh")
    record.write_text(f"""#!/bin/sh
printf '%s\\n--end--\\n' "$SSH_ORIGINAL_COMMAND" >>{log}
exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND"
""")
    record.chmod(0o755)
    log.touch()
    return f"-o ForceCommand={record}"


class Slurm(Hosts):
    """Hosts with a Slurm on them.  `cpus` is one number for all nodes, or "4 8 2" for them in turn."""

    def __init__(self, n, cpus="4", gpus=0, conf="", **more):
        super().__init__(n, **more)
        try:
            self._script("slurm-up.sh", CPUS=str(cpus), GPUS=str(gpus), SLURM_CONF_MORE=conf)
        except BaseException:
            self.down()
            raise
