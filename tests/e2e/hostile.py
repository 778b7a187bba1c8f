#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""hostile - bytes that a shell, ssh(1) or a terminal would obey, in every place that takes some, over real sshd.

Arguments, values, paths, programs, hosts, users and addresses; each by libssh2 and by ssh(1).  Each byte must
arrive as it is or be refused where it stands; nothing may be executed; and every sshd of the bed records what it
is asked to run, which must be the same bytes every time.
"""
import os
import pathlib
import shutil

import beds
import harness as h
import places

ODD = [b"$(touch executed)", b"`touch executed`", b"'; touch executed; '", b'"; touch executed; "', b"; touch executed",
       b"| touch executed", b"a' b\"c", b"two\nlines", b"\r\n", b"\nDSRUN 1\n", b"-oProxyCommand=touch executed",
       b"--", b"%h%n%u%%", b"$HOME ~ *", b"\\", b"\xff\xfe\x80", b"\xc3", b"\x1b[2J\x07", b"\x7f\x01", "ü€".encode(), b" ", b""]
OPTIONS = [b"-oProxyCommand=touch executed", b"-o", b"--", b"%h%n%u%%", b"\xff\xfe\x80"]  # of ssh(1)
SHOW = "for a; do printf %s \"$a\" | od -An -v -tx1 | tr -d ' \\n'; echo .; done"
VIAS = ("ssh", "openssh")


def hexed(values):
    return "".join(value.hex() + ".\n" for value in values).encode()


def said_by(ran, label):
    """What one host said, without labels of `exec` (folded) and `launch` (each line)."""
    lines = ran.stdout.split(b"\n")
    if label == b"node1:":
        return b"\n".join(lines[1:])
    return b"\n".join(line.removeprefix(label) for line in lines)


COMMANDS = [("exec", [], b"node1:"), ("launch", ["--slots", "1"], b"[node1 0] ")]


def arguments(place, via):
    for command, options, label in COMMANDS:
        ran = place.run(command, *options, "--", "sh", "-c", SHOW, *ODD[-1:], *ODD)
        h.ok(ran.returncode == 0 and said_by(ran, label) == hexed(ODD), f"{via}: {command}: odd arguments arrive byte for byte",
             (ran.stdout, ran.stderr))
        given = [word for i, value in enumerate(ODD) for word in ("--env", f"ODD_{i}=".encode() + value)]
        names = " ".join(f'"$ODD_{i}"' for i in range(len(ODD)))
        ran = place.run(command, *options, *given, "--", "sh", "-c", f"set -- {names}; {SHOW}")
        h.ok(ran.returncode == 0 and said_by(ran, label) == hexed(ODD), f"{via}: {command}: odd values arrive byte for byte",
             (ran.stdout, ran.stderr))


def paths(place, via):
    """One folder with all the odd bytes in its name: to work in, to keep a run in, and to start programs from."""
    odd = os.fsencode(h.work()) + b"/" + via.encode() + b" $(touch executed)`touch executed`'\"; touch executed;\n\xff\x80 %h -o\\*"
    os.mkdir(odd)
    script = odd + b"/-run'me\n"
    pathlib.Path(os.fsdecode(script)).write_text("#!/bin/sh\n" + SHOW + "\n")
    os.chmod(script, 0o755)
    pwd = "pwd | od -An -v -tx1 | tr -d ' \\n'; echo ."
    for command, options, label in COMMANDS:
        ran = place.run(command, *options, "--cwd", odd, "--", "sh", "-c", pwd)
        h.ok(ran.returncode == 0 and said_by(ran, label) == hexed([odd + b"\n"]), f"{via}: {command}: --cwd of odd bytes",
             (ran.stdout, ran.stderr))
        ran = place.run(command, *options, "--", script, *ODD[:3])
        h.ok(ran.returncode == 0 and said_by(ran, label) == hexed(ODD[:3]), f"{via}: {command}: a program of odd bytes",
             (ran.stdout, ran.stderr))
    ran = place.run("launch", "--slots", "1", "--run-dir", odd + b"/run", "--", "echo", "kept")
    log = pathlib.Path(os.fsdecode(odd)) / "run" / "logs" / "rank-00000.log"
    h.ok(ran.returncode == 0 and log.exists() and log.read_text() == "kept\n", f"{via}: --run-dir of odd bytes", ran.stderr)
    for name, code in ((odd.replace(b"\n", b" ") + b".libexec", 0), (odd + b"/libexec", 65)):
        shutil.copytree(h.BUILD / "libexec" / "dsrun", os.fsdecode(name))
        ran = place.run("exec", "--", "hostname", DSRUN_LIBEXEC=os.fsdecode(name))
        good = ran.stdout == b"node1:\nnode1\n" if code == 0 else b"has a newline in its name" in ran.stderr
        h.ok(ran.returncode == code and good, f"{via}: the agent in a folder of odd bytes: {code or 'it runs'}",
             (ran.returncode, ran.stdout, ran.stderr))


def names(place, via):
    """In every place of a hostfile, in its line form and as YAML: refused where it stands, or by an sshd as a user."""
    for value in ODD[:-1] if via == "ssh" else OPTIONS:
        code = {}
        quoted = "".join(f"\\x{byte:02x}" if byte < 128 else chr(byte) for byte in value).encode("latin-1")
        for key in ("name", "user", "address"):
            line = {"name": b"", "user": b"node1 user=", "address": b"node1 address="}[key] + value + b"\n"
            fields = {"name": b"node1", "user": b"root", "address": b"node1", key: quoted}
            yaml = b"hosts: [{" + b", ".join(k.encode() + b': "' + v + b'"' for k, v in fields.items()) + b"}]\n"
            for text in (line, yaml):
                ran = place.run("exec", "--start-timeout", 20, "--", "touch", "executed", hosts=place.hostfile(text, "odd"))
                code.setdefault(ran.returncode, []).append((key, text, ran.stderr))
        h.ok(set(code) <= {2, 65, 69}, f"{via}: {value!r} as a host, a user and an address is refused", code)
        ran = place.run("exec", "-i", value, "--", "touch", "executed")
        h.ok(ran.returncode == 2, f"{via}: {value!r} for --include is refused", ran.stderr)


def config(place, home, via):
    """In ~/.ssh/config, where ssh(1) reads the same."""
    right = (home / ".ssh" / "config").read_bytes()
    odd = [value for value in ODD[:-1] if b"\n" not in value and value.strip()]
    code = {}
    for value in odd:
        for key in (b"HostName", b"User", b"ProxyJump"):
            (home / ".ssh" / "config").write_bytes(b"Host far\n  " + key + b" " + value + b"\n" + right)
            ran = place.run("exec", "--start-timeout", 20, "--", "touch", "executed", hosts=place.hostfile("far\n", "far"))
            code.setdefault(ran.returncode, []).append((key, value, ran.stderr))
    (home / ".ssh" / "config").write_bytes(right)
    h.ok(set(code) <= {2, 65, 69}, f"{via}: odd bytes for HostName, User and ProxyJump of ~/.ssh/config are refused", code)


def main():
    beds.require()
    log = h.work() / "asked"
    with beds.Hosts(1, sshd=beds.recording_sshd(log)) as bed:
        home = bed.base / "home" / "root"
        place = places.Ssh(bed)
        for via in VIAS:
            place.via = ["--via", via]
            arguments(place, via)
            paths(place, via)
            names(place, via)
        place.via = ["--via", "ssh"]  # what ssh(1) makes of its own file is its own
        config(place, home, "ssh")
        asked = [text for text in log.read_bytes().split(b"--end--\n") if text]
        h.ok(len(set(asked)) == 1 and len(asked) >= 2 * 9, f"sshd was asked {len(asked)} times, for the same bytes every time",
             set(asked))
        executed = [str(path) for root in (home, h.work(), pathlib.Path.cwd(), bed.base) for path in root.rglob("executed")]
        executed += [name for name in ("node1", "head") if "executed" in bed.on(name, "sh", "-c", "ls / /tmp /root").stdout]
        h.ok(not executed, "nothing was executed by the way", executed)
        h.ok(not place.left(), "nothing is left on the host", place.left())
    h.done()


main()
