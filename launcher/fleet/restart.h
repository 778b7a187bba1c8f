/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * restart.h - whether a job that failed is started again, and when.
 *
 * Pure.  Stops are final, and so is every failure whose class (base/causes.h) the user does not
 * want another try for.  A job that fails at the same step twice, with no checkpoint made in
 * between, would fail there for ever and is not tried a third time; unless it failed because of a
 * host (spares.h) that another one has taken the place of, or that is left out.  A GPU that another
 * job holds is no failure of the job: every pause may be the one in which it is let go.
 *
 * Tests   tests/launcher/test_restart.c
 */
#ifndef DS_LAUNCHER_FLEET_RESTART_H
#define DS_LAUNCHER_FLEET_RESTART_H

#include <stdbool.h>
#include <stdint.h>

#include "base/causes.h"

struct ds_restart {    /* zeroed at the start */
    unsigned restarts; /* made so far */
    bool failed_before;
    int64_t step, checkpoint; /* of the attempt before */
};

struct ds_restart_facts { /* about the attempt that has just ended */
    unsigned limit;       /* --restarts */
    unsigned on;          /* enum ds_cause, or'ed: after which of them */
    unsigned first_ms;    /* the first pause */
    enum ds_cause cause;  /* of the failure */
    int code;             /* dsrun's exit code if this is final */
    bool stopped;         /* a stop was asked for */
    bool held;            /* nothing was tried: another job holds a GPU */
    bool replaced;        /* what failed first was a host, which is replaced or left out now */
    int64_t step;         /* last step heard of, -1: none */
    int64_t checkpoint;   /* newest checkpoint heard of in any attempt, -1: none */
};

/* True: start again after *delay_ms: first_ms, then twice as long each time, up to 30 s.  False:
 * final; *why is a reason worth telling, or NULL where nothing needs to be said. */
bool ds_restart_next(struct ds_restart *restart, const struct ds_restart_facts *facts,
                     unsigned *delay_ms, const char **why);

#endif
