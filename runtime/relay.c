/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * relay.c - the contract is in relay.h.
 */
#include "runtime/relay.h"

#include "kernels/probe.h"

/* With the part behind: activations go there and gradients come. */
static bool is_behind(const struct ds_instr *instr)
{
    return (instr->op == DS_INSTR_SEND) != instr->gradient;
}

/* What it moves, of the slot of its micro-batch. */
static void *passed(struct ds_net *net, const struct ds_instr *instr, enum ds_pass pass)
{
    ds_net_turn(net, instr->micro_batch);
    return instr->gradient ? ds_net_gradient(net) : ds_net_out(net, pass, instr->block);
}

int ds_relay_pass(struct ds_exchange *exchange, struct ds_net *net, const struct ds_instr *instr,
                  enum ds_pass pass, struct ds_error *err)
{
    const struct ds_plan *plan = exchange->plan;
    const unsigned turn = (plan->pipeline_rank + (is_behind(instr) ? 0 : 1)) % DS_PLAN_PAIRS;
    struct ds_comm *pair = exchange->pair[turn];
    bool send = instr->op == DS_INSTR_SEND;
    void *give, *take = NULL;
    size_t at;
    int rc;

    if (!send && instr->paired)
        return 0;
    give = send ? passed(net, instr, pass) : NULL;
    if (!send || instr->paired)
        take = passed(net, send ? instr + 1 : instr, pass);
    rc = ds__probe_begin(net->stream, &at, err);
    ds_comm_use_stream(pair, net->stream);
    if (rc == 0)
        rc = ds_comm_pass(pair, give, take, plan->passed_bytes, err);
    return rc == 0 ? ds__probe_end_bytes(net->stream, at, "pass", 2 * plan->passed_bytes, err) : rc;
}

/* Of gradients in the host's memory: through that of activations, which is empty between a step's
 * passes and its update. */
static int add_up_far(const struct ds_exchange *exchange, struct ds_comm *comm, float *grads,
                      uint64_t count, struct ds_stream *stream, struct ds_error *err)
{
    const uint64_t room = exchange->plan->arena_bytes[DS_ARENA_ACTIVATIONS] / sizeof(float);
    float *near = exchange->memory[DS_ARENA_ACTIVATIONS];
    int rc = 0;

    for (uint64_t at = 0; rc == 0 && at < count; at += room) {
        const uint64_t part = count - at < room ? count - at : room;

        rc = ds_stream_copy(stream, DS_COPY_UP, near, grads + at, part * sizeof(*near), err);
        if (rc == 0)
            rc = ds_comm_all_reduce_f32(comm, near, part, err);
        if (rc == 0)
            rc = ds_stream_copy(stream, DS_COPY_DOWN, grads + at, near, part * sizeof(*near), err);
    }
    return rc;
}

static int add_up(const struct ds_exchange *exchange, struct ds_comm *comm, struct ds_held grads,
                  struct ds_stream *stream, struct ds_error *err)
{
    float *at = (float *)exchange->memory[DS_ARENA_GRADS] + grads.at;

    ds_comm_use_stream(comm, stream);
    if (exchange->plan->host[DS_ARENA_GRADS])
        return add_up_far(exchange, comm, at, grads.count, stream, err);
    return ds_comm_all_reduce_f32(comm, at, grads.count, err);
}

int ds_relay_tie(struct ds_exchange *exchange, size_t bucket, struct ds_stream *stream,
                 struct ds_error *err)
{
    struct ds_comm *ends = exchange->ends != NULL ? exchange->ends : exchange->pair[0];
    const struct ds_plan *plan = exchange->plan;
    int rc = 0;

    if (plan->bucket[bucket].tied)
        rc = add_up(exchange, ends, ds_plan_shard(plan, DS_ARENA_GRADS, bucket), stream, err);
    for (size_t i = 0; rc == 0 && i < plan->spans; i++) {
        const bool heads = plan->span[i].doubled == plan->kv_ranks;
        const struct ds_held held = ds_plan_doubled(plan, bucket, i);

        if (held.count > 0)
            rc = add_up(exchange, heads ? exchange->kv : exchange->team, held, stream, err);
    }
    return rc;
}
