/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * engine.c - the contract is in engine.h.
 */
#include "runtime/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/exchange.h"
#include "runtime/feed.h"
#include "runtime/graphs.h"
#include "runtime/lines.h"
#include "runtime/model/net.h"
#include "runtime/offload.h"
#include "runtime/outcome.h"
#include "runtime/relay.h"
#include "runtime/updater.h"
#include "runtime/walk.h"

_Static_assert((int)DS_QUEUE_COUNT == (int)DS_DEVICE_QUEUES, "a stream for each queue");

struct ds_engine {
    struct ds_engine_args args;
    const struct ds_plan *plan;
    struct ds_stream *stream;
    void *own[DS_ARENA_COUNT]; /* arenas allocated here; the others are the comm's */
    struct ds_exchange exchange;
    struct ds_engine_lines lines; /* what steps work on */
    struct ds_engine_lines host;  /* the same where that is the host's memory, else a copy */
    struct ds_updater updater;
    struct ds_outcome outcome;
    struct ds_feed feed;
    struct ds_graphs graphs;
    const void **params; /* [buckets]: where the net reads and writes */
    float **grads;
    struct ds_net net;
    struct ds_walk walk;
    const struct ds_step_args *step;
    uint64_t watched; /* the number of the step that has a probe */
};

static int reserve(struct ds_engine *engine, struct ds_error *err)
{
    const struct ds_plan *plan = engine->plan;

    for (unsigned i = 0; i < DS_ARENA_STAGING; i++) {
        int rc = 0;

        if (plan->arena_bytes[i] > 0 && plan->shared_at[i] == DS_NOT_SHARED && !plan->common[i])
            rc = (plan->host[i] ? ds_device_host_alloc : ds_device_alloc)(
                engine->args.device, plan->arena_bytes[i], &engine->own[i], err);
        if (rc != 0)
            return ds_error_context(err, rc, "arena '%s'", ds_arena_name((enum ds_arena_kind)i));
    }
    return ds_exchange_open(&engine->exchange, plan, engine->args.comm, engine->own, err);
}

static void release(struct ds_engine *engine)
{
    const struct ds_plan *plan = engine->plan;

    ds_exchange_close(&engine->exchange);
    for (unsigned i = 0; i < DS_ARENA_COUNT; i++)
        (plan->host[i] ? ds_device_host_free : ds_device_free)(engine->args.device, engine->own[i],
                                                               plan->arena_bytes[i]);
}

/* Are lines where the host does not reach them? */
static bool has_far_lines(const struct ds_engine *engine)
{
    return ds_device_is_apart(engine->args.device) && !engine->plan->offload;
}

static void bind_updater(struct ds_engine *engine)
{
    const struct ds_engine_args *args = &engine->args;
    bool by_host = engine->plan->offload && args->host != NULL;

    engine->updater = (struct ds_updater){
        .plan = engine->plan,
        .job = args->job,
        .stream = by_host ? ds_device_stream(args->host) : engine->stream,
        .lines = engine->lines,
        .memory = engine->exchange.memory,
        .work = by_host ? NULL : engine->own[DS_ARENA_ACTIVATIONS], /* empty at a step's end */
        .team = engine->exchange.team,
    };
}

/* Where lines and buckets lie. */
static int bind(struct ds_engine *engine, struct ds_error *err)
{
    const struct ds_plan *plan = engine->plan;
    void *const *memory = engine->exchange.memory;
    int rc;

    engine->lines = (struct ds_engine_lines){
        .params = memory[DS_ARENA_PARAMS],
        .grads = memory[DS_ARENA_GRADS],
    };
    for (unsigned i = 0; plan->pieces == 0 && i < plan->optim_states; i++)
        engine->lines.state[i] =
            (float *)memory[DS_ARENA_MOMENTS] + (i > 0 ? ds_plan_state_elems(plan, 0) : 0);
    engine->params = calloc(plan->buckets, sizeof(*engine->params));
    engine->grads = calloc(plan->buckets, sizeof(*engine->grads));
    if (engine->params == NULL || engine->grads == NULL)
        return ds_fail(err, ENOMEM, "no memory for the engine");
    for (size_t i = 0; i < plan->buckets; i++) {
        engine->params[i] = ds_exchange_params(&engine->exchange, i);
        engine->grads[i] = ds_exchange_grads(&engine->exchange, i);
    }
    bind_updater(engine);
    rc = ds_updater_open(&engine->updater, err);
    engine->lines.states = engine->updater.states;
    return rc;
}

/* What the host has of its own: tokens on their way, recordings, and lines where it cannot reach
 * the device's. */
static int open_host(struct ds_engine *engine, struct ds_error *err)
{
    const struct ds_engine_args *args = &engine->args;
    const char *why_not = args->no_graphs != NULL
                              ? args->no_graphs
                              : ds_graphs_why_not(args->plan, args->job, args->device);
    int rc = ds_feed_open(&engine->feed, &engine->net, args->device,
                          engine->plan->step.events + DS_OUTCOME_EVENTS, err);

    if (rc == 0)
        rc = ds_graphs_open(&engine->graphs, engine->plan, args->device, why_not, err);
    if (rc != 0)
        return rc;
    if (has_far_lines(engine))
        return ds_lines_open(&engine->host, engine->plan, err);
    engine->host = engine->lines;
    return 0;
}

static int exec_from(void *user, uint64_t step, size_t i, size_t *last, struct ds_error *err);

int ds_engine_open(struct ds_engine **out, const struct ds_engine_args *args, struct ds_error *err)
{
    struct ds_engine *engine = calloc(1, sizeof(*engine));
    const struct ds_plan *plan = args->plan;
    int rc;

    *out = NULL;
    if (engine == NULL)
        return ds_fail(err, ENOMEM, "no memory for the engine");
    engine->args = *args;
    engine->plan = plan;
    engine->stream = ds_device_stream(args->device);
    rc = reserve(engine, err);
    if (rc == 0)
        rc = bind(engine, err);
    if (rc == 0)
        rc = ds_outcome_open(&engine->outcome, args, plan->step.events, err);
    if (rc == 0) {
        const struct ds_net_memory memory = {
            .params = engine->params,
            .grads = engine->grads,
            .activations = engine->own[DS_ARENA_ACTIVATIONS],
            .swapped = engine->exchange.memory[DS_ARENA_SWAPPED],
            .loss_sum = engine->outcome.tally.loss,
            .peak_sum = engine->outcome.tally.peaks,
        };

        rc = ds_net_init(&engine->net, plan, &memory, engine->stream, err);
        engine->outcome.part = engine->exchange.part;
        engine->net.sharers = engine->exchange.sequence;
        engine->net.meet = engine->exchange.meet;
        engine->net.team = engine->exchange.team;
        engine->net.dropout = args->job->model.dropout;
        engine->net.attention_dropout = args->job->model.attention_dropout;
        engine->net.seed = args->job->seed;
        if (plan->late) {
            engine->net.grad_scale_at = engine->outcome.loss_factor + DS_FACTOR_TOKEN;
            engine->net.target_scale_at = engine->outcome.loss_factor + DS_FACTOR_TARGET;
        }
    }
    if (rc == 0)
        rc = open_host(engine, err);
    if (rc == 0)
        rc = ds_walk_open(&engine->walk, plan, args->device, args->overlap,
                          &(struct ds_walk_work){.exec = exec_from, .user = engine}, err);
    if (rc != 0) {
        ds_engine_close(engine);
        return rc;
    }
    *out = engine;
    return 0;
}

/* Nothing may be under way in memory that is given back; a failure was told before. */
static void wait_for_device(struct ds_engine *engine)
{
    for (unsigned i = 0; i < DS_QUEUE_COUNT; i++)
        if (ds_stream_finish(ds_device_queue(engine->args.device, i), NULL) != 0)
            return;
}

void ds_engine_close(struct ds_engine *engine)
{
    if (engine == NULL)
        return;
    ds_walk_close(&engine->walk);
    if (ds_device_is_apart(engine->args.device)) {
        wait_for_device(engine);
        if (has_far_lines(engine))
            ds_lines_close(&engine->host, engine->plan);
    }
    ds_graphs_close(&engine->graphs);
    ds_feed_close(&engine->feed);
    ds_net_release(&engine->net);
    ds_outcome_close(&engine->outcome);
    ds_updater_close(&engine->updater);
    release(engine);
    free(engine->params);
    free(engine->grads);
    free(engine);
}

struct ds_engine_lines ds_engine_lines(const struct ds_engine *engine)
{
    return engine->host;
}

int ds_engine_fetch(struct ds_engine *engine, struct ds_error *err)
{
    int rc = ds_engine_settle(engine, err);

    if (rc != 0 || !has_far_lines(engine))
        return rc;
    return ds_lines_copy(DS_COPY_DOWN, &engine->host, &engine->lines, engine->plan, engine->stream,
                         err);
}

int ds_engine_freeze(struct ds_engine *engine, size_t param, uint64_t first, uint64_t count,
                     const float *values, struct ds_error *err)
{
    const enum ds_arena_kind own = engine->exchange.own;
    const struct ds_held held = ds_plan_held_param(engine->plan, own, param);
    /* what lies in the host's memory the host writes */
    const bool by_host = engine->plan->host[own] && engine->args.host != NULL;
    struct ds_device *device = by_host ? engine->args.host : engine->args.device;
    const struct ds_lines_put put = {.device = device,
                                     .plan = engine->plan,
                                     .line = engine->exchange.memory[own],
                                     .at = held.at + (first - held.first),
                                     .count = count,
                                     .values = values,
                                     .room = engine->own[DS_ARENA_ACTIVATIONS]};
    int rc = ds_engine_settle(engine, err);

    return rc == 0 ? ds_lines_write(&put, ds_device_stream(device), err) : rc;
}

int ds_engine_publish(struct ds_engine *engine, struct ds_error *err)
{
    const struct ds_plan *plan = engine->plan;
    int rc = ds_engine_settle(engine, err);

    if (rc == 0 && has_far_lines(engine))
        rc = ds_lines_copy(DS_COPY_UP, &engine->lines, &engine->host, plan, engine->stream, err);
    for (size_t i = 0; rc == 0 && plan->copies && i < plan->buckets; i++)
        if (!plan->bucket[i].frozen)
            rc = ds_updater_publish(&engine->updater, i, ds_exchange_own(&engine->exchange, i),
                                    engine->stream, err);
    if (rc == 0)
        rc = ds_exchange_gather_frozen(&engine->exchange, engine->stream, err);
    for (size_t i = 0; rc == 0 && i < plan->step.count; i++) /* as a step would end */
        if (plan->step.instr[i].op == DS_INSTR_GATHER &&
            plan->step.instr[i].micro_batch == UINT32_MAX)
            rc = ds_exchange_gather(&engine->exchange, plan->step.instr[i].bucket, engine->stream,
                                    err);
    return rc == 0 ? ds_engine_settle(engine, err) : rc;
}

int ds_engine_settle(struct ds_engine *engine, struct ds_error *err)
{
    int rc = ds_walk_settle(&engine->walk, err);

    return rc == 0 ? ds_updater_settle(&engine->updater, err) : rc;
}

int ds_engine_leave_comm(struct ds_engine *engine, struct ds_error *err)
{
    return ds_walk_hush(&engine->walk, err);
}

void *ds_engine_work(const struct ds_engine *engine, uint64_t *bytes)
{
    *bytes = engine->plan->arena_bytes[DS_ARENA_ACTIVATIONS];
    return engine->own[DS_ARENA_ACTIVATIONS];
}

void ds_engine_traffic(const struct ds_engine *engine, enum ds_comm_op op,
                       struct ds_comm_stats *stats)
{
    ds_exchange_stats(&engine->exchange, op, stats);
}

/* --- instructions --------------------------------------------------------------------------- */

/* A pass over one block, its tokens loaded. */
static int pass(struct ds_engine *engine, const struct ds_instr *instr, struct ds_error *err)
{
    ds_net_turn(&engine->net, instr->micro_batch);
    engine->net.first = ds_feed_first(engine->plan, engine->step->position, instr->micro_batch);
    if (instr->op == DS_INSTR_BACKWARD)
        return ds_net_backward(&engine->net, instr->block, instr->accumulate, err);
    return ds_net_forward(&engine->net, instr->block,
                          instr->recompute ? DS_PASS_RECOMPUTE : DS_PASS_TRAIN, instr->accumulate,
                          err);
}

static int load(struct ds_engine *engine, const struct ds_instr *instr, struct ds_error *err)
{
    const struct ds_plan *plan = engine->plan;

    if (instr->op != DS_INSTR_FORWARD || instr->block != plan->first_block || instr->recompute ||
        !ds_plan_reads_ids(plan))
        return 0;
    ds_net_turn(&engine->net, instr->micro_batch);
    return ds_feed_read(&engine->feed, DS_PASS_TRAIN, engine->step->data, engine->step->position,
                        instr->micro_batch, err);
}

static int passes(void *user, size_t first, size_t count, struct ds_error *err)
{
    struct ds_engine *engine = user;
    int rc = 0;

    for (size_t i = first; rc == 0 && i < first + count; i++)
        rc = pass(engine, &engine->plan->step.instr[i], err);
    return rc;
}

static int exec_run(struct ds_engine *engine, const struct ds_graph_run *run, struct ds_error *err)
{
    const struct ds_graph_work work = {
        .work = passes,
        .user = engine,
        .factor = {engine->net.grad_scale, engine->net.target_scale},
    };
    int rc = load(engine, &engine->plan->step.instr[run->first], err);

    return rc == 0 ? ds_graphs_do(&engine->graphs, run, &work, err) : rc;
}

static int exec(struct ds_engine *engine, const struct ds_instr *instr, struct ds_error *err)
{
    struct ds_stream *stream = ds_device_queue(engine->args.device, instr->queue);
    void *const *memory = engine->exchange.memory;
    const struct ds_plan *plan = engine->plan;
    int rc;

    switch (instr->op) {
    case DS_INSTR_FORWARD:
        rc = load(engine, instr, err);
        return rc == 0 ? pass(engine, instr, err) : rc;
    case DS_INSTR_BACKWARD: return pass(engine, instr, err);
    case DS_INSTR_REDUCE: return ds_exchange_reduce(&engine->exchange, instr, stream, err);
    case DS_INSTR_GATHER: return ds_exchange_gather(&engine->exchange, instr->bucket, stream, err);
    case DS_INSTR_FREE: return 0; /* its place is taken by a later GATHER */
    case DS_INSTR_NORM:
        return ds_outcome_norm(&engine->outcome, engine->step, &engine->lines, &engine->updater,
                               err);
    case DS_INSTR_UPDATE:
    case DS_INSTR_LOAD:
    case DS_INSTR_STORE: return ds_updater_do(&engine->updater, instr, err);
    case DS_INSTR_OFFLOAD: return ds_offload_grads(plan, memory, instr->bucket, stream, err);
    case DS_INSTR_FETCH: /* after a step that was skipped nothing new is there */
        return engine->updater.skip ? 0
                                    : ds_offload_fetch(plan, memory, instr->bucket, stream, err);
    case DS_INSTR_STASH:
    case DS_INSTR_RESTORE:
        return ds_offload_out(plan, memory, instr,
                              ds_net_out(&engine->net, DS_PASS_TRAIN, instr->block), stream, err);
    case DS_INSTR_HOLD: return 0; /* it has waited */
    case DS_INSTR_SEND:
    case DS_INSTR_RECV:
        return ds_relay_pass(&engine->exchange, &engine->net, instr, DS_PASS_TRAIN, err);
    case DS_INSTR_TIE: return ds_relay_tie(&engine->exchange, instr->bucket, stream, err);
    case DS_INSTR_SAVE: break;
    }
    return ds_fail(err, ENOTSUP, "this engine has no instruction '%s'",
                   ds_instr_op_name(instr->op));
}

static int exec_watched(struct ds_engine *engine, size_t i, struct ds_error *err)
{
    const struct ds_instr *instr = &engine->plan->step.instr[i];
    struct ds_stream *stream = ds_device_queue(engine->args.device, instr->queue);
    size_t at = 0;
    int rc = ds_probe_part(engine->step->probe, stream, i, instr->queue, &at, err);

    if (rc == 0)
        rc = exec(engine, instr, err);
    return rc != 0 ? rc : ds_probe_part_end(engine->step->probe, stream, at, err);
}

/* Instruction i, or the run that it begins; *last is the last one that was done. */
static int exec_from(void *user, uint64_t step, size_t i, size_t *last, struct ds_error *err)
{
    struct ds_engine *engine = user;
    const struct ds_graph_run *run;

    *last = i;
    if (step == engine->watched)
        return exec_watched(engine, i, err);
    run = ds_graphs_at(&engine->graphs, i);
    if (run == NULL)
        return exec(engine, &engine->plan->step.instr[i], err);
    *last = i + run->count - 1;
    return exec_run(engine, run, err);
}

const char *ds_engine_note(struct ds_engine *engine)
{
    const char *note = ds_graphs_note(&engine->graphs);

    return note != NULL ? note : ds_device_note(engine->graphs.device);
}

void ds_engine_where(const struct ds_engine *engine, char *out, size_t cap)
{
    ds_walk_where(&engine->walk, engine->plan, out, cap);
}

int ds_engine_queue(struct ds_engine *engine, const struct ds_step_args *args, struct ds_error *err)
{
    int rc = args->probe != NULL ? ds_engine_settle(engine, err) : 0;

    if (rc == 0)
        rc = ds_outcome_expect(&engine->outcome, args->data, args->position, err);
    if (rc == 0 && args->probe != NULL)
        rc = ds_probe_start(args->probe, args->probe_ops, err);
    if (rc != 0)
        return rc;
    engine->step = args;
    engine->net.grad_scale = ds_outcome_loss_factor(&engine->outcome, args, DS_FACTOR_TOKEN);
    engine->net.target_scale = ds_outcome_loss_factor(&engine->outcome, args, DS_FACTOR_TARGET);
    ds_feed_turn(&engine->feed);
    if (args->probe != NULL)
        engine->watched = engine->walk.steps + 1;
    rc = ds_outcome_begin(&engine->outcome, args, err);
    if (rc == 0)
        rc = ds_walk_step(&engine->walk, err);
    if (rc == 0 && args->probe != NULL) {
        rc = ds_engine_settle(engine, err);
        if (rc == 0)
            rc = ds_probe_stop(args->probe, err);
    }
    return rc;
}

unsigned ds_engine_pending(const struct ds_engine *engine)
{
    return (unsigned)(engine->outcome.made - engine->outcome.told);
}

int ds_engine_result(struct ds_engine *engine, struct ds_step_result *result, struct ds_error *err)
{
    return ds_outcome_tell(&engine->outcome, result, err);
}

int ds_engine_step(struct ds_engine *engine, const struct ds_step_args *args,
                   struct ds_step_result *result, struct ds_error *err)
{
    int rc = ds_engine_queue(engine, args, err);

    return rc == 0 ? ds_engine_result(engine, result, err) : rc;
}

/* Collectives are where passes are: the order is that of the list. */
static int evaluate(struct ds_engine *engine, const struct ds_instr *instr, struct ds_error *err)
{
    switch (instr->op) {
    case DS_INSTR_FORWARD:
        return ds_net_forward(&engine->net, instr->block, DS_PASS_EVAL, false, err);
    case DS_INSTR_GATHER:
        return ds_exchange_gather(&engine->exchange, instr->bucket, engine->stream, err);
    case DS_INSTR_SEND:
    case DS_INSTR_RECV:
        return ds_relay_pass(&engine->exchange, &engine->net, instr, DS_PASS_EVAL, err);
    default: return 0;
    }
}

int ds_engine_eval(struct ds_engine *engine, const struct ds_data *data, uint64_t position,
                   struct ds_eval_result *result, struct ds_error *err)
{
    const struct ds_plan *plan = engine->plan;
    int rc = ds_engine_settle(engine, err);

    if (rc == 0)
        rc = ds_outcome_expect(&engine->outcome, data, position, err);
    if (rc == 0)
        rc = ds_tally_begin(&engine->outcome.tally, err);
    for (uint64_t i = 0; rc == 0 && i < plan->micro_batches; i++) {
        ds_net_turn(&engine->net, 0);
        if (ds_plan_reads_ids(plan))
            rc = ds_feed_read(&engine->feed, DS_PASS_EVAL, data, position, i, err);
        for (size_t j = 0; rc == 0 && j < plan->eval.count; j++)
            rc = evaluate(engine, &plan->eval.instr[j], err);
    }
    return rc == 0 ? ds_outcome_eval(&engine->outcome, result, err) : rc;
}
