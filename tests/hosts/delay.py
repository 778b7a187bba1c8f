#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""delay - put hosts of a bed far away, where the kernel has no netem.

    tests/hosts/delay.py BASE MS [LOSS%] HOST...

Until SIGTERM or SIGINT every packet from and to each HOST is MS milliseconds later (a round trip takes
2 MS longer) and LOSS percent are lost; then the cable is as before.  A pair of TAP devices takes the
place of the cable and this program carries the frames: TAP, because the kernel then hands over whole
frames with checksums.  Open connections survive the change both ways.
"""
import fcntl
import heapq
import os
import pathlib
import random
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP_NO_PI = 0x400454CA, 0x1002
AGAIN = "DSRUN_DELAY_INSIDE"  # set once this program runs in the head's network namespace


def ip(*args, lines=None):
    subprocess.run(["ip", *args], input=lines, text=True, check=True)


def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
    return fd


class Host:
    """One host whose cable is replaced by the TAP devices near<i> (on the bridge) and far<i> (in the host)."""

    def __init__(self, base, tag, name, number):
        files = base / "hosts" / name
        self.namespace, self.number = f"{tag}-{name}", number
        self.address, self.mac = (files / "addr").read_text().strip(), (files / "mac").read_text().strip()
        head = base / "hosts" / "head"
        self.head = (head / "addr").read_text().strip(), (head / "mac").read_text().strip()
        self.near, self.far = tap(f"near{number}"), tap(f"far{number}")

    def _address_lines(self):
        return (f"addr replace {self.address}/16 dev eth0\nlink set eth0 up\n"
                f"neigh replace {self.head[0]} lladdr {self.head[1]} dev eth0 nud permanent\n")

    def insert(self):
        ip("link", "set", f"near{self.number}", "master", "br0", "up")
        ip("link", "set", f"far{self.number}", "netns", self.namespace)
        far = f"far{self.number}"
        ip("-n", self.namespace, "-batch", "-",
           lines=f"link set eth0 down\nlink set {far} address {self.mac}\nlink set eth0 name cable\n"
                 f"link set {far} name eth0\n" + self._address_lines())

    def remove(self):
        os.close(self.near)
        os.close(self.far)  # the devices go with their descriptors
        ip("-n", self.namespace, "-batch", "-", lines="link set cable name eth0\n" + self._address_lines())


def carry(hosts, seconds, loss):
    """Carry frames until KeyboardInterrupt."""
    peer = {h.near: h.far for h in hosts} | {h.far: h.near for h in hosts}
    poll, queue, count = select.poll(), [], 0
    for fd in peer:
        poll.register(fd, select.POLLIN)
    while True:
        wait = max(0, queue[0][0] - time.monotonic()) * 1000 if queue else None
        for fd, _ in poll.poll(wait):
            try:
                while True:
                    frame = os.read(fd, 65536)
                    if random.random() >= loss:
                        count += 1
                        heapq.heappush(queue, (time.monotonic() + seconds, count, peer[fd], frame))
            except BlockingIOError:
                pass
        while queue and queue[0][0] <= time.monotonic():
            try:
                os.write(queue[0][2], queue[0][3])
            except OSError:
                pass  # lost, as with a full queue or a link that is down
            heapq.heappop(queue)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    base, seconds, names = pathlib.Path(sys.argv[1]).resolve(), float(sys.argv[2]) / 1000, sys.argv[3:]
    loss = float(names.pop(0)) / 100 if names[0].replace(".", "").isdigit() else 0.0
    tag = next(line[4:].strip() for line in (base / "bed").read_text().splitlines() if line.startswith("TAG="))
    if os.environ.get(AGAIN) != tag:
        os.environ[AGAIN] = tag
        os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{tag}-head", sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    hosts = []
    try:
        for number, name in enumerate(names):
            hosts.append(Host(base, tag, name, number))
            hosts[-1].insert()
        print("delaying", *names, flush=True)
        carry(hosts, seconds, loss)
    except KeyboardInterrupt:
        pass
    finally:
        for host in hosts:
            host.remove()


if __name__ == "__main__":
    main()
