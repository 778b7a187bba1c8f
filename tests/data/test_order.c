/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_order.c - each epoch holds each sample once, in an order of its own.
 */
#include <criterion/criterion.h>

#include <stdbool.h>
#include <string.h>

#include "runtime/data/order.h"

Test(order, sequential_counts_round_and_round)
{
    for (uint64_t position = 0; position < 100; position++)
        cr_assert_eq(ds_order_sample(DS_ORDER_SEQUENTIAL, 1, 7, position), position % 7);
}

Test(order, every_epoch_holds_every_sample_once)
{
    static const uint64_t counts[] = {1, 2, 3, 10, 1000, 1025};
    static bool seen[1025];

    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        for (uint64_t epoch = 0; epoch < 5; epoch++) {
            memset(seen, 0, sizeof(seen));
            for (uint64_t i = 0; i < counts[c]; i++) {
                uint64_t sample =
                    ds_order_sample(DS_ORDER_SHUFFLE, 42, counts[c], epoch * counts[c] + i);

                cr_assert_lt(sample, counts[c]);
                cr_assert_not(seen[sample]);
                seen[sample] = true;
            }
        }
    }
}

/* Positions at which two orders of 1000 samples agree: about one by chance. */
static unsigned agreements(uint64_t seed_a, uint64_t epoch_a, uint64_t seed_b, uint64_t epoch_b)
{
    unsigned same = 0;

    for (uint64_t i = 0; i < 1000; i++)
        same += ds_order_sample(DS_ORDER_SHUFFLE, seed_a, 1000, 1000 * epoch_a + i) ==
                ds_order_sample(DS_ORDER_SHUFFLE, seed_b, 1000, 1000 * epoch_b + i);
    return same;
}

Test(order, seeds_and_epochs_differ)
{
    cr_assert_eq(agreements(1, 0, 1, 0), 1000);
    cr_assert_lt(agreements(1, 0, 1, 1), 12);
    cr_assert_lt(agreements(1, 0, 2, 0), 12);
    cr_assert_lt(agreements(0, 0, UINT64_MAX, 0), 12);
    cr_assert_lt(agreements(1, 1, 2, 0), 12, "a seed is not an epoch");
}

Test(order, far_positions)
{
    cr_assert_lt(ds_order_sample(DS_ORDER_SHUFFLE, 1, 1000, UINT64_MAX), 1000);
    cr_assert_eq(ds_order_sample(DS_ORDER_SEQUENTIAL, 1, 1000, UINT64_MAX), UINT64_MAX % 1000);
}
