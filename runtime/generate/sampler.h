/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sampler.h - one id from logits: temperature, then the k likeliest, then those that have mass p.
 *
 * Ids are in order of their logits, of equal ones the smaller id first; so `top_k` keeps exactly
 * k, and greedy choice is the first of them.  `top_p` keeps the fewest that together have that
 * share of what top_k has kept, and always one.  The same logits and bits give the same id.
 *
 * Pure, but for the room that ds_sampler_init() takes.
 * Source  Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020 (top p)
 * Tests   tests/engine/test_sampler.c
 */
#ifndef DS_RUNTIME_GENERATE_SAMPLER_H
#define DS_RUNTIME_GENERATE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ds_sampling {
    double temperature; /* 0: the likeliest id */
    uint64_t top_k;     /* 0: all */
    double top_p;       /* in (0, 1]; 1: all */
};

struct ds_candidate {
    float logit;
    uint32_t id;
};
struct ds_sampler {
    struct ds_candidate *room; /* [ids] */
    double *weight;            /* [ids] */
    size_t ids;
};

int ds_sampler_init(struct ds_sampler *sampler, size_t ids, struct ds_error *err) DS_NODISCARD;
void ds_sampler_release(struct ds_sampler *sampler);

/* One of the ids 0 .. ids - 1, by 64 random bits.  -EBADMSG: a logit is NaN or infinite. */
int ds_sample(const struct ds_sampler *sampler, const struct ds_sampling *how, const float *logits,
              uint64_t bits, uint32_t *id, struct ds_error *err) DS_NODISCARD;

#endif
