#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""bench - `dsrun bench gemm` and `bench comm` measure, as tables and as JSON, and take nothing else."""
import json

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
h.done()
