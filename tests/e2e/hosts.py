#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""hosts - what dsrun hosts says of this machine under several names, of hosts that do not answer, and of real
ones over ssh and in an allocation of Slurm.

That hosts differ is made by agents that lie: scripts in a folder of their own that change one fact of what
the real agent says.
"""
import json
import os
import platform
import re

import harness as h
import places

AGENT = h.BUILD / "libexec" / "dsrun" / "dsrun-agent"
NODES = [f"node{i}" for i in range(1, 5)]
HOSTS = h.work() / "hosts"
HOSTS.write_text("hosts:\n" + "".join(f"  - {{name: {n}, address: 127.0.0.{i + 1}}}\n" for i, n in enumerate(NODES)))

# Frames are passed on; an OUT whose JSON has the fact gets the other value, the n-th agent started only.
LIAR = r"""#!/usr/bin/env python3
import os, pathlib, struct, subprocess, sys, threading
here = pathlib.Path(__file__).parent
turn = len(list(here.glob("turn-*")))
while True:
    try:
        (here / f"turn-{turn}").touch(exist_ok=False)
        break
    except FileExistsError:
        turn += 1
if turn == int(os.environ["LIE_TURN"]) and os.environ.get("LIE_DIE"):
    sys.exit(9)
agent = subprocess.Popen([os.environ["REAL_AGENT"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def down():
    while data := os.read(0, 65536):
        agent.stdin.write(data)
        agent.stdin.flush()
    agent.stdin.close()
threading.Thread(target=down, daemon=True).start()
old, new = os.environ["LIE_OLD"].encode(), os.environ["LIE_NEW"].encode()
while len(head := agent.stdout.read(12)) == 12:
    length, kind = struct.unpack("<IH", head[:6])
    body = agent.stdout.read(length)
    if kind == 4 and turn == int(os.environ["LIE_TURN"]):
        body = body.replace(old, new)
        head = struct.pack("<I", len(body)) + head[4:]
    os.write(1, head + body)
os._exit(agent.wait())
"""


def lying(name, turn, old, new, **more):
    """The environment with an agent that says `new` for `old` on one host."""
    folder = h.work() / name
    folder.mkdir()
    (folder / "dsrun-agent").write_text(LIAR)
    (folder / "dsrun-agent").chmod(0o755)
    return dict(DSRUN_LIBEXEC=str(folder), REAL_AGENT=str(AGENT), LIE_TURN=str(turn), LIE_OLD=old, LIE_NEW=new, **more)


def test_alike():
    ran = h.dsrun("hosts", "-H", HOSTS)
    text = ran.stdout
    h.ok(ran.returncode == 0 and "differs" not in text and "the same on all 4 hosts\n" in text, "hosts that are alike",
         ran.stdout + ran.stderr)
    h.ok(re.search(rf"^  kernel +{re.escape(platform.release())}$", text, re.M) and
         re.search(rf"^  cores +{len(os.sched_getaffinity(0))}$", text, re.M) and
         re.search(rf"^  libc +{platform.libc_ver()[1]}$", text, re.M), "the facts are true", text)
    h.ok(all(re.search(rf"^{n} .* GiB +[0-9.]+ GiB$", text, re.M) for n in NODES), "a row for each host", text)
    ran = h.dsrun("hosts", "-H", HOSTS, "-i", "node2", "--run-dir", "/")
    h.ok(ran.returncode == 0 and "the same on 1 host\n" in ran.stdout and "run dir free" in ran.stdout and
         "node1" not in ran.stdout, "one host, and the disk of a folder", ran.stdout + ran.stderr)
    ran = h.dsrun("hosts", "-H", HOSTS, "--dry-run")
    h.ok(ran.stdout == "".join(f"host {n}\n" for n in NODES), "--dry-run asks nobody", ran.stdout + ran.stderr)


def test_gpus():
    """A GPU that is free or not, and NCCL, by doubles of the libraries that know."""
    fakes = h.BUILD / "fakes" / "libexec"
    ran = h.dsrun("hosts", "-H", HOSTS, "-i", "node1")
    h.ok(ran.returncode == 0 and re.search(r"^  nccl +(-|2\.\d+\.\d+)$", ran.stdout, re.M), "NCCL, or a dash", ran.stdout)
    if not all((fakes / name).exists() for name in ("libnccl.so.2", "libnvidia-ml.so.1")):
        h.skip("GPUs that are free", "no doubles of NVIDIA's libraries in this build")
        return
    for processes, want in ("0", "1 of 1"), ("2", "0 of 1"):
        ran = h.dsrun("hosts", "-H", HOSTS, "-i", "node1", LD_LIBRARY_PATH=str(fakes), FAKE_NVML_PROCESSES=processes,
                      FAKE_NCCL_VERSION="22104")
        h.ok(ran.returncode == 0 and re.search(r"^  nccl +2\.21\.4$", ran.stdout, re.M) and
             re.search(rf"^node1 .* {want} ", ran.stdout, re.M), f"{processes} processes on a GPU: {want} is free",
             ran.stdout + ran.stderr)
    ran = h.dsrun("hosts", "-H", HOSTS, "-i", "node1", "--json", LD_LIBRARY_PATH=str(fakes), FAKE_NVML_PROCESSES="2")
    said = json.loads(ran.stdout)
    h.ok(said["gpus_free"] == 0 and said["gpu_processes"] == [2] and said["gpu_used_bytes"] == [1 << 20] and
         said["nccl"] == "2.28.9", "json: each GPU", ran.stdout)


def test_json():
    ran = h.dsrun("hosts", "-H", HOSTS, "--json", "--run-dir", h.work())
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    h.ok(ran.returncode == 0 and [line["host"] for line in lines] == NODES, "json: an object a host, in order", ran.stdout)
    h.ok(all(line["kernel"] == platform.release() and line["dir_free_bytes"] > 0 and abs(line["clock_offset_s"]) < 60
             for line in lines), "json: facts", ran.stdout)


def test_different():
    kernel = platform.release()
    ran = h.dsrun("hosts", "-H", HOSTS, **lying("other", 1, f'"kernel":"{kernel}"', '"kernel":"0.99\\u001b[2J"'))
    first = ran.stdout.split("the same on")[0]
    h.ok(ran.returncode == 0 and re.fullmatch(
        rf"differs\n  kernel +{re.escape(kernel)} +node\[.*\]\n +0\.99\\x1b\[2J +node\d\n", first),
         "what differs comes first, the most common value before the others, escaped", ran.stdout + ran.stderr)
    ran = h.dsrun("hosts", "-H", HOSTS, **lying("less", 1, '"libc"', '"other"'))
    h.ok(ran.returncode == 0 and re.search(r"^ +- +node\d$", ran.stdout, re.M), "what a host does not say is a dash",
         ran.stdout + ran.stderr)
    ran = h.dsrun("hosts", "-H", HOSTS, **lying("nonsense", 1, '{"kernel"', '["kernel"'))
    h.ok(ran.returncode == 69 and re.search(r"host 'node\d': its agent sent a malformed answer", ran.stderr) and
         "the same on all 3 hosts" in ran.stdout, "nonsense is refused, the others are shown", ran.stdout + ran.stderr)


def test_lost():
    ran = h.dsrun("hosts", "-H", HOSTS, **lying("dead", 1, "x", "x", LIE_DIE="1"))
    h.ok(ran.returncode == 69 and re.search(r"error: host 'node\d': its agent ended with code 9", ran.stderr) and
         "the same on all 3 hosts" in ran.stdout, "a host that does not answer is named", ran.stdout + ran.stderr)
    ran = h.dsrun("hosts", "-H", HOSTS, "--json", **lying("dead-json", 1, "x", "x", LIE_DIE="1"))
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    h.ok(ran.returncode == 69 and sum("error" in line for line in lines) == 1 and len(lines) == 4,
         "in JSON, too", ran.stdout + ran.stderr)
    ran = h.dsrun("hosts", "-H", HOSTS, DSRUN_LIBEXEC="/nonexistent")
    h.ok(ran.returncode == 69 and ran.stdout == "" and ran.stderr.count("No such file") >= 4, "no host answers",
         ran.stdout + ran.stderr)
    h.ok(not h.left(), "nothing is left running", h.left(0))


def test_real(place):
    """Hosts that are machines of their own: what is true of one alone comes first, and who is gone is named."""
    names = list(place.names)
    ran = place.run("hosts", "--json")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    h.ok(ran.returncode == 0 and [line["host"] for line in lines] == names and
         all(line["kernel"] == platform.release() for line in lines), f"{place.name}: every host answers, in order",
         (ran.stdout, ran.stderr))
    ran = place.run("hosts", "-i", names[1])
    h.ok(ran.returncode == 0 and b"the same on 1 host\n" in ran.stdout and names[0].encode() not in ran.stdout,
         f"{place.name}: one host", (ran.stdout, ran.stderr))
    h.ok(not place.left(), f"{place.name}: nothing is left on any host", place.left())
    if place.name == "ssh":
        place.bed.fault("reject", names[2])
        ran = place.run("hosts", "--start-timeout", "20")
        place.bed.fault("heal", names[2])
        h.ok(ran.returncode == 69 and names[2].encode() in ran.stderr and b"the same on all 2 hosts" in ran.stdout,
             "ssh: a host that does not answer is named, the others are shown", (ran.stdout, ran.stderr))


test_alike()
test_gpus()
test_json()
test_different()
test_lost()
for the_place in places.beds_of(3):
    test_real(the_place)
h.done()
