/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * placement.h - ranks to hosts and slots.
 *
 * Pure.  Ranks are dealt host by host, in the order of the roster, slot by slot.
 *
 * Tests   tests/launcher/test_placement.c
 */
#ifndef DS_LAUNCHER_HOSTS_PLACEMENT_H
#define DS_LAUNCHER_HOSTS_PLACEMENT_H

#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "launcher/hosts/roster.h"

struct ds_place { /* the ranks of one host; strings and slots borrowed from the roster */
    const char *host;
    const struct ds_host_spec *spec;
    uint32_t first_rank, ranks;
};

struct ds_placement {
    struct ds_place *place; /* in the roster's arena */
    uint32_t places, world;
};

struct ds_placement_args {
    uint64_t nodes; /* use the first so many hosts; 0: all */
    uint64_t slots; /* ranks per host; 0: the host's own number */
};

/* -EINVAL: more nodes or slots are asked for than there are or may be, or more than DS_MAX_RANKS
 * ranks. */
int ds_placement_build(struct ds_placement *placement, struct ds_roster *roster,
                       const struct ds_placement_args *args, struct ds_error *err) DS_NODISCARD;

/* The index of the place that holds `rank`, which is below the number of all ranks. */
uint32_t ds_place_of(const struct ds_place *place, uint32_t places, uint32_t rank);

/* The slot of rank `place->first_rank + local` on its host. */
uint32_t ds_placement_slot(const struct ds_place *place, uint32_t local);

#endif
