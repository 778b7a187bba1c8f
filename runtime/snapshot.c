/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * snapshot.c - the engine's lines as named tensors, and a checkpoint of them.
 *
 * Tests   tests/engine/test_worker.c
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "runtime/states.h"
#include "runtime/trainer.h"

/* Elements `held` of this rank's part of one of the model's tensors: not what is padding. */
static void place(struct ds_ckpt_tensor *tensor, const struct ds_plan_cut *cut, struct ds_held held)
{
    const uint64_t end = held.first + held.count, real = end < cut->elems ? end : cut->elems;

    tensor->ndim = cut->whole.ndim;
    tensor->shape[0] = cut->whole.shape[0];
    tensor->shape[1] = cut->whole.ndim > 1 ? cut->whole.shape[1] : 0;
    tensor->first = cut->first + held.first;
    tensor->count = real > held.first ? real - held.first : 0;
    if (tensor->count == 0)
        tensor->first = 0;
    tensor->view.runs = cut->of_rows ? 0 : cut->runs;
    for (unsigned i = 0; i < tensor->view.runs; i++) {
        tensor->view.run[i].first = cut->run[i].first;
        tensor->view.run[i].count = cut->run[i].count;
    }
}

void ds__trainer_view(struct ds_ckpt_tensor *tensor, const char *state, const struct ds_plan *plan,
                      size_t index, enum ds_arena_kind arena)
{
    const struct ds_plan_param *param = &plan->param[index];
    const struct ds_plan_cut cut = ds_plan_cut(plan, param->tensor);
    const struct ds_plan_holders of = ds_plan_holders_of(plan, param->bucket);
    bool shared = ds_plan_divides(plan, arena, param->bucket);

    *tensor = (struct ds_ckpt_tensor){
        .dtype = DS_F32,
        .replica = shared ? of.replica : of.place,
        .replicas = shared ? of.replicas : of.count,
        .copy = ds_plan_twin(plan, index),
    };
    place(tensor, &cut, ds_plan_held_param(plan, arena, index));
    (void)snprintf(tensor->name, sizeof(tensor->name), "%s%s%.200s", state,
                   state[0] != '\0' ? "." : "", param->param.name);
}

/* Rows from several places are ranges of their own, each behind the one before here; returns how
 * many tensors `tensor` has become. */
static size_t take_apart(struct ds_ckpt_tensor *tensor, const struct ds_plan *plan, size_t index)
{
    const struct ds_plan_cut cut = ds_plan_cut(plan, plan->param[index].tensor);
    const struct ds_ckpt_tensor all = *tensor;
    const struct ds_held here = {.first = all.first, .count = all.count};
    uint64_t at = 0;

    for (unsigned i = 0; cut.of_rows && i < cut.runs; i++) {
        const struct ds_held part = ds_held_within(here, at, cut.run[i].count);

        tensor[i] = all;
        tensor[i].first = part.count > 0 ? cut.run[i].first + part.first : 0;
        tensor[i].count = part.count;
        if (all.data != NULL)
            tensor[i].data = (float *)all.data + part.at;
        tensor[i].line_at = all.line_at + part.at * sizeof(float);
        at += cut.run[i].count;
    }
    return cut.of_rows ? cut.runs : 1;
}

static int read_states(void *user, uint64_t at, void *to, size_t bytes, struct ds_error *err)
{
    return ds_states_read(user, at / sizeof(float), to, bytes / sizeof(float), err);
}

static int write_states(void *user, uint64_t at, const void *from, size_t bytes,
                        struct ds_error *err)
{
    return ds_states_write(user, at / sizeof(float), from, bytes / sizeof(float), err);
}

/* A state that is in the engine's file, from element `at` of the line of all states. */
static void in_file(struct ds_trainer *trainer, struct ds_ckpt_tensor *tensor, uint64_t at)
{
    trainer->states = (struct ds_ckpt_line){.read = read_states,
                                            .write = write_states,
                                            .user = ds_engine_lines(trainer->engine).states};
    tensor->line = &trainer->states;
    tensor->line_at = at * sizeof(float);
}

/* A state of one tensor, if it has that; `line` NULL: it is in a file. */
static void view_state(struct ds_trainer *trainer, size_t index, unsigned state, float *line)
{
    const struct ds_plan *plan = &trainer->plan;
    const struct ds_plan_param *param = &plan->param[index];
    const char *name = ds_optim_state_name(trainer->job, &param->param, state);
    struct ds_ckpt_tensor *tensor = &trainer->moments[trainer->n_moments];
    uint64_t at;

    if (name == NULL || plan->tensor[param->tensor].frozen)
        return;
    at = ds_plan_state_at(plan, param->bucket, state,
                          ds_plan_held_param(plan, DS_ARENA_MOMENTS, index).at);
    ds__trainer_view(tensor, name, plan, index, DS_ARENA_MOMENTS);
    if (line != NULL)
        tensor->data = line + at;
    else
        in_file(trainer, tensor, at + (state > 0 ? ds_plan_state_elems(plan, 0) : 0));
    trainer->n_moments += take_apart(tensor, plan, index);
}

/* Of a checkpoint: parameters and states of all ranks. */
static uint64_t saved_bytes(const struct ds_trainer *trainer)
{
    uint64_t elems = 0;

    for (size_t i = 0; i < trainer->plan.tensors; i++) {
        struct ds_param param;

        if (trainer->plan.tensor[i].frozen)
            continue;
        ds_model_param(&trainer->plan.model, i, &param);
        elems += param.elems;
        for (unsigned k = 0; k < trainer->plan.optim_states; k++)
            if (ds_optim_state_name(trainer->job, &param, k) != NULL)
                elems += param.elems;
    }
    return elems * sizeof(float);
}

int ds__trainer_tensors(struct ds_trainer *trainer, struct ds_error *err)
{
    struct ds_engine_lines lines = ds_engine_lines(trainer->engine);
    size_t count = trainer->plan.params;
    unsigned states = trainer->plan.optim_states;

    trainer->weights = calloc(count, DS_PLAN_RUNS * sizeof(*trainer->weights));
    trainer->moments = calloc(count, (states + 1) * DS_PLAN_RUNS * sizeof(*trainer->moments));
    if (trainer->weights == NULL || trainer->moments == NULL)
        return ds_fail(err, ENOMEM, "no memory for the names of %zu tensors", count);
    for (size_t i = 0; i < count; i++) {
        struct ds_ckpt_tensor *tensor = &trainer->weights[trainer->n_weights];

        if (trainer->plan.tensor[trainer->plan.param[i].tensor].frozen)
            continue;
        ds__trainer_view(tensor, "", &trainer->plan, i, DS_ARENA_PARAMS);
        tensor->data = lines.params + ds_plan_held_param(&trainer->plan, DS_ARENA_PARAMS, i).at;
        trainer->n_weights += take_apart(tensor, &trainer->plan, i);
    }
    for (unsigned k = 0; k < states; k++)
        for (size_t i = 0; i < count; i++)
            view_state(trainer, i, k, lines.state[k]);
    return 0;
}

static int barrier(void *user, struct ds_error *err)
{
    struct ds_trainer *trainer = user;
    int rc = ds_engine_leave_comm(trainer->engine, err); /* it is one thread's at a time */

    return rc != 0 ? rc : ds_comm_barrier(trainer->comm, err);
}

static int before_commit(void *user, struct ds_error *err)
{
    struct ds_trainer *trainer = user;

    return ds_link_flush(trainer->args->link, err);
}

static struct ds_ckpt_save_args save_args(struct ds_trainer *trainer)
{
    return (struct ds_ckpt_save_args){
        .run_dir = trainer->args->run_dir,
        .state = trainer->state,
        .weights = trainer->weights,
        .moments = trainer->moments,
        .n_weights = trainer->n_weights,
        .n_moments = trainer->n_moments,
        .rank = trainer->args->rank,
        .world = trainer->args->world,
        .keep = trainer->job->checkpoint.keep,
        .keep_every = trainer->job->checkpoint.keep_every,
        .barrier = barrier,
        .before_commit = before_commit,
        .user = trainer,
    };
}

int ds__trainer_saver(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_ckpt_save_args args = save_args(trainer);

    return trainer->plan.snapshot_bytes > 0 ? ds_saver_open(&trainer->saver, &args, err) : 0;
}

/* `rc` is what a save came to: 1 when there is a new checkpoint to tell of. */
static int tell(struct ds_trainer *trainer, int rc, const struct ds_saved *saved,
                struct ds_error *err)
{
    char path[DS_MAX_PATH];
    const struct ds_monitor_saved line = {
        .step = saved->step,
        .bytes = saved_bytes(trainer),
        .ms = (double)saved->ns / 1e6,
        .stall_ms = (double)saved->stall_ns / 1e6,
        .path = path,
    };

    if (rc <= 0)
        return rc;
    (void)snprintf(path, sizeof(path), "checkpoints/step-%08" PRIu64, saved->step);
    return ds_monitor_checkpoint(&trainer->monitor, &line, err);
}

int ds__trainer_saving(struct ds_trainer *trainer, bool *writing, struct ds_error *err)
{
    int rc = trainer->saver != NULL ? ds_saver_poll(trainer->saver, err) : 0;

    *writing = rc > 0;
    return rc < 0 ? rc : 0;
}

int ds__trainer_saved(struct ds_trainer *trainer, bool writing, struct ds_error *err)
{
    struct ds_saved saved = {0};
    int rc = trainer->saver != NULL ? ds_saver_turn(trainer->saver, writing, &saved, err) : 0;

    return tell(trainer, rc, &saved, err);
}

/* At once, from where the tensors lie; what is under way comes first. */
static int save_now(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_ckpt_save_args args = save_args(trainer);
    uint64_t began = ds_clock_mono_ns();
    struct ds_saved saved = {0};
    int rc = trainer->saver != NULL ? ds_saver_finish(trainer->saver, &saved, err) : 0;

    rc = tell(trainer, rc, &saved, err);
    if (rc == 0)
        rc = ds_ckpt_save(&args, err);
    if (rc != 0)
        return rc;
    saved = (struct ds_saved){.step = trainer->state.step, .ns = ds_clock_mono_ns() - began};
    saved.stall_ns = saved.ns;
    return tell(trainer, 1, &saved, err);
}

int ds__trainer_save(struct ds_trainer *trainer, bool last, struct ds_error *err)
{
    struct ds_saved saved = {0};
    int rc = ds_engine_fetch(trainer->engine, err);

    if (rc != 0)
        return rc;
    if (last || trainer->saver == NULL)
        rc = save_now(trainer, err);
    else
        rc = tell(trainer, ds_saver_begin(trainer->saver, &trainer->state, &saved, err), &saved,
                  err);
    return ds_error_context(err, rc, "checkpoint of step %" PRIu64, trainer->state.step);
}
