# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""places - where a case of an end-to-end test runs: this machine, real hosts over ssh, an allocation of Slurm.

    for place in places.each(4):                on this machine, then on one bed over ssh and under Slurm
        place.run("exec", "--", "true")         a CompletedProcess of bytes; -H and --via are given
        place.start("exec", "--", "sleep", 9)   the same, a Popen whose pid and signals are dsrun's
        place.left()                            {host: [what still runs there]}

A place has .name ("here", "ssh" or "slurm"), .names of its hosts and .hostfile(text).  Where no bed can be
raised, each() skips what is missing by name.
"""
import os
import signal
import subprocess
import time

import beds
import harness as h


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class Here:
    """Names of this machine, each with an agent of its own."""
    name = "here"

    def __init__(self, n):
        self.names = [f"node{i + 1}" for i in range(n)]
        self.via = ["--via", "local"]
        self.hosts = self.hostfile("".join(self.line(i) + "\n" for i in range(n)))

    def line(self, i, **keys):
        """Host i as a line of a hostfile."""
        more = dict(keys, address=f"127.0.0.{i + 1}")
        return " ".join([self.names[i], *(f"{key}={value}" for key, value in more.items())])

    def hostfile(self, text, name="hosts"):
        path = h.work() / f"{self.name}.{name}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def _argv(self, command, words, hosts):
        return [h.DSRUN, command, *self.via, "-H", hosts or self.hosts, *words]

    def environment(self, env):
        return h.environment(**env)

    head = []  # what runs a command where dsrun is to run

    def run(self, command, *words, hosts=None, timeout=120, cwd=None, **env):
        argv = [word if isinstance(word, bytes) else str(word) for word in
                [*self.head, *self._argv(command, words, hosts)]]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=h.PATIENCE * timeout,
                              check=False, cwd=cwd or h.work(), env=self.environment(env))

    def start(self, command, *words, hosts=None, **env):
        argv = [word if isinstance(word, bytes) else str(word) for word in
                [*self.head, *self._argv(command, words, hosts)]]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                cwd=h.work(), env=self.environment(env))

    def kill(self, word, host=0, which=max):
        """SIGKILL to one process of a host whose command line has the word: the last, or which=min the first."""
        os.kill(which(pid for pid, line in h.processes().items() if word in line), signal.SIGKILL)

    def running(self, word):
        """How many processes, on all hosts, have the word in their command line."""
        return sum(word in line for line in h.processes().values())

    def home(self, wanted):
        """Where programs find themselves when dsrun is started with HOME=wanted."""
        return wanted

    def left(self):
        return h.left()

    def reap(self):
        h.reap()


class Ssh(Here):
    """The hosts of a bed, over ssh."""
    name = "ssh"

    def __init__(self, bed):
        self.bed, self.names, self.head = bed, bed.names, bed.head
        self.via = ["--via", "ssh"]
        self.hosts = bed.hostfile

    def line(self, i, **keys):
        return " ".join([self.names[i], *(f"{key}={value}" for key, value in keys.items())])

    def kill(self, word, host=0, which=max):
        found = [pid for pid, line in self.bed.processes(self.names[host]).items() if word in line]
        self.bed.on(self.names[host], "kill", "-KILL", str(which(found)))

    def running(self, word):
        return sum(word in line for name in self.names for line in self.bed.processes(name).values())

    def home(self, wanted):
        return str(self.bed.base / "home" / self.bed.user)

    def left(self):
        still = {}

        def none():
            still.clear()
            for name in self.names:
                if found := list(self.bed.processes(name).values()):
                    still[name] = found
            return not still
        until(none, 20)
        return still

    def reap(self):
        self.bed.fault("killall")


class Slurm(Ssh):
    """The hosts of a bed with a Slurm, in one allocation of all of them that is held as long as the place is used.

    dsrun finds the variables of the allocation, as in a batch script."""
    name = "slurm"

    def __init__(self, bed, *options):
        super().__init__(bed)
        self.via = ["--via", "slurm"]
        said = h.work() / "allocation"
        said.unlink(missing_ok=True)
        self._held = bed.start("salloc", "-Q", f"-N{len(bed.names)}", "--exclusive", *options, "sh", "-c",
                               'printenv -0 >"$1.new" && mv "$1.new" "$1" && exec cat', "sh", said,
                               stdin=subprocess.PIPE)
        if not until(said.exists):
            raise RuntimeError("no allocation")
        self.variables = dict(entry.split("=", 1) for entry in said.read_text().split("\0")
                              if entry.startswith("SLURM"))

    def environment(self, env):
        return h.environment(**{**self.variables, **env})

    def end(self):
        self._held.stdin.close()
        self._held.wait(60)


def beds_of(n, conf="", **more):
    """The places of one bed: over ssh, then under Slurm; what cannot be had is skipped by name."""
    why = beds.missing()
    if why:
        h.skip("over ssh and under Slurm", why)
        return
    why = beds.missing("slurm")
    with beds.Hosts(n, **more) if why else beds.Slurm(n, conf=conf, **more) as bed:
        yield Ssh(bed)
        if why:
            h.skip("under Slurm", why)
            return
        place = Slurm(bed)
        yield place
        place.end()


def each(n, **more):
    yield Here(n)
    yield from beds_of(n, **more)
