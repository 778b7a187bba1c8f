/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rope.h - how rotary positions are stretched for contexts longer than a model was first made for.
 *
 *   LINEAR  every frequency is divided by `factor` (Chen et al. 2023, "position interpolation")
 *   LLAMA3  those whose wave is longer than original / low positions are; those whose wave is
 *           shorter than original / high are not; between them goes what is linear in the number of
 *           waves in `original` positions
 *   YARN    likewise, from low = slow to high = fast waves, but between them goes what is linear in
 *           the number of the pair, and the ends are whole pairs; cosines and sines are multiplied
 *           by `attention` (Peng et al. 2023, "YaRN", sections 3.2 and 3.4)
 *   LONGROPE  each frequency is divided by a factor of its own; cosines and sines are multiplied by
 *           `attention` (Ding et al. 2024, "LongRoPE")
 *
 * Source  transformers: modeling_rope_utils.py, _compute_llama3_parameters(),
 *         _compute_yarn_parameters() and _compute_longrope_parameters(); Llama 3.1's own code
 * Tests   tests/kernels/test_rope.c
 */
#ifndef DS_KERNELS_ROPE_H
#define DS_KERNELS_ROPE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "base/numbers.h"
#include "kernels/anywhere.h"

/* clang-format off */
#define DS_ROPES(X) \
    X(PLAIN,    "none") \
    X(LINEAR,   "linear") \
    X(LLAMA3,   "llama3") \
    X(YARN,     "yarn") \
    X(LONGROPE, "longrope")
/* clang-format on */
enum ds_rope_kind {
#define X(id, name) DS_ROPE_##id,
    DS_ROPES(X)
#undef X
        DS_ROPE_KINDS
};

static inline const char *ds_rope_name(enum ds_rope_kind kind)
{
    static const char *const names[] = {
#define X(id, name) name,
        DS_ROPES(X)
#undef X
    };

    return names[kind];
}

struct ds_rope_scale {
    enum ds_rope_kind kind;
    double factor;     /* above 0 */
    double low, high;  /* LLAMA3: waves in `original` positions, low < high */
    uint64_t original; /* positions */
    double slow, fast; /* YARN: waves in `original` positions, slow < fast */
    double attention;  /* YARN, LONGROPE: above 0 */
};

/* Where YARN's pairs begin to be stretched and from where on they wholly are; of theta above 1. */
struct ds_rope_ramp {
    double first, last;
};

/* What there is where nothing is stretched: the other members are those of Llama 3.1 and YaRN. */
static inline struct ds_rope_scale ds_rope_plain(void)
{
    struct ds_rope_scale scale = {DS_ROPE_PLAIN, 1.0, 1.0, 4.0, 8192, 1.0, 32.0, 1.0};

    return scale;
}

/* What the papers multiply cosines and sines by, for lengths up to `factor` times as long. */
static inline double ds_rope_usual_attention(const struct ds_rope_scale *scale, double factor)
{
    if (!(factor > 1.0))
        return 1.0;
    if (scale->kind == DS_ROPE_LONGROPE)
        return sqrt(1.0 + log(factor) / log((double)scale->original));
    return scale->kind == DS_ROPE_YARN ? 0.1 * log(factor) + 1.0 : 1.0;
}

/* The pair, with its fraction, whose wave fits `waves` times into `original` positions. */
static inline double ds__rope_pair(const struct ds_rope_scale *scale, double waves, double theta,
                                   size_t head_size)
{
    double length = (double)scale->original / (waves * 6.283185307179586477);

    return (double)head_size * log(length) / (2.0 * log(theta));
}

/* Zeros but for YARN. */
static inline struct ds_rope_ramp ds_rope_ramp(const struct ds_rope_scale *scale, double theta,
                                               size_t head_size)
{
    struct ds_rope_ramp ramp = {0.0, 0.0};

    if (scale->kind != DS_ROPE_YARN)
        return ramp;
    ramp.first = fmax(floor(ds__rope_pair(scale, scale->fast, theta, head_size)), 0.0);
    ramp.last =
        fmin(ceil(ds__rope_pair(scale, scale->slow, theta, head_size)), (double)(head_size - 1));
    if (ramp.last == ramp.first)
        ramp.last += 0.001; /* as transformers has it */
    return ramp;
}

/* Elements of a head that are turned, of which 0 stands for all. */
static inline size_t ds_rope_width(size_t turned, size_t head_size)
{
    return turned > 0 ? turned : head_size;
}

/* What cosines and sines are multiplied by. */
DS_ANYWHERE double ds_rope_gain(const struct ds_rope_scale *scale)
{
    return scale->kind == DS_ROPE_YARN || scale->kind == DS_ROPE_LONGROPE ? scale->attention : 1.0;
}

/* The frequency, in radians a position, that the `frequency` of a pair becomes; LONGROPE divides it
 * by a factor of `each`. */
DS_ANYWHERE double ds_rope_scaled(const struct ds_rope_scale *scale,
                                  const struct ds_rope_ramp *ramp, const struct ds_numbers *each,
                                  size_t pair, double frequency)
{
    double waves, share;

    if (scale->kind == DS_ROPE_PLAIN)
        return frequency;
    if (scale->kind == DS_ROPE_LINEAR)
        return frequency / scale->factor;
    if (scale->kind == DS_ROPE_LONGROPE)
        return frequency / each->item[pair];
    if (scale->kind == DS_ROPE_YARN) {
        share = 1.0 - ((double)pair - ramp->first) / (ramp->last - ramp->first);
    } else {
        waves = (double)scale->original * frequency / 6.283185307179586477;
        share = (waves - scale->low) / (scale->high - scale->low);
    }
    share = share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share;
    return (1.0 - share) * (frequency / scale->factor) + share * frequency;
}

#endif
