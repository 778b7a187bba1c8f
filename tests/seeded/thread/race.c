/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * race.c - a seeded defect: two threads write one variable without a lock.
 */
#include <criterion/criterion.h>
#include <pthread.h>

static int shared;

static void *add(void *unused)
{
    (void)unused;
    for (int i = 0; i < 1000; i++)
        shared++;
    return NULL;
}

Test(seeded, race)
{
    pthread_t other;

    cr_assert(pthread_create(&other, NULL, add, NULL) == 0);
    add(NULL);
    cr_assert(pthread_join(other, NULL) == 0);
    cr_assert(shared > 0);
}
