#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""keys - users' keys of every type and form against a real sshd: in a file, with a passphrase, in an agent.

The sshd accepts exactly the key that is tried.  What libssh2 cannot use is refused by name, and the same key
works by --via openssh.
"""
import itertools
import re

import beds
import harness as h
import places

TYPES = {"ed25519": (), "ecdsa-256": ("-b", "256"), "ecdsa-384": ("-b", "384"), "ecdsa-521": ("-b", "521"),
         "rsa": ("-b", "2048")}
FORMS = {"OpenSSH": TYPES, "PEM": ("ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa"), "PKCS8": ("ecdsa-256", "rsa")}
AGENT = """eval "$(ssh-agent -s)" >/dev/null; trap 'ssh-agent -k >/dev/null' EXIT
mv "$1" "$1.away"; chmod 600 "$1.away"; ssh-add -q "$1.away" || exit 9; shift; "$@"; exit"""


def make_key(bed, ssh, kind, form, phrase):
    key = ssh / f"{kind}.{form}.{'sealed' if phrase else 'plain'}"
    more = () if form == "OpenSSH" else ("-m", form)
    bed.run("ssh-keygen", "-q", "-a", "1", "-t", kind.split("-")[0], *TYPES[kind], *more, "-N", phrase, "-f", key)
    public = key.with_name(key.name + ".pub")
    (bed.base / "etc" / "authorized_keys").write_text(public.read_text())
    return key


def answered(ran):
    return ran.returncode == 0 and ran.stdout in (b"node1:\nnode1\n", "node1:\nnode1\n")


def one_key(bed, place, ssh, config, kind, form, phrase):
    key = make_key(bed, ssh, kind, form, phrase)
    (ssh / "config").write_text(re.sub("IdentityFile .*", f"IdentityFile {key}", config))
    name = f"{kind}, {form}{', with a passphrase' if phrase else ''}"
    ran = place.run("exec", "--", "hostname", SSH_AUTH_SOCK="")
    said = ran.stderr.decode(errors="replace")
    if phrase:
        h.ok(ran.returncode == 69 and str(key) in said and "is encrypted" in said and "ssh-add" in said,
             f"{name}: the file alone is refused by name", said)
    elif kind == "rsa":
        h.ok(ran.returncode == 69 and str(key) in said and "is RSA" in said and "--via openssh" in said,
             f"{name}: the file is refused by name", said)
        ran = bed.run(h.DSRUN, "exec", "-H", bed.hostfile, "--via", "openssh", "--", "hostname")
        h.ok(answered(ran), f"{name}: --via openssh", ran.stderr)
    else:
        h.ok(answered(ran), f"{name}: the file", said)
    if not phrase:  # what an agent holds has no form
        return
    ran = bed.run("sh", "-c", AGENT, "sh", key, h.DSRUN, "exec", "-H", bed.hostfile, "--via", "ssh", "--", "hostname",
                  SSH_ASKPASS=str(h.work() / "ask"), SSH_ASKPASS_REQUIRE="force")
    if kind == "rsa":
        h.ok(ran.returncode == 69 and "a key of the ssh-agent is RSA" in ran.stderr,
             f"{name}: refused by name in an agent, too", ran.stderr)
    else:
        h.ok(answered(ran), f"{name}: an agent has it", ran.stderr)


def odd_keys(bed, place, ssh, config):
    """Files that are no keys, or nobody's, and a key that others can read."""
    right = make_key(bed, ssh, "ed25519", "OpenSSH", "").read_text()
    body = right.splitlines()
    for name, text, mode, want in [
            ("empty", "", 0o600, "is no private key"),
            ("no key", "hello\n", 0o600, "is no private key"),
            ("cut off", "\n".join(body[:2]) + "\n", 0o600, "is damaged"),
            ("not base64", body[0] + "\n\xff\xfe$(touch x)====\n" + body[-1] + "\n", 0o600, "is damaged"),
            ("PKCS8, not base64", "-----BEGIN PRIVATE KEY-----\n$$$$\n-----END PRIVATE KEY-----\n", 0o600, "is damaged"),
            ("readable by others", right, 0o644, "others")]:
        key = ssh / "odd"
        key.unlink(missing_ok=True)
        key.write_text(text, encoding="latin-1")
        key.chmod(mode)
        (ssh / "config").write_text(re.sub("IdentityFile .*", f"IdentityFile {key}", config))
        ran = place.run("exec", "--", "hostname", SSH_AUTH_SOCK="")
        said = ran.stderr.decode(errors="replace")
        h.ok(ran.returncode == 69 and str(key) in said and want in said, f"a key file that is {name}: named", said)


def main():
    beds.require()
    ask = h.work() / "ask"
    ask.write_text("#!/bin/sh\necho secret\n")
    ask.chmod(0o755)
    with beds.Hosts(1) as bed:
        ssh = bed.base / "home" / "root" / ".ssh"
        config = (ssh / "config").read_text()
        place = places.Ssh(bed)
        for form, kinds in FORMS.items():
            for kind, phrase in itertools.product(kinds, ("", "secret")):
                one_key(bed, place, ssh, config, kind, form, phrase)
        odd_keys(bed, place, ssh, config)
        h.ok(not place.left(), "nothing is left on the host", place.left())
    h.done()


main()
