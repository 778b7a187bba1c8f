# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""text.py - tokens of real text, the same on every machine: this repository's own files.

A token is a word with the blank before it, a number, a run of blanks or a mark.  Ids go by how often a
word comes, so that few are common and many are seldom, as in any text.  What is short is repeated.
"""
import array
import collections
import os
import re

from common import HERE

WORD = re.compile(r" ?[A-Za-z]+| ?[0-9]+|\s+|[^A-Za-z0-9\s]")
ENDS = (".md", ".c", ".h", ".py", ".cu", ".cuh", ".in", ".mk", ".sh", ".yaml")


def read():
    root = os.path.dirname(HERE)
    parts = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "build")))
        for name in sorted(n for n in names if n.endswith(ENDS)):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                parts.append(file.read())
    return "".join(parts)


def write(path, count, vocab):
    """`count` ids below `vocab`, 2 bytes each where they fit, else 4."""
    words = WORD.findall(read())
    common = collections.Counter(words).most_common()
    ids = {word: i % vocab for i, (word, _) in enumerate(common)}
    tokens = [ids[word] for word in words]
    while len(tokens) < count:
        tokens += tokens
    with open(path, "wb") as file:
        array.array("H" if vocab <= 1 << 16 else "I", tokens[:count]).tofile(file)
