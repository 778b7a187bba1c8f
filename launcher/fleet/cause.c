/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cause.c - the contract is in cause.h.
 */
#include "launcher/fleet/cause.h"

#include <stdio.h>
#include <string.h>

#include "base/exit.h"
#include "base/limits.h"

static void rank_text(const struct ds_failure *first, const struct ds_cause_facts *facts, char *out)
{
    if (first->held)
        (void)snprintf(out, DS_MAX_ERROR_TEXT,
                       "rank %u on %s was not started: another job holds a GPU of that host",
                       first->rank, facts->host);
    else if (first->signal != 0)
        (void)snprintf(out, DS_MAX_ERROR_TEXT, "rank %u on %s was killed by signal %d (%s)%s",
                       first->rank, facts->host, first->signal, strsignal(first->signal),
                       first->oom ? ": the host ran out of memory" : "");
    else
        (void)snprintf(out, DS_MAX_ERROR_TEXT, "rank %u on %s ended with code %d%s", first->rank,
                       facts->host, first->code,
                       first->disk   ? ": a disk is full"
                       : first->oom  ? ": no memory is left"
                       : first->comm ? ": a collective failed"
                                     : "");
}

void ds_cause_text(const struct ds_failure *first, const struct ds_cause_facts *facts, char *out)
{
    out[0] = '\0';
    switch (first->kind) {
    case DS_FAILURE_NONE:
    case DS_FAILURE_KINDS: break;
    case DS_FAILURE_RANK: rank_text(first, facts, out); break;
    case DS_FAILURE_HOST:
    case DS_FAILURE_SILENT:
        (void)snprintf(out, DS_MAX_ERROR_TEXT, "host '%s' was lost: %s", facts->host,
                       facts->reason);
        break;
    case DS_FAILURE_HANG:
        (void)snprintf(out, DS_MAX_ERROR_TEXT,
                       "hang: no rank has made a step for %.3g s, a step takes %.3g s; rank %u on "
                       "%s, at step %llu, %s",
                       facts->idle_s, facts->step_s, first->rank, facts->host,
                       (unsigned long long)first->step,
                       first->mute ? "does not answer" : "is the one the others wait for");
        break;
    case DS_FAILURE_SLEPT:
        (void)snprintf(out, DS_MAX_ERROR_TEXT,
                       "dsrun itself was stopped for longer than the heartbeat limit: its hosts "
                       "gave it up");
        break;
    case DS_FAILURE_START:
        (void)snprintf(out, DS_MAX_ERROR_TEXT,
                       "%u of %u ranks had started when the start time-out of %g s was over; "
                       "host '%s' is late",
                       facts->spawned, facts->world, facts->start_timeout_s, facts->host);
        break;
    case DS_FAILURE_LAUNCHER: (void)snprintf(out, DS_MAX_ERROR_TEXT, "%s", facts->broken); break;
    }
}

/* A victim that no better explanation was found for lost whoever it was waiting for. */
static enum ds_cause rank_class(const struct ds_failure *first)
{
    if (first->held)
        return DS_CAUSE_START;
    if (first->oom)
        return DS_CAUSE_OOM;
    if (first->disk)
        return DS_CAUSE_DISK_FULL;
    if (first->comm || first->victim)
        return DS_CAUSE_COMM;
    if (first->signal == 0 && (first->code == DS_EXIT_USAGE || first->code == DS_EXIT_DATA))
        return DS_CAUSE_INPUT;
    return DS_CAUSE_RANK;
}

enum ds_cause ds_cause_class(const struct ds_failure *first)
{
    switch (first->kind) {
    case DS_FAILURE_RANK: return rank_class(first);
    case DS_FAILURE_HOST:
    case DS_FAILURE_SILENT:
    case DS_FAILURE_SLEPT: return DS_CAUSE_HOST_LOST;
    case DS_FAILURE_START: return DS_CAUSE_START;
    case DS_FAILURE_HANG: return DS_CAUSE_HANG;
    case DS_FAILURE_LAUNCHER: return first->disk ? DS_CAUSE_DISK_FULL : DS_CAUSE_LAUNCHER;
    case DS_FAILURE_NONE:
    case DS_FAILURE_KINDS: break;
    }
    return DS_CAUSE_NONE;
}

const char *ds_cause_name(enum ds_cause cause)
{
    static const char *const names[] = {
#define X(id, bit, name) [bit] = name,
        DS_CAUSES(X)
#undef X
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (cause == (enum ds_cause)(1u << i))
            return names[i];
    return "";
}
