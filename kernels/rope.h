/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rope.h - how rotary positions are stretched for contexts longer than a model was first made for.
 *
 *   LINEAR  every frequency is divided by `factor` (Chen et al. 2023, "position interpolation")
 *   LLAMA3  those whose wave is longer than original / low positions are; those whose wave is
 *           shorter than original / high are not; between them goes what is linear in the number of
 *           waves in `original` positions
 *
 * Source  transformers: modeling_rope_utils.py, _compute_llama3_parameters(); Llama 3.1's own code
 * Tests   tests/kernels/test_pointwise.c
 */
#ifndef DS_KERNELS_ROPE_H
#define DS_KERNELS_ROPE_H

#include <stdint.h>

#include "kernels/anywhere.h"

enum ds_rope_kind { DS_ROPE_PLAIN, DS_ROPE_LINEAR, DS_ROPE_LLAMA3, DS_ROPE_KINDS };
struct ds_rope_scale {
    enum ds_rope_kind kind;
    double factor;     /* above 0 */
    double low, high;  /* waves in `original` positions, low < high */
    uint64_t original; /* positions */
};

/* What there is where nothing is stretched: the other members are those of Llama 3.1. */
static inline struct ds_rope_scale ds_rope_plain(void)
{
    struct ds_rope_scale scale = {DS_ROPE_PLAIN, 1.0, 1.0, 4.0, 8192};

    return scale;
}

/* The frequency, in radians a position, that `frequency` becomes. */
DS_ANYWHERE double ds_rope_scaled(const struct ds_rope_scale *scale, double frequency)
{
    double waves, share;

    if (scale->kind == DS_ROPE_PLAIN)
        return frequency;
    if (scale->kind == DS_ROPE_LINEAR)
        return frequency / scale->factor;
    waves = (double)scale->original * frequency / 6.283185307179586477;
    share = (waves - scale->low) / (scale->high - scale->low);
    share = share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share;
    return (1.0 - share) * (frequency / scale->factor) + share * frequency;
}

#endif
