/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * disk_bench.h - `dsrun bench io`, the part that runs in the worker.
 */
#ifndef DS_RUNTIME_DISK_BENCH_H
#define DS_RUNTIME_DISK_BENCH_H

/* argv: "io" [DIR] ["--json"], after the word "bench".  Prints to stdout; returns the exit code. */
int ds_disk_bench_main(int argc, char **argv);

#endif
