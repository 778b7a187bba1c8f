/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * softmax.h - the two passes over a row of scores.
 *
 * Private to kernels/cpu.
 */
#ifndef DS_KERNELS_CPU_SOFTMAX_H
#define DS_KERNELS_CPU_SOFTMAX_H

#include "kernels/cpu/vec.h"

/* All ones in the first `n` lanes. */
DS_INLINE ds_ivec ds__first_lanes(size_t n)
{
    /* clang-format off */
    static const int32_t ones[2 * DS_LANES] = {
        -1, -1, -1, -1,
#if DS_LANES >= 8
        -1, -1, -1, -1,
#endif
#if DS_LANES >= 16
        -1, -1, -1, -1, -1, -1, -1, -1,
#endif
    };
    /* clang-format on */
    ds_ivec mask;

    memcpy(&mask, ones + DS_LANES - n, sizeof(mask));
    return mask;
}

/* Largest of the `seen` first scores; a row may be read up to a whole vector. */
static inline float ds__largest_of(const float *s, size_t seen)
{
    ds_vec max = ds_vec_set(s[0]);
    size_t i = 0;

    for (; i + DS_LANES <= seen; i += DS_LANES)
        max = ds_vec_max(max, ds_vec_load(s + i));
    if (i < seen)
        max = ds_vec_max(max, ds_vec_pick(ds__first_lanes(seen - i), ds_vec_load(s + i), max));
    return ds_vec_largest(max);
}

/* s = exp(scale s - shift) over the `seen` first elements, zeros behind them up to a whole vector;
 * their sum. */
static inline float ds__exp_row(float *s, size_t seen, float scale, float shift)
{
    ds_vec sum = {0};
    size_t i = 0;

    for (; i + DS_LANES <= seen; i += DS_LANES) {
        ds_vec e = ds_vec_exp(ds_vec_load(s + i) * scale - shift);

        ds_vec_store(s + i, e);
        sum += e;
    }
    if (i < seen) {
        ds_vec e = ds_vec_exp(ds_vec_load(s + i) * scale - shift);

        e = ds_vec_pick(ds__first_lanes(seen - i), e, (ds_vec){0});
        ds_vec_store(s + i, e);
        sum += e;
    }
    return ds_vec_sum(sum);
}

#endif
