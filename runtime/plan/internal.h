/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - the stations of ds_plan_build(), in the order they are called.
 *
 * Each reads what the ones before it have put into the plan and allocates in plan->arena.
 */
#ifndef DS_RUNTIME_PLAN_INTERNAL_H
#define DS_RUNTIME_PLAN_INTERNAL_H

#include <errno.h>

#include "runtime/plan/away.h"

/* pipeline.c: holders, this rank's part and blocks, slots; -EINVAL: there is no such line. */
int ds__plan_pipeline(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
    DS_NODISCARD;
/* team.c: this rank's part of each layer; -EINVAL: it cannot be shared so. */
int ds__plan_team(struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;
/* meet.c: -EINVAL: the experts cannot be divided so. */
int ds__plan_meet(const struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;
/* Bytes of SWAPPED that ranks which divide experts fill. */
uint64_t ds__plan_met_bytes(const struct ds_plan *plan);
/* Is a tensor of the model of one expert, of which ranks have whole ones? */
bool ds__plan_is_expert(const struct ds_plan *plan, size_t tensor);
/* Do all of a team hold it whole, with its whole gradient; how many hold the same part, each with a
 * part of its gradient? */
bool ds__plan_alike(const struct ds_plan *plan, size_t tensor);
unsigned ds__plan_doubles(const struct ds_plan *plan, enum ds_role role);
/* Where what is passed on lies; bytes of SWAPPED from `at` on. */
uint64_t ds__plan_passed(struct ds_plan *plan, uint64_t at);
/* With all other parts' plans: part[], shared_bytes, and one hash of all. */
int ds__plan_other_parts(struct ds_plan *plan, const struct ds_plan_args *args,
                         struct ds_error *err) DS_NODISCARD;
/* With them: of a rank with the largest part, of all ranks of the host that has most of them. */
uint64_t ds__plan_part_bytes(const struct ds_plan *plan);
uint64_t ds__plan_host_bytes(const struct ds_plan *plan);
/* plan.c: a plan of this rank alone. */
int ds__plan_part(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
    DS_NODISCARD;
uint64_t ds__plan_mix(uint64_t hash, uint64_t value);
/* cost.c: what a rank adds to the memory that it computes in. */
uint64_t ds__plan_owned_bytes(const struct ds_plan *plan);
/* The widest rows of a layer that ranks which share a sequence give each other. */
uint64_t ds__plan_swapped_bytes(const struct ds_plan *plan);
/* held.c: shards, replicas, stage, ahead; once buckets are there: sharded[], common[], shard_at. */
int ds__plan_groups(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds__plan_divide(struct ds_plan *plan, const struct ds_plan_args *args);
/* What kernels read where a line is gathered: the arena that the others' shards come into. */
enum ds_arena_kind ds__plan_read_arena(const struct ds_plan *plan);
/* bucket.c: param[], bucket[], span[], padded_elems. */
int ds__plan_buckets(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
    DS_NODISCARD;
/* owner.c: offsets in one bucket, from its start, so that matrices lie whole in shards; the
 * bucket's loose, padded and slice elements.  NULL: no memory. */
struct ds__owners *ds__owners_new(struct ds_plan *plan, const struct ds_job *job);
void ds__owners_place(struct ds__owners *owners, uint32_t bucket);
/* stash.c: stash_*; after the buckets.  -EINVAL: outputs cannot wait on the host so. */
int ds__plan_stash(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
    DS_NODISCARD;
/* pieces.c: piece[], its rooms, the bytes of the file, where states are in one. */
int ds__plan_pieces(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
    DS_NODISCARD;
/* sequence.c, schedule.c: step, eval, the rooms. */
int ds__plan_schedule(struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;
/* memory.c: buffer[], ACTIVATIONS. */
int ds__plan_memory(struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;
/* Bytes of all states of this rank, wherever they are. */
uint64_t ds__plan_state_bytes(const struct ds_plan *plan);
/* cost.c: the other arenas, FLOPs. */
void ds__plan_cost(struct ds_plan *plan, bool saves_behind);
/* Are checkpoints written while the run goes on?  The last one is not: nothing is left to do. */
bool ds__saves_behind(const struct ds_job *job);
/* wire.c: comm_bytes, before cost.c; shared_at[]; traffic[], messages, wire bytes; peer_bytes. */
void ds__plan_share(struct ds_plan *plan);
int ds__plan_comm(struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;
void ds__plan_traffic(struct ds_plan *plan);
int ds__plan_peers(struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;

/* window.c: buckets that lie gathered, looked at ahead. */
struct ds__ref { /* an instruction that reads a bucket */
    uint32_t position, bucket;
};
struct ds__window {
    struct ds__ref *ref; /* of one micro-batch, in order; at most DS__USES of a position */
    uint32_t refs, positions;
    uint64_t rounds; /* micro-batches */
    unsigned depth;  /* buckets gathered ahead, 1 .. DS_MAX_PREFETCH */
    unsigned widest; /* buckets of a position, at most: so many less one may come in between */
};
int ds__window_init(struct ds__window *window, struct ds_arena *arena, uint32_t positions)
    DS_NODISCARD;
void ds__window_read(struct ds__window *window, uint32_t position, uint32_t bucket);
uint32_t ds__window_bucket(const struct ds__window *window, uint64_t ref);
/* Positions are numbered through all micro-batches, too. */
uint64_t ds__window_position(const struct ds__window *window, uint64_t ref);
/* Does a stay begin, end with this reference; at which position is it gathered? */
bool ds__window_arrives(const struct ds__window *window, uint64_t ref);
bool ds__window_leaves(const struct ds__window *window, uint64_t ref);
uint64_t ds__window_issue(const struct ds__window *window, uint64_t ref);

struct ds__room { /* memory that buckets take in turn */
    size_t buckets;
    unsigned char *inside, *met; /* now; [a][b] at one time, [a][a] at any */
    uint64_t *at;                /* place in elements, once packed */
    uint32_t *order;
};
int ds__room_init(struct ds__room *room, struct ds_arena *arena, size_t buckets) DS_NODISCARD;
void ds__room_clear(struct ds__room *room);
void ds__room_enter(struct ds__room *room, uint32_t bucket);
void ds__room_leave(struct ds__room *room, uint32_t bucket);
/* Find the places; returns the elements of the room. */
uint64_t ds__room_pack(struct ds__room *room, const struct ds_bucket *bucket);

/* Give offsets to buf[n] so that no two which live at one time overlap; returns the bytes needed.
 * `order` is room for n indices. */
uint64_t ds__plan_pack(struct ds_plan_buffer *buf, size_t n, uint32_t *order);

/* describe.c: "1.23 MiB". */
struct ds__amount {
    char text[32];
};
struct ds__amount ds__bytes_text(uint64_t bytes);

static inline uint64_t ds__round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

#endif
