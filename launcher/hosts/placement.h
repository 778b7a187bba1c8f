/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * placement.h - ranks to hosts and slots.
 *
 * Pure.  Ranks are dealt host by host, in the order of the roster, slot by slot.  What is divided
 * among them may not go with every number of hosts: a fit says so, and hosts are left out, from the
 * last.
 *
 * Tests   tests/launcher/test_placement.c
 */
#ifndef DS_LAUNCHER_HOSTS_PLACEMENT_H
#define DS_LAUNCHER_HOSTS_PLACEMENT_H

#include <stdbool.h>
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
    uint64_t least; /* fewer than `nodes` will do, down to these */
    bool up_to;     /* and then there may be fewer than `nodes` */
    uint64_t slots; /* ranks per host; 0: the host's own number */
};

/* Can what runs be divided among the ranks of these places? */
struct ds_fit {
    bool (*does)(const void *user, const struct ds_placement *placement); /* NULL: always */
    const void *user;
};

/* -EINVAL: more nodes or slots are asked for than there are or may be, or more than DS_MAX_RANKS
 * ranks. */
int ds_placement_build(struct ds_placement *placement, struct ds_roster *roster,
                       const struct ds_placement_args *args, struct ds_error *err) DS_NODISCARD;

/* Keep the first places, the largest number from `least` on that fits.  False, and nothing is
 * changed: none does. */
bool ds_placement_cut(struct ds_placement *placement, uint32_t least, const struct ds_fit *fit)
    DS_NODISCARD;

/* Ranks on one host: `slots`, or where that is 0 its own number.  -EINVAL: they may not be. */
int ds_placement_ranks(const struct ds_host_spec *host, uint64_t slots, uint32_t *ranks,
                       struct ds_error *err) DS_NODISCARD;

/* The index of the place that holds `rank`, which is below the number of all ranks. */
uint32_t ds_place_of(const struct ds_place *place, uint32_t places, uint32_t rank);

/* The slot of rank `place->first_rank + local` on its host. */
uint32_t ds_placement_slot(const struct ds_place *place, uint32_t local);

#endif
