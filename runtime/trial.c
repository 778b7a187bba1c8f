/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trial.c - the contract is in trial.h.
 *
 * Device and line between the ranks are opened once, with the largest scratch and shared memory of
 * all trials; data and engine are opened anew for each.
 */
#include "runtime/trial.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "runtime/optim.h"
#include "runtime/trainer.h"

enum { WARM_STEPS = 2, TIMED_STEPS = 5, LINE_BYTES = 256 };

struct trial {
    struct ds_job job;
    struct ds_plan plan;
};

/* The job with the words of one trial. */
static int read_trial(struct trial *trial, const struct ds_train_args *args,
                      const struct ds_run_spec *spec, unsigned i, struct ds_error *err)
{
    char text[DS_MAX_TRIAL_TEXT], *rest = text, *word;
    const char *words[DS_MAX_TRIAL_WORDS];
    const struct ds_plan_args plan = {.job = &trial->job,
                                      .common = args->job->launch.device != DS_DEVICE_CUDA,
                                      .world = args->world,
                                      .rank = args->rank,
                                      .threads = args->threads,
                                      .local_world = args->local_world,
                                      .apart = args->job->launch.device == DS_DEVICE_CUDA};
    size_t count = 0;
    int rc;

    memcpy(text, spec->trial[i], sizeof(text));
    while ((word = strsep(&rest, " ")) != NULL)
        if (*word != '\0') {
            if (count == DS_MAX_TRIAL_WORDS)
                return ds_fail(err, EPROTO, "trial %u has too many words", i);
            words[count++] = word;
        }
    rc = ds_job_parse(&trial->job, "job", spec->job_text, spec->job_bytes, words, count, err);
    if (rc == 0)
        rc = ds_job_check_world(&trial->job, args->world, err);
    if (rc == 0)
        rc = ds_plan_build(&trial->plan, &plan, err);
    return ds_error_context(err, rc, "trial '%s'", spec->trial[i]);
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static int one_step(struct ds_trainer *trainer, uint64_t step, double *ms, struct ds_error *err)
{
    struct ds_step_result result;
    const struct ds_step_args args = {
        .data = trainer->train,
        .position = step * trainer->job->train.global_batch,
        .lr = ds_optim_lr(trainer->job, step),
        .update = step + 1,
        .stop = ds_link_stop_requested(trainer->args->link),
    };
    int rc = ds_comm_barrier(trainer->comm, err);
    uint64_t began = ds_clock_mono_ns();

    if (rc == 0)
        rc = ds_engine_step(trainer->engine, &args, &result, err);
    if (rc == 0)
        rc = ds_engine_settle(trainer->engine, err); /* gathers are of the step */
    if (rc == 0 && result.stop)
        return ds_fail(err, ECANCELED, "stopped as asked");
    if (rc == 0)
        rc = ds_comm_barrier(trainer->comm, err);
    *ms = (double)(ds_clock_mono_ns() - began) * 1e-6;
    return rc == 0 ? ds_link_beat(trainer->args->link, step, err) : rc;
}

static int tell(const struct ds_train_args *args, unsigned i, double ms, struct ds_error *err)
{
    struct ds_buf line;
    struct ds_json json;
    int rc;

    if (args->rank != 0)
        return 0;
    ds_buf_init(&line, LINE_BYTES);
    ds_json_init(&json, &line);
    ds_json_object(&json, NULL);
    ds_json_u64(&json, "trial", i);
    ds_json_f64(&json, "step_ms", ms, 9);
    ds_json_end_object(&json);
    rc = ds_link_metric(args->link, ds_buf_text(&line), err);
    ds_buf_release(&line);
    return rc;
}

/* Plan, comm and device are only lent to this trainer. */
static int run_trial(const struct ds_trainer *line, const struct trial *trial, unsigned i,
                     struct ds_error *err)
{
    struct ds_trainer trainer = {.args = line->args,
                                 .job = &trial->job,
                                 .plan = trial->plan,
                                 .comm = line->comm,
                                 .device = line->device};
    double ms[WARM_STEPS + TIMED_STEPS] = {0};
    int rc = ds__trainer_open(&trainer, err);

    if (rc == 0)
        rc = ds__trainer_fresh(&trainer, err);
    for (uint64_t step = 0; rc == 0 && step < WARM_STEPS + TIMED_STEPS; step++)
        rc = one_step(&trainer, step, &ms[step], err);
    if (rc != 0)
        ds_comm_abort(line->comm);
    ds__trainer_close_parts(&trainer);
    if (rc != 0)
        return rc;
    qsort(ms + WARM_STEPS, TIMED_STEPS, sizeof(ms[0]), by_value);
    return tell(line->args, i, ms[WARM_STEPS + TIMED_STEPS / 2], err);
}

static int run_trials(struct trial *trial, const struct ds_train_args *args,
                      const struct ds_run_spec *spec, struct ds_error *err)
{
    struct ds_trainer line = {.args = args, .job = args->job};
    uint64_t shared = 0, scratch = 0;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < spec->trials; i++) {
        rc = read_trial(&trial[i], args, spec, i, err);
        shared = trial[i].plan.shared_bytes > shared ? trial[i].plan.shared_bytes : shared;
        ds__trainer_fit(&line, &trial[i].plan);
        scratch = trial[i].plan.scratch_bytes > scratch ? trial[i].plan.scratch_bytes : scratch;
    }
    if (rc == 0)
        rc = ds__trainer_device(&line, scratch, err);
    if (rc == 0)
        rc = ds__trainer_comm(&line, shared, err);
    for (unsigned i = 0; rc == 0 && i < spec->trials; i++)
        rc = run_trial(&line, &trial[i], i, err);
    if (rc == 0)
        rc = ds_link_flush(args->link, err);
    if (rc == 0)
        rc = ds_comm_barrier(line.comm, err);
    ds__trainer_close(&line, rc != 0);
    return rc;
}

int ds_trials(const struct ds_train_args *args, const struct ds_run_spec *spec,
              struct ds_error *err)
{
    struct trial *trial = calloc(spec->trials, sizeof(*trial));
    int rc;

    if (trial == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u trials", spec->trials);
    for (unsigned i = 0; i < spec->trials; i++)
        ds_job_init(&trial[i].job);
    rc = run_trials(trial, args, spec, err);
    for (unsigned i = 0; i < spec->trials; i++) {
        ds_plan_release(&trial[i].plan);
        ds_job_release(&trial[i].job);
    }
    free(trial);
    if (args->shm_fd >= 0)
        (void)close(args->shm_fd);
    return rc;
}
