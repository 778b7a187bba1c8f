#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""launch.py - start `true` on 2, 16 and 64 real hosts: dsrun exec against pdsh, mpirun and a loop of ssh.

    launch.py --build DIR [--hosts 2,16,64] [--rounds 5] [--many 1000]

Hosts are those of tests/hosts (root, see there); their sshds share this machine's cores, so a figure is the
work of both ends.  Rounds take all programs in turn; medians are printed.  Twice: with bash and the default key
exchange, and with a light one (FAST=1).  Then --many addresses of one sshd, all lines open at once: the launcher's resident
memory. `--hosts=` makes that alone.
A table on the terminal and bench/results/launch.json.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = HERE.parent / "tests" / "hosts"
GOAL_CPU_MS, GOAL_RSS_KB = 4.0, 100
PATIENCE_S = 1800  # each address is a login, a shell and an agent on this machine


def bed(base, hosts, seen=(), **env):
    subprocess.run([SCRIPTS / "up.sh", base, str(hosts)], check=True, stdout=subprocess.DEVNULL,
                   env=dict(os.environ, ONE_KEY="1", SEEN=" ".join(map(str, (HERE.parent, *seen))), **env))


def down(base):
    subprocess.run([SCRIPTS / "down.sh", base], check=True, stdout=subprocess.DEVNULL)


def measure(command):
    """On the head: JSON of wall ms, processor ms of the command and its children, exit code, end of stderr."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    wall = 1000 * (time.monotonic() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(json.dumps([wall, cpu, ran.returncode, ran.stderr.decode(errors="replace")[-300:]]))


def timed(base, command):
    """What measure() says.  The way into the head's namespaces takes 10 ms and is no part of it."""
    ran = subprocess.run([base / "bin" / "head", sys.executable, __file__, "--measure", *map(str, command)],
                         stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout)


def programs(dsrun, names, hostfile, hosts):
    loop = "for h in " + " ".join(names) + "; do ssh $h true || exit 1; done"
    found = {"dsrun exec": [dsrun, "exec", "-H", hostfile, "--", "true"], "loop of ssh": ["sh", "-c", loop]}
    if shutil.which("pdsh"):
        found["pdsh -R ssh"] = ["pdsh", "-R", "ssh", "-w", ",".join(names), "true"]
    if shutil.which("mpirun"):
        found["mpirun"] = ["mpirun", "--allow-run-as-root", "-n", str(hosts), "--host", ",".join(names), "true"]
    return found


def compare(dsrun, base, hosts, rounds, fast):
    bed(base, hosts, FAST="1" if fast else "")
    try:
        names = [f"node{i + 1}" for i in range(hosts)]
        hostfile = base / "etc" / "hosts.list"
        commands = programs(dsrun, names, hostfile, hosts)
        results = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                wall, cpu, code, said = timed(base, command)
                if code:
                    sys.exit(f"{name} on {hosts} hosts ended with {code}: {said}")
                results[name].append((wall, cpu))
    finally:
        down(base)
    rows = []
    for name, values in results.items():
        wall, cpu = (statistics.median(v[i] for v in values) for i in (0, 1))
        rows.append({"hosts": hosts, "ssh": "light" if fast else "default", "program": name, "rounds": rounds,
                     "wall_ms": round(wall, 1), "cpu_ms_per_host": round(cpu / hosts, 2)})
        print(f"{hosts:>5} hosts  {rows[-1]['ssh']:<8} {name:<12} {wall:>9.0f} ms  {cpu / hosts:>7.2f} ms of CPU a host",
              flush=True)
    return rows


def waiting(fifo):
    """How many processes read from the pipe?"""
    found = 0
    for entry in pathlib.Path("/proc").iterdir():
        try:
            found += entry.name.isdigit() and (entry / "cmdline").read_bytes() == f"cat\0{fifo}\0".encode()
        except OSError:
            continue  # it has just ended
    return found


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def open_lines(dsrun, base, hosts):
    """KiB resident in a launcher whose `hosts` lines are all open at once, and seconds until they were."""
    listed, fifo = base / "etc" / f"first.{hosts}", base / "etc" / f"wait.{hosts}"
    listed.write_text("".join(f"alias{i + 1}\n" for i in range(hosts)))
    os.mkfifo(fifo)
    began = time.monotonic()
    with open(base / "etc" / "many.log", "w+", encoding="utf-8") as log:
        running = subprocess.Popen([base / "bin" / "head", dsrun, "exec", "-H", listed, "--start-timeout", str(PATIENCE_S),
                                    "--", "cat", fifo], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while running.poll() is None and (there := waiting(fifo)) < hosts:
            if time.monotonic() - began > PATIENCE_S:
                running.terminate()
                sys.exit(f"{there} of {hosts} addresses after {PATIENCE_S} s")
            time.sleep(2)
        took = time.monotonic() - began
        if running.poll() is None:
            kib = resident(running.pid)
            os.close(os.open(fifo, os.O_WRONLY))  # all of them read an end of file
        if running.wait():
            log.seek(0)
            sys.exit(f"dsrun exec on {hosts} addresses ended with {running.returncode}: {log.read()[-300:]}")
    return kib, took


def many(dsrun, base, hosts):
    """What a line costs: all open, less one open."""
    bed(base, 0, FAST="1", ALIASES=str(hosts))
    try:
        one, _ = open_lines(dsrun, base, 1)
        all_open, took = open_lines(dsrun, base, hosts)
    finally:
        down(base)
    each = (all_open - one) / hosts
    print(f"{hosts:>5} addresses of one sshd, all open after {took:.0f} s: {all_open} KiB resident, {one} with one, "
          f"{each:.1f} KiB a host", flush=True)
    return {"hosts": hosts, "resident_kib": all_open, "resident_kib_of_one": one, "kib_per_host": round(each, 1)}


def main():
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--hosts", default="2,16,64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=1000)
    args = parser.parse_args()
    dsrun = pathlib.Path(args.build).resolve() / "bin" / "dsrun"
    base = pathlib.Path(f"/tmp/dsrun-bench.{os.getpid()}")
    rows = []
    for fast in (False, True):
        for hosts in map(int, args.hosts.replace(",", " ").split()):
            rows += compare(dsrun, base, hosts, args.rounds, fast)
    memory = many(dsrun, base, args.many) if args.many else None
    for row in rows:
        if row["program"] == "dsrun exec":
            others = [r for r in rows if r["hosts"] == row["hosts"] and r["ssh"] == row["ssh"] and r is not row]
            ssh = next(r["cpu_ms_per_host"] for r in others if r["program"] == "loop of ssh")
            print(f"{row['hosts']} hosts, {row['ssh']} ssh: "
                  f"{'faster than all' if row['wall_ms'] < min(r['wall_ms'] for r in others) else 'NOT faster than all'}; "
                  f"CPU a host {'met' if row['cpu_ms_per_host'] < GOAL_CPU_MS else 'MISSED'}, "
                  f"ssh(1) takes {ssh / row['cpu_ms_per_host']:.1f} times as much")
    if memory:
        print(f"memory a host {'met' if memory['kib_per_host'] < GOAL_RSS_KB else 'MISSED'}")
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "launch.json").write_text(json.dumps({"start": rows, "memory": memory}, indent=1) + "\n")


if __name__ == "__main__":
    main()
