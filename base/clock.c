/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * clock.c - the contract is in clock.h.
 */
#include "base/clock.h"

#include <time.h>

uint64_t ds_clock_mono_ns(void)
{
    struct timespec now = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

double ds_clock_wall_s(void)
{
    struct timespec now = {0};

    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
