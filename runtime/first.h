/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * first.h - the least of the ranks' numbers, out of one sum of doubles.
 *
 * Numbers 0 to count - 1 have slots, slot s the power of two that is 2^-ks of the first one's,
 * where 2^k > ranks: however many ranks name one slot, they come to less than the slot before, so
 * the exponent of the sum is the least slot's, in whatever order ranks are added.  A double has
 * slots for 1 + 2022 / k numbers, 119 at 65,536 ranks; where there are more, neighbours share one,
 * and the range that is left is asked again.
 *
 * Tests   tests/engine/test_first.c
 */
#ifndef DS_RUNTIME_FIRST_H
#define DS_RUNTIME_FIRST_H

#include <stdint.h>

/* What a rank adds to the sum; 0 with `number` count, which says that it has none. */
double ds_first_mark(uint64_t number, uint64_t count, unsigned ranks);

/* The least number lies in [low, high); both are count when no rank has one. */
struct ds_first_range {
    uint64_t low, high;
};
struct ds_first_range ds_first_range(double sum, uint64_t count, unsigned ranks);

#endif
