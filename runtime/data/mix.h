/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mix.h - which of several data sets is read at which position of an endless run.
 *
 * Weights become whole shares s_k without a common divisor.  Their sum C is the cycle: every C
 * positions from a multiple of C hold s_k of set k, dealt in one way that is found once.  Of the
 * first n positions of a run set k has more than n s_k / C - 1 and fewer than n s_k / C + 1, for
 * every n: turn j of a set, from 0, comes at j C / s_k rounded down or later and before
 * (j + 1) C / s_k rounded up, and of those that may come the one whose end is first does.  That
 * always succeeds.
 *
 * Pure arithmetic, as order.h: any position can be asked for, and the answer depends on nothing
 * else.
 *
 * Source  Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980).
 * Tests   tests/data/test_mix.c
 */
#ifndef DS_RUNTIME_DATA_MIX_H
#define DS_RUNTIME_DATA_MIX_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"

struct ds_mix_shares { /* plain data */
    size_t sets;
    uint32_t cycle; /* their sum, at most DS_MAX_MIX_CYCLE */
    uint32_t share[DS_MAX_DATA_SETS];
};

struct ds_mix {
    struct ds_mix_shares shares;
    uint32_t *turn; /* [cycle], owned: which set, and its how many-th turn in the cycle */
};

/* The shares of 1 to DS_MAX_DATA_SETS weights, each within the bounds of the job's key.  -EINVAL,
 * with values that would do: a weight has more than six digits behind the point, or the cycle would
 * be too long. */
int ds_mix_shares(struct ds_mix_shares *shares, const double *weight, size_t sets,
                  struct ds_error *err) DS_NODISCARD;

int ds_mix_open(struct ds_mix *mix, const double *weight, size_t sets, struct ds_error *err)
    DS_NODISCARD;
void ds_mix_release(struct ds_mix *mix);

/* The set at `position`; `*nth`: how many of its own come before. */
size_t ds_mix_at(const struct ds_mix *mix, uint64_t position, uint64_t *nth);

/* How many of the first `positions` are of `set`.  Takes as long as the cycle. */
uint64_t ds_mix_count(const struct ds_mix *mix, size_t set, uint64_t positions);

#endif
