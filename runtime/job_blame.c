/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_blame.c - the contract is in job_blame.h.
 */
#include "runtime/job_blame.h"

#include <inttypes.h>
#include <stdio.h>

void ds__job_near_divisors(uint64_t of, uint64_t near, uint64_t most, char *out, size_t cap)
{
    uint64_t below = near < most ? near : most, above = near + 1;

    while (below > 1 && of % below != 0)
        below--;
    while (above <= most && above <= of && of % above != 0)
        above++;
    if (above > most || above > of)
        (void)snprintf(out, cap, "%" PRIu64, below);
    else
        (void)snprintf(out, cap, "%" PRIu64 " or %" PRIu64, below, above);
}

void ds__job_near_multiples(uint64_t unit, uint64_t near, char *out, size_t cap)
{
    uint64_t below = near / unit * unit;

    if (below == 0)
        (void)snprintf(out, cap, "%" PRIu64, unit);
    else
        (void)snprintf(out, cap, "%" PRIu64 " or %" PRIu64, below, below + unit);
}

const char *ds__job_blame(const struct ds_keys *keys, const char *first, const char *second)
{
    return !ds_keys_overridden(keys, first) && ds_keys_overridden(keys, second) ? second : first;
}
