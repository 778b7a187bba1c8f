/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * draw.h - the random words of dropout: base/rng.h's Philox in a form that compilers vectorise,
 * many blocks at a time.
 *
 * Element e of a line that is numbered from 0 has word e % 4 of block e / 4, and is kept unless
 * that is below rate * 2^32.
 *
 * Tests   tests/kernels/test_dropout.c, tests/kernels/test_attention.c
 */
#ifndef DS_KERNELS_CPU_DRAW_H
#define DS_KERNELS_CPU_DRAW_H

#include <stddef.h>
#include <stdint.h>

#include "base/philox.h"
#include "kernels/cpu/vec.h"

enum { DS_DRAW_BLOCKS_MAX = 64 };

struct ds_draw { /* counter (block, stream), key `seed` */
    uint64_t seed, stream, block;
};

/* The words of `blocks` blocks from `draw.block`; a constant at every call, a multiple of 16. */
DS_INLINE void ds__draw(struct ds_draw draw, size_t blocks, uint32_t *out)
{
    uint32_t x0[DS_DRAW_BLOCKS_MAX] DS_UNINITIALIZED, x1[DS_DRAW_BLOCKS_MAX] DS_UNINITIALIZED;
    uint32_t x2[DS_DRAW_BLOCKS_MAX] DS_UNINITIALIZED, x3[DS_DRAW_BLOCKS_MAX] DS_UNINITIALIZED;
    uint32_t k0 = (uint32_t)draw.seed, k1 = (uint32_t)(draw.seed >> 32);

    for (uint32_t i = 0; i < blocks; i++) {
        x0[i] = (uint32_t)(draw.block + i);
        x1[i] = (uint32_t)((draw.block + i) >> 32);
        x2[i] = (uint32_t)draw.stream;
        x3[i] = (uint32_t)(draw.stream >> 32);
    }
    for (int round = 0; round < DS_PHILOX_ROUNDS; round++) {
        for (size_t i = 0; i < blocks; i++)
            DS_PHILOX_ROUND(x0[i], x1[i], x2[i], x3[i], k0, k1);
        DS_PHILOX_NEXT_KEY(k0, k1);
    }
    for (size_t i = 0; i < blocks; i++) {
        out[4 * i] = x0[i];
        out[4 * i + 1] = x1[i];
        out[4 * i + 2] = x2[i];
        out[4 * i + 3] = x3[i];
    }
}

/* x / (1 - rate) where its word is kept, else 0; `below` and `scale` as ds__draw_below() and
 * ds__draw_scale() say. */
DS_INLINE ds_vec ds__draw_keep(ds_vec x, const uint32_t *word, uint32_t below, float scale)
{
    ds_uvec w;

    memcpy(&w, word, sizeof(w));
    return ds_vec_pick((ds_ivec)(w >= below), x * scale, ds_vec_set(0.0f));
}

DS_INLINE uint32_t ds__draw_below(double rate)
{
    return (uint32_t)(rate * 0x1p32);
}

DS_INLINE float ds__draw_scale(double rate)
{
    return (float)(1.0 / (1.0 - rate));
}

#endif
