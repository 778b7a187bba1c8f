/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mix.c - the contract is in mix.h.
 */
#include "runtime/data/mix.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { NTH_BITS = 24 }; /* of a turn; the set is above */

_Static_assert(DS_MAX_MIX_CYCLE <= 1 << NTH_BITS && DS_MAX_DATA_SETS <= 1 << (32 - NTH_BITS),
               "a turn is 32 bits");

/* --- shares ---------------------------------------------------------------------------------- */

static const double unit = 1e6; /* weights are whole numbers of millionths */

/* Both are exact: a whole number below 2^53, divided once, is what reading the decimals gives. */
static int parts_of(double weight, uint64_t *parts, struct ds_error *err)
{
    double whole = round(weight * unit), nearest = whole / unit;

    assert(whole >= 1.0 && whole <= unit * unit);
    *parts = (uint64_t)whole;
    if (nearest < weight || nearest > weight)
        return ds_fail(err, EINVAL,
                       "weight %.17g has more than six digits behind the point; use %.12g", weight,
                       nearest);
    return 0;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

int ds_mix_shares(struct ds_mix_shares *shares, const double *weight, size_t sets,
                  struct ds_error *err)
{
    uint64_t parts[DS_MAX_DATA_SETS], divisor = 0, sum = 0;

    assert(sets >= 1 && sets <= DS_MAX_DATA_SETS);
    for (size_t k = 0; k < sets; k++) {
        int rc = parts_of(weight[k], &parts[k], err);

        if (rc != 0)
            return rc;
        divisor = common_divisor(parts[k], divisor);
        sum += parts[k];
    }
    if (sum / divisor > DS_MAX_MIX_CYCLE)
        return ds_fail(err, EINVAL,
                       "the order of these weights repeats after %" PRIu64
                       " sequences, which may be %d at most; give them fewer digits",
                       sum / divisor, DS_MAX_MIX_CYCLE);
    shares->sets = sets;
    shares->cycle = (uint32_t)(sum / divisor);
    for (size_t k = 0; k < sets; k++)
        shares->share[k] = (uint32_t)(parts[k] / divisor);
    return 0;
}

/* --- the cycle ------------------------------------------------------------------------------- */

struct next { /* of a set: the window of its next turn, in positions of the cycle */
    uint32_t nth, first, end;
};

static void set_window(const struct ds_mix_shares *shares, size_t set, struct next *next)
{
    uint64_t cycle = shares->cycle, share = shares->share[set], nth = next->nth;

    next->first = (uint32_t)(nth * cycle / share);
    next->end = (uint32_t)(((nth + 1) * cycle + share - 1) / share);
}

static void deal(struct ds_mix *mix, struct next *next)
{
    const struct ds_mix_shares *shares = &mix->shares;

    for (size_t k = 0; k < shares->sets; k++)
        set_window(shares, k, &next[k]);
    for (uint32_t t = 0; t < shares->cycle; t++) {
        size_t best = shares->sets;

        for (size_t k = 0; k < shares->sets; k++)
            if (next[k].first <= t && (best == shares->sets || next[k].end < next[best].end))
                best = k;
        assert(best < shares->sets && next[best].end > t);
        mix->turn[t] = (uint32_t)best << NTH_BITS | next[best].nth++;
        set_window(shares, best, &next[best]);
    }
}

int ds_mix_open(struct ds_mix *mix, const double *weight, size_t sets, struct ds_error *err)
{
    struct next next[DS_MAX_DATA_SETS] = {{0}};
    int rc;

    mix->turn = NULL;
    rc = ds_mix_shares(&mix->shares, weight, sets, err);
    if (rc != 0)
        return rc;
    mix->turn = calloc(mix->shares.cycle, sizeof(*mix->turn));
    if (mix->turn == NULL)
        return ds_fail(err, ENOMEM, "no memory for an order of %" PRIu32 " sequences",
                       mix->shares.cycle);
    deal(mix, next);
    return 0;
}

void ds_mix_release(struct ds_mix *mix)
{
    free(mix->turn);
    mix->turn = NULL;
}

size_t ds_mix_at(const struct ds_mix *mix, uint64_t position, uint64_t *nth)
{
    uint32_t turn = mix->turn[position % mix->shares.cycle];
    size_t set = turn >> NTH_BITS;

    *nth = position / mix->shares.cycle * mix->shares.share[set] +
           (turn & ((UINT32_C(1) << NTH_BITS) - 1));
    return set;
}

uint64_t ds_mix_count(const struct ds_mix *mix, size_t set, uint64_t positions)
{
    uint64_t count = positions / mix->shares.cycle * mix->shares.share[set];

    for (uint64_t t = 0; t < positions % mix->shares.cycle; t++)
        count += mix->turn[t] >> NTH_BITS == set;
    return count;
}
