/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * exchange.c - the contract is in exchange.h.
 */
#include "runtime/exchange.h"

#include <errno.h>

#include "kernels/dtype.h"
#include "runtime/comm/half.h"
#include "runtime/plan/away.h"

/* Who does something of a layer with this rank. */
static int split_layers(struct ds_exchange *exchange, struct ds_error *err)
{
    const struct ds_plan *plan = exchange->plan;
    const struct ds_comm_group team = ds_plan_team_group(plan), kv = ds_plan_kv_group(plan);
    const struct ds_comm_group sequence = ds_plan_sequence_group(plan);
    const struct ds_comm_group meet = ds_plan_meet_group(plan);
    int rc = 0;

    if (plan->sequence_ranks > 1)
        rc = ds_comm_split(exchange->everybody, &sequence, &exchange->sequence, err);
    if (rc == 0 && plan->tensor_ranks > 1)
        rc = ds_comm_split(exchange->everybody, &team, &exchange->team, err);
    if (rc == 0 && plan->kv_ranks > 1)
        rc = ds_comm_split(exchange->everybody, &kv, &exchange->kv, err);
    if (rc == 0 && plan->expert_ranks > 1)
        rc = ds_comm_split(exchange->everybody, &meet, &exchange->meet, err);
    return rc;
}

/* Those with the same parameters, and the groups that they are in. */
static int split_holders(struct ds_exchange *exchange, bool experts, struct ds_error *err)
{
    const struct ds_plan *plan = exchange->plan;
    const struct ds_plan_holders of = ds_plan_holders(plan, experts);
    const struct ds_comm_group all = ds_plan_holders_group(plan, experts);
    const struct ds_comm_group inside = ds_plan_inside_group(plan, experts);
    const struct ds_comm_group across = ds_plan_across_group(plan, experts);
    struct ds_exchange_holders *to = &exchange->of[experts];
    int rc = 0;

    if (of.count == plan->world && of.count > 1)
        to->all = exchange->everybody;
    else if (of.count > 1)
        rc = ds_comm_split(exchange->everybody, &all, &to->all, err);
    to->inside = to->all;
    if (rc != 0 || of.replicas == 1 || of.shards == 1 || (plan->stage == 0 && !plan->bf16_wire))
        return rc;
    to->inside = NULL;
    rc = ds_comm_split(exchange->everybody, &inside, &to->inside, err);
    return rc != 0 ? rc : ds_comm_split(exchange->everybody, &across, &to->across, err);
}

static void close_holders(struct ds_exchange *exchange, struct ds_exchange_holders *of)
{
    ds_comm_close(of->across);
    if (of->inside != of->all)
        ds_comm_close(of->inside);
    if (of->all != exchange->everybody)
        ds_comm_close(of->all);
}

/* The groups of a pipeline, those of one rank included: all ranks call alike. */
static int split_pipeline(struct ds_exchange *exchange, struct ds_error *err)
{
    const struct ds_plan *plan = exchange->plan;
    const unsigned turns = plan->pipeline_ranks > 2 ? 2 : 1;
    int rc = 0;

    for (unsigned turn = 0; rc == 0 && turn < turns; turn++) {
        const struct ds_comm_group pair = ds_plan_pair_group(plan, turn);

        rc = ds_comm_split(exchange->everybody, &pair, &exchange->pair[turn], err);
    }
    if (rc == 0 && ds_plan_ties(plan) && plan->pipeline_ranks > 2) {
        const struct ds_comm_group ends = ds_plan_tie_group(plan);

        rc = ds_comm_split(exchange->everybody, &ends, &exchange->ends, err);
    }
    return rc;
}

/* Those of a part are all ranks, or those with the same parameters, or a group of their own. */
static int split_part(struct ds_exchange *exchange, struct ds_error *err)
{
    const struct ds_plan *plan = exchange->plan;
    const struct ds_comm_group part = ds_plan_part_group(plan);

    exchange->part = plan->pipeline_ranks == 1 ? exchange->everybody : exchange->of[0].all;
    if (!ds_plan_splits_part(plan))
        return 0;
    exchange->part = NULL;
    return ds_comm_split(exchange->everybody, &part, &exchange->part, err);
}

/* What is replicated lies behind the border. */
static void *common_memory(const struct ds_plan *plan, struct ds_comm *comm)
{
    unsigned char *border = ds_comm_border(comm);

    return border == NULL ? NULL : border - plan->common_bytes;
}

int ds_exchange_open(struct ds_exchange *exchange, const struct ds_plan *plan, struct ds_comm *comm,
                     void *const memory[DS_ARENA_COUNT], struct ds_error *err)
{
    int rc;

    *exchange = (struct ds_exchange){
        .plan = plan,
        .everybody = comm,
        .own = plan->copies ? DS_ARENA_PARAMS_LOW : DS_ARENA_PARAMS,
        .param_bytes = ds_dtype_bytes(ds_compute_dtype(plan->compute)),
    };
    for (unsigned i = 0; i < DS_ARENA_COUNT; i++) {
        exchange->memory[i] = memory[i];
        if (plan->shared_at[i] != DS_NOT_SHARED)
            exchange->memory[i] = (unsigned char *)ds_comm_arena(comm) + plan->shared_at[i];
        if (plan->common[i])
            exchange->memory[i] = common_memory(plan, comm);
    }
    rc = plan->common_bytes > 0 && ds_comm_border(comm) == NULL
             ? ds_fail(err, ENOTSUP, "these ranks have no memory that they hold once")
             : 0;
    if (rc == 0)
        rc = split_holders(exchange, false, err);
    if (rc == 0 && plan->pipeline_ranks > 1)
        rc = split_pipeline(exchange, err);
    if (rc == 0)
        rc = split_layers(exchange, err);
    if (rc == 0 && plan->expert_ranks > 1)
        rc = split_holders(exchange, true, err);
    if (rc == 0)
        rc = split_part(exchange, err);
    if (rc != 0)
        ds_exchange_close(exchange);
    return rc;
}

void ds_exchange_close(struct ds_exchange *exchange)
{
    ds_comm_close(exchange->sequence);
    ds_comm_close(exchange->team);
    ds_comm_close(exchange->kv);
    ds_comm_close(exchange->meet);
    if (exchange->part != exchange->everybody && exchange->part != exchange->of[0].all)
        ds_comm_close(exchange->part);
    close_holders(exchange, &exchange->of[1]);
    ds_comm_close(exchange->ends);
    for (unsigned turn = 0; turn < DS_PLAN_PAIRS; turn++)
        ds_comm_close(exchange->pair[turn]);
    close_holders(exchange, &exchange->of[0]);
    *exchange = (struct ds_exchange){0};
}

static void *element(const struct ds_exchange *exchange, enum ds_arena_kind kind, uint64_t at)
{
    return (unsigned char *)exchange->memory[kind] + at * exchange->param_bytes;
}

void *ds_exchange_params(const struct ds_exchange *exchange, size_t bucket)
{
    const struct ds_plan *plan = exchange->plan;

    if (ds_plan_comes(plan, bucket))
        return element(exchange, DS_ARENA_GATHERED, plan->bucket[bucket].gathered_at);
    return element(exchange, exchange->own, ds_plan_bucket_at(plan, exchange->own, bucket));
}

void *ds_exchange_own(const struct ds_exchange *exchange, size_t bucket)
{
    return element(exchange, exchange->own,
                   ds_plan_shard(exchange->plan, exchange->own, bucket).at);
}

float *ds_exchange_grads(const struct ds_exchange *exchange, size_t bucket)
{
    const struct ds_plan *plan = exchange->plan;

    float *staged = exchange->memory[DS_ARENA_STAGED], *grads = exchange->memory[DS_ARENA_GRADS];

    if (plan->bucket[bucket].frozen)
        return NULL;
    return plan->staged_elems > 0 ? staged + plan->bucket[bucket].staged_at
                                  : grads + ds_plan_held(plan, DS_ARENA_GRADS, bucket).at;
}

static struct ds_exchange_holders *holders_of(struct ds_exchange *exchange, size_t bucket)
{
    return &exchange->of[exchange->plan->bucket[bucket].experts];
}

/* Collectives of all groups go behind what is on `stream`. */
static void use_stream(const struct ds_exchange_holders *of, struct ds_stream *stream)
{
    if (of->all != NULL)
        ds_comm_use_stream(of->all, stream);
    if (of->inside != NULL)
        ds_comm_use_stream(of->inside, stream);
    if (of->across != NULL)
        ds_comm_use_stream(of->across, stream);
}

static int sum_over_ranks(struct ds_exchange *exchange, size_t bucket, float *grads,
                          struct ds_held shard, struct ds_error *err)
{
    const struct ds_exchange_holders *of = holders_of(exchange, bucket);
    uint64_t elems = exchange->plan->bucket[bucket].padded_elems;
    int rc;

    if (shard.count == elems)
        return ds_comm_all_reduce_f32(of->all, grads, elems, err);
    rc = ds_comm_reduce_scatter_f32(of->inside, grads, elems, err);
    if (rc != 0 || of->across == NULL)
        return rc;
    return ds_comm_all_reduce_f32(of->across, grads + shard.first, shard.count, err);
}

/* Of a bucket that is held whole: the hops are those of a shard, so that the bits are, too. */
static int sum_whole(struct ds_exchange *exchange, size_t bucket, uint16_t *packed,
                     struct ds_error *err)
{
    const struct ds_exchange_holders *of = holders_of(exchange, bucket);
    const struct ds_plan_holders place = ds_plan_holders_of(exchange->plan, bucket);
    const uint64_t elems = exchange->plan->bucket[bucket].padded_elems, part = elems / place.shards;
    int rc;

    if (of->across == NULL)
        return ds_comm_all_reduce_bf16(of->all, packed, elems, err);
    rc = ds_comm_reduce_scatter_bf16(of->inside, packed, elems, err);
    if (rc == 0)
        rc = ds_comm_all_reduce_bf16(of->across, packed + place.shard * part, part, err);
    return rc != 0 ? rc : ds_comm_all_gather(of->inside, packed, elems * sizeof(*packed), err);
}

/* On the CPU by this thread, which need not be the stream's; on a device by the stream. */
static int pack(uint16_t *to, const float *from, uint64_t elems, struct ds_stream *stream,
                struct ds_error *err)
{
    const struct ds_cast_args args = {
        .n = elems, .from = DS_F32, .to = DS_BF16, .x = from, .y = to};

    if (ds_stream_handle(stream) != NULL)
        return ds_cast(&args, stream, err);
    ds_bf16_pack(to, from, elems);
    return 0;
}

static int unpack(float *to, const uint16_t *from, uint64_t elems, struct ds_stream *stream,
                  struct ds_error *err)
{
    const struct ds_cast_args args = {
        .n = elems, .from = DS_BF16, .to = DS_F32, .x = from, .y = to};

    if (ds_stream_handle(stream) != NULL)
        return ds_cast(&args, stream, err);
    ds_bf16_unpack(to, from, elems);
    return 0;
}

/* The same in bf16, through a room that every bucket takes in turn. */
static int sum_packed(struct ds_exchange *exchange, size_t bucket, float *grads,
                      struct ds_held shard, struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_exchange_holders *of = holders_of(exchange, bucket);
    uint64_t elems = exchange->plan->bucket[bucket].padded_elems;
    uint16_t *packed = exchange->memory[DS_ARENA_PACKED];
    int rc = pack(packed, grads, elems, stream, err);

    if (rc != 0)
        return rc;
    if (shard.count == elems) {
        rc = sum_whole(exchange, bucket, packed, err);
    } else {
        rc = ds_comm_reduce_scatter_bf16(of->inside, packed, elems, err);
        if (rc == 0 && of->across != NULL)
            rc = ds_comm_all_reduce_bf16(of->across, packed + shard.first, shard.count, err);
    }
    return rc == 0 ? unpack(grads + shard.first, packed + shard.first, shard.count, stream, err)
                   : rc;
}

int ds_exchange_reduce(struct ds_exchange *exchange, const struct ds_instr *instr,
                       struct ds_stream *stream, struct ds_error *err)
{
    struct ds_held shard = ds_plan_shard(exchange->plan, DS_ARENA_GRADS, instr->bucket);
    float *grads = ds_exchange_grads(exchange, instr->bucket), *from = grads + shard.first;
    float *to = (float *)exchange->memory[DS_ARENA_GRADS] + shard.at;
    const struct ds_add_args add = {.n = shard.count, .x = from, .y = to};
    const struct ds_exchange_holders *of = holders_of(exchange, instr->bucket);
    int rc = 0;

    use_stream(of, stream);
    if (of->all != NULL) /* else nobody has another part of it */
        rc = exchange->plan->bf16_wire
                 ? sum_packed(exchange, instr->bucket, grads, shard, stream, err)
                 : sum_over_ranks(exchange, instr->bucket, grads, shard, err);
    if (rc != 0 || from == to)
        return rc;
    if (instr->accumulate)
        return ds_add(&add, stream, err);
    return ds_stream_copy(stream,
                          exchange->plan->host[DS_ARENA_GRADS] ? DS_COPY_DOWN : DS_COPY_ASIDE, to,
                          from, shard.count * sizeof(*to), err);
}

/* From the host's memory to the place in the room that this rank's shard has there. */
static int bring(struct ds_exchange *exchange, size_t bucket, struct ds_stream *stream,
                 struct ds_error *err)
{
    const struct ds_held shard = ds_plan_shard(exchange->plan, exchange->own, bucket);
    unsigned char *whole = ds_exchange_params(exchange, bucket);

    return ds_stream_copy(stream, DS_COPY_UP, whole + shard.first * exchange->param_bytes,
                          ds_exchange_own(exchange, bucket), shard.count * exchange->param_bytes,
                          err);
}

int ds_exchange_gather(struct ds_exchange *exchange, size_t bucket, struct ds_stream *stream,
                       struct ds_error *err)
{
    const struct ds_exchange_holders *of = holders_of(exchange, bucket);
    void *whole = ds_exchange_params(exchange, bucket);
    size_t bytes = exchange->plan->bucket[bucket].padded_elems * exchange->param_bytes;
    int rc = exchange->plan->offload_params ? bring(exchange, bucket, stream, err) : 0;

    if (rc != 0 || ds_plan_givers(exchange->plan, bucket) == 1)
        return rc;
    use_stream(of, stream);
    if (exchange->plan->ahead && !exchange->plan->offload_params)
        return ds_comm_all_gather_from(of->inside, ds_exchange_own(exchange, bucket), whole, bytes,
                                       err);
    return ds_comm_all_gather(of->inside, whole, bytes, err);
}

int ds_exchange_gather_frozen(struct ds_exchange *exchange, struct ds_stream *stream,
                              struct ds_error *err)
{
    const struct ds_plan *plan = exchange->plan;
    int rc = 0;

    for (size_t i = 0; rc == 0 && !plan->ahead && i < plan->buckets; i++)
        if (plan->bucket[i].frozen && ds_plan_divides(plan, exchange->own, i))
            rc = ds_exchange_gather(exchange, i, stream, err);
    return rc;
}

void ds_exchange_stats(const struct ds_exchange *exchange, enum ds_comm_op op,
                       struct ds_comm_stats *stats)
{
    const struct ds_exchange_holders *own = &exchange->of[0], *experts = &exchange->of[1];
    const struct ds_comm *part = exchange->part, *all = exchange->everybody;
    const struct ds_comm *groups[] = {
        own->all != all ? own->all : NULL,
        own->inside != own->all ? own->inside : NULL,
        own->across,
        experts->all,
        experts->inside != experts->all ? experts->inside : NULL,
        experts->across,
        exchange->meet,
        exchange->sequence,
        exchange->team,
        exchange->kv,
        part != all && part != own->all ? part : NULL,
        exchange->pair[0],
        exchange->pair[1],
        exchange->ends,
    };
    struct ds_comm_stats more;

    ds_comm_op_stats(exchange->everybody, op, stats);
    for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        if (groups[i] == NULL)
            continue;
        ds_comm_op_stats(groups[i], op, &more);
        stats->calls += more.calls;
        stats->bytes += more.bytes;
        stats->wait_ns += more.wait_ns;
        stats->work_ns += more.work_ns;
    }
}
