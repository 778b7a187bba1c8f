/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * train.c - the contract is in train.h.
 */
#include "runtime/train.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "runtime/optim.h"
#include "runtime/trainer.h"

/* The first two pay for pages touched and products compiled for the first time. */
enum { TRACED_STEP = 3 };

static int open_all(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_train_args *args = trainer->args;
    const struct ds_plan_args plan = {.job = args->job,
                                      .common = args->job->launch.device != DS_DEVICE_CUDA,
                                      .world = args->world,
                                      .rank = args->rank,
                                      .threads = args->threads,
                                      .local_world = args->local_world,
                                      .apart = args->job->launch.device == DS_DEVICE_CUDA};
    int rc = ds_monitor_init(&trainer->monitor, args->rank == 0 ? args->link : NULL, err);

    if (rc == 0)
        rc = ds_plan_build(&trainer->plan, &plan, err);
    if (rc == 0)
        ds__trainer_fit(trainer, &trainer->plan);
    if (rc == 0)
        rc = ds__trainer_device(trainer, trainer->plan.scratch_bytes, err);
    if (rc == 0)
        rc = ds__trainer_check_memory(trainer, err);
    if (rc == 0)
        rc = ds__trainer_comm(trainer, trainer->plan.shared_bytes, err);
    if (rc == 0)
        rc = ds__trainer_open(trainer, err);
    if (rc == 0)
        rc = ds__trainer_trace_open(trainer, err);
    if (rc == 0)
        rc = ds__trainer_tensors(trainer, err);
    if (rc == 0)
        rc = ds__trainer_saver(trainer, err);
    return rc;
}

/* Asked by the launcher, from the thread that reads the line. */
static void tell_where(void *user, char *out, size_t cap)
{
    const struct ds_trainer *trainer = user;

    ds_engine_where(trainer->engine, out, cap);
}

static double peak_of(const struct ds_trainer *trainer)
{
    const struct ds_plan *plan = &trainer->plan;
    double peak = ds_device_peak(trainer->device, ds_compute_dtype(plan->compute));

    return plan->fp8 ? ds_plan_peak(plan, peak, ds_device_peak(trainer->device, DS_U8)) : peak;
}

static int tell_start(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_monitor_start start = {
        .device = ds_device_describe(trainer->device),
        .world = trainer->args->world,
        .threads = trainer->args->threads,
        .attempt = trainer->args->attempt,
        .parameters = ds_model_elems(&trainer->plan.model),
        .plan_hash = trainer->plan.hash,
        .overlap =
            trainer->args->cores > trainer->args->threads || ds_device_is_apart(trainer->device),
        .peak = trainer->args->rank == 0 ? peak_of(trainer) : 0.0,
    };

    trainer->peak = start.peak * start.world;
    return ds_monitor_start(&trainer->monitor, &start, err);
}

/* --- the step loop: nothing here allocates, but a checkpoint does ---------------------------- */

/* What the engine has to say beside the step's numbers. */
static int tell_note(struct ds_trainer *trainer, struct ds_error *err)
{
    const char *note = ds_engine_note(trainer->engine);

    return note == NULL ? 0 : ds_monitor_warning(&trainer->monitor, note, err);
}

/* A step whose gradient is not finite: count it, or give up. */
static int guard(struct ds_trainer *trainer, const struct ds_step_result *result,
                 struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    char text[DS_MAX_TENSOR_NAME + 128];

    if (job->guard.nonfinite == DS_GUARD_ABORT)
        return ds_fail(err, ERANGE,
                       "step %" PRIu64 ": '%s' is not finite, lower 'optim.lr' or set "
                       "'guard.nonfinite' to skip",
                       trainer->state.step, result->bad);
    trainer->state.skipped++;
    if (trainer->state.skipped > job->guard.max_skips)
        return ds_fail(err, ERANGE,
                       "step %" PRIu64 ": '%s' is not finite, and 'guard.max_skips' %" PRIu64
                       " updates were skipped already, lower 'optim.lr'",
                       trainer->state.step, result->bad, job->guard.max_skips);
    (void)snprintf(text, sizeof(text), "step %" PRIu64 ": '%s' is not finite, update skipped",
                   trainer->state.step, result->bad);
    return ds_monitor_warning(&trainer->monitor, text, err);
}

/* Gradients that overflowed in fp16 under a dynamic scale are no fault: the update is skipped and
 * the scale may fall. */
static int rescale(struct ds_trainer *trainer, const struct ds_step_result *result,
                   struct ds_error *err)
{
    char text[DS_MAX_TENSOR_NAME + 128];
    bool overflow = result->nonfinite > 0;
    int rc = ds_scaler_update(&trainer->scaler, trainer->job, overflow, err);

    if (rc != 0)
        return ds_error_context(err, rc, "step %" PRIu64 ": '%s'", trainer->state.step,
                                result->bad);
    if (!overflow || !trainer->scaler.on || trainer->scaler.fixed)
        return overflow ? guard(trainer, result, err) : 0;
    trainer->state.skipped++;
    (void)snprintf(text, sizeof(text),
                   "step %" PRIu64 ": '%s' is not finite, update skipped, loss scale is %g",
                   trainer->state.step, result->bad, trainer->scaler.now.factor);
    return ds_monitor_warning(&trainer->monitor, text, err);
}

/* A step of which no token is a target has nothing to update with. */
static int pass_over(struct ds_trainer *trainer, struct ds_error *err)
{
    char text[128];

    trainer->state.skipped++;
    (void)snprintf(text, sizeof(text),
                   "step %" PRIu64 ": 'loss_mask' leaves no token as a target, update skipped",
                   trainer->state.step);
    return ds_monitor_warning(&trainer->monitor, text, err);
}

static int tell_step(struct ds_trainer *trainer, const struct ds_step_result *result, double lr,
                     struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    uint64_t step = trainer->state.step - 1;
    double seconds = (double)trainer->timed_ns / 1e9, steps = (double)trainer->timed_steps;
    double tokens = (double)(job->train.global_batch * job->train.sequence);
    double rate = seconds > 0.0 ? tokens * steps / seconds : 0.0;
    const struct ds_monitor_step line = {
        .step = step,
        .tokens = trainer->state.tokens,
        .skipped = trainer->state.skipped,
        .loss = result->loss,
        .grad_norm = result->grad_norm,
        .expert_load = result->expert_load,
        .lr = lr,
        .tokens_per_s = rate,
        .mfu = trainer->peak > 0.0 ? rate * trainer->plan.flops_per_token / trainer->peak : 0.0,
        .step_ms = steps > 0.0 ? seconds * 1e3 / steps : 0.0,
    };
    int rc;

    if (step % job->log.every != 0 && trainer->state.step != job->train.steps)
        return 0;
    trainer->timed_ns = 0;
    trainer->timed_steps = 0;
    rc = ds_monitor_step(&trainer->monitor, &line, err);
    if (rc == 0 && trainer->comm_log.on)
        rc = ds_monitor_comm(&trainer->monitor, step, &trainer->comm_log, &trainer->plan, err);
    ds_comm_log_clear(&trainer->comm_log);
    return rc;
}

/* The steps that were queued, by the number of them that are done when this one is. */
static uint64_t queued(const struct ds_trainer *trainer)
{
    return trainer->state.step + ds_engine_pending(trainer->engine);
}

static int queue_step(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    const struct ds_ckpt_state *state = &trainer->state;
    unsigned pending = ds_engine_pending(trainer->engine);
    uint64_t number = state->step + pending;
    bool third = ++trainer->stepped >= TRACED_STEP;
    bool trace = trainer->probe != NULL && trainer->stepped == TRACED_STEP;
    struct ds_step_args args = {
        .data = trainer->train,
        .position = state->samples + pending * job->train.global_batch,
        .lr = ds_optim_lr(job, number),
        .scaler = &trainer->scaler,
        .update = number + 1 - state->skipped,
        .stop = ds_link_stop_requested(trainer->args->link),
        .probe = trace ? trainer->probe : NULL,
        .probe_ops = job->log.trace == DS_TRACE_KERNELS,
    };
    int rc = ds__trainer_saving(trainer, &args.writing, err);

    if (rc == 0)
        rc = ds_comm_log_begin(&trainer->comm_log, trainer->engine, err);
    ds__trainer_waits_begin(trainer);
    if (rc == 0)
        rc = ds_engine_queue(trainer->engine, &args, err);
    if (rc == 0 && third && !trace)
        ds__trainer_waits_end(trainer, false);
    trainer->pending[trainer->stepped % 2] = (struct ds__step){.lr = args.lr, .traced = trace};
    if (rc == 0)
        rc = tell_note(trainer, err);
    return rc == 0 ? ds_comm_log_end(&trainer->comm_log, trainer->engine, err) : rc;
}

/* What the oldest step that is pending came to. */
static int finish_step(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    struct ds_ckpt_state *state = &trainer->state;
    uint64_t number = trainer->stepped + 1 - ds_engine_pending(trainer->engine), now;
    const struct ds__step step = trainer->pending[number % 2];
    struct ds_step_result result;
    int rc;

    ds__trainer_waits_begin(trainer);
    rc = ds_engine_result(trainer->engine, &result, err);
    if (rc == 0 && number >= TRACED_STEP)
        ds__trainer_waits_end(trainer, true);
    if (rc == 0)
        rc = rescale(trainer, &result, err);
    if (rc == 0 && result.empty)
        rc = pass_over(trainer, err);
    if (rc == 0)
        rc = ds__trainer_note_scaler(trainer, err);
    if (rc != 0)
        return rc;
    now = ds_clock_mono_ns();
    state->step++;
    state->samples += job->train.global_batch;
    state->tokens += job->train.global_batch * job->train.sequence;
    trainer->timed_ns += now - trainer->mark_ns;
    trainer->timed_steps++;
    trainer->mark_ns = now;
    trainer->stop = trainer->stop || result.stop;
    rc = tell_step(trainer, &result, step.lr, err);
    if (rc == 0 && step.traced)
        rc = ds__trainer_trace_write(trainer, err);
    if (rc == 0)
        rc = ds__trainer_saved(trainer, result.writing, err);
    return rc == 0 ? ds_link_beat(trainer->args->link, state->step, err) : rc;
}

/* Until at most so many are pending. */
static int finish_steps(struct ds_trainer *trainer, unsigned left, struct ds_error *err)
{
    int rc = 0;

    while (rc == 0 && ds_engine_pending(trainer->engine) > left)
        rc = finish_step(trainer, err);
    return rc;
}

/* One more step.  Its outcome may be told when the next one is queued; not where something waits
 * for it: what is watched, or logged call by call. */
static int train_step(struct ds_trainer *trainer, struct ds_error *err)
{
    bool trace = trainer->probe != NULL && trainer->stepped + 1 == TRACED_STEP;
    bool at_once = trace || trainer->comm_log.on;
    int rc;

    trainer->mark_ns = ds_clock_mono_ns();
    rc = finish_steps(trainer, trace ? 0 : 1, err);
    if (rc == 0)
        rc = queue_step(trainer, err);
    return rc == 0 ? finish_steps(trainer, at_once || !trainer->plan.late ? 0 : 1, err) : rc;
}

/* Losses over batches, and what of these is targets. */
struct valid_sum {
    double loss, share;
};

static double mean_of(const struct valid_sum *sum)
{
    return sum->share > 0.0 ? sum->loss / sum->share : 0.0;
}

static int warn_of_mask(struct ds_trainer *trainer, const char *name, struct ds_error *err)
{
    char what[DS_VALID_WHAT], text[DS_VALID_WHAT + 64];

    (void)snprintf(text, sizeof(text), "%s: 'loss_mask' leaves no token as a target",
                   ds_valid_what(name, what));
    return ds_monitor_warning(&trainer->monitor, text, err);
}

/* A stop ends an evaluation that is all there is; within a run it waits for it. */
static bool given_up(const struct ds_trainer *trainer)
{
    return trainer->args->evaluate && trainer->stop;
}

/* Steps tell each other who was asked to stop; where there are none, batches do. */
static int heed_stop(struct ds_trainer *trainer, uint64_t batch, struct ds_error *err)
{
    double asked = ds_link_stop_requested(trainer->args->link) ? 1.0 : 0.0;
    int rc = ds_link_beat(trainer->args->link, batch, err);

    if (rc == 0)
        rc = ds_comm_all_reduce_f64(trainer->comm, &asked, 1, err);
    trainer->stop = asked > 0.0;
    return rc;
}

/* Always the same sequences: the first eval.batches global batches, or as many as there are. */
static int evaluate_set(struct ds_trainer *trainer, const struct ds_data *data,
                        struct valid_sum *sum, struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    uint64_t whole = ds_data_size(data).samples / job->train.global_batch;
    uint64_t batches = whole < job->eval.batches ? whole : job->eval.batches;
    int rc = 0;

    if (batches == 0)
        batches = 1;
    for (uint64_t i = 0; rc == 0 && i < batches && !given_up(trainer); i++) {
        struct ds_eval_result result = {0};

        rc = ds_engine_eval(trainer->engine, data, i * job->train.global_batch, &result, err);
        if (rc == 0 && trainer->args->evaluate)
            rc = heed_stop(trainer, i, err);
        sum->loss += result.loss * result.share;
        sum->share += result.share;
    }
    return rc;
}

/* Each set by itself, and the mean over the targets of all. */
static int evaluate(struct ds_trainer *trainer, struct ds_error *err)
{
    struct ds_valid *valid = &trainer->valid;
    struct valid_sum all = {0};
    int rc = ds_link_phase(trainer->args->link, DS_PHASE_EVALUATE, err);

    for (size_t k = 0; rc == 0 && k < valid->count; k++) {
        struct valid_sum sum = {0};

        rc = evaluate_set(trainer, valid->set[k].data, &sum, err);
        valid->set[k].loss = mean_of(&sum);
        all.loss += sum.loss;
        all.share += sum.share;
        if (rc == 0 && !(sum.share > 0.0) && !given_up(trainer))
            rc = warn_of_mask(trainer, valid->set[k].name, err);
    }
    if (rc == 0 && !given_up(trainer))
        rc = ds_monitor_valid(&trainer->monitor, trainer->state.step, mean_of(&all), valid, err);
    return rc != 0 ? rc : ds_link_phase(trainer->args->link, DS_PHASE_STEP, err);
}

static int save(struct ds_trainer *trainer, bool last, struct ds_error *err)
{
    int rc = ds_link_phase(trainer->args->link, DS_PHASE_SAVE, err);

    if (rc == 0)
        rc = ds__trainer_save(trainer, last, err);
    return rc != 0 ? rc : ds_link_phase(trainer->args->link, DS_PHASE_STEP, err);
}

static bool saves_now(const struct ds_trainer *trainer, uint64_t step)
{
    const struct ds_job *job = trainer->job;

    if (job->checkpoint.every == 0)
        return false;
    return trainer->stop || step == job->train.steps || step % job->checkpoint.every == 0;
}

static bool evaluates_now(const struct ds_trainer *trainer, uint64_t step)
{
    return trainer->valid.count > 0 && step % trainer->job->eval.every == 0;
}

static int run_steps(struct ds_trainer *trainer, bool *stopped, struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    int rc = 0;

    while (rc == 0 && queued(trainer) < job->train.steps && !trainer->stop) {
        uint64_t step;

        rc = train_step(trainer, err);
        step = queued(trainer);
        if (rc == 0 && (evaluates_now(trainer, step) || saves_now(trainer, step) ||
                        step == job->train.steps || trainer->stop))
            rc = finish_steps(trainer, 0, err);
        if (rc == 0 && evaluates_now(trainer, step))
            rc = evaluate(trainer, err);
        if (rc == 0 && saves_now(trainer, step))
            rc = save(trainer, trainer->stop || step == job->train.steps, err);
    }
    /* Asked in the last step: nothing is left to do. */
    *stopped = trainer->stop && trainer->state.step < job->train.steps;
    return rc;
}

/* Of a device apart: nothing is given back while a run lasts, so what is taken now is the peak. */
static int tell_memory(struct ds_trainer *trainer, struct ds_error *err)
{
    uint64_t left = 0, all = 0;
    int rc = ds_device_memory(trainer->device, &left, &all, err);

    if (rc != 0 || all == 0)
        return rc;
    return ds_monitor_memory(&trainer->monitor, trainer->state.step,
                             ds_plan_total_bytes(&trainer->plan),
                             trainer->device_left > left ? trainer->device_left - left : 0, err);
}

/* The launcher has it before this rank ends. */
static int evaluate_once(struct ds_trainer *trainer, int *code, struct ds_error *err)
{
    int rc = trainer->valid.count > 0
                 ? evaluate(trainer, err)
                 : ds_fail(err, EINVAL, "there is nothing to evaluate on, name it in 'data.valid'");

    *code = trainer->stop ? DS_EXIT_TERMINATED : DS_EXIT_OK;
    if (rc == 0)
        rc = ds_link_flush(trainer->args->link, err);
    return rc != 0 ? rc : ds_comm_barrier(trainer->comm, err);
}

static int run(struct ds_trainer *trainer, int *code, struct ds_error *err)
{
    const struct ds_job *job = trainer->job;
    bool stopped = false, done_before;
    const char *text = NULL;
    int rc = tell_start(trainer, err);

    ds_link_on_where(trainer->args->link, tell_where, trainer);
    if (rc == 0)
        rc = ds__trainer_start(trainer, err);
    done_before = trainer->state.step >= job->train.steps;
    if (rc == 0)
        rc = ds_monitor_ready(&trainer->monitor, trainer->state.step,
                              (double)(ds_clock_mono_ns() - trainer->began_ns) / 1e6, err);
    if (trainer->args->evaluate)
        return rc == 0 ? evaluate_once(trainer, code, err) : rc;
    if (rc == 0)
        rc = run_steps(trainer, &stopped, err);
    if (rc == 0)
        rc = tell_memory(trainer, err);
    if (rc == 0)
        rc = ds__trainer_waits_tell(trainer, err);
    if (rc != 0)
        return rc;
    *code = !stopped                    ? DS_EXIT_OK
            : job->checkpoint.every > 0 ? DS_EXIT_STOPPED
                                        : DS_EXIT_TERMINATED;
    if (trainer->probe != NULL && trainer->stepped < TRACED_STEP && !done_before)
        rc = ds_monitor_warning(&trainer->monitor,
                                "log.trace: no trace was written, it is of the third step of a run "
                                "and this one made fewer",
                                err);
    if (rc != 0)
        return rc;
    if (done_before)
        text = "the job was done before, nothing is left to train";
    else if (stopped)
        text = job->checkpoint.every > 0 ? "stopped as asked, run again to go on"
                                         : "stopped as asked, checkpoints are off";
    rc =
        ds_monitor_end(&trainer->monitor, stopped ? "stop" : "end", trainer->state.step, text, err);
    if (rc == 0)
        rc = ds_engine_settle(trainer->engine, err);
    return rc != 0 ? rc : ds_comm_barrier(trainer->comm, err);
}

int ds_train(const struct ds_train_args *args, int *code, struct ds_error *err)
{
    struct ds_trainer trainer = {.args = args,
                                 .job = args->job,
                                 .began_ns = ds_clock_mono_ns(),
                                 .comm_log.on = args->job->log.comm};
    int rc = open_all(&trainer, err);

    if (rc == 0)
        rc = run(&trainer, code, err);
    ds__trainer_close(&trainer, rc != 0);
    if (args->shm_fd >= 0)
        (void)close(args->shm_fd);
    return rc;
}
