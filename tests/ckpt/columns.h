/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * columns.h - columns of tensors divided at random, and where an element of a view is.
 */
#ifndef DS_TESTS_CKPT_COLUMNS_H
#define DS_TESTS_CKPT_COLUMNS_H

#include "base/rng.h"
#include "tests/ckpt/support.h"

enum { MAX_PARTS = 5, MAX_RUNS = 3 };

/* The same numbers in every run. */
struct dice {
    uint64_t seed, rolls;
};

/* One of 0 to sides - 1. */
static inline unsigned roll(struct dice *dice, unsigned sides)
{
    return (unsigned)(ds_rng_u64(dice->seed, 0, dice->rolls++) % sides);
}

/* Divide columns among `parts` views of at most MAX_RUNS runs, some of which may touch; a view that
 * gets none has no run. */
static inline void divide_columns(struct dice *dice, uint64_t columns, unsigned parts,
                                  struct ds_ckpt_view *view)
{
    unsigned cuts = parts * (1 + roll(dice, MAX_RUNS)), which = 0;
    uint64_t at = 0;

    memset(view, 0, parts * sizeof(*view));
    for (unsigned i = 0; i < cuts; i++, which = (which + 1) % parts) {
        uint64_t left = columns - at;
        uint64_t count = i + 1 == cuts ? left : roll(dice, (unsigned)(2 * left / (cuts - i)) + 1);

        if (count == 0)
            continue;
        view[which].run[view[which].runs].first = at;
        view[which].run[view[which].runs++].count = count;
        at += count;
    }
}

/* Where element `at` of a view is in the whole tensor. */
static inline uint64_t place_of(const struct ds_ckpt_view *view, uint64_t columns, uint64_t at)
{
    uint64_t width = 0, column;
    unsigned i = 0;

    for (unsigned k = 0; k < view->runs; k++)
        width += view->run[k].count;
    if (view->runs == 0)
        return at;
    for (column = at % width; column >= view->run[i].count; i++)
        column -= view->run[i].count;
    return at / width * columns + view->run[i].first + column;
}

#endif
