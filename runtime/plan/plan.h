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
 *   parameters ─► buckets     bucket.c    consecutive blocks, laid end to end, padded so that every
 *                                         rank owns an equal slice of every bucket
 *   instructions              schedule.c  the step and the evaluation program
 *   buffers ─► offsets        memory.c    activations by lifetime over the instructions
 *   totals                    cost.c      bytes per arena, messages, FLOPs
 *
 * The flat line of a bucket is the same in every arena: a parameter at element `offset` of the
 * parameter arena has its gradient and its two moments at that element of theirs.
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
#include "runtime/job.h"
#include "runtime/model/model.h"

/* clang-format off */
#define DS_INSTR_OPS(X) \
    X(GATHER) X(FREE) X(FORWARD) X(BACKWARD) X(REDUCE) X(NORM) X(UPDATE) \
    X(OFFLOAD) X(FETCH) X(SEND) X(RECV) X(SAVE)
#define DS_QUEUES(X)  X(COMPUTE) X(REDUCE) X(GATHER) X(COPY_IN) X(COPY_OUT)
#define DS_ARENAS(X) \
    X(PARAMS,      "parameters") \
    X(PARAMS_LOW,  "bf16 parameters") \
    X(GRADS,       "gradients") \
    X(MOMENTS,     "optimizer") \
    X(ACTIVATIONS, "activations") \
    X(STAGING,     "staging") \
    X(RUNTIME,     "program and libraries")
/* clang-format on */

enum ds_instr_op {
#define X(id) DS_INSTR_##id,
    DS_INSTR_OPS(X)
#undef X
};
enum ds_queue {
#define X(id) DS_QUEUE_##id,
    DS_QUEUES(X)
#undef X
    DS_QUEUE_COUNT
};
enum ds_arena_kind {
#define X(id, name) DS_ARENA_##id,
    DS_ARENAS(X)
#undef X
    DS_ARENA_COUNT
};

#define DS_NO_EVENT UINT32_MAX

struct ds_instr {
    enum ds_instr_op op;
    enum ds_queue queue;
    uint32_t block, bucket, micro_batch; /* UINT32_MAX where it does not apply */
    uint32_t waits_for, signals;         /* events, tied to one buffer; DS_NO_EVENT: none */
    bool recompute;                      /* FORWARD run again for its activations only */
    bool accumulate;                     /* BACKWARD: gradients of this micro-batch are added */
};

struct ds_program {
    struct ds_instr *instr;
    size_t count;
    uint32_t events;
};

struct ds_plan_param { /* a model parameter with its place */
    struct ds_param param;
    uint32_t bucket;
    uint64_t offset; /* elements from the start of each arena */
};

struct ds_bucket {
    uint32_t first_block, blocks;
    uint64_t offset, elems;  /* real parameters */
    uint64_t padded_elems;   /* a multiple of world * DS_SHARD_ALIGN */
    uint64_t shard_elems;    /* padded_elems / world */
};
enum { DS_SHARD_ALIGN = 16 };

/* One buffer of activations or gradients of activations. */
struct ds_plan_buffer {
    const char *name;       /* "qkv" */
    uint32_t block;
    uint64_t bytes, offset; /* in the activation arena */
    uint32_t first, last;   /* instructions between which it lives */
};

struct ds_plan {
    struct ds_arena arena;
    struct ds_model_shape shape;
    unsigned world, rank, threads;
    uint64_t micro_batches, micro_batch, sequence; /* per rank and step */
    enum ds_compute compute;
    struct ds_plan_param *param;
    size_t params;
    struct ds_bucket *bucket;
    size_t buckets;
    struct ds_plan_buffer *buffer;
    size_t buffers;
    struct ds_program step, eval;
    uint64_t logit_rows;                 /* rows of one classifier chunk */
    uint64_t arena_bytes[DS_ARENA_COUNT];
    uint64_t scratch_bytes;              /* of one stream; part of STAGING */
    uint64_t wire_bytes_per_step;        /* sent by one rank */
    uint64_t messages_per_step;
    double flops_per_token;
    uint64_t hash;
};

struct ds_plan_args {
    const struct ds_job *job; /* resolved */
    unsigned world, rank, threads;
};

/* -EINVAL job and world do not fit, -EOVERFLOW, -ENOMEM. */
int ds_plan_build(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds_plan_release(struct ds_plan *plan);

uint64_t ds_plan_total_bytes(const struct ds_plan *plan); /* all arenas: peak resident size */

/* Does this host hold `ranks` such ranks?  `available_bytes` from ds_mem_available().  -ENOMEM with
 * the table of arenas in the text. */
int ds_plan_check_fit(const struct ds_plan *plan, unsigned ranks, uint64_t available_bytes,
                      struct ds_error *err) DS_NODISCARD;

/* Memory this process may still take: the smaller of MemAvailable and the cgroup's limit. */
uint64_t ds_mem_available(void);

/* "FORWARD", "COMPUTE", "parameters". */
const char *ds_instr_op_name(enum ds_instr_op op);
const char *ds_queue_name(enum ds_queue queue);
const char *ds_arena_name(enum ds_arena_kind kind);

#endif
