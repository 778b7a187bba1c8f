/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spread.c - the contract is in spread.h.
 */
#include "runtime/cost/spread.h"

#include <math.h>

enum { WINDOWS = 5 };
#define SAME 1e-3 /* shares no more than this apart are one */

double ds_spread_after(struct ds_spread spread, double seconds)
{
    return spread.evens_s > 0.0 ? spread.share / sqrt(1.0 + seconds / spread.evens_s)
                                : spread.share;
}

/* What a rank took, in units of what all took in the mean, summed over the rounds of a window. */
static double slowness(const double *pass_s, unsigned rounds, unsigned ranks, unsigned rank)
{
    double sum = 0.0;

    for (unsigned i = 0; i < rounds; i++) {
        double all = 0.0;

        for (unsigned k = 0; k < ranks; k++)
            all += pass_s[i * ranks + k];
        sum += all > 0.0 ? pass_s[i * ranks + rank] * ranks / all : 1.0;
    }
    return sum;
}

/* The mean over windows of so many rounds of how much the slowest rank is above all. */
static double share_of(const double *pass_s, unsigned rounds, unsigned ranks, unsigned window)
{
    double sum = 0.0;
    unsigned windows = rounds / window;

    for (unsigned i = 0; i < windows; i++) {
        double most = 0.0;

        for (unsigned rank = 0; rank < ranks; rank++)
            most = fmax(most,
                        slowness(pass_s + (unsigned long)i * window * ranks, window, ranks, rank));
        sum += most / window - 1.0;
    }
    return sum / windows;
}

struct ds_spread ds_spread_fit(const double *pass_s, unsigned rounds, unsigned ranks,
                               double round_s)
{
    unsigned window = rounds / WINDOWS;
    double one = share_of(pass_s, rounds, ranks, 1);
    double many = window > 1 ? share_of(pass_s, rounds, ranks, window) : one;
    double long_s = window * round_s,
           squares = many > 0.0 ? one * one / (many * many) : (double)INFINITY;
    struct ds_spread spread = {.share = one};

    if (many >= one * (1.0 - SAME)) /* the same rank is slow all the time */
        return spread;
    if (squares * round_s < long_s)
        spread.evens_s = (long_s - squares * round_s) / (squares - 1.0);
    spread.evens_s = fmax(spread.evens_s, round_s); /* what is shorter was not seen */
    spread.share = one * sqrt(1.0 + round_s / spread.evens_s);
    return spread;
}
