/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * timeline.c - the contract is in timeline.h.
 */
#include "runtime/plan/timeline.h"

#include <stdio.h>

#include "base/json.h"

static void event(struct ds_json *json, const struct ds_plan *plan, const struct ds_instr *instr,
                  const struct ds_span_time *time)
{
    bool block = instr->block != UINT32_MAX, bucket = instr->bucket != UINT32_MAX;
    char name[48];

    if (block || bucket)
        (void)snprintf(name, sizeof(name), "%s %s %u", ds_instr_op_name(instr->op),
                       block ? "block" : "bucket", block ? instr->block : instr->bucket);
    else
        (void)snprintf(name, sizeof(name), "%s", ds_instr_op_name(instr->op));
    ds_json_object(json, NULL);
    ds_json_string(json, "name", name);
    ds_json_string(json, "cat", ds_queue_name(instr->queue));
    ds_json_string(json, "ph", "X");
    ds_json_f64(json, "ts", time->begin_s * 1e6, 9);
    ds_json_f64(json, "dur", (time->end_s - time->begin_s) * 1e6, 9);
    ds_json_u64(json, "pid", plan->rank);
    ds_json_u64(json, "tid", (uint64_t)instr->queue);
    ds_json_object(json, "args");
    if (instr->micro_batch != UINT32_MAX)
        ds_json_u64(json, "micro_batch", instr->micro_batch);
    if (instr->recompute)
        ds_json_bool(json, "recompute", true);
    ds_json_end_object(json);
    ds_json_end_object(json);
}

/* A name for a process (`tid` below 0) or for one of its threads. */
static void label(struct ds_json *json, const struct ds_plan *plan, int tid, const char *text)
{
    ds_json_object(json, NULL);
    ds_json_string(json, "name", tid < 0 ? "process_name" : "thread_name");
    ds_json_string(json, "ph", "M");
    ds_json_u64(json, "pid", plan->rank);
    if (tid >= 0)
        ds_json_u64(json, "tid", (uint64_t)tid);
    ds_json_object(json, "args");
    ds_json_string(json, "name", text);
    ds_json_end_object(json);
    ds_json_end_object(json);
}

static void more(struct ds_json *json, const struct ds_plan *plan, const struct ds_timeline_more *m)
{
    bool wait = m->queue == DS_QUEUE_COUNT;

    ds_json_object(json, NULL);
    ds_json_string(json, "name", m->name);
    ds_json_string(json, "cat", wait ? "WAIT" : "OPERATION");
    ds_json_string(json, "ph", "X");
    ds_json_f64(json, "ts", m->time.begin_s * 1e6, 9);
    ds_json_f64(json, "dur", (m->time.end_s - m->time.begin_s) * 1e6, 9);
    ds_json_u64(json, "pid", plan->rank);
    ds_json_u64(json, "tid", m->queue);
    ds_json_object(json, "args");
    if (m->detail[0] != '\0')
        ds_json_string(json, "shape", m->detail);
    ds_json_end_object(json);
    ds_json_end_object(json);
}

void ds_timeline_write(const struct ds_timeline *timeline, struct ds_buf *out)
{
    const struct ds_plan *plan = timeline->plan;
    struct ds_json json;
    char process[64];

    (void)snprintf(process, sizeof(process), "rank %u, %s", plan->rank, timeline->what);
    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_string(&json, "displayTimeUnit", "ms");
    ds_json_array(&json, "traceEvents");
    label(&json, plan, -1, process);
    for (unsigned i = 0; i < DS_QUEUE_COUNT; i++)
        label(&json, plan, (int)i, ds_queue_name((enum ds_queue)i));
    if (timeline->mores > 0)
        label(&json, plan, DS_QUEUE_COUNT, "host waits for the device");
    for (size_t i = 0; i < plan->step.count; i++)
        event(&json, plan, &plan->step.instr[i], &timeline->time[i]);
    for (size_t i = 0; i < timeline->mores; i++)
        more(&json, plan, &timeline->more[i]);
    ds_json_end_array(&json);
    ds_json_end_object(&json);
}
