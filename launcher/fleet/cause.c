/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cause.c - the contract is in cause.h.
 */
#include "launcher/fleet/cause.h"

#include <stdio.h>
#include <string.h>

#include "base/limits.h"

void ds_cause_text(const struct ds_failure *first, const struct ds_cause_facts *facts, char *out)
{
    out[0] = '\0';
    switch (first->kind) {
    case DS_FAILURE_NONE:
    case DS_FAILURE_KINDS: break;
    case DS_FAILURE_RANK:
        if (first->signal != 0)
            (void)snprintf(out, DS_MAX_ERROR_TEXT, "rank %u on %s was killed by signal %d (%s)%s",
                           first->rank, facts->host, first->signal, strsignal(first->signal),
                           first->oom ? ": the host ran out of memory" : "");
        else
            (void)snprintf(out, DS_MAX_ERROR_TEXT, "rank %u on %s ended with code %d", first->rank,
                           facts->host, first->code);
        break;
    case DS_FAILURE_HOST:
        (void)snprintf(out, DS_MAX_ERROR_TEXT, "host '%s' was lost: %s", facts->host,
                       facts->reason);
        break;
    case DS_FAILURE_SILENT:
        (void)snprintf(out, DS_MAX_ERROR_TEXT, "host '%s' was silent for too long", facts->host);
        break;
    case DS_FAILURE_HANG:
        (void)snprintf(out, DS_MAX_ERROR_TEXT,
                       "no rank has made a step for too long: rank %u on %s holds the others up",
                       first->rank, facts->host);
        break;
    case DS_FAILURE_SLEPT:
        (void)snprintf(out, DS_MAX_ERROR_TEXT,
                       "dsrun itself did not run for too long: hosts gave it up");
        break;
    case DS_FAILURE_START:
        (void)snprintf(out, DS_MAX_ERROR_TEXT,
                       "%u of %u ranks had started when the start time-out of %g s was over",
                       facts->spawned, facts->world, facts->start_timeout_s);
        break;
    case DS_FAILURE_LAUNCHER: (void)snprintf(out, DS_MAX_ERROR_TEXT, "%s", facts->broken); break;
    }
}
