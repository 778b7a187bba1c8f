/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * plan.h - the program of one rank: parameters, buckets, buffers, arenas, instructions.
 *
 * Everything a step will do is decided here, before a byte is allocated.  A plan is a pure function
 * of (job, world, rank, threads): it opens nothing, knows no device, and two ranks compare their
 * plans by hash.  The engine (runtime/engine.h) walks the instructions; it does not know ZeRO
 * stages, which differ only in what the generator (schedule.c) emits.
 *
 *   blocks of this rank       pipeline.c  and what the other parts of a pipeline come to
 *   its part of each layer    team.c      heads, columns and rows, ids of the vocabulary
 *   parameters ─► buckets     bucket.c    consecutive blocks, laid end to end, padded so that every
 *                                         rank owns an equal slice of every bucket
 *                             owner.c     the same with whole matrices in every slice, for Muon
 *   buckets ─► who holds what held.c      shards, slices, ranges of tensors
 *   states on a disk          pieces.c    what is read and written together, where it lies
 *   what is kept              recompute.c what backward passes find, what they compute again
 *                             stash.c     what of that waits in the host's memory
 *   instructions              schedule.c  the step and the evaluation program
 *   buffers ─► offsets        memory.c    activations by lifetime over the instructions
 *   totals                    cost.c      bytes per arena, FLOPs; does it fit
 *                             wire.c      messages, and the memory that ranks share
 *   text                      describe.c  header lines, tables, JSON
 *
 * All parameters make one flat line, bucket after bucket; parameters, gradients and both moments
 * are lines of the same form.  A rank holds a line whole, or its shard of every bucket:
 *
 *   holder = replica * shards + shard `shards` ranks divide a line among them, replicas repeat it
 *   shard s of a bucket               elements [s, s + 1) * padded_elems / shards
 *   slice of a rank                   1 / holders of a bucket, inside the rank's shard; all slices
 *                                     together are the bucket, each element once: what a rank
 *                                     counts in the norm and writes in a checkpoint
 *
 * All ranks hold the same parameters, so that `holder` is the rank, unless layers are shared:
 *
 *   rank = (pipeline_rank * holders + holder) * tensor_ranks + tensor_rank
 *
 * With parallel.pipeline P, blocks are divided into P consecutive parts of about the same work, the
 * ranks into P times `holders` that hold a part each.  What a part makes of a micro-batch it sends
 * to its likes of the next one, gradients come back; micro-batches follow each other one forward,
 * one backward (Narayanan et al. 2021: "1F1B"), so that part p has at most P - p of them on their
 * way and as many places for what their backward passes will read.  A tied embedding is held by
 * both ends of the line: each has a gradient of it, which TIE adds up, and updates its own alike.
 * A rank's plan has the blocks, parameters and buckets of its part alone.
 *
 * With parallel.tensor T, ranks k T .. k T + T - 1 are a team that shares each layer (Shoeybi et
 * al. 2019, "Megatron-LM"): each has heads / T of the heads, ffn / T of the feed-forward's columns
 * and about vocab / T of the ids.  `shape` is of that, so that buffers, products and kernels are
 * those of a narrower model.  What a team adds up, its members have the same bits of; norms, biases
 * that are added to the stream and positions they hold alike and update alike: those are the bucket
 * that is replicated, which the first of the team counts and writes for all.
 * Of fewer than T key/value heads each is on kv_ranks neighbours (`doubled`), in buckets of what is
 * a rank's alone.  TIE adds up what each one's query heads have made of its gradient, before NORM;
 * so they update it alike, and the first of them counts and writes it.  The same holds of that
 * matrix of an adapter which is not divided, and all of the team.
 *
 * With parallel.sequence S, holders k S .. k S + S - 1 share their sequences (DeepSpeed-Ulysses,
 * Jacobs et al. 2023): each has sequence / S of the tokens of every one, and in the attention
 * heads / S heads over all of them.  In front of and behind it they exchange rows (model/heads.c);
 * of fewer than S key/value heads each goes to several.
 * A gradient is what a rank's tokens have made of it, so that nothing else knows of that: shards,
 * sums and checkpoints are those of so many ranks of data.
 *
 * With parallel.expert P, holders k P .. k P + P - 1 have experts / P of the experts of each layer
 * (Lepikhin et al. 2020, "GShard"), and of everything else what holders have.  A layer gathers the
 * rows of all P, each makes of them what its experts do, and gets its own rows' parts back
 * (model/meet.c).  So the tensors of experts are in buckets by themselves, of which only every P-th
 * holder has the same: holders / P of them, in shards / P shards if there are so many, else whole.
 *
 * Tensors that are frozen (train.freeze; with adapters all others) are in buckets by themselves,
 * the first of the line.  They have no gradients, no states and, where kernels read a copy, no
 * parameters of F32: the lines of those begin behind them.  Nothing of them is summed, updated or
 * written in a checkpoint.
 *
 * A replicated bucket (tensors below zero.replicate_below; in a team those that it holds alike) is
 * held whole by every holder.  Those of experts are never in it.
 *
 * Where a shard group is the ranks of one host and they share memory, the parameters that stages 1
 * to 3 gather are common: there once for the host, each shard written by its owner alone.  That is
 * in order because owners write between NORM, to which every rank comes after its last backward
 * pass, and the GATHER of the bucket, before which no rank reads it again.  There stage 3 has the
 * program of stage 2: what it would gather for each use and give up after it lies there anyway, as
 * the shards of all.
 *
 * Where a shard group is over several hosts, the room that stage 3 gathers into is common to the
 * ranks of each: its place is taken anew when all of them have left it, which the gather waits for.
 *
 * Owner   everything hangs on plan->arena; ds_plan_release() frees.
 * Tests   tests/plan/
 */
#ifndef DS_RUNTIME_PLAN_H
#define DS_RUNTIME_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "kernels/dtype.h"
#include "base/json.h"
#include "runtime/comm/comm.h"
#include "runtime/job.h"
#include "runtime/plan/items.h"

#define DS_NOT_SHARED UINT64_MAX
/* What lies where the ranks of other parts read it: the last block's output, the gradient of what
 * came in. */
enum ds_passed { DS_PASSED_OUT, DS_PASSED_GRADIENT, DS_PASSED_COUNT };
enum { DS_STEP_FLAGS = 8 }; /* doubles that NORM sums over ranks where hosts decide */

struct ds_plan_traffic { /* per step; bytes as the comm counts them */
    uint64_t calls, bytes;
};

struct ds_plan {
    struct ds_arena arena;
    struct ds_model_shape
        shape; /* of what this rank computes: of the model, or a team's part of it */
    struct ds_model_shape model;
    unsigned world, rank, threads;
    unsigned local_world; /* ranks of this host */
    unsigned stage;       /* 0 where there is nobody to share with */
    bool ahead; /* parameters are gathered ahead of each use, not once after their update */
    unsigned shards, replicas; /* ranks of a shard group, groups */
    unsigned shard, replica;   /* this rank's place in them */
    unsigned holders, holder;  /* ranks with the same parameters; this one's place among them */
    unsigned pipeline_ranks, pipeline_rank; /* parts of the line of blocks; this rank's */
    uint32_t first_block, end_block;        /* its blocks */
    unsigned tensor_ranks, tensor_rank; /* of the team that shares each layer; its place there */
    unsigned kv_ranks, kv_rank; /* of them, those with its key/value heads; its place there */
    unsigned slots; /* micro-batches of which it keeps activations at a time; m has m % slots */
    uint64_t slot_bytes;
    uint64_t passed_bytes;               /* of what is sent to another part, or comes from there */
    uint64_t passed_at[DS_PASSED_COUNT]; /* where it lies in SWAPPED, or DS_NOT_SHARED */
    uint64_t micro_batches, micro_batch, sequence; /* per rank and step */
    unsigned sequence_ranks, sequence_rank;        /* that share each sequence; this one's place */
    uint64_t whole_sequence;                       /* `sequence` of each of them */
    unsigned expert_ranks, expert_rank;            /* that divide the experts; this one's place */
    uint64_t window; /* tokens that one sees, where those are fewer than a sequence has; else 0 */
    bool documents;  /* it sees those of its document only */
    uint64_t separator; /* which ends with this id */
    enum ds_compute compute;
    bool fp8;                    /* products of layers are of FP8 */
    bool bf16_wire;              /* gradients are summed over ranks in bf16 */
    bool drops, drops_weights;   /* dropout on the stream, of the attention's weights */
    unsigned optim_states;       /* lines of MOMENTS */
    bool by_tensor;              /* spans are tensors; NORM sums two norms of each over a part */
    enum ds_recompute recompute; /* never AUTO */
    uint64_t
        recompute_layers; /* blocks 1 .. recompute_layers do, but for those that get no gradient */
    uint32_t stash_first, stash_end; /* blocks whose outputs wait on the host; end 0: none do */
    uint64_t stash_bytes;            /* of an output */
    struct ds_plan_tensor *tensor;
    size_t tensors;
    struct ds_plan_param *param;
    size_t params;
    struct ds_bucket *bucket;
    size_t buckets;
    struct ds_plan_span *span;
    size_t spans;
    uint64_t padded_elems;                 /* of all buckets: elements of a whole line */
    uint64_t held_elems;                   /* elements of a sharded line */
    uint64_t frozen_elems, frozen_held;    /* of those the first ones, which are frozen */
    size_t frozen_buckets;                 /* and these */
    uint32_t first_trained;                /* the first block of the model that is not all frozen */
    uint64_t second_elems;                 /* of the second state, on this rank */
    uint64_t gathered_elems, staged_elems; /* of the two rooms */
    unsigned prefetch;                     /* buckets gathered ahead of their use */
    bool sharded[DS_ARENA_COUNT];          /* this rank holds a part of the line */
    bool common[DS_ARENA_COUNT];           /* it sees the whole line and writes a part of it */
    bool offload;                /* PARAMS and MOMENTS are the host's, which updates them */
    bool offload_params;         /* what kernels read is the host's, and comes for each use */
    bool host[DS_ARENA_COUNT];   /* the arena lies in the host's memory */
    bool apart;                  /* that is another than the device's */
    bool late;                   /* it decides what becomes of a step, and the host is told later */
    bool copies;                 /* kernels read PARAMS_LOW, a copy of PARAMS in their type */
    uint64_t room_elems;         /* of each half of HOST_ROOM */
    struct ds_plan_piece *piece; /* in the order of updates */
    size_t pieces;               /* 0: states are in memory */
    unsigned piece_rooms;        /* in MOMENTS */
    uint64_t piece_room_bytes;   /* of each */
    uint64_t disk_bytes;         /* of the file, read and written once a step */
    struct ds_plan_buffer *buffer;
    size_t buffers;
    struct ds_program step, eval;
    uint64_t logit_rows, logit_ld; /* one classifier chunk: rows, elements from row to row */
    uint64_t arena_bytes[DS_ARENA_COUNT];
    uint64_t scratch_bytes;    /* of one stream; part of STAGING */
    uint64_t snapshot_bytes;   /* of a checkpoint written behind; 0: none is; part of STAGING */
    uint64_t comm_bytes;       /* of the comm and of the groups in it; part of STAGING */
    uint64_t peer_bytes;       /* shared pages of other ranks that this one touches too */
    struct ds_plan_part *part; /* [pipeline_ranks]; NULL: there is no pipeline */
    uint64_t shared_at[DS_ARENA_COUNT]; /* in the comm's arena, or DS_NOT_SHARED */
    uint64_t shared_bytes;              /* of the comm's arena */
    uint64_t common_bytes; /* of the common arena: held once by the ranks of the host, from its */
    uint64_t beside_bytes; /* start on; then what each rank has of its own: what is replicated */
    struct ds_plan_traffic traffic[DS_COMM_OP_COUNT];
    uint64_t wire_bytes_per_step; /* sent by one rank, but for the flags */
    uint64_t messages_per_step;
    double flops_per_token;
    double fp8_flops_per_token; /* of those */
    uint64_t hash;
};

struct ds_plan_args {
    const struct ds_job *job; /* resolved */
    unsigned world, rank, threads;
    unsigned local_world; /* ranks of each host; 0: all on one */
    bool apart;           /* the device has memory of its own */
    bool common;          /* ranks of a host can hold once what all of them read */
};

/* Does a plan of these gather parameters ahead of each use?  That is stage 3, but where the ranks
 * that share hold all of them once (zero.once_per_host). */
bool ds_plan_gathers_ahead(const struct ds_plan_args *args);

/* The type of activations and of the parameters that kernels read. */
static inline enum ds_dtype ds_compute_dtype(enum ds_compute compute)
{
    return compute == DS_COMPUTE_FP32 ? DS_F32 : compute == DS_COMPUTE_BF16 ? DS_BF16 : DS_F16;
}

/* -EINVAL job and world do not fit, -EOVERFLOW, -ENOMEM. */
int ds_plan_build(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds_plan_release(struct ds_plan *plan);

/* Ranks that have sequences of their own, and the place of this one's among them. */
static inline unsigned ds_plan_data_ranks(const struct ds_plan *plan)
{
    return plan->holders / plan->sequence_ranks;
}
static inline unsigned ds_plan_data_rank(const struct ds_plan *plan)
{
    return plan->holder / plan->sequence_ranks;
}
/* Has this rank the first block, the last one? */
static inline bool ds_plan_embeds(const struct ds_plan *plan)
{
    return plan->first_block == 0;
}
static inline bool ds_plan_classifies(const struct ds_plan *plan)
{
    return plan->end_block == ds_model_blocks(&plan->shape);
}
/* Do some tokens not see all that are before them? */
static inline bool ds_plan_sees_less(const struct ds_plan *plan)
{
    return plan->window > 0 || plan->documents;
}
/* In how many ways: where some layers have a window and all keep documents apart, the first is
 * theirs and the second that of the others; else it is one, or none. */
static inline unsigned ds_plan_sights(const struct ds_plan *plan)
{
    if (plan->window > 0 && plan->documents && plan->shape.full_every > 0)
        return 2;
    return ds_plan_sees_less(plan) ? 1 : 0;
}
/* Numbers that say so of a micro-batch: the first token that each sees, in whole sequences. */
static inline uint64_t ds_plan_lows(const struct ds_plan *plan)
{
    return ds_plan_sights(plan) * plan->micro_batch * plan->whole_sequence;
}
/* Has it an end of the line, which needs the tokens, or must it know who sees whom? */
static inline bool ds_plan_reads_ids(const struct ds_plan *plan)
{
    return ds_plan_embeds(plan) || ds_plan_classifies(plan) || ds_plan_sees_less(plan);
}
/* The ranks with the same parameters, and this one's place among them: of most of them all holders,
 * of experts every P-th.  In ranks `stride` is from one to the next. */
struct ds_plan_holders {
    unsigned count, place, stride;
    unsigned shards, shard;     /* of a shard group */
    unsigned replicas, replica; /* groups */
};
struct ds_plan_holders ds_plan_holders(const struct ds_plan *plan, bool experts);
static inline struct ds_plan_holders ds_plan_holders_of(const struct ds_plan *plan, size_t bucket)
{
    return ds_plan_holders(plan, plan->bucket[bucket].experts);
}
/* All of them; of those the ones of a shard group, and those with the same shard. */
static inline struct ds_comm_group ds_plan_holders_group(const struct ds_plan *plan, bool experts)
{
    const struct ds_plan_holders of = ds_plan_holders(plan, experts);

    return (struct ds_comm_group){
        .first = plan->rank - of.place * of.stride, .stride = of.stride, .count = of.count};
}
static inline struct ds_comm_group ds_plan_inside_group(const struct ds_plan *plan, bool experts)
{
    const struct ds_plan_holders of = ds_plan_holders(plan, experts);

    return (struct ds_comm_group){
        .first = plan->rank - of.shard * of.stride, .stride = of.stride, .count = of.shards};
}
static inline struct ds_comm_group ds_plan_across_group(const struct ds_plan *plan, bool experts)
{
    const struct ds_plan_holders of = ds_plan_holders(plan, experts);
    const unsigned stride = of.shards * of.stride;

    return (struct ds_comm_group){
        .first = plan->rank - of.replica * stride, .stride = stride, .count = of.replicas};
}
/* Has a rank all of the bucket in every line, at any stage? */
static inline bool ds_plan_whole(const struct ds_plan *plan, size_t bucket)
{
    return plan->bucket[bucket].replicated ||
           (plan->bucket[bucket].experts && ds_plan_holders(plan, true).shards == 1);
}
/* The ranks that divide the experts with this one. */
static inline struct ds_comm_group ds_plan_meet_group(const struct ds_plan *plan)
{
    return (struct ds_comm_group){.first = plan->rank - plan->expert_rank * plan->tensor_ranks,
                                  .stride = plan->tensor_ranks,
                                  .count = plan->expert_ranks};
}
/* Experts of a layer that this rank has, those of its place; the place of who has a tensor. */
static inline uint64_t ds_plan_experts(const struct ds_plan *plan)
{
    return plan->shape.experts / plan->expert_ranks;
}
unsigned ds_plan_expert_place(const struct ds_plan *plan, size_t tensor);
/* Rows that come to this rank's experts: of all that divide them; and room for them once each is
 * there as often as it has experts here.  Without experts the rows of a micro-batch. */
uint64_t ds_plan_met_rows(const struct ds_plan *plan);
uint64_t ds_plan_sorted_rows(const struct ds_plan *plan);
/* Where in DS_BUFFER_ROUTES lies what routers have said. */
struct ds_model_routes ds_plan_routes(const struct ds_plan *plan);
/* Ranks with the same layers, or parts of them: they follow each other. */
static inline unsigned ds_plan_part_ranks(const struct ds_plan *plan)
{
    return plan->holders * plan->tensor_ranks;
}
static inline struct ds_comm_group ds_plan_part_group(const struct ds_plan *plan)
{
    const unsigned ranks = ds_plan_part_ranks(plan);

    return (struct ds_comm_group){.first = plan->rank / ranks * ranks, .stride = 1, .count = ranks};
}
/* Do these sum norms, and are they neither all ranks nor holders? */
static inline bool ds_plan_splits_part(const struct ds_plan *plan)
{
    return plan->by_tensor && plan->tensor_ranks > 1 && plan->pipeline_ranks > 1;
}
/* The ranks that share each layer with this one. */
static inline struct ds_comm_group ds_plan_team_group(const struct ds_plan *plan)
{
    return (struct ds_comm_group){
        .first = plan->rank - plan->tensor_rank, .stride = 1, .count = plan->tensor_ranks};
}
/* This one's place among `doubled` ranks of a team that have something alike; all of these. */
static inline unsigned ds_plan_doubled_place(const struct ds_plan *plan, unsigned doubled)
{
    return plan->tensor_rank % doubled;
}
static inline struct ds_comm_group ds_plan_doubled_group(const struct ds_plan *plan,
                                                         unsigned doubled)
{
    return (struct ds_comm_group){
        .first = plan->rank - ds_plan_doubled_place(plan, doubled), .stride = 1, .count = doubled};
}
/* Those that have the same key/value heads. */
static inline struct ds_comm_group ds_plan_kv_group(const struct ds_plan *plan)
{
    return ds_plan_doubled_group(plan, plan->kv_ranks);
}
/* This rank and its like of the part before or behind, in two turns: those from parts of even
 * number on, then the others; of one rank where there is no such part. */
enum { DS_PLAN_PAIRS = 2 };
struct ds_comm_group ds_plan_pair_group(const struct ds_plan *plan, unsigned turn);
/* The likes at both ends of the line, if this rank is one; else of itself. */
struct ds_comm_group ds_plan_tie_group(const struct ds_plan *plan);
/* Is an embedding held by two parts? */
static inline bool ds_plan_ties(const struct ds_plan *plan)
{
    return plan->pipeline_ranks > 1 && plan->shape.tie_embeddings;
}
/* Groups that a rank is in at most: those of above and below. */
enum { DS_PLAN_GROUPS = 14 };
/* Do ranks speak to each other in the middle of a pass? */
static inline bool ds_plan_speaks(const struct ds_plan *plan)
{
    return plan->sequence_ranks > 1 || plan->tensor_ranks > 1 || plan->expert_ranks > 1;
}
/* The ranks that share this one's sequences. */
static inline struct ds_comm_group ds_plan_sequence_group(const struct ds_plan *plan)
{
    return (struct ds_comm_group){.first = plan->rank - plan->sequence_rank * plan->tensor_ranks,
                                  .stride = plan->tensor_ranks,
                                  .count = plan->sequence_ranks};
}

/* Key/value heads of the attention here: where ranks that share sequences are more than there are,
 * several have the same one.  And elements of a token's queries, keys and values in the attention
 * of all of them. */
static inline uint64_t ds_plan_kv_heads(const struct ds_plan *plan)
{
    const uint64_t each = plan->shape.kv_heads / plan->sequence_ranks;

    return each > 0 ? each : 1;
}
static inline uint64_t ds_plan_swap_width(const struct ds_plan *plan)
{
    return (plan->shape.heads + 2 * ds_plan_kv_heads(plan) * plan->sequence_ranks) *
           plan->shape.head_size;
}

/* What a pass over a layer swaps with those ranks: rows of queries, keys and values, and rows of
 * what the attention makes of them, in bytes of an all_to_all; 0: they are there. */
enum { DS_PLAN_SWAPS = 2 };
void ds_plan_swaps(const struct ds_plan *plan, const struct ds_instr *instr,
                   uint64_t bytes[DS_PLAN_SWAPS]);

/* What a team adds up in a pass: so many times `bytes` of activations; and of the classifier's rows
 * what each rank says of them (kernels/op.h), chunk after chunk, `said` bytes of all in all. */
struct ds_plan_sums {
    unsigned calls, chunks;
    uint64_t bytes, said;
};
struct ds_plan_sums ds_plan_sums(const struct ds_plan *plan, const struct ds_instr *instr);

/* What ranks that divide experts tell each other in a pass over a layer, in bytes of all of them:
 * `gathers` times an all_gather of `rows`, one of the experts of each and one as large of their
 * weights, an all_to_all of what was made of rows, an all_reduce of gradients of weights; 0: no. */
struct ds_plan_meets {
    unsigned gathers;
    uint64_t rows, said, parts, weights;
};
struct ds_plan_meets ds_plan_meets(const struct ds_plan *plan, const struct ds_instr *instr);

/* Bytes of F32 that the backward pass of a layer adds up: over a team gradients of the weights of
 * tokens' experts, and of norms of heads; over those who share sequences the tokens of each expert.
 * 0: all is here. */
struct ds_plan_adds {
    uint64_t weights, norms, loads;
};
struct ds_plan_adds ds_plan_adds(const struct ds_plan *plan, const struct ds_instr *instr);

/* Ids of the vocabulary that this rank has: shape.vocab from `first` on, of which `count` are some;
 * what is behind them is padding. */
struct ds_plan_ids {
    uint64_t first, count;
};
struct ds_plan_ids ds_plan_ids(const struct ds_plan *plan);

/* Where in a tensor of the model lies what this rank has of it: rows from element `first` on, `row`
 * elements apart, and in each, if there are any, some runs, one behind the other here.  Where those
 * are rows from several places, all of the tensor is one row. */
enum { DS_PLAN_RUNS = 3 };
struct ds_plan_cut {
    struct ds_param whole;
    uint64_t first, elems; /* elems: what is behind them is padding */
    uint64_t row, width;   /* elements of a row there, and here */
    bool of_rows;          /* the runs are of whole rows of the tensor */
    unsigned runs;
    struct {
        uint64_t first, count;
    } run[DS_PLAN_RUNS];
};
struct ds_plan_cut ds_plan_cut(const struct ds_plan *plan, size_t tensor);
/* The element of the model's tensor that element `at` here is, and how many follow each other from
 * there on in both; of padding DS_PLAN_PADDING. */
#define DS_PLAN_PADDING UINT64_MAX
uint64_t ds_plan_cut_at(const struct ds_plan_cut *cut, uint64_t at, uint64_t *together);

/* Elements first .. first + count of a flat line, or of a tensor in row-major order, which
 * lie at element `at` of an arena. */
struct ds_held {
    uint64_t first, count, at;
};

/* What of the line of `bucket` this rank holds in `arena`: PARAMS, PARAMS_LOW, GRADS, HOST_GRADS or
 * MOMENTS (the first state; of the second ds_plan_state_at()).  Counted from the bucket's start.
 * Of what is common a rank holds its shard: others write the rest.  Nothing of what is frozen, but
 * in the line that kernels read. */
struct ds_held ds_plan_held(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket);
/* What of parameter `param`, in its own row-major elements; count 0: nothing. */
struct ds_held ds_plan_held_param(const struct ds_plan *plan, enum ds_arena_kind arena,
                                  size_t param);
/* Is a tensor of this rank's block trained, which it has?  And the classifier's matrix? */
bool ds_plan_trains(const struct ds_plan *plan, uint32_t block, enum ds_role role);
static inline bool ds_plan_trains_head(const struct ds_plan *plan)
{
    const uint32_t block = ds_model_blocks(&plan->shape) - 1;

    return plan->shape.tie_embeddings ? ds_plan_trains(plan, 0, DS_ROLE_WTE)
                                      : ds_plan_trains(plan, block, DS_ROLE_HEAD_W);
}
/* Is that a part, which other ranks of the shard group complete? */
bool ds_plan_divides(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket);
/* Where the bucket begins in an arena that has it whole. */
uint64_t ds_plan_bucket_at(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket);
/* What this rank updates: its shard, or a bucket that is replicated.  `at` as in ds_plan_held(). */
struct ds_held ds_plan_shard(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket);
/* This rank's slice, and what of parameter `param` lies in it. */
struct ds_held ds_plan_slice(const struct ds_plan *plan, enum ds_arena_kind arena, size_t bucket);
struct ds_held ds_plan_slice_param(const struct ds_plan *plan, enum ds_arena_kind arena,
                                   size_t param);
/* What of `held` lies in elements first .. first + count, counted from `first`; for spans. */
struct ds_held ds_held_within(struct ds_held held, uint64_t first, uint64_t count);
/* What of a span this rank updates, in elements of the span. */
struct ds_held ds_plan_held_span(const struct ds_plan *plan, enum ds_arena_kind arena,
                                 const struct ds_plan_span *span);
/* Of the same its gradient, where it is of `bucket` and other ranks of the team have parts of that;
 * else count 0. */
struct ds_held ds_plan_doubled(const struct ds_plan *plan, size_t bucket, size_t span);
/* What all of a team have of the matrix that a span is a part of, in elements; 0: it is whole here,
 * or is none that is updated as a whole. */
uint64_t ds_plan_matrix_parts(const struct ds_plan *plan, const struct ds_plan_span *span);
/* Is it another rank, of the team or of another part, that counts and writes it? */
bool ds_plan_twin(const struct ds_plan *plan, size_t param);
/* Norms that are summed over the ranks of a part for tensors, two for a span, or 0, and for each
 * place of who divides experts, whose spans are other tensors; where a span's are; and the room for
 * them: what each rank has made where the device adds them up, and two that do not count. */
uint64_t ds_plan_norms(const struct ds_plan *plan);
uint64_t ds_plan_norms_at(const struct ds_plan *plan, size_t span);
uint64_t ds_plan_norms_bytes(const struct ds_plan *plan);
/* Elements of one line of `arena` on this rank. */
uint64_t ds_plan_line_elems(const struct ds_plan *plan, enum ds_arena_kind arena);
/* Of each of the optimizer's states, which lie one behind the other in MOMENTS; and where in the
 * line of a state lies what `at` of MOMENTS is of the first.  Matrices that an optimizer updates as
 * a whole have no second state. */
uint64_t ds_plan_state_elems(const struct ds_plan *plan, unsigned state);
uint64_t ds_plan_state_at(const struct ds_plan *plan, size_t bucket, unsigned state, uint64_t at);

/* What a piece has of a state: elements first .. first + count of that state's line, which lie at
 * element `at` of the piece's room, and of its place in the file. */
struct ds_held ds_plan_piece_state(const struct ds_plan *plan, size_t piece, unsigned state);

/* The place of a bucket, which is not frozen, in the order of updates by the host: forward, and
 * before all what every layer reads.  The half of HOST_ROOM that its new parameters pass through is
 * that modulo 2. */
size_t ds_plan_turn(const struct ds_plan *plan, size_t bucket);

/* Does the layer of this block compute something again before its BACKWARD; is `buffer` one of what
 * it has dropped until then? */
bool ds_plan_recomputes(const struct ds_plan *plan, uint32_t block);
bool ds_plan_drops(const struct ds_plan *plan, uint32_t block, enum ds_buffer buffer);

/* Settle activation.recompute auto: the least that lets `ranks` such ranks fit in
 * `available_bytes`; full where nothing does.  args->job is `job`.  Errors of ds_plan_build(). */
int ds_plan_settle(struct ds_job *job, const struct ds_plan_args *args, unsigned ranks,
                   uint64_t available_bytes, struct ds_error *err) DS_NODISCARD;

/* Peak resident size of this rank: all arenas and the peers' pages it touches; of a device that is
 * apart, without the host's. */
uint64_t ds_plan_total_bytes(const struct ds_plan *plan);
/* The arenas in the host's memory. */
uint64_t ds_plan_host_bytes(const struct ds_plan *plan);
/* What `ranks` such ranks add to the memory of the host, or of their devices: what they hold once
 * counts once, pages that several touch where they belong. */
uint64_t ds_plan_ranks_bytes(const struct ds_plan *plan, unsigned ranks);

/* FLOP/s of which utilisation is a share: where products of FP8 have a peak of their own, the rate
 * at which a step takes as long as all its FLOPs do, each at the peak of its type. */
double ds_plan_peak(const struct ds_plan *plan, double peak, double fp8_peak);

/* Does this host hold `ranks` such ranks?  `available_bytes` from ds_mem_available(); of a plan
 * that is apart, a device's.  -ENOMEM with the table of arenas in the text. */
int ds_plan_check_fit(const struct ds_plan *plan, unsigned ranks, uint64_t available_bytes,
                      struct ds_error *err) DS_NODISCARD;

/* The same for what `ranks` ranks of a host with devices apart keep in its memory. */
int ds_plan_check_host(const struct ds_plan *plan, unsigned ranks, uint64_t available_bytes,
                       struct ds_error *err) DS_NODISCARD;

/* Memory this process may still take: the least of MemAvailable, a cgroup's limit and the next. */
uint64_t ds_mem_available(void);
/* What RLIMIT_AS leaves of addresses, UINT64_MAX: there is no limit.  It is one process', but every
 * rank of a host maps the arenas of all. */
uint64_t ds_mem_addresses(void);

/* "instruction 17 of 40: REDUCE bucket 3" of a step, as snprintf() would write it. */
size_t ds_plan_instr_text(const struct ds_plan *plan, size_t at, char *out, size_t cap);

/* "FORWARD", "COMPUTE", "parameters". */
const char *ds_instr_op_name(enum ds_instr_op op);
const char *ds_queue_name(enum ds_queue queue);
const char *ds_arena_name(enum ds_arena_kind kind);
const char *ds_buffer_name(enum ds_buffer buffer);
const char *ds_pass_name(enum ds_pass pass);

/* What a person wants to know before the first step, in five lines. */
void ds_plan_describe(const struct ds_plan *plan, const struct ds_job *job, struct ds_buf *out);
/* The tables of dsrun plan: memory by arena; that and the buckets; the instructions; all as
 * members of an open JSON object. */
void ds_plan_print_memory(const struct ds_plan *plan, struct ds_buf *out);
void ds_plan_print(const struct ds_plan *plan, struct ds_buf *out);
void ds_plan_print_schedule(const struct ds_plan *plan, struct ds_buf *out);
void ds_plan_print_json(const struct ds_plan *plan, bool schedule, struct ds_json *json);

#endif
