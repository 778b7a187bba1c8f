#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""random_jobs - random small jobs in random layouts: the numbers of one rank, the bits that are promised, as planned.

    tests/e2e/random_jobs.py [--trials N | --seconds N] [--seed S]     12 trials of seed 1 without words
    tests/e2e/random_jobs.py --only NAME                               one of them again, made smaller where it fails

A trial draws a job and a layout (draws.py) until `dsrun check` takes them; what that refuses must be refused in one
sentence, the same by check, plan and run.  Then:

    whole     one rank makes all steps, and has the losses and norms that all others must come near
    straight  the layout does the same, by the plan that `dsrun plan` prints, sending what that says, in that memory
    first     after one update the optimizer's states, which are the gradient's, are those of one rank, but for rounding
    sibling   a layout that dsrun-job(5) promises the bits of does the same: another stage, place of states, kind of
              recomputation, place of ranks
    part      ranks with all layers have the bits of a pipeline
    halves    the layout stops after some steps and goes on: the same bits
    other     what it had saved there goes on in another layout
    stopped   a long run is told to stop, or killed, and goes on: the bits of one that was left alone
    saved     the checkpoint is whole, text is sampled from it; exported and read again it has the same weights, which
              evaluate alike
    tuned     adapters beside what was exported, or a part of it, are trained: on one rank, in a layout as planned, one of the
              same bits, after a stop, and what comes of it evaluates alike

and nothing is left behind.  Layouts of several hosts are real ones over ssh, where a test bed can be raised.  A trial
that fails prints its job and its layout.
"""
import argparse
import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time

import beds
import draws
import harness as h

# How far losses, norms and the states of the first update may be apart, relative, by what makes them so.
LIMITS = {"fp32": (1e-5, 1e-3, 1e-5), "wire": (3e-3, 3e-2, 2e-2), "bf16": (1e-2, 0.1, 0.3), "fp16": (2e-3, 2e-2, 0.1),
          "fp8": (3e-2, 0.3, 0.5)}
# The optimizer's states, and what is next to nothing in them: of a gradient, and of its square. Where each token sees
# itself alone, queries and keys get nothing but rounding, 1e-10 or so, and 1e-9 where that of bf16 is added.
STATES = {"exp_avg": 1e-8, "momentum_buffer": 1e-8, "exp_avg_sq": 1e-16, "sum": 1e-16}
CLOCK = ("tokens_per_s", "step_ms", "mfu", "time")  # what two runs may differ in
DISK = h.work() / "disk"
LONG = 60  # steps of a run that is stopped
_compared = set()  # refusals, without their numbers, that check, plan and run agree in


class Wrong(Exception):
    """What a trial found: a sentence, and what was seen."""

    def __init__(self, what, seen=""):
        super().__init__(what)
        self.what, self.seen = what, str(seen)


def need(good, what, seen=""):
    if not good:
        raise Wrong(what, seen)


def limits(job):
    """Lion takes the sign of what may be next to nothing."""
    kind = "fp8" if job.get("precision.matmul") == "fp8" else job.get("precision.compute", "fp32")
    loose = job.get("precision.grad_wire") == "bf16" or job.get("optim.name") == "lion"
    return LIMITS["wire" if kind == "fp32" and loose else kind]


def metric_lines(run):
    """Every line of metrics.jsonl, numbers as the text that they are."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line, parse_float=str).items() if key not in CLOCK} for line in lines]


def events(run, name):
    return [e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if e["event"] == name]


class Watch(threading.Thread):
    """The largest resident size of each rank of a run, while it runs."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.peak = process, {}
        self.start()

    def run(self):
        while self.process.poll() is None:
            for pid in [pid for pid, line in h.processes().items() if "dsrun-worker" in line]:
                try:
                    with open(f"/proc/{pid}/environ", "rb") as file:
                        rank = re.search(rb"(?:^|\0)RANK=(\d+)", file.read())
                    with open(f"/proc/{pid}/status", encoding="ascii") as file:
                        size = re.search(r"^VmHWM:\s+(\d+) kB", file.read(), re.M)
                except OSError:
                    continue  # it has just ended
                if rank and size:
                    self.peak[int(rank.group(1))] = 1024 * int(size.group(1))
            time.sleep(0.005)


class Here:
    """Where dsrun runs: on this machine, or on the head of a bed for a layout of several of its hosts."""

    def __init__(self, bed=None):
        self.bed, self.hosts = bed, len(bed.names) if bed else 1

    def run(self, layout, *words):
        return h.dsrun(*words) if len(layout.slots) == 1 else self.bed.run(h.DSRUN, *words)

    def start(self, layout, *words):
        """A Popen with one pipe for all output."""
        head = [] if len(layout.slots) == 1 else self.bed.head
        return subprocess.Popen([*head, h.DSRUN, *map(str, words)], env=h.environment(), cwd=h.work(), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def left(self):
        """Processes that do not end, here and on the hosts."""
        found, end = list(h.left().values()), time.monotonic() + 5
        for name in self.bed.names if self.bed else []:
            while (still := self.bed.processes(name)) and time.monotonic() < end:
                time.sleep(0.05)
            found += still.values()
        return found


class Trial:
    """One draw and what is asked of it.  Keys of `without` are taken from what was drawn."""

    def __init__(self, here, name, without=()):
        self.here, self.name, self.without, self.dice = here, name, without, random.Random(name)
        self.hosts = here.hosts if self.dice.random() < 0.4 else 1
        self.folder = h.work() / name
        self.job = self.layout = self.one = None
        self.runs = self.refused = 0

    # --- what is drawn ---------------------------------------------------------------------------

    def write(self, job, name="job.yaml"):
        path = self.folder / name
        path.write_text(json.dumps(draws.nested(job)))
        return path

    def accepted(self, layout):
        """Does check take it?  A refusal is a sentence, and everybody's."""
        words = layout.words(self.write(self.job, "try.yaml"))
        said = self.here.run(layout, "check", *words)
        if said.returncode == 0:
            need(not said.stdout + said.stderr, "check says something and accepts", said.stdout + said.stderr)
            return True
        self.refused += 1
        sentence = said.stderr.rstrip("\n")
        shown = f"{json.dumps(self.job)}\n{layout}\n{said.returncode} {said.stdout}{said.stderr}"
        need(said.returncode == 65 and not said.stdout and "\n" not in sentence and sentence.startswith("dsrun: ")
             and not sentence.endswith("."), "a refusal is not one sentence with code 65", shown)
        kind = re.sub(r"[0-9]+", "N", sentence.replace(str(self.folder), ""))
        for command in ("plan", "run") if kind not in _compared else ():
            more = ["--run-dir", self.folder / "refused"] if command == "run" else []
            other = self.here.run(layout, command, *more, *words)
            need((other.returncode, other.stdout, other.stderr) == (65, "", said.stderr),
                 f"check refuses, {command} says otherwise", f"{shown}{other.returncode} {other.stdout[:300]}{other.stderr}")
        _compared.add(kind)
        return False

    def draw(self):
        while self.layout is None:
            self.job = draws.draw_job(self.dice)
            self.layout = self.another(lambda: draws.draw_layout(self.dice, self.job, self.hosts), 20)
        for key in self.without:
            self.job.pop(key, None)
            self.layout.keys.pop(key, None)

    def another(self, make, tries=200):
        """A layout of the job that check takes, or None."""
        for _ in range(tries):
            layout = make()
            if self.accepted(layout):
                return layout
        return None

    # --- runs ------------------------------------------------------------------------------------

    def train(self, name, layout, *more):
        self.runs += 1
        run = self.folder / name
        ran = self.here.run(layout, "--run-dir", run, *layout.words(self.write(self.job)), *more)
        need(ran.returncode == 0, f"{name}: ends with {ran.returncode}", f"{layout} {more}\n{ran.stdout}{ran.stderr}")
        need("error:" not in ran.stderr, f"{name}: ends well and tells of an error", ran.stderr)
        return run

    def alike(self, name, run, whole):
        """Losses and norms of all steps are near those of the whole; everything else is the same."""
        def outline(lines):
            return [(m["step"], m.get("lr"), m.get("tokens"), "valid_loss" in m) for m in lines]
        ours, theirs = metric_lines(run), metric_lines(whole)
        need(outline(ours) == outline(theirs), f"{name}: other steps", f"{ours}\n{theirs}")
        loss, norm, _ = limits(self.job)
        for a, b in zip(ours, theirs):
            if a.get("skipped") != b.get("skipped"):  # overflows of fp16 may come a step later
                need(self.job.get("precision.compute") == "fp16", f"{name}: skips differ", f"{a}\n{b}")
                return
            for key, limit in (("loss", loss), ("valid_loss", loss), ("grad_norm", norm)):
                if a.get(key) is not None and b.get(key) is not None:
                    x, y = float(a[key]), float(b[key])
                    need(abs(x - y) <= limit * max(abs(y), 1e-3), f"{name}: {key} differs", f"step {a['step']}: {x} and {y}")

    def equal(self, name, run, other, *but):
        """The same numbers, but for these, and the same checkpoint."""
        ours, theirs = ([{key: m[key] for key in m if key not in but} for m in metric_lines(one)] for one in (run, other))
        need(ours == theirs, f"{name}: numbers are not the same",
             f"{len(ours)} and {len(theirs)} lines\n" + "\n".join(f"{a}\n{b}" for a, b in zip(ours, theirs) if a != b))
        diff = h.dsrun("ckpt", "diff", run, other)
        need(diff.returncode == 0, f"{name}: checkpoints are not the same", diff.stdout[:1500] + diff.stderr)

    # --- parts of a trial ------------------------------------------------------------------------

    def whole(self):
        sizes = draws.divisors(self.job["train.global_batch"])
        self.dice.shuffle(sizes)
        ones = iter([draws.Layout({"train.micro_batch": size}, [1]) for size in sizes])
        self.one = self.another(lambda: next(ones), len(sizes))
        need(self.one, "one rank cannot do it", self.layout)
        return self.train("whole", self.one)

    def straight(self, name="straight"):
        words, run = self.layout.words(self.write(self.job)), self.folder / name
        said = self.here.run(self.layout, "plan", "--json", *words)
        need(said.returncode == 0, "check accepts, plan refuses", said.stdout[:500] + said.stderr)
        self.runs += 1
        process = self.here.start(self.layout, "--run-dir", run, *words, "log.comm=true")
        watch = Watch(process) if not h.SANITIZED and len(self.layout.slots) == 1 and self.dice.random() < 0.3 else None
        output, _ = process.communicate(timeout=120 * h.PATIENCE)
        need(process.returncode == 0, f"{name}: ends with {process.returncode}", output)
        self.as_planned(run, json.loads(said.stdout))
        if watch:
            watch.join()
            self.fits(words, watch.peak)
        return run

    def as_planned(self, run, plan):
        """The program, and what a step sends; a rank alone sends nothing, an update that is skipped less."""
        settled = self.layout.keys.get("activation.recompute") == "auto"  # by what memory is free, each time anew
        start = events(run, "start")[0]
        need(settled or start["plan"] == plan["hash"], "the plan that ran is not the one that was printed",
             f"{start}\n{plan['hash']}")
        want = {op: (e["calls"], e["bytes"]) for op, e in plan["traffic"].items()}
        skips = [m["skipped"] for m in metric_lines(run) if "skipped" in m]
        for event, now, before in zip(events(run, "comm"), skips, [0, *skips]):
            sent, said = ({op: (e[f"{word}calls"], e[f"{word}bytes"]) for op, e in event.items() if isinstance(e, dict)}
                          for word in ("", "planned_"))
            need(now > before or self.layout.ranks == 1 or sent == said and (settled or sent == want),
                 "what was sent is not what was planned", f"{sent}\n{said}\n{want}")

    def fits(self, words, peak):
        for rank, seen in sorted(peak.items()):
            plan = json.loads(self.here.run(self.layout, "plan", "--json", "--rank", rank, *words).stdout)
            parts = plan["parts"]
            total = parts[rank * len(parts) // plan["world"]]["total"] if parts else plan["memory"]["total"]
            need(seen <= 1.05 * total + (1 << 20), f"rank {rank} takes more than the plan says", f"{seen} seen, {total} planned")

    def first(self):
        """Losses hardly feel the gradient of a small tensor.  That of a key's bias is 0 but for rounding."""
        limit = limits(self.job)[2]
        if "model.experts" in self.job and limits(self.job) != LIMITS["fp32"]:
            return  # a router that goes the other way changes what an expert is given
        runs = [self.train(f"first-{layout.ranks}-{i}", layout, "train.steps=1", "checkpoint.every=1")
                for i, layout in enumerate((self.layout, self.one))]
        rows = json.loads(h.dsrun("ckpt", "diff", "--json", *runs).stdout)
        need(all(row["difference"] == "values" for row in rows), "after one update: other tensors", rows[:3])
        far = [row for row in rows if row["relative"] > limit and not row["name"].endswith("k_proj.bias") and
               row["largest"] > STATES.get(row["name"].split(".")[0], math.inf)]
        need(not far, "after one update: states differ", "\n".join(map(str, far)))

    def sibling(self, straight):
        layout = self.another(lambda: draws.same_bits(self.dice, self.job, self.layout, self.hosts))
        if layout:
            self.equal(f"sibling {layout}", self.train("sibling", layout), straight)

    def part(self, straight):
        """Nothing is summed over the parts of a pipeline but the norm, unless an embedding is tied."""
        parts, tied = self.layout.keys.get("parallel.pipeline", 1), self.job["model.arch"] in ("gpt2", "gemma3", "smollm3")
        if parts == 1 or self.job.get("optim.clip") != 0 or self.job.get("model.tie_embeddings", tied):
            return
        layout = draws.Layout({key: value for key, value in self.layout.keys.items() if key != "parallel.pipeline"},
                              [self.layout.ranks // parts])
        if self.accepted(layout):
            self.equal(f"one part, {layout}", self.train("part", layout), straight, "grad_norm")

    def halves(self, straight, whole):
        half = self.dice.randrange(1, self.job["train.steps"])
        run = self.train("halves", self.layout, f"train.steps={half}")
        other = self.another(lambda: draws.draw_layout(self.dice, self.job, self.hosts)) if self.dice.random() < 0.7 else None
        if other:
            shutil.copytree(run, self.folder / "other", symlinks=True)
        self.train("halves", self.layout)
        self.equal(f"gone on with after {half}", run, straight)
        if other:
            self.alike(f"saved after {half}, gone on with in {other}", self.train("other", other), whole)
            self.verified(self.folder / "other")

    def stopped(self):
        number = self.dice.choice((signal.SIGTERM, signal.SIGKILL))
        words = [f"train.steps={LONG}", f"checkpoint.every={self.dice.choice((1, 7)) if number == signal.SIGKILL else 100}",
                 f"eval.every={self.dice.choice((0, 4)) if 'data.valid' in self.job else 0}"]
        run, least = self.folder / "stopped", self.dice.randrange(1, 20)
        metrics = run / "metrics.jsonl"
        process = self.here.start(self.layout, "--run-dir", run, *self.layout.words(self.write(self.job)), *words)
        while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < least):
            time.sleep(0.002)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60 * h.PATIENCE)
        self.runs += 1
        need(process.returncode in (0, 75, -9), f"stopped: ends with {process.returncode}", said)
        need(not (left := self.here.left()), "stopped: processes are left", left)
        self.train("stopped", self.layout, *words)
        self.equal(f"{number.name} and gone on with", run, self.train("alone", self.layout, *words))

    def verified(self, run):
        said = h.dsrun("ckpt", "verify", run / "checkpoints" / "latest")
        need(said.returncode == 0, f"{run.name}: ckpt verify", said.stdout + said.stderr)

    def saved(self, run):
        self.verified(run)
        if self.job.get("model.vocab", 256) <= 256:  # more are a tokenizer's
            said = h.dsrun("generate", run, "--prompt", "5", "--max-tokens", 6, "--json", "--threads", 1)
            need(said.returncode == 0, "generate", said.stdout + said.stderr)
        last, folder, again = run / "checkpoints" / "latest", self.folder / "hf", self.folder / "imported"
        for words in (("export", "--dtype", "fp32", last, folder), ("import", folder, again)):
            said = h.dsrun("ckpt", *words)
            need(said.returncode == 0, f"ckpt {words[0]}", said.stdout + said.stderr)
        diff = h.dsrun("ckpt", "diff", "--json", last, again)
        need(diff.returncode in (0, 1) and all(row["difference"] == "only in the first" and row["name"].split(".")[0] in STATES
                                               for row in json.loads(diff.stdout)),
             "exported and imported it has other weights", diff.stdout[:1500] + diff.stderr)
        wanted = [m for m in metric_lines(run) if "valid_loss" in m]
        if wanted and wanted[-1]["step"] == self.job["train.steps"]:
            self.evaluates(folder, wanted[-1]["valid_loss"])

    def evaluates(self, folder, wanted):
        """The exported weights, read by model.init.from and left as they are by an update of rate 0."""
        job = {key: value for key, value in self.job.items() if not key.startswith(("model.", "schedule.", "optim."))}
        job.update({"model.init.from": str(folder), "train.steps": 1, "eval.every": 1, "optim.lr": 0, "checkpoint.every": 0})
        path, run = self.write(job, "again.yaml"), self.folder / "again"
        ran = self.here.run(self.layout, "--run-dir", run, *self.layout.words(path), "offload.optim=none")
        need(ran.returncode == 0, "trains from its export", ran.stdout + ran.stderr)
        got = metric_lines(run)[-1]["valid_loss"]
        need(got == wanted, "what was exported evaluates otherwise", f"{got} and {wanted}")

    def tuned(self):
        """What was exported goes on as the base of adapters, or with some tensors as they are."""
        drawn = self.job  # what layouts are drawn by
        self.job = {key: value for key, value in drawn.items() if not key.startswith("model.")}
        self.job["model.init.from"] = str(self.folder / "hf")
        if self.dice.random() < 0.6:
            self.job.update({"lora.rank": self.dice.choice((1, 3, 8)), "lora.alpha": self.dice.choice((1, 8, 16))})
            if self.dice.random() < 0.3:
                self.job["lora.whole"] = self.dice.choice((["*norm*"], ["*ln_*"], ["*embed*"], ["*w?e*"], ["*bias"], ["lm_head*"], ["*gate.weight"], ["*experts*"]))
            if self.dice.random() < 0.2:
                self.job["lora.rslora"] = True
            if self.dice.random() < 0.3:
                self.job["lora.dropout"] = self.dice.choice((0.1, 0.5))
            if self.dice.random() < 0.5:
                self.job["lora.targets"] = self.dice.choice((["c_attn"], ["c_proj"], ["q_proj", "v_proj"], ["down_proj", "k_proj"], ["o_proj"]))
        else:
            self.job["train.freeze"] = self.dice.choice((["*norm*"], ["*ln_*"], ["*.0.*"], ["*attn*"], ["*embed*", "*.1.*"], ["*w?e*"], ["*proj*"], ["*experts*"]))
        sizes = draws.divisors(self.job["train.global_batch"])
        self.one = next((one for one in (draws.Layout({"train.micro_batch": size}, [1]) for size in sizes) if self.accepted(one)), None)
        self.layout = self.one and self.another(lambda: draws.draw_layout(self.dice, drawn, self.hosts), 30)
        if not self.layout:
            return
        whole, straight = self.train("tuned-whole", self.one), self.straight("tuned")
        self.alike("tuned", straight, whole)
        layout = self.another(lambda: draws.same_bits(self.dice, drawn, self.layout, self.hosts))
        if layout:
            self.equal(f"tuned sibling {layout}", self.train("tuned-sibling", layout), straight)
        self.train("tuned-halves", self.layout, "train.steps=1")
        self.train("tuned-halves", self.layout)
        self.equal("tuned, gone on with after 1", self.folder / "tuned-halves", straight)
        self.verified(straight)
        merged, last = self.folder / "merged", [m for m in metric_lines(straight) if "valid_loss" in m]
        said = h.dsrun("ckpt", "export", "--dtype", "fp32", straight / "checkpoints" / "latest", merged)
        need(said.returncode == 0, "tuned: ckpt export", said.stdout + said.stderr)
        if last and last[-1]["step"] == self.job["train.steps"] and "lora.rank" not in self.job:
            del self.job["train.freeze"]
            self.evaluates(merged, last[-1]["valid_loss"])

    def all(self):
        memory = h.shared_memory()
        self.draw()
        whole = self.whole()
        straight = self.straight()
        self.alike("straight", straight, whole)
        self.first()
        self.sibling(straight)
        self.part(straight)
        self.halves(straight, whole)
        if self.dice.random() < 0.25:
            self.stopped()
        self.saved(straight)
        if self.dice.random() < 0.4:
            self.tuned()
        need(not (left := self.here.left()), "processes are left", left)
        need(not list(DISK.iterdir()), "files are left in offload.path", list(DISK.iterdir()))
        need(not (left := h.shared_memory() - memory), "shared memory is left", left)

    def go(self):
        """What is wrong, or None."""
        os.environ.pop("DSRUN_CPU_ISA", None)
        if self.hosts == 1 and self.dice.random() < 0.3:  # of this machine alone: hosts do not see it
            os.environ["DSRUN_CPU_ISA"] = "base"
        self.folder.mkdir()
        try:
            self.all()
        except Wrong as wrong:
            return wrong
        except (subprocess.TimeoutExpired, OSError, ValueError, KeyError, IndexError) as error:
            return Wrong(f"{type(error).__name__}: {error}")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return None


def tell(trial, wrong):
    isa = os.environ.get("DSRUN_CPU_ISA")
    h.ok(wrong is None, f"trial {trial.name}: {trial.job and trial.job.get('model.arch')}, {trial.layout}",
         wrong and f"{wrong.what}\n{json.dumps(trial.job)}\n{trial.layout}{f', DSRUN_CPU_ISA={isa}' if isa else ''}\n{wrong.seen}")


def again(here, name):
    """One trial; where it fails, keys are left out for as long as it fails with the same words."""
    trial = Trial(here, name)
    wrong, without = trial.go(), []
    tell(trial, wrong)
    for key in [*trial.job, *trial.layout.keys] if wrong else []:
        less = Trial(here, name, [*without, key])
        now = less.go()
        if now and now.what.split()[:2] == wrong.what.split()[:2]:
            without.append(key)
            trial, wrong = less, now
    if without:
        tell(trial, wrong)


def trials(here, words):
    end, number, runs, refused = time.monotonic() + (words.seconds or 0), 0, 0, 0
    while number < words.trials if words.seconds is None else time.monotonic() < end:
        trial = Trial(here, f"{words.seed}-{number}")
        tell(trial, trial.go())
        number, runs, refused = number + 1, runs + trial.runs, refused + trial.refused
    print(f"# seed {words.seed}: {number} trials, {runs} runs, {refused} draws refused in {len(_compared)} ways")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=4 if h.SANITIZED else 12)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only")
    words = parser.parse_args()
    DISK.mkdir()
    why = beds.missing()
    if why:
        h.skip("layouts of several hosts", why)
    with beds.Hosts(3) if not why else contextlib.nullcontext() as bed:
        if words.only:
            again(Here(bed), words.only)
        else:
            trials(Here(bed), words)


main()
h.done()
