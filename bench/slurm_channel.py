#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""slurm_channel - two ways to talk to agents in a Slurm step, side by side: the step's stdio, and TCP.

    bench/slurm_channel.py [NODES=64]

Raises a Slurm of NODES nodes on this machine (tests/hosts; root) and starts one echo (cat) on each, in one
step: on srun's stdin and labelled stdout, or on a TCP connection back.  What a row is:

  start    from srun to the first answer of every node
  turn     a line to every node and its answer back, median of 20
  own      10 KiB for each node alone; stdio is a broadcast, so every node gets what is for all
  up       16 MiB from all nodes together in lines of 1000 bytes, the most that srun keeps whole
  frozen   in a step of 4 nodes, a turn of the others while one is frozen and it was tried to send it 4 MiB;
           "stuck": nobody gets anything any more
"""
import os
import pathlib
import selectors
import socket
import statistics
import subprocess
import sys
import time

LINE = b"x" * 999 + b"\n"
UP_BYTES = 16 << 20
STUCK_S = 5
ECHO = ("while IFS= read -r line; do case $line in up*) yes " + "x" * 999 + " | head -n ${line#up};; *) echo \"$line\";; "
        "esac; done")


class Step:
    """Counts the bytes that come back, for each node by its own line or connection."""

    def __init__(self, nodes):
        self.nodes, self.got, self.select = nodes, 0, selectors.DefaultSelector()

    def srun(self, agent, *options, **pipes):
        return subprocess.Popen(["srun", "-Q", "-K0", f"-N{self.nodes}", "--ntasks-per-node=1", *options, "bash",
                                 "-c", agent], **pipes)

    def close(self):
        self.step.kill()
        self.step.wait()
        while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
            time.sleep(0.2)

    def wait(self, count, seconds=120):
        """Until `count` bytes of answers have come.  Seconds, or None: they did not."""
        begin = time.monotonic()
        while self.got < count:
            ready = self.select.select(max(0, begin + seconds - time.monotonic()))
            if not ready:
                return None
            for key, _ in ready:
                self.got += self.read(key.fileobj)
        self.got -= count
        return time.monotonic() - begin


class Stdio(Step):
    def __init__(self, nodes):
        super().__init__(nodes)
        self.step = self.srun(ECHO, "-l", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.set_blocking(self.step.stdin.fileno(), False)
        self.select.register(self.step.stdout, selectors.EVENT_READ)
        self.label = len(str(nodes - 1)) + 2  # "07: "

    def read(self, stdout):
        data = stdout.read1(1 << 20)
        return len(data) - self.label * data.count(b"\n")

    def send(self, data, seconds=120):
        """To all: there is no other way.  False: srun took no more."""
        end, view = time.monotonic() + seconds, memoryview(data)
        while view and time.monotonic() < end:
            try:
                view = view[os.write(self.step.stdin.fileno(), view):]
            except BlockingIOError:
                self.wait(1 << 60, 0.01)  # take what comes meanwhile
        return not view

    def send_own(self, size):
        self.send((b"y" * 999 + b"\n") * (size * self.nodes // 1000))
        return size // 1000 * 1000 * self.nodes * self.nodes  # all of it comes from each

    def frozen_turn(self, _node):
        """What is for the frozen node is for all."""
        if not self.send((b"z" * 999 + b"\n") * 4096, STUCK_S):
            return None
        self.got = -1
        while self.got:  # until nothing comes for a second
            self.got = 0
            self.wait(1 << 60, 1)
        return self.send(LINE, STUCK_S) and self.wait(len(LINE) * (self.nodes - 1), STUCK_S)


class Tcp(Step):
    def __init__(self, nodes):
        super().__init__(nodes)
        listener = socket.create_server(("", 0), backlog=nodes)
        port = listener.getsockname()[1]
        self.step = self.srun(f"exec <>/dev/tcp/$SLURM_LAUNCH_NODE_IPADDR/{port} >&0; echo $SLURMD_NODENAME; {ECHO}",
                              stdin=subprocess.DEVNULL)
        self.line = {}  # by the number of the node, from 0
        for _ in range(nodes):
            line, _ = listener.accept()
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = b""
            while not name.endswith(b"\n"):
                name += line.recv(1)
            line.setblocking(False)
            self.select.register(line, selectors.EVENT_READ)
            self.line[int(name.decode().strip().removeprefix("node")) - 1] = line

    @staticmethod
    def read(line):
        return len(line.recv(1 << 20))

    def send(self, data, seconds=120):
        end, left = time.monotonic() + seconds, {line: memoryview(data) for line in self.line.values()}
        while left and time.monotonic() < end:
            for line, view in list(left.items()):
                try:
                    left[line] = view[line.send(view):]
                except BlockingIOError:
                    continue
                if not left[line]:
                    del left[line]
            self.wait(1 << 60, 0.001)
        return not left

    def send_own(self, size):
        self.send((b"y" * 999 + b"\n") * (size // 1000))
        return size // 1000 * 1000 * self.nodes

    def frozen_turn(self, node):
        frozen = self.line.pop(node)
        try:
            while True:
                frozen.send(b"z" * 65536)
        except BlockingIOError:
            pass
        begin = time.monotonic()
        return self.send(LINE) and self.wait(len(LINE) * (self.nodes - 1), STUCK_S) and time.monotonic() - begin


def measure(kind, nodes, base):
    rows, begin = {}, time.monotonic()
    step = kind(nodes)
    step.send(LINE)
    step.wait(len(LINE) * nodes)
    rows["start"] = time.monotonic() - begin
    turns = []
    for _ in range(20):
        begin = time.monotonic()
        step.send(LINE)
        step.wait(len(LINE) * nodes)
        turns.append(time.monotonic() - begin)
    rows["turn"] = statistics.median(turns)
    begin = time.monotonic()
    step.got = 0
    want = step.send_own(10240)
    step.wait(want)
    rows["own"] = time.monotonic() - begin
    step.got = 0
    begin = time.monotonic()
    each = UP_BYTES // 1000 // nodes
    step.send(b"up%d\n" % each)
    step.wait(each * 1000 * nodes)
    rows["up"] = time.monotonic() - begin
    step.close()
    few = min(nodes, 4)  # Slurm gives a frozen node up after a while, and the step with it: be quick
    step = kind(few)
    step.send(LINE)
    step.wait(len(LINE) * few)
    subprocess.run([f"{base}/bin/fault", "freeze", f"node{few}"], check=True)
    rows["frozen"] = step.frozen_turn(few - 1) or None
    subprocess.run([f"{base}/bin/fault", "thaw", f"node{few}"], check=True)
    step.close()
    return rows


def inside(nodes, base):
    found = {kind.__name__.lower(): measure(kind, nodes, base) for kind in (Stdio, Tcp)}
    print(f"{nodes} nodes    " + "".join(f"{name:>12}" for name in found))
    for row in ("start", "turn", "own", "up", "frozen"):
        cells = (found[name][row] for name in found)
        print(f"{row:<12}" + "".join(f"{'stuck' if c is None else f'{c * 1000:.0f} ms':>12}" for c in cells))


def main():
    if len(sys.argv) == 4:
        inside(int(sys.argv[2]), sys.argv[3])
        return
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "e2e"))
    import beds  # found only now
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with beds.Slurm(nodes) as bed:
        subprocess.run([*bed.head, sys.executable, __file__, "inside", str(nodes), str(bed.base)], check=True)


if __name__ == "__main__":
    main()
