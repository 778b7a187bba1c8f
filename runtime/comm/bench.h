/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - `dsrun bench comm`, the part that runs in the worker.
 */
#ifndef DS_RUNTIME_COMM_BENCH_H
#define DS_RUNTIME_COMM_BENCH_H

/* argv: "comm" [RANKS] ["--json"], after the word "bench".  Prints to stdout; returns the exit
 * code. */
int ds_comm_bench_main(int argc, char **argv);

#endif
