/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - the stations of ds_plan_build(), in the order they are called.
 *
 * Each reads what the ones before it have put into the plan and allocates in plan->arena.
 */
#ifndef DS_RUNTIME_PLAN_INTERNAL_H
#define DS_RUNTIME_PLAN_INTERNAL_H

#include "runtime/plan/plan.h"

/* held.c: shards, replicas, stage; after the buckets are there: sharded[], shard_at. */
int ds__plan_groups(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds__plan_divide(struct ds_plan *plan);
/* bucket.c: param[], bucket[], span[], padded_elems. */
int ds__plan_buckets(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
    DS_NODISCARD;
/* schedule.c: step, eval. */
int ds__plan_schedule(struct ds_plan *plan, bool recompute, struct ds_error *err) DS_NODISCARD;
/* memory.c: buffer[], ACTIVATIONS. */
int ds__plan_memory(struct ds_plan *plan, bool recompute, struct ds_error *err) DS_NODISCARD;
/* cost.c: the other arenas, messages, FLOPs. */
void ds__plan_cost(struct ds_plan *plan, bool saves_behind);

/* Are checkpoints written while the run goes on?  The last one is not: nothing is left to do. */
bool ds__saves_behind(const struct ds_job *job);

/* Give offsets to buf[n] so that no two which live at one time overlap; returns the bytes needed.
 * `order` is room for n indices. */
uint64_t ds__plan_pack(struct ds_plan_buffer *buf, size_t n, uint32_t *order);

/* describe.c: "1.23 MiB". */
struct ds__amount {
    char text[24];
};
struct ds__amount ds__bytes_text(uint64_t bytes);

static inline uint64_t ds__round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

#endif
