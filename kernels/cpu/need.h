/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * need.h - scratch memory of the CPU kernels, and the block sizes it follows from.
 *
 * Block sizes depend on shapes only, never on the number of threads, for they
 * decide the order of sums.
 */
#ifndef DS_KERNELS_CPU_NEED_H
#define DS_KERNELS_CPU_NEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* clang-format off */
enum {
    DS_LINE_FLOATS    = 16,  /* floats in a cache line */
    DS_TILE_ROWS      = 192,  /* matmul: rows of A packed at a time */
    DS_TILE_M         = 576,  /* rows of a tile that is summed in scratch */
    DS_TILE_N         = 1024,
    DS_TILE_K         = 256,
    DS_UNPACKED_N     = 256,  /* A is not packed for fewer columns */
    DS_SMALL_GRADIENT = 256 * 1024, /* elements of a gradient of weights that is computed here */
    DS_SUMSQ_GROUP    = 1024, /* chunks summed at a time */
    DS_ROW_BLOCK      = 32,   /* rows of one partial column sum, at least */
    DS_ROW_BLOCKS_MAX = 16,   /* partial column sums of one operation */
    DS_QUERY_BLOCK    = 64,   /* attention: queries of a tile */
    DS_KEY_BLOCK      = 256,  /* attention: keys of a tile, a multiple of that */
    DS_QUERY_SPAN     = 512,  /* attention: queries of a forward task, a multiple of both */
    DS_SCORE_LD       = DS_KEY_BLOCK + 16, /* off the powers of two: rows in different cache sets */
    DS_PANEL_MAX      = 32,   /* columns of a panel on any instruction set */
    DS_CACHE_UNIT     = 64,   /* keys of a tile of a cache, as DS_CACHE_TILE */
    DS_CACHE_PIECE    = 256,  /* attention of one row: keys of a task, at least */
    DS_CACHE_PIECES   = 64,   /* tasks of a head, at most */
};
/* clang-format on */

static inline size_t ds__round_line(size_t floats)
{
    return (floats + DS_LINE_FLOATS - 1) / DS_LINE_FLOATS * DS_LINE_FLOATS;
}

/* Partial column sums over `rows` rows: how many, and over how many rows each. */
static inline size_t ds__row_blocks(size_t rows)
{
    size_t blocks = rows / DS_ROW_BLOCK;

    if (blocks == 0)
        return 1;
    return blocks < DS_ROW_BLOCKS_MAX ? blocks : DS_ROW_BLOCKS_MAX;
}

/* Packed A and B, and below F32 the sums of a tile. */
static inline size_t ds__need_matmul(unsigned threads, bool low)
{
    return threads * sizeof(float) *
           ((size_t)DS_TILE_ROWS * DS_TILE_K + (size_t)DS_TILE_K * DS_TILE_N +
            (low ? (size_t)DS_TILE_M * DS_TILE_N : 0));
}

/* Both operands widened to 16 bits, `elems` together, behind what their product takes. */
static inline size_t ds__need_fp8(unsigned threads, size_t elems)
{
    return elems == 0 ? 0 : ds__need_matmul(threads, true) + elems * sizeof(uint16_t);
}

static inline size_t ds__need_bias_bwd(size_t rows, size_t n)
{
    return ds__row_blocks(rows) * ds__round_line(n) * sizeof(float);
}

/* Gradients of a norm's two parameters, or of the weights of query and key heads. */
static inline size_t ds__need_norm_bwd(size_t rows, size_t channels)
{
    return ds__row_blocks(rows) * 2 * ds__round_line(channels) * sizeof(float);
}

/* Per thread: cosines and sines of a position, and the rotation to the next, for each pair. */
static inline size_t ds__need_rope(unsigned threads, size_t head_size)
{
    return threads * (head_size / 2 * (4 * sizeof(double) + 2 * sizeof(float)) + 64);
}

static inline size_t ds__need_sumsq(void)
{
    return DS_SUMSQ_GROUP * 2 * sizeof(double);
}

/* Per thread, in floats: two tiles of scores, tiles of queries and of gradients, outputs, row
 * statistics, and five matrices the size of the keys of one head; see attention.c. */
static inline size_t ds__attention_floats(size_t seq, size_t head_size)
{
    size_t width = (head_size + DS_PANEL_MAX - 1) / DS_PANEL_MAX * DS_PANEL_MAX;
    size_t keys = (seq + DS_QUERY_BLOCK - 1) / DS_QUERY_BLOCK * DS_QUERY_BLOCK;
    size_t span = keys < DS_QUERY_SPAN ? keys : DS_QUERY_SPAN;

    return 2 * (size_t)DS_QUERY_BLOCK * DS_SCORE_LD +
           (3 * (size_t)DS_QUERY_BLOCK + span + 5 * keys) * width + 3 * (size_t)DS_QUERY_SPAN;
}

/* Attention of one row: keys of a task, whole tiles of the cache. */
static inline size_t ds__cache_piece(size_t keys)
{
    size_t piece = (keys + DS_CACHE_PIECES - 1) / DS_CACHE_PIECES;

    return piece < DS_CACHE_PIECE ? DS_CACHE_PIECE
                                  : (piece + DS_CACHE_UNIT - 1) / DS_CACHE_UNIT * DS_CACHE_UNIT;
}

/* Floats of what a task leaves of each query head: sums of values, of weights, and the maximum. */
static inline size_t ds__cache_part(size_t head_size)
{
    return ds__round_line(head_size + 2);
}

/* Those of all tasks; per thread scores of a piece and a query.  Enough for fewer keys, too. */
static inline size_t ds__need_cached(unsigned threads, size_t keys, size_t heads, size_t head_size)
{
    size_t most = (keys + DS_CACHE_PIECE - 1) / DS_CACHE_PIECE;
    size_t pieces = most < DS_CACHE_PIECES ? most : DS_CACHE_PIECES;

    return sizeof(float) * (heads * pieces * ds__cache_part(head_size) +
                            threads * ds__round_line(ds__cache_piece(keys) + head_size));
}

static inline size_t ds__need_attention(unsigned threads, size_t seq, size_t head_size)
{
    return threads * ds__attention_floats(seq, head_size) * sizeof(float);
}

#endif
