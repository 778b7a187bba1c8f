/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * peak.c - the most that the arithmetic units do: a loop of multiply-adds in registers.
 *
 * Returns the operations done; the caller holds the clock (cpu.c).
 */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

enum { CHAINS = 10 }; /* independent sums: latency times units on current processors */

double DS_ISA(ds__cpu_multiply_add)(size_t turns)
{
    ds_vec sum[CHAINS];
    ds_vec by = ds_vec_set(0.999f), add = ds_vec_set(1e-3f);

    for (size_t i = 0; i < CHAINS; i++)
        sum[i] = ds_vec_set((float)i);
    for (size_t turn = 0; turn < turns; turn++) {
#pragma GCC unroll 10
        for (size_t i = 0; i < CHAINS; i++)
            sum[i] = sum[i] * by + add;
    }
    for (size_t i = 1; i < CHAINS; i++)
        sum[0] += sum[i];
    /* The sum is used, so that the loop is not removed; it cannot be NaN. */
    return ds_vec_sum(sum[0]) > -1e30f ? 2.0 * CHAINS * DS_LANES * (double)turns : 0.0;
}
