/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spares.h - on which hosts the next attempt runs.
 *
 * Pure.  Hosts of the roster that the placement does not use are spares.  Between two attempts
 * each host that was lost, each of which another job holds a GPU, and each on which ranks failed
 * first twice, is replaced by the first spare in the order of the roster that has as many slots;
 * ranks keep their numbers.  A host that was replaced is not used again.
 *
 * Where no spare is left and fewer hosts will do, the host is left out: the job goes on with the
 * largest number of the others among which it can be divided, and ranks are counted anew.  Places
 * come first, then spares that had too few slots for one; hosts beyond that number are spares.
 * Otherwise, or where too few are left, a host is tried again as it is.
 *
 * Tests   tests/launcher/test_spares.c, tests/sim/
 */
#ifndef DS_LAUNCHER_FLEET_SPARES_H
#define DS_LAUNCHER_FLEET_SPARES_H

#include <stdbool.h>
#include <stdint.h>

#include "launcher/fleet/supervise.h"
#include "launcher/hosts/placement.h"

enum { DS_SPARE_STRIKES = 2 };

struct ds_spares_args {
    uint32_t least, most; /* hosts that will do; the same, or 0: as many as there are places */
    uint64_t slots;       /* ranks per host; 0: the host's own number */
    struct ds_fit fit;
};

struct ds_spare_host { /* one per host of the roster, zeroed at the start */
    uint8_t strikes;   /* first failures of ranks on it */
    bool used, failed; /* in the placement; replaced or left out, or no spare for another reason */
};

struct ds_spares {
    struct ds_placement *placement; /* borrowed, changed */
    const struct ds_roster *roster; /* borrowed */
    struct ds_spare_host *host;     /* in the roster's arena, as is what is below */
    struct ds_place *next;          /* where a placement is tried */
    struct ds_spares_args args;
};

struct ds_spares_change { /* of the placement */
    uint32_t replaced;    /* places that were given to a spare */
    uint32_t out;         /* places whose host was left out: ranks have other numbers now */
    bool first;           /* the host that failed first is one of them */
    bool too_few;         /* fewer hosts would do, but not as few as are left */
    uint32_t left;        /* how many these are */
};

/* `args` NULL: no other number of hosts will do. */
int ds_spares_init(struct ds_spares *spares, struct ds_roster *roster,
                   struct ds_placement *placement, const struct ds_spares_args *args,
                   struct ds_error *err) DS_NODISCARD;

/* After an attempt: `lost` says for each place whether its host was lost. */
void ds_spares_replace(struct ds_spares *spares, const bool *lost, const struct ds_failure *first,
                       struct ds_spares_change *change);

/* That too few are left, and how many would do: a sentence into out[DS_MAX_ERROR_TEXT]. */
void ds_spares_too_few(const struct ds_spares *spares, const struct ds_spares_change *change,
                       char *out);

#endif
