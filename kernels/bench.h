/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - `dsrun bench gemm`, the part that runs in the worker.
 */
#ifndef DS_KERNELS_BENCH_H
#define DS_KERNELS_BENCH_H

/* argv: "gemm" ["--json"], after the word "bench".  Prints to stdout; returns the exit code. */
int ds_bench_main(int argc, char **argv);

#endif
