/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * first.c - the contract is in first.h.
 */
#include "runtime/first.h"

#include <math.h>

/* The exponent of slot 0, which leaves room for the sum above it, and the least normal one. */
enum { TOP = 1000, BOTTOM = -1022 };

/* Exponents from one slot to the next. */
static int step_of(unsigned ranks)
{
    int step = 1;

    while (ranks >> step > 0)
        step++;
    return step;
}

/* Numbers that share a slot. */
static uint64_t share_of(uint64_t count, int step)
{
    uint64_t slots = (uint64_t)((TOP - BOTTOM) / step) + 1;

    return count / slots + (count % slots > 0);
}

double ds_first_mark(uint64_t number, uint64_t count, unsigned ranks)
{
    int step = step_of(ranks);

    return number >= count ? 0.0 : ldexp(1.0, TOP - step * (int)(number / share_of(count, step)));
}

struct ds_first_range ds_first_range(double sum, uint64_t count, unsigned ranks)
{
    int step = step_of(ranks);
    uint64_t share = share_of(count, step), low;

    if (!(sum > 0.0))
        return (struct ds_first_range){.low = count, .high = count};
    low = (uint64_t)((TOP - ilogb(sum) + step - 1) / step) * share;
    return (struct ds_first_range){.low = low, .high = low + share < count ? low + share : count};
}
