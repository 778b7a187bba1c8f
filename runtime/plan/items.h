/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * items.h - what a plan has lists of: parts of a pipeline, instructions, tensors and parameters,
 * buckets, spans, pieces of states, buffers.
 *
 * Tests   tests/plan/
 */
#ifndef DS_RUNTIME_PLAN_ITEMS_H
#define DS_RUNTIME_PLAN_ITEMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/model/model.h"
#include "runtime/plan/names.h"

struct ds_plan_part { /* of a pipeline, as one of its ranks has it */
    uint32_t first_block, end_block;
    unsigned slots;
    uint64_t owned_bytes, total_bytes; /* without the pages of peers, and ds_plan_total_bytes() */
};

#define DS_NO_EVENT UINT32_MAX

struct ds_instr {
    enum ds_instr_op op;
    enum ds_queue queue;
    uint32_t block, bucket, micro_batch; /* UINT32_MAX where it does not apply */
    uint32_t piece;                      /* of the states, to LOAD, STORE or UPDATE; UINT32_MAX */
    uint32_t waits_for, signals;         /* events, tied to one buffer; DS_NO_EVENT: none */
    uint32_t room_after;                 /* one more to wait for: the gradients' place is free */
    bool last_step;                      /* waits_for is of the step before */
    bool room_last_step;                 /* room_after is */
    bool recompute;                      /* FORWARD run again for its activations only */
    bool accumulate; /* gradients are added to what is there, not stored; of a layer's FORWARD: its
                      * slot has what the step has found in weights */
    bool gradient;   /* SEND, RECV: of the block's output, backward; else that output, forward */
    bool paired;     /* SEND: with the RECV behind it, as one; RECV: with the SEND before it */
};

struct ds_program {
    struct ds_instr *instr;
    size_t count;
    uint32_t events;
};

struct ds_plan_tensor {    /* of the model, in its order */
    struct ds_param param; /* as each of a team has it */
    bool replicated;       /* below zero.replicate_below; in a team: held alike */
    bool expert;           /* of one that only every P-th holder has */
    bool frozen;           /* it stays as it is */
    unsigned doubled;      /* ranks of a team that have it alike, and each a part of its gradient */
};

struct ds_plan_param { /* a model parameter of this rank with its place */
    struct ds_param param;
    uint32_t tensor; /* its number in the model */
    uint32_t bucket;
    uint64_t offset; /* elements from the start of each arena */
};

struct ds_bucket {
    uint32_t first_block, blocks;
    uint64_t offset, elems; /* real parameters */
    uint64_t padded_elems;  /* a multiple of its holders * DS_SHARD_ALIGN */
    uint64_t slice_elems;   /* padded_elems / holders */
    uint64_t shard_at;      /* where a rank's part lies in a sharded line, in elements */
    uint64_t loose_elems;   /* the first ones, with all states; behind are matrices of one */
    uint64_t second_at;     /* as offset or shard_at, in the second state's line */
    bool gaps;              /* padding stands between parameters, too (owner.c) */
    bool replicated;        /* whole on every rank */
    bool experts;           /* of experts that only every P-th holder has */
    bool frozen;            /* never updated: without gradients and states */
    bool tied;              /* the matrix of both ends of a pipeline, alone */
    bool doubled;           /* of some of its tensors others of the team have parts of gradients */
    bool twin;              /* another part, or the first of the team, counts it and writes it */
    uint64_t gathered_at, staged_at; /* in GATHERED, STAGED, in elements */
};
enum { DS_SHARD_ALIGN = 16 };

/* A run of neighbouring parameters that the optimizer treats alike; where ranks divide experts, of
 * tensors that follow each other in the model. */
struct ds_plan_span {
    uint32_t bucket;
    uint64_t offset, elems; /* as in ds_plan_param */
    double lr_mult, weight_decay;
    unsigned doubled;    /* as of all of its tensors */
    uint32_t tensor;     /* the first of them, its number in the model */
    uint64_t rows, cols; /* of a matrix that is updated as a whole; 0: element by element */
    double scale;        /* of its update */
};

/* Where the optimizer's states are in a file: what of a bucket is read, updated and written
 * together.  All states of a piece lie one behind the other, in the file and in the room of MOMENTS
 * that it is in while it is here: piece p is in room p modulo piece_rooms.  A piece is LOADed into
 * its room when the one before there is STOREd, and UPDATEd when it is there; that order is the
 * disk's, without events. */
struct ds_plan_piece {
    uint32_t bucket;
    uint64_t first, elems; /* of this rank's shard of the bucket */
    uint64_t at, bytes;    /* in the file */
};
enum { DS_PIECE_ROOMS = 3, DS_PIECE_ALIGN = 4096 /* bytes, as a disk wants it */ };

/* One buffer of activations or gradients of activations.  Every micro-batch uses the same ones, but
 * of those that wait for its backward pass while others pass there is one in each slot: `first` and
 * `last` are instructions of the first micro-batch of the step, for the pass EVAL of the evaluation
 * program. */
struct ds_plan_buffer {
    enum ds_buffer buffer;
    enum ds_pass pass;
    uint32_t block;
    uint64_t bytes, offset; /* in the activation arena */
    uint32_t first, last;   /* instructions between which it lives, both included */
    bool kept;              /* slot s has it slot_bytes * s behind */
};
enum { DS_BUFFER_ALIGN = 64 };

#endif
