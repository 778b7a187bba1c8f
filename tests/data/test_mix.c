/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_mix.c - weights are shares of every stretch of a run, within one sequence.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "base/rng.h"
#include "runtime/data/mix.h"

enum { MANY = 1000000 };

static struct ds_mix open_mix(const double *weight, size_t sets)
{
    struct ds_mix mix;
    struct ds_error err = {0};

    cr_assert_eq(ds_mix_open(&mix, weight, sets, &err), 0, "%s", err.text);
    return mix;
}

/* Walk over `positions`, counting as one would by hand: every turn is the set's next one, and no
 * prefix has a whole sequence of any set too many or too few. */
static void walk(const double *weight, size_t sets, uint64_t positions)
{
    struct ds_mix mix = open_mix(weight, sets);
    uint64_t turns[DS_MAX_DATA_SETS] = {0};
    const uint64_t cycle = mix.shares.cycle;

    for (uint64_t p = 0; p < positions; p++) {
        uint64_t nth;
        size_t set = ds_mix_at(&mix, p, &nth);

        cr_assert(set < sets);
        cr_assert_eq(nth, turns[set], "position %ju", (uintmax_t)p);
        turns[set]++;
        for (size_t k = 0; k < sets; k++) {
            uint64_t have = turns[k] * cycle, due = (p + 1) * mix.shares.share[k];

            cr_assert(have < due + cycle && due < have + cycle,
                      "set %zu has %ju turns after %ju positions", k, (uintmax_t)turns[k],
                      (uintmax_t)p + 1);
        }
    }
    for (size_t k = 0; k < sets; k++)
        cr_assert_eq(ds_mix_count(&mix, k, positions), turns[k]);
    ds_mix_release(&mix);
}

Test(mix, shares_are_exact_in_every_prefix, .timeout = 120)
{
    static const double one[] = {7}, even[] = {1, 1}, three[] = {3, 1}, far[] = {999999, 1},
                        llama[] = {0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02},
                        fine[] = {0.5, 0.25, 0.249999, 0.000001}, big[] = {1, 1, 1, 1, 1, 1, 1, 9},
                        steps[] = {1, 2, 4, 8, 16, 32, 64, 128};

    walk(one, 1, 1000);
    walk(even, 2, 1000);
    walk(three, 2, MANY);
    walk(far, 2, 3 * MANY);
    walk(llama, 7, MANY);
    walk(fine, 4, 2 * MANY + 17);
    walk(big, 8, MANY);
    walk(steps, 8, MANY);
}

/* The same for weights drawn at random, of few and of many sets. */
Test(mix, any_weights, .timeout = 120)
{
    for (uint64_t round = 0; round < 300; round++) {
        double weight[40];
        size_t sets = 1 + ds_rng_u64(1, round, 1000) % 40;
        uint64_t most = UINT64_C(1) << ds_rng_u64(1, round, 1001) % 14;

        for (size_t k = 0; k < sets; k++)
            weight[k] = (double)(1 + ds_rng_u64(1, round, k) % most);
        walk(weight, sets, 20000);
    }
}

Test(mix, the_most_sets)
{
    double weight[DS_MAX_DATA_SETS];

    for (size_t k = 0; k < DS_MAX_DATA_SETS; k++)
        weight[k] = k == 0 ? 3841 : 16.0 - (double)(k % 2);
    walk(weight, DS_MAX_DATA_SETS, 20000);
}

/* Written once and for all: what a checkpoint of a mixture goes on with. */
Test(mix, the_order_does_not_change)
{
    static const struct {
        double weight[4];
        size_t sets;
        const char *want;
    } cases[] = {
        {{1, 1, 1}, 3, "012012012"},     {{3, 1}, 2, "0001000100010"},
        {{2, 3}, 2, "1010110101"},       {{0.5, 0.3, 0.2}, 3, "0102010102"},
        {{1, 2, 1, 4}, 4, "3130312331"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_mix mix = open_mix(cases[i].weight, cases[i].sets);
        char got[32] = "";
        uint64_t nth;

        for (size_t p = 0; p < strlen(cases[i].want); p++)
            got[p] = (char)('0' + ds_mix_at(&mix, p, &nth));
        cr_expect_str_eq(got, cases[i].want);
        ds_mix_release(&mix);
    }
}

Test(mix, far_positions)
{
    static const double weight[] = {2, 1};
    struct ds_mix mix = open_mix(weight, 2);
    uint64_t nth;

    (void)ds_mix_at(&mix, UINT64_MAX / 3 * 3 - 3, &nth);
    cr_assert_eq(nth, (UINT64_MAX / 3 - 1) * 2);
    ds_mix_release(&mix);
}

Test(mix, weights_become_the_smallest_whole_numbers)
{
    static const double weight[] = {0.3, 0.6, 1.5}, far[] = {1e6, 1e-6 * 1e6};
    struct ds_mix_shares shares;

    cr_assert_eq(ds_mix_shares(&shares, weight, 3, NULL), 0);
    cr_assert(shares.cycle == 8 && shares.share[0] == 1 && shares.share[1] == 2);
    cr_assert_eq(ds_mix_shares(&shares, far, 2, NULL), 0);
    cr_assert_eq(shares.cycle, 1000001);
}

Test(mix, weights_that_will_not_do)
{
    static const struct {
        double weight[2];
        const char *text;
    } cases[] = {
        {{1, 0.1234567}, "weight 0.1234567"},
        {{1, 0.1234567}, "has more than six digits behind the point; use 0.123457"},
        {{1, 1e6 - 1e-7}, "use 1000000"},
        {{1e6, 1e-6}, "repeats after 1000000000001 sequences, which may be 1048576 at most"},
        {{1000000, 48577}, "after 1048577 sequences,"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};
        struct ds_mix mix;

        cr_assert_eq(ds_mix_open(&mix, cases[i].weight, 2, &err), -EINVAL, "case %zu", i);
        cr_assert_not_null(strstr(err.text, cases[i].text), "%s", err.text);
        ds_mix_release(&mix);
    }
}
