/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spares.h - on which hosts the next attempt runs.
 *
 * Pure.  Hosts of the roster that the placement does not use are spares.  Between two attempts
 * each host that was lost, each of which another job holds a GPU, and each on which ranks failed
 * first twice, is replaced by the first spare in the order of the roster that has as many slots;
 * ranks keep their numbers.  A host that was replaced is not used again.  Where no spare is left a
 * host is tried again as it is.
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

struct ds_spare_host { /* one per host of the roster, zeroed at the start */
    uint8_t strikes;   /* first failures of ranks on it */
    bool used, failed; /* in the placement; replaced, or no spare for another reason */
};

struct ds_spares {
    struct ds_placement *placement; /* borrowed, changed */
    const struct ds_roster *roster; /* borrowed */
    struct ds_spare_host *host;     /* in the roster's arena */
};

int ds_spares_init(struct ds_spares *spares, struct ds_roster *roster,
                   struct ds_placement *placement, struct ds_error *err) DS_NODISCARD;

/* After an attempt: `lost` says for each place whether its host was.  Returns how many places were
 * given to a spare; *first_replaced: the place that failed first is among them. */
uint32_t ds_spares_replace(struct ds_spares *spares, const bool *lost,
                           const struct ds_failure *first, bool *first_replaced);

#endif
