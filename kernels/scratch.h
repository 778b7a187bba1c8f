/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * scratch.h - how much scratch memory the CPU backend needs for a set of shapes.
 *
 * Pure arithmetic, linked into the planner as well, so that the memory is in
 * the plan before it is allocated.
 */
#ifndef DS_KERNELS_SCRATCH_H
#define DS_KERNELS_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/dtype.h"

struct ds_scratch_query {
    unsigned threads;
    enum ds_dtype act;
    size_t rows;   /* B*T of a micro-batch */
    size_t seq;    /* T; of a cache, the rows that it has room for */
    size_t hidden; /* C */
    size_t normed; /* the widest row of a norm, where it is wider */
    size_t heads, kv_heads, head_size;
    size_t ffn_in; /* widest output row of a block: 2F for SwiGLU, F for GELU, ... */
    size_t vocab;
    size_t logit_rows; /* rows of one classifier chunk */
    size_t pairs;      /* of a row and an expert, of all who divide experts; 0: there are none */
    size_t fp8_elems;  /* of both operands of the largest product of FP8; 0: none is */
    bool library;      /* on a device a library may do attention: of all keys, and of all weights */
    bool cached;       /* attention is against a cache */
};

/* Upper bound over all operations of a step with these shapes. */
size_t ds_scratch_bytes(const struct ds_scratch_query *query);

/* Of the CPU beside a device apart, which updates, sums up gradients and copies: of any shapes. */
size_t ds_scratch_beside_bytes(void);

/* What a device apart has for all operations, at least: the largest are partial sums of norms,
 * biases and attention. */
enum { DS_DEVICE_SCRATCH_BYTES = 64 << 20 };

/* With what a library's attention asks for beside that, so that it does much at once: of a
 * micro-batch, at most ATTENTION_BYTES; of one key/value head where that is more, at most twice. */
enum { DS_DEVICE_ATTENTION_BYTES = 512 << 20 };
size_t ds_scratch_device_bytes(const struct ds_scratch_query *query);

#endif
