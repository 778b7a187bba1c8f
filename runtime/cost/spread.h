/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spread.h - how much longer the slowest of some ranks computes than all of them in the mean, which
 * is what they wait where they meet.
 *
 * What slows a rank for a moment slows another one the next, so the longer they compute before they
 * meet, the smaller the share; what always slows a rank stays.  With independent slow moments the
 * share falls with the square root of the time (a mean of more of them), hence
 *
 *     share of t seconds = share / sqrt(1 + t / evens_s)
 *
 * Tests   tests/cost/test_spread.c
 */
#ifndef DS_RUNTIME_COST_SPREAD_H
#define DS_RUNTIME_COST_SPREAD_H

struct ds_spread {
    double share;   /* where they meet all the time */
    double evens_s; /* seconds; 0: it does not even out */
};

/* The share where they meet after `seconds` of computing. */
double ds_spread_after(struct ds_spread spread, double seconds);

/* From pass_s[rounds][ranks], what the same work took each rank in rounds of `round_s` seconds that
 * all began together: the share of single rounds and of a fifth of them in a row, through which the
 * curve above goes. */
struct ds_spread ds_spread_fit(const double *pass_s, unsigned rounds, unsigned ranks,
                               double round_s);

#endif
