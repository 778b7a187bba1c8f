/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * offload.c - the contract is in offload.h.
 */
#include "runtime/offload.h"
#include "runtime/plan/away.h"

/* What this rank updates of the bucket, where it lies in `kind`; without padding where that is at
 * the end. */
static struct ds_held part(const struct ds_plan *plan, enum ds_arena_kind kind, size_t bucket)
{
    const struct ds_bucket *of = &plan->bucket[bucket];

    return ds_held_within(ds_plan_shard(plan, kind, bucket), 0,
                          of->gaps ? of->padded_elems : of->elems);
}

static size_t copy_bytes(const struct ds_plan *plan)
{
    return ds_dtype_bytes(ds_compute_dtype(plan->compute));
}

void *ds_offload_room(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT], size_t bucket)
{
    uint64_t half = ds_plan_turn(plan, bucket) % 2;

    if (plan->room_elems == 0)
        return NULL;
    return (unsigned char *)memory[DS_ARENA_HOST_ROOM] + half * plan->room_elems * copy_bytes(plan);
}

int ds_offload_grads(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT], size_t bucket,
                     struct ds_stream *stream, struct ds_error *err)
{
    struct ds_held from = part(plan, DS_ARENA_GRADS, bucket);
    struct ds_held to = part(plan, DS_ARENA_HOST_GRADS, bucket);

    return ds_stream_copy(stream, DS_COPY_DOWN, (float *)memory[DS_ARENA_HOST_GRADS] + to.at,
                          (float *)memory[DS_ARENA_GRADS] + from.at, from.count * sizeof(float),
                          err);
}

int ds_offload_fetch(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT], size_t bucket,
                     struct ds_stream *stream, struct ds_error *err)
{
    struct ds_held to = part(plan, DS_ARENA_PARAMS_LOW, bucket);
    const void *from = ds_offload_room(plan, memory, bucket);

    if (from == NULL)
        from = (float *)memory[DS_ARENA_PARAMS] + part(plan, DS_ARENA_PARAMS, bucket).at;
    return ds_stream_copy(stream, DS_COPY_UP,
                          (unsigned char *)memory[DS_ARENA_PARAMS_LOW] + to.at * copy_bytes(plan),
                          from, to.count * copy_bytes(plan), err);
}

int ds_offload_out(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT],
                   const struct ds_instr *instr, void *out, struct ds_stream *stream,
                   struct ds_error *err)
{
    void *host = (unsigned char *)memory[DS_ARENA_HOST_OUTS] +
                 (instr->block - plan->stash_first) * plan->stash_bytes;

    return instr->op == DS_INSTR_STASH
               ? ds_stream_copy(stream, DS_COPY_DOWN, host, out, plan->stash_bytes, err)
               : ds_stream_copy(stream, DS_COPY_UP, out, host, plan->stash_bytes, err);
}

const float *ds_offload_read(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT],
                             const struct ds_plan_span *span)
{
    enum ds_arena_kind kind = ds_plan_copies_out(plan) ? DS_ARENA_HOST_GRADS : DS_ARENA_GRADS;

    return (const float *)memory[kind] + ds_plan_held_span(plan, kind, span).at;
}

void *ds_offload_written(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT],
                         const struct ds_plan_span *span)
{
    uint64_t at = ds_plan_held_span(plan, DS_ARENA_PARAMS_LOW, span).at;
    unsigned char *half = ds_offload_room(plan, memory, span->bucket);

    if (half != NULL)
        return half +
               (at - ds_plan_shard(plan, DS_ARENA_PARAMS_LOW, span->bucket).at) * copy_bytes(plan);
    if (ds_plan_copies_out(plan) || !plan->copies)
        return NULL;
    return (unsigned char *)memory[DS_ARENA_PARAMS_LOW] + at * copy_bytes(plan);
}
