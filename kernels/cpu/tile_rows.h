/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tile_rows.h - rows that lie apart, as rows of an F32 tile, and back; what is done to these.
 *
 * Private to kernels/cpu.
 */
#ifndef DS_KERNELS_CPU_TILE_ROWS_H
#define DS_KERNELS_CPU_TILE_ROWS_H

#include "kernels/cpu/vec.h"

enum { DS_GATHER_AHEAD = 8 }; /* rows prefetched */

/* Rows lie far apart, where the processor does not look ahead by itself. */
DS_INLINE void ds__prefetch_row(enum ds_dtype act, const void *x, size_t at, size_t n)
{
    size_t bytes = act == DS_F32 ? sizeof(float) : sizeof(ds_bf16);
    const char *row = (const char *)x + at * bytes;

    for (size_t i = 0; i < n * bytes; i += 64)
        __builtin_prefetch(row + i);
}

DS_INLINE void ds__gather(enum ds_dtype act, const void *x, size_t at, size_t ld, size_t rows,
                          size_t n, float *to, size_t to_ld)
{
    for (size_t r = 0; r < rows; r++, at += ld, to += to_ld) {
        size_t i = 0;

        if (r + DS_GATHER_AHEAD < rows)
            ds__prefetch_row(act, x, at + DS_GATHER_AHEAD * ld, n);
        for (; i + DS_LANES <= n; i += DS_LANES)
            ds_vec_store(to + i, ds_load(act, x, at + i));
        if (i < n)
            ds_store_part(DS_F32, to, i, n - i, ds_load_part(act, x, at + i, n - i));
    }
}

DS_INLINE void ds__scatter(enum ds_dtype act, const float *from, size_t from_ld, size_t rows,
                           size_t n, void *x, size_t at, size_t ld)
{
    for (size_t r = 0; r < rows; r++, at += ld, from += from_ld) {
        size_t i = 0;

        for (; i + DS_LANES <= n; i += DS_LANES)
            ds_store(act, x, at + i, ds_vec_load(from + i));
        if (i < n)
            ds_store_part(act, x, at + i, n - i, ds_load_part(DS_F32, from, i, n - i));
    }
}

DS_INLINE void ds__scale_row(float *x, size_t width, float by)
{
    for (size_t i = 0; i < width; i += DS_LANES)
        ds_vec_store(x + i, ds_vec_load(x + i) * by);
}

DS_INLINE void ds__multiply_row(float *x, const float *by, size_t n)
{
    for (size_t i = 0; i < n; i += DS_LANES)
        ds_vec_store(x + i, ds_vec_load(x + i) * ds_vec_load(by + i));
}

DS_INLINE float ds__row_dot(const float *x, const float *y, size_t n)
{
    ds_vec sum = {0};
    size_t i = 0;

    for (; i + DS_LANES <= n; i += DS_LANES)
        sum += ds_vec_load(x + i) * ds_vec_load(y + i);
    if (i < n)
        sum += ds_load_part(DS_F32, x, i, n - i) * ds_load_part(DS_F32, y, i, n - i);
    return ds_vec_sum(sum);
}

#endif
