# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""shared - what the scripts about ranks that share sequences or layers have in common: a small job, and whether
two runs of it came to the same."""
import json
import shutil

import harness as h

STEPS, HIDDEN, CONTEXT = 4, 64, 64
LIMIT = 1e-5  # relative, of losses: sums are taken in another order


def job(family, **sizes):
    path = h.write_job(f"{family}.yaml", arch=family, hidden=HIDDEN, heads=8, ffn=128, context=CONTEXT, sequence=CONTEXT,
                       steps=STEPS, every=2, seed=5, **sizes)
    more = {"gpt2": "", "llama": " kv_heads: 4,", "mixtral": " kv_heads: 4, experts: 4,"}[family]
    path.write_text(path.read_text().replace("heads: 8,", f"heads: 8,{more}"))
    return path


def train(path, run, ranks, *more, steps=STEPS):
    ran = h.dsrun("--slots", ranks, "--run-dir", run, path, f"train.steps={steps}", *more)
    return h.ok(ran.returncode == 0, f"{run.name}: trains to step {steps}", ran.stdout + ran.stderr)


def losses(run):
    return [(row["loss"], row["grad_norm"]) for row in h.metrics(run)]


def alike(name, run, whole):
    ours, theirs = losses(run), losses(whole)
    off = max(abs(x / y - 1) for a, b in zip(ours, theirs) for x, y in zip(a, b)) if len(ours) == len(theirs) else 1.0
    h.ok(off <= LIMIT, f"{name}: losses and norms within {LIMIT:g}", f"{off:g}")


def planned(path, ranks, *more):
    ran = h.dsrun("plan", "--json", "--slots", ranks, path, *more)
    h.ok(ran.returncode == 0, "plan --json", ran.stderr)
    return json.loads(ran.stdout)


def comm_events(run):
    """What the run said of its collectives, as log.comm has it."""
    return [e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if e["event"] == "comm"]


def goes_on_anywhere(family, path, layouts):
    """A checkpoint knows nothing of who shared what: saved and gone on with in any two of these, as the whole run."""
    folder = h.work()
    for first, (ranks, keys) in layouts.items():
        half = folder / "half"
        train(path, half, ranks, *keys, steps=2)
        ran = h.dsrun("ckpt", "verify", half / "checkpoints" / "latest")
        h.ok(ran.returncode == 0, f"{family}, saved {first}: every byte is there", ran.stdout + ran.stderr)
        for then, (others, more) in layouts.items():
            run = folder / "on"
            shutil.copytree(half, run, symlinks=True)
            name = f"{family}, saved {first}, goes on {then}"
            if train(path, run, others, *more):
                alike(name, run, folder / f"{family}-1")
            shutil.rmtree(run)
        shutil.rmtree(half)


def same_bits(name, runs):
    """The first run's losses, norms and checkpoint are those of all others."""
    for stage, run in enumerate(runs[1:], 1):
        diff = h.dsrun("ckpt", "diff", runs[0], run)
        h.ok(losses(run) == losses(runs[0]) and diff.returncode == 0, f"{name}: stage {stage} has the bits of 0",
             diff.stdout[:300])


def is_refused(path, table):
    """Ranks, keys, and the words of check, plan and run for them."""
    for ranks, keys, words in table:
        for command in ("check", "plan", "run"):
            ran = h.dsrun(command, "--slots", ranks, path, *keys.split())
            h.ok(ran.returncode == 65 and words in ran.stderr, f"{command}: {keys} on {ranks} ranks is refused", ran.stderr)
