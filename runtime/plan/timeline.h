/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * timeline.h - a step as a Chrome trace, simulated or real, in one form.
 *
 * One process per rank, one thread per queue, one complete event ("ph":"X") per instruction, times
 * in microseconds from the step's begin.  chrome://tracing, Perfetto and speedscope read it.
 *
 * Source  "Trace Event Format", Google, 2016.
 * Tests   tests/plan/test_plan.c
 */
#ifndef DS_RUNTIME_PLAN_TIMELINE_H
#define DS_RUNTIME_PLAN_TIMELINE_H

#include "base/buf.h"
#include "runtime/plan/plan.h"

struct ds_span_time {
    double begin_s, end_s; /* from the step's begin */
};

/* What else is to be shown: something inside an instruction, or (`queue` DS_QUEUE_COUNT) a wait of
 * the host. */
struct ds_timeline_more {
    const char *name, *detail; /* borrowed */
    unsigned queue;
    struct ds_span_time time;
};

/* Append the whole trace of one step. */
struct ds_timeline {
    const struct ds_plan *plan;
    const struct ds_span_time *time; /* [plan->step.count] */
    const char *what;                /* "predicted", "measured" */
    const struct ds_timeline_more *more;
    size_t mores;
};
void ds_timeline_write(const struct ds_timeline *timeline, struct ds_buf *out);

#endif
