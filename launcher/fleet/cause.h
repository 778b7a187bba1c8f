/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cause.h - the first failure of a job as a sentence, and its class.
 *
 * Pure.
 *
 * Tests   tests/launcher/test_supervise.c
 */
#ifndef DS_LAUNCHER_FLEET_CAUSE_H
#define DS_LAUNCHER_FLEET_CAUSE_H

#include "base/causes.h"
#include "launcher/fleet/supervise.h"

struct ds_cause_facts {      /* borrowed */
    const char *host;        /* of the failure */
    const char *reason;      /* why that host was lost */
    const char *broken;      /* why the launcher cannot go on */
    uint32_t spawned, world; /* ranks */
    double start_timeout_s;
    double idle_s, step_s; /* since the last step; of a usual step */
};

/* Into out[DS_MAX_ERROR_TEXT]; "" for no failure. */
void ds_cause_text(const struct ds_failure *first, const struct ds_cause_facts *facts, char *out);

/* Which restarts it may have; DS_CAUSE_NONE for no failure. */
enum ds_cause ds_cause_class(const struct ds_failure *first);

/* "host-lost"; "" of DS_CAUSE_NONE. */
const char *ds_cause_name(enum ds_cause cause);

#endif
