/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * restart.c - the contract is in restart.h.
 */
#include "launcher/fleet/restart.h"

#include <stddef.h>

#include "base/exit.h"

enum { LAST_MS = 30000, DOUBLINGS = 15 }; /* of 1 ms, to LAST_MS */

static unsigned pause_ms(unsigned first_ms, unsigned made)
{
    uint64_t ms = (uint64_t)first_ms << (made < DOUBLINGS ? made : DOUBLINGS);
    unsigned most = first_ms > LAST_MS ? first_ms : LAST_MS;

    return ms < most ? (unsigned)ms : most;
}

static const char *not_after(enum ds_cause cause)
{
    static const struct {
        enum ds_cause cause;
        const char *why;
    } whys[] = {
#define X(id, bit, name)                                                                           \
    {DS_CAUSE_##id, "not started again: '" name "' is not in launch.restart_on (--restart-on)"},
        DS_CAUSES(X)
#undef X
    };

    for (size_t i = 0; i < sizeof(whys) / sizeof(whys[0]); i++)
        if (whys[i].cause == cause)
            return whys[i].why;
    return NULL;
}

bool ds_restart_next(struct ds_restart *restart, const struct ds_restart_facts *facts,
                     unsigned *delay_ms, const char **why)
{
    bool stuck = restart->failed_before && !facts->held && !facts->replaced &&
                 restart->step == facts->step && restart->checkpoint == facts->checkpoint;

    *why = NULL;
    if (!facts->held) {
        restart->failed_before = true;
        restart->step = facts->step;
        restart->checkpoint = facts->checkpoint;
    }
    if (facts->limit == 0 || facts->stopped || facts->code == DS_EXIT_OK)
        return false;
    if ((facts->on & facts->cause) == 0) {
        *why = not_after(facts->cause);
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
    *delay_ms = pause_ms(facts->first_ms, restart->restarts);
    restart->restarts++;
    return true;
}
