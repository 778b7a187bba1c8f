/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * machine.h - `dsrun bench machine`, the part that runs in the worker: this machine as a cluster
 * file (cluster.h), for `dsrun plan` and `dsrun tune`.
 *
 * Tests   tests/e2e/plan.py
 */
#ifndef DS_RUNTIME_COST_MACHINE_H
#define DS_RUNTIME_COST_MACHINE_H

/* argv: "machine" [RANKS], after the word "bench".  Prints to stdout; returns the exit code. */
int ds_machine_main(int argc, char **argv);

#endif
