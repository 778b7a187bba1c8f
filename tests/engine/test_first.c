/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_first - the least of the ranks' numbers, against a loop over them.
 */
#include <criterion/criterion.h>

#include "base/limits.h"
#include "runtime/first.h"

/* Ask until one number is left, as the engine does; returns how often that was. */
static unsigned ask(const uint64_t *mine, unsigned ranks, uint64_t count, uint64_t *least)
{
    struct ds_first_range range = {.high = count};
    unsigned asked = 0;

    do {
        uint64_t low = range.low, left = range.high - low;
        double sum = 0.0;

        for (unsigned i = 0; i < ranks; i++)
            sum += ds_first_mark(mine[i] < range.high ? mine[i] - low : left, left, ranks);
        range = ds_first_range(sum, left, ranks);
        range.low += low;
        range.high += low;
        asked++;
    } while (range.high - range.low > 1);
    *least = range.low;
    return asked;
}

Test(first, is_the_least_of_any_numbers)
{
    static const unsigned ranks[] = {1, 2, 3, 4, 7, 8, 100};
    static const uint64_t counts[] = {1, 2, 119, 500, 2023, 2024, 5000, 100000};
    uint64_t mine[100], random = 88172645463325252;

    for (unsigned i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++)
        for (unsigned j = 0; j < 50 * sizeof(counts) / sizeof(counts[0]); j++) {
            uint64_t count = counts[j / 50], expected = count, least;

            for (unsigned r = 0; r < ranks[i]; r++) {
                random ^= random << 13, random ^= random >> 7, random ^= random << 17;
                mine[r] = random % (count + 1); /* count: none */
                expected = mine[r] < expected ? mine[r] : expected;
            }
            (void)ask(mine, ranks[i], count, &least);
            cr_assert(least == expected, "%u ranks, %zu numbers: %zu, not %zu", ranks[i],
                      (size_t)count, (size_t)least, (size_t)expected);
        }
}

/* The worst sum: all ranks but one name the number behind the least, and all name the last. */
Test(first, is_exact_with_as_many_ranks_as_there_can_be)
{
    static uint64_t mine[DS_MAX_RANKS];

    for (uint64_t number = 0; number < 119; number++) {
        uint64_t least;

        for (unsigned i = 0; i < DS_MAX_RANKS; i++)
            mine[i] = number + (i != DS_MAX_RANKS / 2);
        cr_assert_eq(ask(mine, DS_MAX_RANKS, 119, &least), 1);
        cr_assert(least == number, "%zu, not %zu", (size_t)least, (size_t)number);
        for (unsigned i = 0; i < DS_MAX_RANKS; i++)
            mine[i] = number;
        (void)ask(mine, DS_MAX_RANKS, 119, &least);
        cr_assert(least == number, "%zu, not %zu", (size_t)least, (size_t)number);
    }
}

Test(first, is_asked_once_while_there_are_slots)
{
    uint64_t mine[4] = {680, 679, 680, 680}, least;

    cr_assert_eq(ask(mine, 4, 675, &least), 1);
    cr_assert_eq(least, 675); /* nobody has one of these */
    mine[2] = 13;
    cr_assert_eq(ask(mine, 4, 675, &least), 1);
    cr_assert_eq(least, 13);
    cr_assert_eq(ask(mine, 4, 676, &least), 2);
    cr_assert_eq(least, 13);
}
