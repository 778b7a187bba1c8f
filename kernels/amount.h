/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * amount.h - what an operation cannot do without: arithmetic and memory traffic.
 *
 * The one place of these formulas: the cost model, the rates of a machine, the profile of a step
 * and the benches of kernels all ask here.
 *
 * flops  A multiply and an add of a matrix product or of attention are two; of attention the half
 *        that is visible counts, and its backward pass is five products for two.  Everything else
 *        is bound by memory and counts none.
 * bytes  Every operand passes through memory once: read, written, or both where it is added to.
 *        Left out is what is small beside that: vectors beside matrices (weights of a norm, a bias,
 *        statistics), rows of an embedding's gradient that tokens name, and partial results.
 * Tests  tests/kernels/test_amount.c
 */
#ifndef DS_KERNELS_AMOUNT_H
#define DS_KERNELS_AMOUNT_H

#include "kernels/op.h"

struct ds_amount {
    double flops, bytes;
};

/* `args` is a struct ds_<op>_args.  Of pointers only whether they are NULL counts. */
struct ds_amount ds_op_amount(enum ds_op op, const void *args);

/* The extents of a call in a few words, so that calls that do the same have the same text:
 * "65536x2304x768 bf16", "12x64 heads, 64x1024 tokens". */
enum { DS_OP_SHAPE_BYTES = 72 };
void ds_op_shape(enum ds_op op, const void *args, char out[DS_OP_SHAPE_BYTES]);

#endif
