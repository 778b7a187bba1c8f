#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""report - the page that dsrun report writes: of a real run, of one that failed, of hostile files, of a long one.

Every page is read by an XML parser, must load nothing, and must have nothing of a text of the run as markup.
"""
import json
import os
import re
import resource
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree

import harness as h

USAGE, DATA = 2, 65
LONG = 30000 if h.SANITIZED else 300000


def page(run_dir, *args, code=0, name=""):
    """The page of a run as a tree; None where it was refused."""
    got = h.dsrun("report", run_dir, *args)
    if code or got.returncode:
        h.ok(got.returncode == code, name or f"report ends with {code}", got.stderr)
        return None
    path = args[args.index("-o") + 1] if "-o" in args else run_dir / "report.html"
    text = (h.work() / path).read_text(encoding="utf-8")
    try:
        tree = ElementTree.fromstring(text.split("-->\n", 1)[1])
    except ElementTree.ParseError as error:
        h.ok(False, f"{name}: well-formed", error)
        raise
    tags = {e.tag for e in tree.iter()}
    h.ok(not {"src", "href", "style", "onerror"} & {a for e in tree.iter() for a in e.attrib}
         and not tags & {"script", "img", "link", "iframe", "object"}
         and not re.search(r"url\(|@import", tree.find("head/style").text)
         and any("default-src 'none'" in e.get("content", "") for e in tree.iter("meta")), f"{name}: nothing is loaded", tags)
    svgs = list(tree.iter("svg"))
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    h.ok(all(svg[0].tag == "title" and svg[0].text and svg[1].tag == "desc" and svg.get("role") == "img"
             and svg.get("aria-labelledby") == f"{svg[0].get('id')} {svg[1].get('id')}" for svg in svgs)
         and len(ids) == len(set(ids)), f"{name}: pictures have a title and a description", ids)
    h.ok(all(section.find(".//table") is not None for section in tree.iter("section") if section.find("svg") is not None),
         f"{name}: every picture has a table beside it")
    return tree


def words(tree, tag):
    return ["".join(e.itertext()) for e in tree.iter(tag)]


def facts(tree):
    terms = tree.find(".//dl")
    return dict(zip(words(terms, "dt"), words(terms, "dd")))


def state(tree):
    return "".join(tree.find(".//header/p").itertext()).strip()


# --- a run ------------------------------------------------------------------------------------------
job = h.write_job(steps=20, every=5, eval=5)
run = h.work() / "run"
h.dsrun(job, f"run_dir={run}", "--slots", "2")
got = h.dsrun("report", run)
h.ok(got.returncode == 0 and re.fullmatch(rf"{re.escape(str(run))}/report\.html: [\d.]+ KiB\n", got.stdout),
     "it says what it wrote", got.stdout + got.stderr)
tree = page(run, "-q", name="a run")
h.ok(tree.find("head/title").text == "tiny" and state(tree) == "done", "name and state", state(tree))
last = h.metrics(run)[-1]
h.ok(facts(tree)["steps"] == "20 of 20" and facts(tree)["ranks"] == "2 on 1 host"
     and facts(tree)["loss"].startswith(f"{last['loss']:.5g},"), "facts", facts(tree))
titles = words(tree, "h2")
h.ok(titles == ["loss", "learning rate", "gradient norm", "tokens per second", "MFU", "milliseconds per step", "events",
                "checkpoints", "job.yaml"], "sections", titles)
points = tree.find(".//svg/path").get("d")
h.ok(points.count("M") + points.count("L") == 20, "a short run has a point for every step", points)
h.ok(len(tree.findall(".//svg")[0].findall("path")) == 2, "loss and validation loss share a picture")
steps = [row[0].text for section in tree.iter("section") if section.find("h2").text == "checkpoints"
         for row in section.iter("tr")][1:]
h.ok(steps == [p.name[5:].lstrip("0") for p in sorted((run / "checkpoints").glob("step-*"), reverse=True)], "checkpoints", steps)
h.ok((run / "job.yaml").read_text() in words(tree, "pre"), "the job file as it is")

# --- where it is written ------------------------------------------------------------------------------
other = h.work() / "other.html"
page(run, "-o", "other.html", name="-o")
page(run, "-o", "other.html", name="a page is replaced")
other.write_text("mine")
page(run, "-o", "other.html", code=USAGE, name="what is no page stays")
h.ok(other.read_text() == "mine", "it has stayed")
page(run, "-o", "other.html", "--force", name="--force")
page(h.work() / "none", code=USAGE, name="a folder that is not there")
(h.work() / "empty").mkdir()
page(h.work() / "empty", code=DATA, name="a folder that is no run")
got = h.dsrun("report", run, "-o", h.work() / "no" / "x.html")
h.ok(got.returncode != 0 and "x.html" in got.stderr, "a folder to write to that is not there", got.stderr)

# --- one that runs, one that was killed, one that failed -------------------------------------------------
live = h.work() / "live"
child = h.start(job, f"run_dir={live}", "train.steps=1000000", "schedule.steps=20")
end = time.monotonic() + 60 * h.PATIENCE
while time.monotonic() < end and not (live / "metrics.jsonl").exists():
    time.sleep(0.05)
while time.monotonic() < end and not (live / "metrics.jsonl").read_text().count("\n"):
    time.sleep(0.05)
h.ok(state(page(live, name="a run that runs")) == "running", "it runs")
os.kill(child.pid, signal.SIGKILL)
child.wait()
h.left()
h.ok(state(page(live, name="a run that was killed")).startswith("broken off dsrun ended without a word"), "it was killed")
failed = h.work() / "failed"
h.dsrun("launch", "--slots", "2", "--run-dir", failed, "--", "sh", "-c", "echo '<b>why</b>' >&2; exit 7")
tree = page(failed, name="a program that failed")
h.ok(state(tree).startswith("failed exit code 7: ") and "job.yaml" not in words(tree, "h2"), "it failed", state(tree))

# --- hostile files ----------------------------------------------------------------------------------------
evil = h.work() / "<b>&\"evil' \u00e9"
(evil / "checkpoints" / "step-00000003").mkdir(parents=True)
(evil / "checkpoints" / "step-00000003" / "manifest.json").write_text("<script>alert(1)</script>")
TEXT = "</title></pre></desc><script>alert('1')</script><img src=x onerror=y> &amp; \x1b[31m \u202e ]]> -->"
(evil / "job.yaml").write_bytes(f'name: "{TEXT[:40]}"\nrun: {TEXT}\n'.encode() + b"\xff\xfe \xef\xbf\xbf\0\n")
events = [{"event": "launch", "time": 1000, "steps": 5, "ranks": 1, "hosts": [TEXT], "header": TEXT},
          {"event": "warning", "time": 1001, "text": TEXT * 50}, {"event": TEXT, "time": 1002},
          {"event": "failure", "time": 999, "cause": TEXT}, {"event": "exit", "time": 1e300, "code": 1},
          {"event": "exit", "time": 1003, "code": 3}]
(evil / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + "\x07\n{\n[]\ntorn")
lines = [{"step": 0, "loss": 1e308}, {"step": 0, "loss": -5.0, TEXT: 1}, {"step": 2 ** 62, "loss": 1e299},
         {"step": 1, "loss": None}, {"step": -4, "loss": 1}, {"step": TEXT, "loss": 1}, {"loss": TEXT, "step": 3}]
(evil / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + "{\"step\":1,\n" + "x" * 3000000 + "\n")
tree = page(evil, name="hostile files")
text = "".join(tree.itertext())
h.ok(not list(tree.iter("b")), "no text became markup")
h.ok(tree.find("head/title").text == str(evil), "without a job file that can be read the folder is the name",
     tree.find("head/title").text)
h.ok("\\x1b[31m" in text and "\x1b" not in text and "\u202e" not in text, "control characters are visible")
h.ok(state(tree).startswith("failed exit code 3: </title>"), "the cause is told as it is", state(tree))
h.ok(re.search(r"Of 10 lines of metrics.jsonl 5 are", text) and re.search(r"Of 9 lines of events.jsonl 4 are", text),
     "as many as there are", re.findall(r"Of \d+ lines[^,]*", text))
h.ok("damaged: " in text and "manifest.json" in text, "a damaged checkpoint is one")
(evil / "job.yaml").write_text(f'name: "{TEXT[:40]}"\n')
h.ok(page(evil, name="a hostile name").find("head/title").text == TEXT[:40], "a name is a name")
for name in ("events.jsonl", "metrics.jsonl", "job.yaml"):
    odd = h.work() / f"odd-{name}"
    odd.mkdir()
    (odd / "events.jsonl").write_text(json.dumps(events[0]) + "\n")
    (odd / name).unlink(missing_ok=True)
    os.mkfifo(odd / name)
    got = h.dsrun("report", odd, timeout=20)
    h.ok(got.returncode in ((0,) if name == "job.yaml" else (1, DATA)), f"a pipe as {name} holds nobody up",
         f"{got.returncode} {got.stderr}")

# --- a long run --------------------------------------------------------------------------------------------
long = h.work() / "long"
long.mkdir()
with open(long / "metrics.jsonl", "w", encoding="utf-8") as out:
    for i in range(LONG):
        loss = 9.0 if i == LONG // 3 else 3 + 1 / (i + 1)
        out.write(f'{{"step":{i},"loss":{loss:.6f},"grad_norm":1.5,"lr":0.001,"tokens":{i},"tokens_per_s":5.5,"step_ms":1,'
                  f'"mfu":0.4,"skipped":0,"time":{1000 + i}}}\n')
with open(long / "events.jsonl", "w", encoding="utf-8") as out:
    out.write(json.dumps(events[0] | {"steps": LONG}) + "\n")
    for i in range(LONG // 10):
        out.write(json.dumps({"event": "checkpoint", "time": 1000 + 10 * i, "step": 10 * i}) + "\n")
tree = page(long, name="a long run")
size = (long / "report.html").stat().st_size
h.ok(size < 400000, f"{LONG} lines are a small page", size)
ends = [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", tree.find(".//svg/path").get("d"))]
h.ok(min(ends) == 10.0 and ends.count(10.0) == 1, "a single spike is not lost", ends[:9])
h.ok(f"{LONG // 10 + 1 - 250} more are in events.jsonl" in "".join(tree.itertext()), "events in the middle are counted")
usage = subprocess.run(["/bin/sh", "-c", f"ulimit -v {4000000 if not h.SANITIZED else 'unlimited'}; exec {h.DSRUN} report -q {long}"],
                       env=h.environment(), check=False)
h.ok(usage.returncode == 0 and resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1 << 20, "in bounded memory")
h.done()
