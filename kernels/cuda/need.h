/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * need.h - what operations take of a device's scratch memory; for the planner, too.
 */
#ifndef DS_KERNELS_CUDA_NEED_H
#define DS_KERNELS_CUDA_NEED_H

#include <stddef.h>

#include "base/limits.h"

/* Sums over rows are made in so many slabs of them, at most (columns.cuh); rows of whole words of a
 * norm, which a block at a time takes as a whole, in more where they are shorter than NORM_COLUMNS,
 * so that there is as much to do at a time (norm.cu). */
enum { DS_NEED_SLABS = 128, DS_NEED_NORM_COLUMNS = 8192 };

/* Gradients of a norm's two parameters. */
static inline size_t ds__need_norm_columns(size_t channels)
{
    size_t columns = channels > DS_NEED_NORM_COLUMNS ? channels : (size_t)DS_NEED_NORM_COLUMNS;

    return 2 * sizeof(float) * DS_NEED_SLABS * columns;
}

/* Gradients of the weights of query and key heads, which are short: more slabs (head_norm.cu). */
enum { DS_NEED_HEAD_SLABS = 512 };

static inline size_t ds__need_head_norm(size_t head_size)
{
    return 2 * sizeof(float) * DS_NEED_HEAD_SLABS * head_size;
}

/* The gradient of a bias. */
static inline size_t ds__need_bias_columns(size_t n)
{
    return sizeof(float) * DS_NEED_SLABS * n;
}

/* The gradient of a table: tokens are sorted by a digit of their ids at a time, blocks of SORTED
 * tokens, and added up by pieces of PIECE tokens of the order (sort.cuh, embed.cu). */
enum { DS_NEED_DIGITS = 512, DS_NEED_SORTED = 1024, DS_NEED_PIECE = 32 };

/* Two orders of ids and tokens, how often each digit comes in each block and in all, two sums of
 * each piece. */
static inline size_t ds__need_embed(size_t tokens, size_t channels)
{
    size_t blocks = (tokens + DS_NEED_SORTED - 1) / DS_NEED_SORTED;
    size_t pieces = (tokens + DS_NEED_PIECE - 1) / DS_NEED_PIECE;

    return 4 * sizeof(unsigned) * tokens + sizeof(unsigned) * DS_NEED_DIGITS * (blocks + 1) +
           2 * sizeof(float) * pieces * channels;
}

/* How many pairs of each slice of a sequence every expert has, where sequences have more than one:
 * so there are at most twice as many slices as if all were full (route.cu). */
enum { DS_NEED_SLICE = 2048 };

static inline size_t ds__need_route(size_t pairs)
{
    return 2 * (pairs / DS_NEED_SLICE) * DS_MAX_EXPERTS * sizeof(float);
}

/* The order of pairs: how often each digit comes, as above, experts and pairs in it (route.cu). */
static inline size_t ds__need_sort_pairs(size_t pairs)
{
    size_t blocks = (pairs + DS_NEED_SORTED - 1) / DS_NEED_SORTED;

    return sizeof(unsigned) * (DS_NEED_DIGITS * (blocks + 1) + 2 * pairs);
}

/* A number of each query of each head, in our own backward pass of attention. */
static inline size_t ds__need_dots(size_t rows, size_t heads)
{
    return sizeof(float) * rows * heads;
}

/* Attention by cuDNN: the backward pass of one sequence and one key/value head, which `group` query
 * heads share: gradients of scores, two bytes each, which cuDNN adds up in one order, sums of each
 * query, and for a group two gradients of each query head.  cuDNN 9.19 says so of its kernels for
 * sm_80, sm_90 and sm_100. */
static inline size_t ds__need_sdpa(size_t seq, size_t size, size_t group)
{
    size_t columns = (seq + 63) / 64 * 64;

    return group * columns * (columns * 2 + 4 + (group > 1 ? size * 4 : 0));
}

/* What it takes beside that, whatever the shape: two small areas, rounded up. */
enum { DS_NEED_SDPA_REST = 1024 };

#endif
