#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""run.py - every bench in one go: a table on the terminal, a file under bench/results/.

    run.py --build DIR [--quick] [--only NAME,...] [--config A,B,C] [--no-save]

Ends with 0 when all benches ran, whether or not every goal was met: a missed goal is a line of the
table that says by how much.
"""
import argparse
import datetime
import json
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import adamw
import ckpt
import comm
import model
import stages
import start
import step
import tokenize_text
from common import HERE, Failed, machine

BENCHES = {"comm": comm, "adamw": adamw, "ckpt": ckpt, "start": start, "step": step,
           "stages": stages, "model": model, "tokenize": tokenize_text}


class Context:
    def __init__(self, args):
        self.build, self.quick = args.build, args.quick
        self.configs = args.config.split(",") if args.config else None
        self.failed = False

    @staticmethod
    def say(text):
        print(text, flush=True)


def verdict(row):
    if row["met"] is None:
        return "not measured"
    if row["met"]:
        return "met"
    return f"missed by {100 * (1 - row['ratio'] / row['need']):.1f}%"


def print_goals(goals):
    print(f"\n{'goal':<70} {'ours':>10} {'against':>10} {'ratio':>7} {'need':>5}  verdict")
    for row in goals:
        ours, against, ratio = ("-" if row[k] is None else f"{row[k]:.5g}"
                                for k in ("ours", "against", "ratio"))
        name = f"{row['goal']} ({row['unit']})"
        print(f"{name:<70} {ours:>10} {against:>10} {ratio:>7} {row['need']:>5}  {verdict(row)}")


def save(record):
    slug = re.sub(r"[^a-z0-9]+", "-", record["machine"]["cpu"].lower()).strip("-")
    path = os.path.join(HERE, "results", f"{record['date'][:10]}-{slug}.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.write("\n")
    print(f"\nwritten to {os.path.relpath(path)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, small shapes")
    parser.add_argument("--only", help="names of benches, with commas between")
    parser.add_argument("--config", help="shapes of the step bench, with commas between")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args()
    context = Context(args)
    record = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
              "quick": args.quick, "machine": machine(), "benches": {}, "goals": []}
    print("machine  " + ", ".join(f"{k} {v}" for k, v in record["machine"].items()))
    if record["machine"]["busy_at_start"] > 0.1:
        print("warning: other programs are using this machine, numbers will be low and uneven")
    began = time.monotonic()
    for name in (args.only or ",".join(BENCHES)).split(","):
        if name not in BENCHES:
            parser.error(f"no bench '{name}', there are {', '.join(BENCHES)}")
        print(f"{name}  {BENCHES[name].__doc__.split(' - ')[1].splitlines()[0]}", flush=True)
        try:
            rows, goals = BENCHES[name].measure(context)
        except Failed as failure:
            print(f"    failed: {failure}")
            context.failed = True
            continue
        record["benches"][name] = rows
        record["goals"] += goals
    record["seconds"] = round(time.monotonic() - began)
    print_goals(record["goals"])
    if not (args.no_save or args.quick or args.only or args.config):
        save(record)
    return 1 if context.failed else 0


if __name__ == "__main__":
    sys.exit(main())
