/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * leak.c - a seeded defect: the sanitizer gate must refuse this program, though its test passes.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

static void *volatile kept;

Test(seeded, leak)
{
    kept = malloc(100);
    kept = NULL;
    cr_assert(kept == NULL);
}
