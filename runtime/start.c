/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * start.c - where a run starts: at a checkpoint, with given weights, or from the seed.
 *
 *   resume never   the weights of model.init
 *   resume auto    the newest whole checkpoint of the run directory, else as never
 *   resume PATH    that checkpoint, which must be whole
 *
 * Every rank reads and verifies for itself; rank 0 names the candidate, and a damage that one rank
 * sees counts for all.  A checkpoint of another model is an error, not a damage; positions, windows
 * and the like may change.
 *
 * Initial numbers are normals of (seed, index of the tensor, element): the same for every layout.
 *
 * A checkpoint keeps how many ids the data had, and a run that goes on with another number says so.
 *
 * Tests   tests/engine/test_worker.c; of the data tests/e2e/data.py
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/fsio.h"
#include "base/rng.h"
#include "runtime/agree.h"
#include "runtime/states.h"
#include "runtime/trainer.h"

/* Below this a thread costs more than it gains. */
enum { INIT_THREAD_ELEMS = 1 << 20, CANDIDATE_BYTES = 32 };

struct init_share {
    const struct ds_trainer *trainer;
    unsigned share, shares;
    pthread_t thread;
};

static void fill(float *out, uint64_t n, float value)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = value;
}

/* Elements `first` to `last` - 1 of what this rank has of a tensor, each with the random number of
 * its place in the whole. */
static void draw(const struct ds_trainer *trainer, const struct ds_plan_param *param, float std,
                 uint64_t first, uint64_t last, float *out)
{
    const struct ds_plan_cut cut = ds_plan_cut(&trainer->plan, param->tensor);

    for (uint64_t at = first, n; at < last; at += n) {
        uint64_t whole = ds_plan_cut_at(&cut, at, &n);

        n = n < last - at ? n : last - at;
        if (whole == DS_PLAN_PADDING)
            fill(out + (at - first), n, 0.0f);
        else
            ds_rng_fill_normal(out + (at - first), n, trainer->job->seed, param->tensor, whole,
                               std);
    }
}

/* What a row of a matrix reads, of which a team's ranks may have parts. */
static uint64_t inputs_of(const struct ds_trainer *trainer, const struct ds_plan_param *param)
{
    struct ds_param whole;

    ds_model_param(&trainer->plan.model, param->tensor, &whole);
    return whole.shape[1];
}

/* One thread's part of every tensor. */
static void *init_share(void *arg)
{
    const struct init_share *me = arg;
    const struct ds_trainer *trainer = me->trainer;
    const struct ds_job *job = trainer->job;
    float *params = ds_engine_lines(trainer->engine).params;
    double std = job->model.init_std;
    double residual = std / sqrt(2.0 * (double)trainer->plan.shape.layers);

    for (size_t i = 0; i < trainer->plan.params; i++) {
        const struct ds_plan_param *param = &trainer->plan.param[i];
        const double fan_in = 1.0 / sqrt(3.0 * (double)inputs_of(trainer, param));
        struct ds_held held = ds_plan_held_param(&trainer->plan, DS_ARENA_PARAMS, i);
        uint64_t from = held.count / me->shares * me->share;
        uint64_t to =
            me->share + 1 == me->shares ? held.count : held.count / me->shares * (me->share + 1);
        uint64_t first = held.first + from, last = held.first + to;
        float *out = params + held.at + from;

        if (trainer->plan.tensor[param->tensor].frozen)
            continue;
        switch (param->param.init) {
        case DS_INIT_NORMAL: draw(trainer, param, (float)std, first, last, out); break;
        case DS_INIT_NORMAL_RESIDUAL:
            draw(trainer, param, (float)residual, first, last, out);
            break;
        case DS_INIT_FAN_IN: draw(trainer, param, (float)fan_in, first, last, out); break;
        case DS_INIT_ZERO: fill(out, last - first, 0.0f); break;
        case DS_INIT_ONE: fill(out, last - first, 1.0f); break;
        }
    }
    return NULL;
}

static void init_from_seed(const struct ds_trainer *trainer)
{
    struct init_share share[64];
    uint64_t wanted = trainer->plan.padded_elems / INIT_THREAD_ELEMS + 1;
    unsigned shares = trainer->args->threads, started = 1;

    if (shares > wanted)
        shares = (unsigned)wanted;
    if (shares > sizeof(share) / sizeof(share[0]))
        shares = sizeof(share) / sizeof(share[0]);
    for (unsigned i = 0; i < shares; i++)
        share[i] = (struct init_share){.trainer = trainer, .share = i, .shares = shares};
    while (started < shares &&
           pthread_create(&share[started].thread, NULL, init_share, &share[started]) == 0)
        started++;
    (void)init_share(&share[0]);
    for (unsigned i = started; i < shares; i++) /* no thread could be had */
        (void)init_share(&share[i]);
    for (unsigned i = 1; i < started; i++)
        (void)pthread_join(share[i].thread, NULL);
}

/* This rank's part of a folder's weights, in the order of the plan; no folder has adapters. */
static int read_weights(struct ds_trainer *trainer, const char *from, struct ds_error *err)
{
    const struct ds_model_shape base = ds_model_base(&trainer->plan.model);
    const struct ds_plan_param *param = trainer->plan.param;
    struct ds_hf_folder *folder = NULL;
    uint64_t digest = 0;
    int rc = ds_hf_open(&folder, from, &base, err);

    for (size_t i = 0; rc == 0 && i < trainer->n_weights; i++) {
        while (strcmp(param->param.name, trainer->weights[i].name) != 0)
            param++;
        if (!ds_model_is_adapter(&param->param))
            rc = ds_hf_read(folder, &trainer->weights[i], 1, err);
    }
    if (rc == 0)
        rc = ds_hf_digest(folder, &digest, err);
    ds_hf_close(folder);
    return rc == 0 ? ds__trainer_agree_on_weights(trainer, digest, err) : rc;
}

static int init_weights(struct ds_trainer *trainer, struct ds_error *err)
{
    const char *from = trainer->job->model.init_from;

    if (from == NULL || trainer->plan.model.lora.rank > 0)
        init_from_seed(trainer);
    return from == NULL ? 0
                        : ds_error_context(err, read_weights(trainer, from, err),
                                           "model.init.from '%s'", from);
}

int ds__trainer_fresh(struct ds_trainer *trainer, struct ds_error *err)
{
    int rc;

    init_from_seed(trainer);
    rc = ds__trainer_freeze(trainer, err);
    return rc == 0 ? ds_engine_publish(trainer->engine, err) : rc;
}

static int clear_moments(const struct ds_trainer *trainer, struct ds_error *err)
{
    struct ds_engine_lines lines = ds_engine_lines(trainer->engine);

    if (lines.states != NULL)
        return ds_states_clear(lines.states, err);
    for (unsigned i = 0; i < trainer->plan.optim_states; i++)
        memset(lines.state[i], 0, ds_plan_state_elems(&trainer->plan, i) * sizeof(float));
    return 0;
}

/* Tensors of another model may have the same names and shapes, and it may have some more. */
static int check_model(const struct ds_trainer *trainer, const char *path,
                       const struct ds_model_shape *saved, struct ds_error *err)
{
    const struct ds_model_shape *job = &trainer->plan.model;
    const struct {
        const char *key;
        uint64_t saved, job;
    } table[] = {
        {"model.layers", saved->layers, job->layers},
        {"model.heads", saved->heads, job->heads},
        {"model.kv_heads", saved->kv_heads, job->kv_heads},
        {"model.experts", saved->experts, job->experts},
        {"model.tie_embeddings", saved->tie_embeddings, job->tie_embeddings},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].saved != table[i].job)
            return ds_fail(err, EINVAL,
                           "checkpoint '%s' is of another model: '%s' was %" PRIu64
                           " there and is %" PRIu64 "; change it back, or start again with "
                           "'checkpoint.resume' never",
                           path, table[i].key, table[i].saved, table[i].job);
    return 0;
}

/* This rank's reading of a checkpoint.  Imported ones stand at step 0 and have no moments; who
 * evaluates asks for none, and may have another optimizer. */
static int load(struct ds_trainer *trainer, const char *path, struct ds_error *err)
{
    struct ds_ckpt_state *state = &trainer->state;
    int rc = ds_ckpt_peek(path, state, err);
    bool moments = state->step > 0 && !trainer->args->evaluate;

    if (rc == 0)
        rc = ds__trainer_check_base(trainer, path, state, err);
    if (rc == 0)
        rc = check_model(trainer, path, &state->shape, err);
    if (rc == 0 && state->step == 0) /* what a damaged one may have left */
        rc = clear_moments(trainer, err);
    if (rc == 0)
        rc = ds_ckpt_load(path, state, trainer->weights, trainer->n_weights, trainer->moments,
                          moments ? trainer->n_moments : 0, err);
    return rc;
}

/* Load on all ranks; *whole tells whether all could.  Any failure but damage ends the run. */
static int load_agreed(struct ds_trainer *trainer, const char *path, bool *whole,
                       struct ds_error *err)
{
    struct ds_error mine = {0};
    int loaded = load(trainer, path, &mine), rc;
    double damaged = loaded == -EBADMSG || loaded == -ENOENT ? 1.0 : 0.0;

    *whole = false;
    if (loaded != 0 && damaged == 0.0) {
        if (err != NULL)
            *err = mine;
        return loaded;
    }
    rc = ds_comm_all_reduce_f64(trainer->comm, &damaged, 1, err);
    *whole = damaged == 0.0;
    if (rc != 0 || *whole)
        return rc;
    if (loaded == 0)
        (void)ds_fail(&mine, EBADMSG, "checkpoint '%s': another rank found it damaged", path);
    if (err != NULL)
        *err = mine;
    return 0;
}

/* The checkpoint that is tried next, as rank 0 sees the folder; "" after the last. */
static int candidate(struct ds_trainer *trainer, const struct ds_ckpt_list *list, size_t i,
                     char name[CANDIDATE_BYTES], struct ds_error *err)
{
    memset(name, 0, CANDIDATE_BYTES);
    if (trainer->args->rank == 0 && i < list->count)
        (void)snprintf(name, CANDIDATE_BYTES, "%s", list->entry[i].name);
    return ds_comm_broadcast(trainer->comm, name, CANDIDATE_BYTES, 0, err);
}

static int try_all(struct ds_trainer *trainer, const struct ds_ckpt_list *list,
                   char from[DS_MAX_PATH], struct ds_error *err)
{
    char name[CANDIDATE_BYTES], folder[DS_MAX_PATH];
    bool whole = false;
    int rc = ds_path_join(folder, trainer->args->run_dir, "checkpoints", err);

    from[0] = '\0';
    for (size_t i = 0; rc == 0; i++) {
        rc = candidate(trainer, list, i, name, err);
        if (rc != 0)
            return rc;
        if (name[0] == '\0' && i > 0)
            return ds_fail(err, EBADMSG,
                           "no checkpoint under '%s' is whole, set "
                           "'checkpoint.resume' to never to start again",
                           folder);
        if (name[0] == '\0')
            return 0;
        rc = ds_path_join(from, folder, name, err);
        if (rc == 0)
            rc = load_agreed(trainer, from, &whole, err);
        if (rc != 0 || whole)
            return rc;
        rc = ds_monitor_warning(&trainer->monitor, ds_error_text(err, -EBADMSG), NULL);
        ds_error_clear(err);
    }
    return rc;
}

static int resume_newest(struct ds_trainer *trainer, char from[DS_MAX_PATH], struct ds_error *err)
{
    struct ds_ckpt_list list = {.count = 0};
    int rc = 0;

    if (trainer->args->rank == 0)
        rc = ds_ckpt_list_line(trainer->args->run_dir, &list, err);
    if (rc == -ENOENT)
        rc = 0;
    if (rc == 0)
        rc = try_all(trainer, &list, from, err);
    ds_ckpt_list_release(&list);
    return rc;
}

static int resume_from(struct ds_trainer *trainer, const char *path, char from[DS_MAX_PATH],
                       struct ds_error *err)
{
    bool whole = false;
    int rc = ds_ckpt_resolve(path, from, err);

    if (rc == 0)
        rc = load_agreed(trainer, from, &whole, err);
    if (rc == 0 && !whole)
        rc = -EBADMSG; /* err says where */
    return rc;
}

/* The names of the numbers that fp16 adds to a checkpoint; what is missing there starts anew. */
static const char scale_name[] = "loss_scale", iteration_name[] = "scaler_iteration",
                  hysteresis_name[] = "scaler_hysteresis", overflow_name[] = "scaler_overflow";

int ds__trainer_note_scaler(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_scaler *scaler = &trainer->scaler;
    struct ds_ckpt_state *state = &trainer->state;
    int rc;

    if (!scaler->on || scaler->fixed)
        return 0;
    rc = ds_ckpt_set_scalar(state, scale_name, scaler->now.factor, err);
    if (rc == 0)
        rc = ds_ckpt_set_scalar(state, iteration_name, (double)scaler->now.iteration, err);
    if (rc == 0)
        rc = ds_ckpt_set_scalar(state, hysteresis_name, (double)scaler->now.hysteresis, err);
    if (rc == 0)
        rc = ds_ckpt_set_scalar(state, overflow_name, (double)scaler->now.last_overflow, err);
    return rc;
}

static void load_scaler(struct ds_trainer *trainer)
{
    const struct ds_ckpt_state *state = &trainer->state;
    struct ds_scaler *scaler = &trainer->scaler;
    double scale = ds_ckpt_scalar(state, scale_name, 0.0);
    double iteration = ds_ckpt_scalar(state, iteration_name, -1.0);
    double hysteresis = ds_ckpt_scalar(state, hysteresis_name, 0.0);
    double overflow = ds_ckpt_scalar(state, overflow_name, -2.0);

    if (!scaler->on || scaler->fixed || !(scale >= 1.0) || !(iteration >= 0.0) ||
        !(iteration <= DS_MAX_STEPS) || !(hysteresis >= 1.0) || !(hysteresis <= 1000.0) ||
        !(overflow >= -1.0) || !(overflow < iteration))
        return;
    scaler->now.factor = scale;
    scaler->now.iteration = (uint64_t)iteration;
    scaler->now.hysteresis = (uint64_t)hysteresis;
    scaler->now.last_overflow = (int64_t)overflow;
}

static const char tokens_name[] = "data_tokens"; /* in a checkpoint: how much there was */

static int warn_of_data(struct ds_trainer *trainer, struct ds_error *err)
{
    double now = (double)ds_data_size(trainer->train).tokens;
    double before = ds_ckpt_scalar(&trainer->state, tokens_name, now);
    char text[200];

    if (trainer->state.step == 0 || trainer->args->evaluate || !(before < now || before > now))
        return 0;
    (void)snprintf(text, sizeof(text),
                   "data.train has changed since the checkpoint was made: %.0f ids, it had %.0f; "
                   "sequences come in another order",
                   now, before);
    return ds_monitor_warning(&trainer->monitor, text, err);
}

static int warn_of_states(struct ds_trainer *trainer, struct ds_error *err)
{
    const struct ds_states *states = ds_engine_lines(trainer->engine).states;
    const char *note = states != NULL ? ds_states_note(states) : NULL;

    return note != NULL ? ds_monitor_warning(&trainer->monitor, note, err) : 0;
}

static int warn_if_changed(struct ds_trainer *trainer, uint64_t digest, struct ds_error *err)
{
    if (trainer->state.step == 0 || trainer->state.job_digest == digest)
        return 0;
    return ds_monitor_warning(&trainer->monitor,
                              trainer->args->evaluate
                                  ? "the job has changed since the checkpoint was made, the loss "
                                    "is that of its weights with the new settings"
                                  : "the job has changed since the checkpoint was made, the run "
                                    "goes on with the new settings",
                              err);
}

/* How ranks divide the model, for who looks at a checkpoint. */
static void take_layout(struct ds_trainer *trainer)
{
    const struct ds_plan *plan = &trainer->plan;
    struct ds_ckpt_state *state = &trainer->state;

    state->world = trainer->args->world;
    state->stage = plan->stage;
    state->shard_ranks = plan->stage > 0 ? plan->shards : 0;
    state->tensor_ranks = plan->tensor_ranks;
    state->sequence_ranks = plan->sequence_ranks;
    state->pipeline_ranks = plan->pipeline_ranks;
    state->expert_ranks = plan->expert_ranks;
}

int ds__trainer_start(struct ds_trainer *trainer, struct ds_error *err)
{
    const char *resume = trainer->args->saved ? "auto" : trainer->job->checkpoint.resume;
    uint64_t digest = ds_job_digest(trainer->job);
    char from[DS_MAX_PATH] = "";
    int rc = 0;

    ds_scaler_init(&trainer->scaler, trainer->job);
    rc = ds__trainer_agree(trainer, err);
    if (rc == 0)
        rc = ds__trainer_freeze(trainer, err);
    if (rc != 0)
        return rc;
    if (strcmp(resume, "auto") == 0)
        rc = resume_newest(trainer, from, err);
    else if (strcmp(resume, "never") != 0)
        rc = resume_from(trainer, resume, from, err);
    if (rc == 0 && from[0] == '\0') /* nothing was read: moments and state are zero as made */
        rc = init_weights(trainer, err);
    if (rc == 0)
        rc = ds_engine_publish(trainer->engine, err);
    if (rc == 0 && from[0] != '\0')
        load_scaler(trainer);
    if (rc == 0)
        rc = warn_if_changed(trainer, digest, err);
    if (rc == 0)
        rc = warn_of_data(trainer, err);
    if (rc == 0)
        rc = warn_of_states(trainer, err);
    if (rc == 0)
        rc = ds_ckpt_set_scalar(&trainer->state, tokens_name,
                                (double)ds_data_size(trainer->train).tokens, err);
    trainer->state.seed = trainer->job->seed;
    trainer->state.job_digest = digest;
    trainer->state.shape = trainer->plan.model;
    trainer->state.base = trainer->base;
    take_layout(trainer);
    if (rc == 0)
        rc = ds_monitor_resumed(&trainer->monitor, trainer->state.step,
                                from[0] != '\0' ? from : NULL, err);
    return rc;
}
