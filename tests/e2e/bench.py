#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""bench - `dsrun bench gemm`, `bench comm` and `bench io` measure, as tables and as JSON, and take nothing else."""
import json
import os
import subprocess

import harness as h

if h.SANITIZED:
    h.skip("bench gemm: table and JSON", "rates mean nothing under a sanitizer, and take minutes")
else:
    ran = h.dsrun("bench", "gemm", "--json", timeout=800)
    h.ok(ran.returncode == 0 and not ran.stderr, "bench gemm --json: ends with 0", ran.stderr)
    table = json.loads(ran.stdout or "{}")
    h.ok(table.get("device", "").startswith("cpu"), "bench gemm --json: names the device", ran.stdout[:200])
    products = table.get("products", [])
    kinds = {(p["product"], p["type"]) for p in products}
    h.ok(len(kinds) == 6, "bench gemm --json: forward, dx and dw in F32 and BF16", kinds)
    h.ok(all(rate["gflops"] > 0 for p in products for rate in p["rates"]),
         "bench gemm --json: every product has rates", ran.stdout[:500])
ran = h.dsrun("bench", "gemm", "more")
h.ok(ran.returncode == 2 and ran.stderr.count("error:") == 1, "bench gemm: an extra word is refused",
     ran.stderr)
ran = h.dsrun("bench", "comm", "1")
h.ok(ran.returncode == 2 and "must be 2 to 64" in ran.stderr, "bench comm: one rank is refused", ran.stderr)
ran = h.dsrun("bench", "comm", "--json")
comm = json.loads(ran.stdout) if ran.returncode == 0 else {"cases": []}
h.ok({(c["op"], c["over"]) for c in comm["cases"]} ==
     {("all_gather", "once")} |
     {(op, over) for op in ("all_reduce_f32", "reduce_scatter", "all_gather", "all_to_all")
      for over in ("memory", "tcp")}, "bench comm --json: four operations, memory and TCP, and held once",
     ran.stderr)
h.ok(all(c["gb_s"] > 0 and (c["of_copy"] > 0) == (c["over"] != "once") for c in comm["cases"]) and
     comm.get("copy_gb_s", 0) > 0,
     "bench comm --json: every case has a rate and its share of copying, but what copies nothing", ran.stdout[:300])
disk = h.work() / "disk"
disk.mkdir()
ran = h.dsrun("bench", "io", disk, "--json")
io = json.loads(ran.stdout) if ran.returncode == 0 else {"cases": []}
cases = {(c["direct"], c["block_bytes"], c["under_way"]) for c in io["cases"]}
h.ok(len(cases) == len(io["cases"]) == (18 if io.get("direct") else 9) and
     all(c[f"{what}_gb_s"] > 0 for c in io["cases"] for what in ("read", "write", "both")) and
     io["disk"]["read"] > 0 and io["disk"]["write"] > 0,
     "bench io --json: every block and depth, direct where that can be and through the page cache", ran.stderr + ran.stdout)
h.ok(not os.listdir(disk), "bench io: leaves nothing in the folder", os.listdir(disk))
ran = h.dsrun("bench", "io", h.work() / "none")
h.ok(ran.returncode == 2 and "make that folder" in ran.stderr and ran.stderr.count("error:") == 1 and not ran.stdout,
     "bench io: a folder that is not there", ran.stderr + ran.stdout)
FULL = "mount -t tmpfs -o size=1m none disk || exit 99; %s bench io disk; code=$?; ls -A disk; exit $code"
ran = subprocess.run(["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", FULL % h.DSRUN],
                     capture_output=True, text=True, cwd=h.work(), env=h.environment(), timeout=60, check=False)
if ran.returncode == 99 or "unshare" in ran.stderr:
    h.skip("bench io: a disk that is too small", "no mount namespace here")
else:
    h.ok(ran.returncode == 1 and "128.0 MiB are wanted and 1.0 MiB are free" in ran.stderr and
         not ran.stdout, "bench io: a disk that is too small", ran.stderr + ran.stdout)
h.done()
