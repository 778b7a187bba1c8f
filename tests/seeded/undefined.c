/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * undefined.c - a seeded defect: a signed addition that overflows.
 */
#include <criterion/criterion.h>
#include <limits.h>

Test(seeded, undefined)
{
    volatile int most = INT_MAX;
    volatile int more = most + 1;

    cr_assert(more != 0);
}
