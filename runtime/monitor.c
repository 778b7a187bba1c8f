/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * monitor.c - the contract is in monitor.h.
 */
#include "runtime/monitor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"

enum { LINE_BYTES = 16 * 1024, TIME_DIGITS = 13, RATE_DIGITS = 6 };

int ds_monitor_init(struct ds_monitor *monitor, struct ds_link *link, struct ds_error *err)
{
    *monitor = (struct ds_monitor){.link = link};
    ds_buf_init(&monitor->line, LINE_BYTES);
    if (ds_buf_reserve(&monitor->line, LINE_BYTES - 1) == NULL)
        return ds_fail(err, ENOMEM, "no memory for a line of metrics");
    return 0;
}

void ds_monitor_release(struct ds_monitor *monitor)
{
    ds_buf_release(&monitor->line);
}

static struct ds_json begin(struct ds_monitor *monitor, const char *event)
{
    struct ds_json json;

    ds_buf_reset(&monitor->line);
    ds_json_init(&json, &monitor->line);
    ds_json_object(&json, NULL);
    if (event != NULL)
        ds_json_string(&json, "event", event);
    return json;
}

static int finish(struct ds_monitor *monitor, struct ds_json *json, bool metric,
                  struct ds_error *err)
{
    ds_json_f64(json, "time", ds_clock_wall_s(), TIME_DIGITS);
    ds_json_end_object(json);
    if (monitor->line.failed)
        return ds_fail(err, ENOBUFS, "a line of metrics does not fit in %d bytes", LINE_BYTES);
    if (metric)
        return ds_link_metric(monitor->link, ds_buf_text(&monitor->line), err);
    return ds_link_event(monitor->link, ds_buf_text(&monitor->line), err);
}

int ds_monitor_step(struct ds_monitor *monitor, const struct ds_monitor_step *step,
                    struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, NULL);
    ds_json_u64(&json, "step", step->step);
    ds_json_f64(&json, "loss", step->loss, DS_MONITOR_DIGITS);
    ds_json_f64(&json, "grad_norm", step->grad_norm, DS_MONITOR_DIGITS);
    ds_json_f64(&json, "lr", step->lr, DS_MONITOR_DIGITS);
    ds_json_u64(&json, "tokens", step->tokens);
    ds_json_f64(&json, "tokens_per_s", step->tokens_per_s, RATE_DIGITS);
    ds_json_f64(&json, "step_ms", step->step_ms, RATE_DIGITS);
    ds_json_f64(&json, "mfu", step->mfu, RATE_DIGITS);
    ds_json_u64(&json, "skipped", step->skipped);
    if (step->expert_load > 0.0)
        ds_json_f64(&json, "expert_load", step->expert_load, RATE_DIGITS);
    return finish(monitor, &json, true, err);
}

int ds_monitor_valid(struct ds_monitor *monitor, uint64_t step, double loss,
                     const struct ds_valid *valid, struct ds_error *err)
{
    char key[DS_MAX_NAME + 16];
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, NULL);
    ds_json_u64(&json, "step", step);
    ds_json_f64(&json, "valid_loss", loss, DS_MONITOR_DIGITS);
    for (size_t k = 0; k < valid->count; k++) {
        if (valid->set[k].name == NULL)
            continue;
        (void)snprintf(key, sizeof(key), "valid_loss/%.*s", DS_MAX_NAME, valid->set[k].name);
        ds_json_f64(&json, key, valid->set[k].loss, DS_MONITOR_DIGITS);
    }
    return finish(monitor, &json, true, err);
}

int ds_monitor_start(struct ds_monitor *monitor, const struct ds_monitor_start *start,
                     struct ds_error *err)
{
    struct ds_json json;
    char hash[17];

    if (monitor->link == NULL)
        return 0;
    (void)snprintf(hash, sizeof(hash), "%016" PRIx64, start->plan_hash);
    json = begin(monitor, "start");
    ds_json_string(&json, "device", start->device);
    ds_json_u64(&json, "world", start->world);
    ds_json_u64(&json, "threads", start->threads);
    ds_json_u64(&json, "attempt", start->attempt);
    ds_json_u64(&json, "parameters", start->parameters);
    ds_json_bool(&json, "overlap", start->overlap);
    ds_json_f64(&json, "peak_gflops", start->peak / 1e9, RATE_DIGITS);
    ds_json_string(&json, "plan", hash);
    return finish(monitor, &json, false, err);
}

int ds_monitor_resumed(struct ds_monitor *monitor, uint64_t step, const char *from,
                       struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "resumed");
    ds_json_u64(&json, "step", step);
    if (from != NULL)
        ds_json_string(&json, "from", from);
    else
        ds_json_null(&json, "from");
    return finish(monitor, &json, false, err);
}

int ds_monitor_ready(struct ds_monitor *monitor, uint64_t step, double ms, struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "ready");
    ds_json_u64(&json, "step", step);
    ds_json_f64(&json, "ms", ms, RATE_DIGITS);
    return finish(monitor, &json, false, err);
}

int ds_monitor_checkpoint(struct ds_monitor *monitor, const struct ds_monitor_saved *saved,
                          struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "checkpoint");
    ds_json_u64(&json, "step", saved->step);
    ds_json_string(&json, "path", saved->path);
    ds_json_f64(&json, "ms", saved->ms, RATE_DIGITS);
    ds_json_f64(&json, "stall_ms", saved->stall_ms, RATE_DIGITS);
    ds_json_u64(&json, "bytes", saved->bytes);
    return finish(monitor, &json, false, err);
}

/* "reduce_scatter 12 x 1.5 MB in 3.2 ms", the bytes as sent by one rank. */
static void describe(char *text, size_t size, enum ds_comm_op op, const struct ds_comm_stats *stats)
{
    size_t at = strlen(text);

    (void)snprintf(text + at, size - at, "%s%s %" PRIu64 " calls %.3f MB in %.1f ms",
                   at > 0 ? ", " : "", ds_comm_op_name(op), stats->calls,
                   (double)stats->bytes / 1e6, (double)(stats->work_ns + stats->wait_ns) / 1e6);
}

static void put_op(struct ds_json *json, enum ds_comm_op op, const struct ds_comm_log *log,
                   const struct ds_plan *plan)
{
    const struct ds_comm_stats *stats = &log->sum[op];

    ds_json_object(json, ds_comm_op_name(op));
    ds_json_u64(json, "calls", stats->calls);
    ds_json_u64(json, "bytes", stats->bytes);
    ds_json_u64(json, "planned_calls", log->steps * plan->traffic[op].calls);
    ds_json_u64(json, "planned_bytes", log->steps * plan->traffic[op].bytes);
    ds_json_f64(json, "wait_ms", (double)stats->wait_ns / 1e6, RATE_DIGITS);
    ds_json_f64(json, "work_ms", (double)stats->work_ns / 1e6, RATE_DIGITS);
    ds_json_end_object(json);
}

int ds_monitor_comm(struct ds_monitor *monitor, uint64_t step, const struct ds_comm_log *log,
                    const struct ds_plan *plan, struct ds_error *err)
{
    char text[640] = "";
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "comm");
    ds_json_u64(&json, "step", step);
    ds_json_u64(&json, "steps", log->steps);
    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++) {
        if (log->sum[op].calls == 0)
            continue;
        put_op(&json, (enum ds_comm_op)op, log, plan);
        describe(text, sizeof(text), (enum ds_comm_op)op, &log->sum[op]);
    }
    ds_json_string(&json, "text", text);
    return finish(monitor, &json, false, err);
}

int ds_monitor_warning(struct ds_monitor *monitor, const char *text, struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "warning");
    ds_json_string(&json, "text", text);
    return finish(monitor, &json, false, err);
}

int ds_monitor_memory(struct ds_monitor *monitor, uint64_t step, uint64_t planned, uint64_t taken,
                      struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "memory");
    ds_json_u64(&json, "step", step);
    ds_json_u64(&json, "planned_bytes", planned);
    ds_json_u64(&json, "device_bytes", taken);
    return finish(monitor, &json, false, err);
}

static void put_waits(struct ds_json *json, const char *name, const struct ds_device_wait *wait,
                      unsigned waits)
{
    ds_json_object(json, name);
    for (unsigned i = 0; i < waits; i++)
        if (wait[i].count > 0)
            ds_json_u64(json, wait[i].name, wait[i].count);
    ds_json_end_object(json);
}

int ds_monitor_waits(struct ds_monitor *monitor, const struct ds_monitor_waits *waits,
                     struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "waits");
    ds_json_u64(&json, "step", waits->step);
    ds_json_u64(&json, "steps", waits->steps);
    ds_json_u64(&json, "least", waits->least);
    ds_json_u64(&json, "most", waits->most);
    put_waits(&json, "calls", waits->wait, waits->waits);
    put_waits(&json, "behind", waits->behind, waits->waits);
    return finish(monitor, &json, false, err);
}

int ds_monitor_trace(struct ds_monitor *monitor, uint64_t step, const char *path,
                     struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, "trace");
    ds_json_u64(&json, "step", step);
    ds_json_string(&json, "path", path);
    return finish(monitor, &json, false, err);
}

int ds_monitor_end(struct ds_monitor *monitor, const char *event, uint64_t step, const char *text,
                   struct ds_error *err)
{
    struct ds_json json;

    if (monitor->link == NULL)
        return 0;
    json = begin(monitor, event);
    ds_json_u64(&json, "step", step);
    if (text != NULL)
        ds_json_string(&json, "text", text);
    return finish(monitor, &json, false, err);
}
