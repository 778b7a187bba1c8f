/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_clock.c - one clock never goes back, the other knows the year.
 */
#include <criterion/criterion.h>

#include <time.h>

#include "base/clock.h"

Test(clock, mono_never_goes_back)
{
    uint64_t last = ds_clock_mono_ns();

    for (int i = 0; i < 10000; i++) {
        uint64_t now = ds_clock_mono_ns();

        cr_assert_geq(now, last);
        last = now;
    }
}

Test(clock, mono_counts_nanoseconds)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    uint64_t start = ds_clock_mono_ns();

    cr_assert_eq(nanosleep(&pause, NULL), 0);
    cr_assert_geq(ds_clock_mono_ns() - start, 2000000);
}

Test(clock, wall_agrees_with_libc)
{
    time_t before = time(NULL);
    double now = ds_clock_wall_s();

    cr_assert_geq(now, (double)before - 1);
    cr_assert_leq(now, (double)time(NULL) + 1);
}
