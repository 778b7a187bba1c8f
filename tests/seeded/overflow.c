/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * overflow.c - a seeded defect: a read past the end of a heap block.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

Test(seeded, overflow)
{
    volatile size_t past = 8;
    volatile char *block = calloc(8, 1);

    cr_assert(block != NULL);
    cr_assert(block[past] >= -128);
    free((void *)(size_t)block);
}
