/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * held.c - who holds what: shards and slices of a bucket, ranges of tensors, places in arenas.
 *
 * Everything that divides state among ranks asks here: engine, optimizer, checkpoints.
 *
 * Tests   tests/plan/test_held.c
 */
#include <errno.h>

#include "runtime/plan/internal.h"

/* --- who a rank is --------------------------------------------------------------------------- */

static unsigned local_world(const struct ds_plan_args *args)
{
    return args->local_world != 0 ? args->local_world : args->world;
}

/* Ranks with the same parameters. */
static unsigned holders(const struct ds_plan_args *args)
{
    return args->world / (unsigned)(args->job->parallel.pipeline * args->job->parallel.tensor);
}

/* Of them, those of a host. */
static unsigned local_holders(const struct ds_plan_args *args)
{
    unsigned local = local_world(args) / (unsigned)args->job->parallel.tensor;

    return local > 0 ? local : 1;
}

/* Ranks of a shard group: of a host as many as hold the same. */
static unsigned shards(const struct ds_plan_args *args)
{
    unsigned all = holders(args), local = local_holders(args);

    return args->job->zero.shard_group == DS_SHARD_NODE && local < all ? local : all;
}

/* May the ranks of a host hold once what all of them read?  Those of a team read not the same, nor
 * do those that divide experts. */
static bool may_hold_once(const struct ds_plan_args *args)
{
    return args->common && !args->apart && args->job->zero.once_per_host &&
           args->job->parallel.tensor == 1 && args->job->parallel.expert <= 1 &&
           args->job->offload.params == DS_OFFLOAD_NONE;
}

bool ds_plan_gathers_ahead(const struct ds_plan_args *args)
{
    bool there = may_hold_once(args) && shards(args) == local_world(args);

    if (args->job->zero.stage != 3)
        return false;
    return args->job->offload.params != DS_OFFLOAD_NONE || (shards(args) > 1 && !there);
}

int ds__plan_groups(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
{
    unsigned local = local_world(args);

    plan->local_world = local;
    plan->shards = shards(args);
    if (plan->holders % plan->shards != 0)
        return ds_fail(err, EINVAL,
                       "'zero.shard_group' node needs as many ranks on every host, and %u ranks "
                       "are not a multiple of %u",
                       plan->holders, plan->shards);
    plan->replicas = plan->holders / plan->shards;
    plan->shard = plan->holder % plan->shards;
    plan->replica = plan->holder / plan->shards;
    plan->stage = plan->shards > 1 || plan->offload_params ? (unsigned)args->job->zero.stage : 0;
    plan->ahead = ds_plan_gathers_ahead(args);
    if (plan->shards % plan->expert_ranks != 0 && plan->expert_ranks % plan->shards != 0)
        return ds_fail(err, EINVAL,
                       "'parallel.expert' %u and shard groups of %u ranks do not fit: one must "
                       "divide the other",
                       plan->expert_ranks, plan->shards);
    return 0;
}

struct ds_plan_holders ds_plan_holders(const struct ds_plan *plan, bool experts)
{
    const unsigned apart = experts ? plan->expert_ranks : 1;
    const unsigned shards = plan->shards > apart ? plan->shards / apart : 1;
    const unsigned place = plan->holder / apart, count = plan->holders / apart;

    return (struct ds_plan_holders){
        .count = count,
        .place = place,
        .stride = apart * plan->tensor_ranks,
        .shards = shards,
        .shard = place % shards,
        .replicas = count / shards,
        .replica = place / shards,
    };
}

/* Elements of a bucket's shard. */
static uint64_t shard_elems(const struct ds_plan *plan, size_t bucket)
{
    return plan->bucket[bucket].slice_elems * ds_plan_holders_of(plan, bucket).replicas;
}

/* Elements of a bucket that have a second state, on the rank that has most of them. */
static uint64_t second_of(const struct ds_plan *plan, size_t index)
{
    const struct ds_bucket *bucket = &plan->bucket[index];
    bool shared = plan->sharded[DS_ARENA_MOMENTS] && !bucket->replicated;
    uint64_t most = shared ? shard_elems(plan, index) : bucket->padded_elems;
    uint64_t loose = ds__round_up(bucket->loose_elems, DS_SHARD_ALIGN);

    return loose < most ? loose : most;
}

enum ds_arena_kind ds__plan_read_arena(const struct ds_plan *plan)
{
    if (plan->ahead)
        return DS_ARENA_GATHERED;
    return plan->copies ? DS_ARENA_PARAMS_LOW : DS_ARENA_PARAMS;
}

/* Elements of a whole line that are gathered; what is replicated lies behind them. */
static uint64_t gathered_elems(const struct ds_plan *plan)
{
    const struct ds_bucket *last = &plan->bucket[plan->buckets - 1];

    return last->replicated ? last->offset : plan->padded_elems;
}

/* Has a line what is frozen, too? */
static bool has_frozen(const struct ds_plan *plan, enum ds_arena_kind arena)
{
    return arena == (plan->copies ? DS_ARENA_PARAMS_LOW : DS_ARENA_PARAMS);
}

/* What each stage divides, and where it lies.  Whole parameters are those that kernels read. */
void ds__plan_divide(struct ds_plan *plan, const struct ds_plan_args *args)
{
    uint64_t at = 0, second = 0;

    plan->sharded[DS_ARENA_MOMENTS] = plan->stage >= 1;
    plan->sharded[DS_ARENA_GRADS] = plan->stage >= 2;
    plan->sharded[DS_ARENA_PARAMS] = plan->copies ? plan->stage >= 1 : plan->ahead;
    plan->sharded[DS_ARENA_PARAMS_LOW] = plan->ahead;
    plan->sharded[DS_ARENA_HOST_GRADS] = plan->stage >= 1;
    plan->common[ds__plan_read_arena(plan)] = may_hold_once(args) && plan->stage > 0 &&
                                              gathered_elems(plan) > 0 &&
                                              (plan->ahead || plan->shards == plan->local_world);
    plan->host[DS_ARENA_PARAMS] = plan->host[DS_ARENA_MOMENTS] = plan->offload;
    plan->host[DS_ARENA_HOST_GRADS] = plan->host[DS_ARENA_HOST_ROOM] = ds_plan_copies_out(plan);
    plan->host[DS_ARENA_PARAMS_LOW] = plan->offload_params;
    plan->host[DS_ARENA_GRADS] = plan->offload && plan->offload_params;
    for (size_t i = 0; i < plan->buckets; i++) {
        struct ds_bucket *bucket = &plan->bucket[i];

        bucket->shard_at = at;
        at += bucket->replicated ? bucket->padded_elems : shard_elems(plan, i);
        bucket->second_at = second;
        if (bucket->frozen)
            plan->frozen_held = at;
        else
            second += second_of(plan, i);
        if (ds_plan_copies_out(plan) &&
            plan->room_elems < ds_plan_shard(plan, DS_ARENA_PARAMS, i).count)
            plan->room_elems = ds_plan_shard(plan, DS_ARENA_PARAMS, i).count;
    }
    if (plan->compute == DS_COMPUTE_FP32) /* what has been updated is what kernels read */
        plan->room_elems = 0;
    plan->held_elems = at;
    plan->second_elems = second;
    if (plan->common[ds__plan_read_arena(plan)] && !plan->ahead) /* of the room: cost.c */
        plan->common_bytes = gathered_elems(plan) * ds_dtype_bytes(ds_compute_dtype(plan->compute));
}

/* --- ranges ---------------------------------------------------------------------------------- */

/* Elements at the start of a whole or divided line that `arena` leaves out. */
static uint64_t left_out(const struct ds_plan *plan, enum ds_arena_kind arena)
{
    if (has_frozen(plan, arena))
        return 0;
    return plan->sharded[arena] ? plan->frozen_held : plan->frozen_elems;
}

uint64_t ds_plan_line_elems(const struct ds_plan *plan, enum ds_arena_kind arena)
{
    return (plan->sharded[arena] ? plan->held_elems : plan->padded_elems) - left_out(plan, arena);
}

uint64_t ds_plan_state_elems(const struct ds_plan *plan, unsigned state)
{
    return state == 0 ? ds_plan_line_elems(plan, DS_ARENA_MOMENTS) : plan->second_elems;
}

uint64_t ds_plan_state_at(const struct ds_plan *plan, size_t bucket, unsigned state, uint64_t at)
{
    const struct ds_bucket *of = &plan->bucket[bucket];

    if (state == 0)
        return at;
    return of->second_at + at + left_out(plan, DS_ARENA_MOMENTS) -
           (plan->sharded[DS_ARENA_MOMENTS] ? of->shard_at : of->offset);
}

/* Where element `elem` of the bucket lies, which this rank holds. */
static uint64_t place(const struct ds_plan *plan, enum ds_arena_kind arena, size_t index,
                      uint64_t elem)
{
    const struct ds_bucket *bucket = &plan->bucket[index];
    const uint64_t out = left_out(plan, arena);

    if (!plan->sharded[arena])
        return bucket->offset - out + elem;
    if (bucket->replicated)
        return bucket->shard_at - out + elem;
    return bucket->shard_at - out + elem -
           ds_plan_holders_of(plan, index).shard * shard_elems(plan, index);
}

static struct ds_held range(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket,
                            uint64_t first, uint64_t count)
{
    if (plan->bucket[bucket].frozen && !has_frozen(plan, arena))
        return (struct ds_held){0};
    return (struct ds_held){
        .first = first, .count = count, .at = place(plan, arena, bucket, first)};
}

struct ds_held ds_plan_shard(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket)
{
    uint64_t elems = shard_elems(plan, bucket);

    if (plan->stage == 0 || plan->bucket[bucket].replicated)
        return range(plan, arena, bucket, 0, plan->bucket[bucket].padded_elems);
    return range(plan, arena, bucket, ds_plan_holders_of(plan, bucket).shard * elems, elems);
}

bool ds_plan_trains(const struct ds_plan *plan, uint32_t block, enum ds_role role)
{
    for (size_t i = 0; plan->frozen_elems > 0 && i < plan->tensors; i++)
        if (plan->tensor[i].param.block == block && plan->tensor[i].param.role == role)
            return !plan->tensor[i].frozen;
    return true;
}

size_t ds_plan_turn(const struct ds_plan *plan, size_t bucket)
{
    const size_t moved = plan->buckets - plan->frozen_buckets;

    bucket -= plan->frozen_buckets;
    return plan->bucket[plan->buckets - 1].replicated ? (bucket + 1) % moved : bucket;
}

bool ds_plan_divides(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket)
{
    return (plan->sharded[arena] || plan->common[arena]) && !ds_plan_whole(plan, bucket);
}

uint64_t ds_plan_bucket_at(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket)
{
    return place(plan, arena, bucket, 0);
}

struct ds_held ds_plan_held(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket)
{
    if (ds_plan_divides(plan, arena, bucket))
        return ds_plan_shard(plan, arena, bucket);
    return range(plan, arena, bucket, 0, plan->bucket[bucket].padded_elems);
}

struct ds_held ds_plan_slice(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket)
{
    const struct ds_plan_holders of = ds_plan_holders_of(plan, bucket);
    uint64_t elems = plan->bucket[bucket].slice_elems;
    uint64_t index = (uint64_t)of.shard * of.replicas + of.replica;

    return range(plan, arena, bucket, index * elems, elems);
}

/* The part of `held` that is the parameter's, counted from the parameter's first element. */
static struct ds_held of_param(const struct ds_plan *plan, size_t index, struct ds_held held)
{
    const struct ds_plan_param *param = &plan->param[index];

    return ds_held_within(held, param->offset - plan->bucket[param->bucket].offset,
                          param->param.elems);
}

struct ds_held ds_held_within(struct ds_held held, uint64_t first, uint64_t count)
{
    uint64_t from = held.first > first ? held.first : first, end = held.first + held.count;
    uint64_t to = end < first + count ? end : first + count;

    if (from >= to)
        return (struct ds_held){0};
    return (struct ds_held){
        .first = from - first, .count = to - from, .at = held.at + (from - held.first)};
}

struct ds_held ds_plan_held_span(const struct ds_plan *plan, enum ds_arena_kind arena,
                                 const struct ds_plan_span *span)
{
    return ds_held_within(ds_plan_shard(plan, arena, span->bucket),
                          span->offset - plan->bucket[span->bucket].offset, span->elems);
}

struct ds_held ds_plan_doubled(const struct ds_plan *plan, size_t bucket, size_t span)
{
    const struct ds_plan_span *of = &plan->span[span];

    if (of->doubled == 1 || of->bucket != bucket)
        return (struct ds_held){0};
    return ds_plan_held_span(plan, DS_ARENA_GRADS, of);
}

uint64_t ds_plan_matrix_parts(const struct ds_plan *plan, const struct ds_plan_span *span)
{
    return span->rows * span->cols > span->elems ? plan->tensor_ranks * span->elems : 0;
}

bool ds_plan_twin(const struct ds_plan *plan, size_t param)
{
    const struct ds_plan_param *of = &plan->param[param];

    return plan->bucket[of->bucket].twin ||
           ds_plan_doubled_place(plan, plan->tensor[of->tensor].doubled) > 0;
}

struct ds_held ds_plan_held_param(const struct ds_plan *plan, enum ds_arena_kind arena,
                                  size_t param)
{
    return of_param(plan, param, ds_plan_held(plan, arena, plan->param[param].bucket));
}

struct ds_held ds_plan_slice_param(const struct ds_plan *plan, enum ds_arena_kind arena,
                                   size_t param)
{
    return of_param(plan, param, ds_plan_slice(plan, arena, plan->param[param].bucket));
}
