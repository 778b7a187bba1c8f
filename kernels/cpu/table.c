/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * table.c - the CPU backend's kernels for one instruction set.
 */
#include "kernels/cpu/isa.h"

#define STRING2(x) #x
#define STRING(x)  STRING2(x)

const struct ds_kernels DS_ISA(ds__cpu_kernels) = {.name = "cpu-" STRING(DS_CPU_ISA),
#define X(id, fn) .fn = DS_ISA(ds__cpu_##fn),
                                                   DS_OPS(X)
#undef X
};
