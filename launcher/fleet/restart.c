/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * restart.c - the contract is in restart.h.
 */
#include "launcher/fleet/restart.h"

#include <stddef.h>

#include "base/exit.h"

enum { FIRST_MS = 1000, LAST_MS = 30000, DOUBLINGS = 5 };

bool ds_restart_next(struct ds_restart *restart, const struct ds_restart_facts *facts,
                     unsigned *delay_ms, const char **why)
{
    bool stuck = restart->failed_before && !facts->replaced && restart->step == facts->step &&
                 restart->checkpoint == facts->checkpoint;

    *why = NULL;
    restart->failed_before = true;
    restart->step = facts->step;
    restart->checkpoint = facts->checkpoint;
    if (facts->limit == 0 || facts->stopped || facts->code == DS_EXIT_OK)
        return false;
    if (facts->code == DS_EXIT_USAGE || facts->code == DS_EXIT_DATA) {
        *why = "not started again: the same input would fail the same way";
        return false;
    }
    if (restart->restarts >= facts->limit) {
        *why = "not started again: all restarts are used up";
        return false;
    }
    if (stuck) {
        *why = "not started again: it failed at the same step twice, with no checkpoint in between";
        return false;
    }
    *delay_ms =
        restart->restarts < DOUBLINGS ? (unsigned)FIRST_MS << restart->restarts : (unsigned)LAST_MS;
    restart->restarts++;
    return true;
}
