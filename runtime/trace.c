/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trace.c - one step of a run, as it was: log.trace; and how often the host waits for the device.
 *
 * A Chrome trace has the form of the predicted step of dsrun plan --timeline, so that the two can
 * be laid side by side.  With log.trace kernels operations lie inside their instructions, and a
 * table of them (profile.h) is written, as text and as JSON.  What a copy of memory reaches is
 * measured right after the step, in the memory of the activations, which is empty then.
 *
 * Tests   tests/e2e/plan.py, tests/e2e/cuda.py
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fsio.h"
#include "runtime/plan/timeline.h"
#include "runtime/profile.h"
#include "runtime/trainer.h"

enum { TRACE_BYTES = 1 << 30 }; /* grows as needed */
enum { COPY_RUNS = 5, COPY_CALLS = 4 };
#define COPY_BYTES ((uint64_t)512 << 20) /* at most, read and written */

int ds__trainer_trace_open(struct ds_trainer *trainer, struct ds_error *err)
{
    return trainer->job->log.trace == DS_TRACE_NONE
               ? 0
               : ds_probe_open(&trainer->probe, trainer->device, err);
}

/* --- files ------------------------------------------------------------------------------------ */

static int write_file(const struct ds_trainer *trainer, const char *kind, const char *ending,
                      const struct ds_buf *out, char path[DS_MAX_PATH], struct ds_error *err)
{
    char folder[DS_MAX_PATH], name[48];
    int rc = ds_path_join(folder, trainer->args->run_dir, "trace", err);

    (void)snprintf(name, sizeof(name), "%s-%05u.%s", kind, trainer->args->rank, ending);
    if (rc == 0)
        rc = ds_path_join(path, folder, name, err);
    if (rc == 0)
        rc = ds_fs_mkdirs(folder, err);
    if (rc != 0)
        return rc;
    return out->failed ? ds_fail(err, ENOMEM, "no memory to write a trace")
                       : ds_fs_replace(path, out->data, out->len, err);
}

/* When the host had made the last call of the step: waits after that are not the step's. */
static double called_s(const struct ds_probe_span *span, size_t count)
{
    double last_s = 0.0;

    for (size_t i = 0; i < count; i++)
        if (span[i].kind == DS_PROBE_PART && span[i].back_s > last_s)
            last_s = span[i].back_s;
    return last_s;
}

/* Times of instructions, and what lies inside them. */
static int write_timeline(const struct ds_trainer *trainer, const struct ds_probe_span *span,
                          size_t count, char path[DS_MAX_PATH], struct ds_error *err)
{
    struct ds_span_time *time = calloc(trainer->plan.step.count + 1, sizeof(*time));
    struct ds_timeline_more *more = calloc(count + 1, sizeof(*more));
    struct ds_timeline timeline = {
        .plan = &trainer->plan, .time = time, .what = "measured", .more = more};
    struct ds_buf out;
    int rc = time == NULL || more == NULL
                 ? ds_fail(err, ENOMEM, "no memory for the times of %zu operations", count)
                 : 0;
    double last_s = called_s(span, count);

    for (size_t i = 0; rc == 0 && i < count; i++) {
        bool wait = span[i].kind == DS_PROBE_WAIT;
        struct ds_span_time at = {span[i].begin_s, span[i].end_s};

        if (span[i].kind == DS_PROBE_PART)
            time[span[i].part] = at;
        else if (!wait || span[i].begin_s < last_s)
            more[timeline.mores++] =
                (struct ds_timeline_more){.name = span[i].name,
                                          .detail = span[i].shape,
                                          .queue = wait ? DS_QUEUE_COUNT : span[i].queue,
                                          .time = at};
    }
    ds_buf_init(&out, TRACE_BYTES);
    if (rc == 0) {
        ds_timeline_write(&timeline, &out);
        rc = write_file(trainer, "rank", "json", &out, path, err);
    }
    ds_buf_release(&out);
    free(time);
    free(more);
    return rc;
}

/* --- the table -------------------------------------------------------------------------------- */

static int copy_once(struct ds_trainer *trainer, unsigned char *from, uint64_t half,
                     struct ds_error *err)
{
    struct ds_stream *stream = ds_device_stream(trainer->device);
    const struct ds_cast_args args = {
        .n = half / sizeof(float), .from = DS_F32, .to = DS_F32, .x = from, .y = from + half};

    return ds_device_is_apart(trainer->device)
               ? ds_stream_copy(stream, DS_COPY_ASIDE, from + half, from, half, err)
               : ds_cast(&args, stream, err); /* by all threads */
}

/* The best of some runs, the first of them for nothing. */
static int copy_rate(struct ds_trainer *trainer, struct ds_profile_facts *facts,
                     struct ds_error *err)
{
    struct ds_stream *stream = ds_device_stream(trainer->device);
    uint64_t bytes;
    unsigned char *memory = ds_engine_work(trainer->engine, &bytes);
    uint64_t half = (bytes < COPY_BYTES ? bytes : COPY_BYTES) / 2 / 256 * 256;
    int rc = 0;

    facts->copy_bytes = half;
    for (unsigned i = 0; rc == 0 && half > 0 && i <= COPY_RUNS; i++) {
        uint64_t began = ds_clock_mono_ns();
        double rate;

        for (unsigned k = 0; rc == 0 && k < COPY_CALLS; k++)
            rc = copy_once(trainer, memory, half, err);
        if (rc == 0)
            rc = ds_stream_finish(stream, err);
        rate = 2.0 * COPY_CALLS * (double)half * 1e9 / (double)(ds_clock_mono_ns() - began + 1);
        facts->copy = i > 0 && rate > facts->copy ? rate : facts->copy;
    }
    return rc;
}

static int write_table(struct ds_trainer *trainer, const struct ds_probe_span *span, size_t count,
                       double seconds, char path[DS_MAX_PATH], struct ds_error *err)
{
    const struct ds_plan *plan = &trainer->plan;
    struct ds_profile_facts facts = {
        .device = ds_device_describe(trainer->device),
        .step = trainer->state.step,
        .tokens = plan->micro_batches * plan->micro_batch * plan->sequence,
        .peak = ds_device_peak(trainer->device, ds_compute_dtype(plan->compute)),
        .fp8_peak = plan->fp8 ? ds_device_peak(trainer->device, DS_U8) : 0.0,
    };
    struct ds_profile profile;
    struct ds_buf text, json;
    int rc = ds_profile_make(&profile, plan, span, count, seconds, err);

    if (rc == 0)
        rc = copy_rate(trainer, &facts, err);
    ds_buf_init(&text, TRACE_BYTES);
    ds_buf_init(&json, TRACE_BYTES);
    if (rc == 0) {
        ds_profile_print_json(&profile, plan, &facts, &json);
        ds_profile_print(&profile, plan, &facts, &text);
        rc = write_file(trainer, "kernels", "json", &json, path, err);
    }
    if (rc == 0)
        rc = write_file(trainer, "kernels", "txt", &text, path, err);
    ds_buf_release(&text);
    ds_buf_release(&json);
    ds_profile_release(&profile);
    return rc;
}

int ds__trainer_trace_write(struct ds_trainer *trainer, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    double seconds;
    size_t count;
    const struct ds_probe_span *span = ds_probe_spans(trainer->probe, &count, &seconds);
    int rc = write_timeline(trainer, span, count, path, err);

    if (rc == 0 && trainer->job->log.trace == DS_TRACE_KERNELS)
        rc = write_table(trainer, span, count, seconds, path, err);
    return rc != 0 ? rc : ds_monitor_trace(&trainer->monitor, trainer->state.step, path, err);
}

/* --- waits ------------------------------------------------------------------------------------ */

void ds__trainer_waits_begin(struct ds_trainer *trainer)
{
    (void)ds_device_waits(trainer->device, trainer->waits.before);
}

void ds__trainer_waits_end(struct ds_trainer *trainer, bool behind)
{
    struct ds__waits *waits = &trainer->waits;
    struct ds_device_wait now[DS_DEVICE_WAITS], *to = behind ? waits->behind : waits->sum;
    unsigned kinds = ds_device_waits(trainer->device, now);
    uint64_t step = 0;

    for (unsigned i = 0; i < kinds; i++) {
        uint64_t more = now[i].count - waits->before[i].count;

        to[i].name = now[i].name;
        to[i].count += more;
        step += more;
    }
    if (behind)
        return;
    waits->least = waits->steps == 0 || step < waits->least ? step : waits->least;
    waits->most = step > waits->most ? step : waits->most;
    waits->steps++;
}

int ds__trainer_waits_tell(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds__waits *waits = &trainer->waits;
    const struct ds_monitor_waits told = {.step = trainer->state.step,
                                          .steps = waits->steps,
                                          .least = waits->least,
                                          .most = waits->most,
                                          .wait = waits->sum,
                                          .behind = waits->behind,
                                          .waits = DS_DEVICE_WAITS};

    return waits->steps == 0 || !ds_device_is_apart(trainer->device)
               ? 0
               : ds_monitor_waits(&trainer->monitor, &told, err);
}
