/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sort.cuh - the tokens of a batch in the order of the rows of their ids, those of one row as they
 * came.
 *
 * By a digit of the id at a time, the lowest first.  A first kernel counts how often each digit
 * comes in each block of SORTED tokens, a second makes of that where a block's tokens begin among
 * all with their digit, a third moves them there.  A warp has WARP tokens after the other and knows
 * by votes which of its lanes have the same digit, so that the order depends on no race.
 */
#ifndef DS_KERNELS_CUDA_SORT_CUH
#define DS_KERNELS_CUDA_SORT_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/need.h"

enum {
    SORT_WARPS = BLOCK / WARP,
    DIGITS = DS_NEED_DIGITS,
    DIGIT_BITS = 9,
    SORTED = DS_NEED_SORTED,
    SORT_ROUNDS = SORTED / BLOCK /* of a warp */
};
static_assert(1 << DIGIT_BITS == DIGITS && DIGITS == 2 * BLOCK, "a thread has two digits");

/* The row of an id.  One outside the table has none, `vocab`, where that is a part of a table, and
 * comes behind all others; else it is a bug of the caller and has row 0. */
static __device__ __forceinline__ size_t row_of(int32_t id, size_t first_id, size_t vocab,
                                                bool partial)
{
    size_t row = (size_t)id - first_id; /* far above `vocab` in front of the first */

    return row < vocab ? row : partial ? vocab : 0;
}

static __device__ __forceinline__ unsigned id_at(const struct ds_embed_bwd_args &a, unsigned token)
{
    unsigned seq = (unsigned)a.seq;
    int32_t id = a.ids[token / seq * a.ids_ld + token % seq];

    return (unsigned)row_of(id, a.first_id, a.vocab, a.partial);
}

/* An order of the tokens, and their ids in it. */
struct order {
    unsigned *id, *token; /* nullptr: as they came */
};

/* How often each digit comes: in block b of `blocks`, at [digit * blocks + b], and in all. */
struct digit_counts {
    unsigned *block, *all, blocks;
};

/* A warp's tokens: ids, and which of the warp's with the same digit each one is. */
struct sorting {
    unsigned id[SORT_ROUNDS], rank[SORT_ROUNDS];
};

static __device__ __forceinline__ unsigned first_of_warp()
{
    return blockIdx.x * SORTED + threadIdx.x / WARP * (SORTED / SORT_WARPS) + threadIdx.x % WARP;
}

/* Lanes that are `there` with the same digit. */
static __device__ __forceinline__ unsigned same_digit(unsigned digit, bool there)
{
    unsigned same = __ballot_sync(0xffffffffu, there);

    for (int bit = 0; bit < DIGIT_BITS; bit++) {
        bool set = digit >> bit & 1;
        unsigned all = __ballot_sync(0xffffffffu, set);

        same &= set ? all : ~all;
    }
    return same;
}

/* `count` is then how often each digit comes in each warp.  All threads of the block call. */
static __device__ __forceinline__ void rank_tokens(const struct ds_embed_bwd_args &a,
                                                   const struct order &from, unsigned tokens,
                                                   unsigned shift, struct sorting &s,
                                                   unsigned (&count)[SORT_WARPS][DIGITS])
{
    unsigned lane = threadIdx.x % WARP, *mine = count[threadIdx.x / WARP];

    for (unsigned d = lane; d < DIGITS; d += WARP)
        mine[d] = 0;
    DS_UNROLL
    for (unsigned k = 0; k < SORT_ROUNDS; k++) {
        unsigned i = first_of_warp() + k * WARP;

        s.id[k] = i >= tokens ? 0 : from.id != nullptr ? from.id[i] : id_at(a, i);
    }
    DS_UNROLL
    for (unsigned k = 0; k < SORT_ROUNDS; k++) {
        unsigned digit = s.id[k] >> shift & (DIGITS - 1), before;
        bool there = first_of_warp() + k * WARP < tokens;
        unsigned same = same_digit(digit, there), lower = same & ((1u << lane) - 1);

        __syncwarp();
        before = mine[digit];
        __syncwarp(); /* before it is written */
        s.rank[k] = before + __popc(lower);
        if (there && lower == 0)
            mine[digit] = before + __popc(same);
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(BLOCK)
    count_digits(struct ds_embed_bwd_args a, struct order from, unsigned tokens, unsigned shift,
                 struct digit_counts counts)
{
    __shared__ unsigned count[SORT_WARPS][DIGITS];
    struct sorting s;

    rank_tokens(a, from, tokens, shift, s, count);
    for (unsigned d = threadIdx.x; d < DIGITS; d += BLOCK) {
        unsigned all = 0;

        for (int w = 0; w < SORT_WARPS; w++)
            all += count[w][d];
        counts.block[(size_t)d * counts.blocks + blockIdx.x] = all;
    }
}

/* A warp a digit: counts of blocks become those of all blocks before. */
static __global__ void __launch_bounds__(BLOCK) begin_blocks(struct digit_counts counts)
{
    unsigned digit = blockIdx.x * SORT_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    unsigned *mine = counts.block + (size_t)digit * counts.blocks, all = 0;

    for (unsigned first = 0; first < counts.blocks; first += WARP) {
        unsigned b = first + lane, n = b < counts.blocks ? mine[b] : 0, up_to = sum_so_far(n);

        if (b < counts.blocks)
            mine[b] = all + up_to - n;
        all += __shfl_sync(0xffffffffu, up_to, WARP - 1);
    }
    if (lane == 0)
        counts.all[digit] = all;
}

/* How many tokens have a digit below the two of this thread. */
static __device__ __forceinline__ unsigned lower_digits(const struct digit_counts &counts,
                                                        unsigned (&places)[SORT_WARPS])
{
    unsigned two = counts.all[2 * threadIdx.x] + counts.all[2 * threadIdx.x + 1];
    unsigned up_to = sum_so_far(two), warp = threadIdx.x / WARP;

    if (threadIdx.x % WARP == WARP - 1)
        places[warp] = up_to;
    __syncthreads();
    for (unsigned w = 0; w < warp; w++)
        up_to += places[w];
    return up_to - two;
}

static __global__ void __launch_bounds__(BLOCK)
    move_tokens(struct ds_embed_bwd_args a, struct order from, struct order to, unsigned tokens,
                unsigned shift, struct digit_counts counts)
{
    __shared__ unsigned count[SORT_WARPS][DIGITS], places[SORT_WARPS];
    unsigned lower = lower_digits(counts, places);
    struct sorting s;

    rank_tokens(a, from, tokens, shift, s, count);
    for (unsigned d = 2 * threadIdx.x; d < 2 * threadIdx.x + 2; d++) {
        unsigned at = lower + counts.block[(size_t)d * counts.blocks + blockIdx.x];

        for (int w = 0; w < SORT_WARPS; w++) {
            unsigned n = count[w][d];

            count[w][d] = at;
            at += n;
        }
        lower += counts.all[d];
    }
    __syncthreads();
    DS_UNROLL
    for (unsigned k = 0; k < SORT_ROUNDS; k++) {
        unsigned i = first_of_warp() + k * WARP, digit = s.id[k] >> shift & (DIGITS - 1);

        if (i < tokens) {
            unsigned at = count[threadIdx.x / WARP][digit] + s.rank[k];

            to.id[at] = s.id[k];
            to.token[at] = from.token != nullptr ? from.token[i] : i;
        }
    }
}

/* By the digit at `shift`; where `from` has ids, those of the args are not read. */
static inline void sort_by_digit(const struct ds_embed_bwd_args *a, struct order from,
                                 struct order to, unsigned tokens, unsigned shift,
                                 struct digit_counts counts, cudaStream_t queue)
{
    DS_LAUNCH(count_digits, counts.blocks, BLOCK, 0, queue, *a, from, tokens, shift, counts);
    DS_LAUNCH(begin_blocks, DIGITS / SORT_WARPS, BLOCK, 0, queue, counts);
    DS_LAUNCH(move_tokens, counts.blocks, BLOCK, 0, queue, *a, from, to, tokens, shift, counts);
}

/* Sorts into one of the two orders; which, is returned. */
static inline struct order sort_tokens(const struct ds_embed_bwd_args *a, struct order (&orders)[2],
                                       struct digit_counts counts, cudaStream_t queue)
{
    unsigned tokens = (unsigned)(a->batch * a->seq), turn = 0, shift = 0;
    size_t most = a->partial ? a->vocab : a->vocab - 1;
    struct order from = {};

    do {
        sort_by_digit(a, from, orders[turn], tokens, shift, counts, queue);
        from = orders[turn];
        turn ^= 1;
        shift += DIGIT_BITS;
    } while (most >> shift != 0);
    return from;
}

#endif
