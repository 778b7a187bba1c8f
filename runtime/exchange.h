/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * exchange.h - what REDUCE and GATHER move between ranks, and where a bucket lies for the kernels.
 *
 * A bucket is divided among the ranks of this rank's shard group or held whole, as the plan says;
 * nothing here knows more of a stage.  Where shard groups are repeated, a reduced shard is summed
 * across the groups as well.  Sums over ranks have the order of comm.h; sums over micro-batches add
 * in the order of the micro-batches.  With precision.grad_wire bf16 gradients are rounded before
 * they are summed over ranks and after every hop of that: in the group, then across groups.
 *
 * In a pipeline all that is between ranks with the same parameters; what parts pass to each
 * other is relay.h's.
 *
 * Tests   tests/engine/test_stages.c
 */
#ifndef DS_RUNTIME_EXCHANGE_H
#define DS_RUNTIME_EXCHANGE_H

#include "base/error.h"
#include "kernels/device.h"
#include "runtime/comm/comm.h"
#include "runtime/plan/plan.h"

/* Who has the same parameters: of experts that ranks divide others than of all else. */
struct ds_exchange_holders {
    struct ds_comm *all;             /* NULL: nobody else */
    struct ds_comm *inside, *across; /* the shard group; its likes, or NULL */
};

struct ds_exchange {
    const struct ds_plan *plan;
    struct ds_comm *everybody;
    struct ds_exchange_holders of[2]; /* of most parameters; of experts */
    struct ds_comm *meet;             /* who divides experts with this rank, or NULL */
    struct ds_comm *sequence;         /* who shares this rank's sequences, or NULL */
    struct ds_comm *team;             /* who shares its layers, or NULL */
    struct ds_comm *kv;               /* of them, who has the same key/value heads, or NULL */
    struct ds_comm *part;             /* all of its part, who sum norms; or NULL */
    struct ds_comm *pair[DS_PLAN_PAIRS], *ends; /* of a pipeline: ds_plan_pair_group(), .._tie_.. */
    void *memory[DS_ARENA_COUNT]; /* borrowed; NULL where the plan has no such arena */
    enum ds_arena_kind own;       /* what the kernels read is made of: PARAMS(_LOW) */
    size_t param_bytes;           /* of an element of that */
};

/* `memory` holds every arena but what is shared, which is found in the comm's.  Collective where
 * there are shard groups. */
int ds_exchange_open(struct ds_exchange *exchange, const struct ds_plan *plan, struct ds_comm *comm,
                     void *const memory[DS_ARENA_COUNT], struct ds_error *err) DS_NODISCARD;
void ds_exchange_close(struct ds_exchange *exchange);

/* Element 0 of a bucket as kernels read its parameters, write its gradients. */
void *ds_exchange_params(const struct ds_exchange *exchange, size_t bucket);
/* This rank's shard of what the first is made of. */
void *ds_exchange_own(const struct ds_exchange *exchange, size_t bucket);
float *ds_exchange_grads(const struct ds_exchange *exchange, size_t bucket);

/* On the stream of the instruction's queue; the collectives, too, where they are queued. */
int ds_exchange_reduce(struct ds_exchange *exchange, const struct ds_instr *instr,
                       struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;
int ds_exchange_gather(struct ds_exchange *exchange, size_t bucket, struct ds_stream *stream,
                       struct ds_error *err) DS_NODISCARD;

/* What is frozen and no step gathers, once on all ranks, where each has written its part. */
int ds_exchange_gather_frozen(struct ds_exchange *exchange, struct ds_stream *stream,
                              struct ds_error *err) DS_NODISCARD;

/* What this rank has sent since it was opened, groups included. */
void ds_exchange_stats(const struct ds_exchange *exchange, enum ds_comm_op op,
                       struct ds_comm_stats *stats);

#endif
