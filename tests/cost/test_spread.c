/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>

#include "runtime/cost/spread.h"

enum { ROUNDS = 60, RANKS = 2 };

/* 1 or 1 + `more`; `more` for the rank whose turn it is, which changes every `turn` rounds. */
static void take_turns(double *pass_s, unsigned turn, double more)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        for (unsigned rank = 0; rank < RANKS; rank++)
            pass_s[i * RANKS + rank] = 1.0 + ((i / turn) % RANKS == rank ? more : 0.0);
}

Test(spread, ranks_that_are_alike_wait_for_nobody)
{
    double pass_s[ROUNDS * RANKS];
    struct ds_spread spread;

    take_turns(pass_s, 1, 0.0);
    spread = ds_spread_fit(pass_s, ROUNDS, RANKS, 0.02);
    cr_assert(fabs(spread.share) < 1e-12, "%g", spread.share);
    cr_assert(fabs(ds_spread_after(spread, 1.0)) < 1e-12);
}

Test(spread, a_rank_that_is_always_slow_is_waited_for_however_long_they_compute)
{
    double pass_s[ROUNDS * RANKS];
    struct ds_spread spread;

    take_turns(pass_s, ROUNDS, 0.5);
    spread = ds_spread_fit(pass_s, ROUNDS, RANKS, 0.02);
    cr_assert(fabs(spread.share - 0.2) < 1e-12, "1.5 of 1.25: %g", spread.share);
    cr_assert_eq(spread.evens_s, 0.0);
    cr_assert_eq(ds_spread_after(spread, 100.0), spread.share);
}

/* The curve goes through both windows that were measured: here of a slow time of `turn` rounds. */
Test(spread, slow_moments_even_out)
{
    double pass_s[ROUNDS * RANKS], last = 0.0;

    for (unsigned turn = 1; turn <= 6; turn++) {
        struct ds_spread spread;

        take_turns(pass_s, turn, 0.5);
        spread = ds_spread_fit(pass_s, ROUNDS, RANKS, 0.02);
        cr_assert(spread.evens_s >= 0.02, "%u: %g", turn, spread.evens_s);
        cr_assert(fabs(ds_spread_after(spread, 0.02) - 0.2) < 1e-12, "%u: a round", turn);
        cr_assert(ds_spread_after(spread, 1.2) < 0.1, "%u: all", turn);
        cr_assert(spread.evens_s >= last, "%u: longer moments, longer", turn);
        last = spread.evens_s;
    }
}

Test(spread, the_curve_goes_through_a_fifth_of_the_rounds)
{
    double pass_s[ROUNDS * RANKS];
    struct ds_spread spread;

    for (unsigned i = 0; i < ROUNDS; i++) { /* in 9 of 12 the first is slow, then the second */
        pass_s[i * RANKS] = i % 12 < 9 ? 1.5 : 1.0;
        pass_s[i * RANKS + 1] = i % 12 < 9 ? 1.0 : 1.5;
    }
    spread = ds_spread_fit(pass_s, ROUNDS, RANKS, 0.02);
    cr_assert(fabs(ds_spread_after(spread, 0.02) - 0.2) < 1e-12);
    cr_assert(fabs(ds_spread_after(spread, 0.24) - 0.1) < 1e-12, "%g",
              ds_spread_after(spread, 0.24));
}

/* A round in which nothing was measured, and too few rounds for windows. */
Test(spread, of_nothing)
{
    const double none[RANKS] = {0.0, 0.0}, once[RANKS] = {1.0, 3.0};

    cr_assert_eq(ds_spread_fit(none, 1, RANKS, 0.02).share, 0.0);
    cr_assert_eq(ds_spread_fit(once, 1, RANKS, 0.02).share, 0.5);
    cr_assert_eq(ds_spread_fit(once, 1, RANKS, 0.02).evens_s, 0.0);
}
