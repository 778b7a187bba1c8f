/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention.cuh - what the attention kernels share: shapes, tiles in shared memory, products.
 *
 * A tile has rows of D elements, 64 or 128, in chunks of 16 bytes; chunk c of row r lies at place
 * c ^ (r % 8), so that the eight rows of a matrix are in different banks.  Heads narrower than D
 * are filled up with zeros.  A warp has MT blocks of 16 rows of a product; of such a block a lane
 * holds rows lane / 4 and lane / 4 + 8, columns 2 (lane % 4) and the next of every 8: elements
 * 0, 1 of the first row and 2, 3 of the second.  This is also how the next product takes its first
 * operand, so weights go from one to the other in registers.
 *
 * Source  Dao, "FlashAttention-2", 2023, algorithms 1 and 2; the layouts: PTX ISA, m16n8k16
 */
#ifndef DS_KERNELS_CUDA_ATTENTION_CUH
#define DS_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/draw.cuh"
#include "kernels/cuda/ptx.cuh"

extern "C" {
#include "kernels/cuda/sdpa.h"
}

enum { FLASH_WARPS = 4, FLASH_THREADS = FLASH_WARPS * WARP, FLASH_KEYS = 64, FLASH_MAX = 128 };

#define DS_LOG2E 1.4426950408889634f

struct attention_shape {
    unsigned batch, seq, heads, kv_heads, size, group;
    size_t ld; /* of a packed row */
    float scale;
    bool words;        /* rows of heads are whole 16-byte words */
    unsigned together; /* heads that a grid works on at a time: work_of() */
    struct drop_rule drop;
    unsigned drop_heads, drop_head; /* of all the attention; the first one here among them */
    const unsigned *low;            /* [batch, seq], or NULL */
};

template <class Args> static inline struct attention_shape attention_shape_of(const Args *a)
{
    struct attention_shape s = {};

    s.batch = (unsigned)a->batch;
    s.seq = (unsigned)a->seq;
    s.heads = (unsigned)a->heads;
    s.kv_heads = (unsigned)a->kv_heads;
    s.size = (unsigned)a->head_size;
    s.group = s.heads / s.kv_heads;
    s.ld = (a->heads + 2 * a->kv_heads) * a->head_size;
    s.scale = a->scale;
    s.drop = drop_rule_of(a->drop.rate, a->drop.seed, a->drop.stream, a->drop.first);
    s.drop_heads = (unsigned)(a->drop.heads != 0 ? a->drop.heads : a->heads);
    s.drop_head = (unsigned)a->drop.head;
    s.low = a->low;
    s.words = a->head_size % PACK == 0 && (uintptr_t)a->qkv % 16 == 0;
    return s;
}

/* --- the order of blocks -----------------------------------------------------------------------*/

/* What the tiles of a head read again and again is to stay in the L2 cache from one to the next. */
enum { TOGETHER_BYTES = 16 << 20 };

/* Key/value heads that are worked on at a time: all, or groups of about one size. */
static inline unsigned kv_heads_together(const struct attention_shape &s, size_t bytes_of_one)
{
    unsigned heads = s.batch * s.kv_heads, most = heads, groups;

    if (bytes_of_one * heads > TOGETHER_BYTES)
        most = (unsigned)(TOGETHER_BYTES / bytes_of_one);
    if (most == 0)
        most = 1;
    groups = (heads + most - 1) / most;
    return (heads + groups - 1) / groups;
}

/* Bytes of two rows of each token, keys and values or a query and its gradient of the output. */
static inline size_t two_of_each(const struct attention_shape &s)
{
    return (size_t)s.seq * s.size * 2 * 2;
}

/* For grids of query heads, which read keys and values; and of key/value heads, which read queries
 * and gradients of outputs of all heads that share them. */
static inline unsigned heads_by_keys(const struct attention_shape &s)
{
    return kv_heads_together(s, two_of_each(s)) * s.group;
}

static inline unsigned heads_by_queries(const struct attention_shape &s)
{
    return kv_heads_together(s, two_of_each(s) * s.group);
}

/* A block's head, and which of its tiles: 0 for the one with most work. */
struct work {
    unsigned head, turn;
};

/* Groups of s.together of the grid's heads one after the other; inside a group the longest tiles of
 * all heads come first. */
static __device__ __forceinline__ struct work work_of(const struct attention_shape &s,
                                                      unsigned heads)
{
    unsigned tiles = gridDim.x / heads, first = blockIdx.x / (s.together * tiles) * s.together;
    unsigned here = first + s.together < heads ? s.together : heads - first;
    unsigned rest = blockIdx.x - first * tiles;

    return {first + rest % here, rest / here};
}

/* --- where things are --------------------------------------------------------------------------*/

/* Where the first row of a query head, and of keys or values of a key/value head, begins. */
static __device__ __forceinline__ size_t query_at(const struct attention_shape &s, unsigned b,
                                                  unsigned h)
{
    return (size_t)b * s.seq * s.ld + (size_t)h * s.size;
}

static __device__ __forceinline__ size_t key_at(const struct attention_shape &s, unsigned b,
                                                unsigned kv)
{
    return (size_t)b * s.seq * s.ld + (size_t)(s.heads + kv) * s.size;
}

static __device__ __forceinline__ size_t value_at(const struct attention_shape &s, unsigned b,
                                                  unsigned kv)
{
    return key_at(s, b, kv) + (size_t)s.kv_heads * s.size;
}

/* Where the first row of a head of `out` begins; its rows are heads * size apart. */
static __device__ __forceinline__ size_t out_at(const struct attention_shape &s, unsigned b,
                                                unsigned h)
{
    return ((size_t)b * s.seq * s.heads + h) * s.size;
}

static __device__ __forceinline__ size_t out_ld(const struct attention_shape &s)
{
    return (size_t)s.heads * s.size;
}

/* Of a query, the number of the first block of random words of its weights. */
static __device__ __forceinline__ uint64_t draws_at(const struct attention_shape &s, unsigned b,
                                                    unsigned h, unsigned t)
{
    uint64_t row = ((s.drop.first + b) * s.drop_heads + s.drop_head + h) * s.seq + t;

    return row * ((s.seq + 3) / 4);
}

/* What one weight of a row is multiplied with. */
static __device__ __forceinline__ float keep_of(const struct attention_shape &s, uint64_t draws,
                                                unsigned key)
{
    unsigned word[4];

    draw(s.drop, draws + key / 4, word);
    return kept(s.drop, pick(word, key));
}

/* --- what queries see --------------------------------------------------------------------------*/

/* With CUT, as template parameter of kernels too, queries see keys from one on; of a query behind
 * the last one it is that of the last. */
template <bool CUT>
static __device__ __forceinline__ unsigned first_key(const struct attention_shape &s, unsigned b,
                                                     unsigned t)
{
    unsigned query = t < s.seq ? t : s.seq - 1, low;

    if (!CUT)
        return 0;
    low = s.low[(size_t)b * s.seq + query];
    return low < query ? low : query;
}

/* Of `tiles` tiles of `rows` queries from `begin` on, those before the first that sees none of the
 * `keys` keys from there on.  The first one sees some. */
static __device__ __forceinline__ unsigned tiles_that_see(const struct attention_shape &s,
                                                          unsigned b, unsigned begin, unsigned keys,
                                                          unsigned rows, unsigned tiles)
{
    unsigned sees = 0, past = tiles;

    while (past - sees > 1) {
        unsigned middle = sees + (past - sees) / 2;

        if (first_key<true>(s, b, begin + middle * rows) < begin + keys)
            sees = middle;
        else
            past = middle;
    }
    return past;
}

/* --- tiles -------------------------------------------------------------------------------------*/

template <int D> static __device__ __forceinline__ unsigned place(unsigned row, unsigned chunk)
{
    return row * D + (chunk ^ (row & 7u)) * PACK;
}

/* ROWS rows of a head from `first` on, zeros past row `seq` and column `size`.  Asynchronous when
 * s.words: the caller commits and waits. */
template <class T, int D, int ROWS>
static __device__ __forceinline__ void load_tile(T *tile, const struct attention_shape &s,
                                                 const T *x, size_t ld, unsigned first)
{
    for (unsigned i = threadIdx.x; i < ROWS * D / PACK; i += FLASH_THREADS) {
        unsigned row = i / (D / PACK), column = i % (D / PACK) * PACK;
        bool there = first + row < s.seq && column < s.size;
        const T *from = there ? x + (first + row) * ld + column : x;
        T *to = tile + place<D>(row, column / PACK);

        if (s.words) {
            ptx_copy16(to, from, there);
            continue;
        }
        for (unsigned e = 0; e < PACK; e++)
            narrow(&to[e], there && column + e < s.size ? widen(from[e]) : 0.0f);
    }
}

/* The warp's MT * 16 rows of a product, from `row` of the tile on, which is this warp's alone, go
 * through it to the rows of a head from `first` on. */
template <class T, int D, int MT>
static __device__ __forceinline__ void store_rows(T *tile, unsigned row,
                                                  const float (&c)[MT][D / 8][4],
                                                  const struct attention_shape &s, T *x, size_t ld,
                                                  unsigned first)
{
    unsigned lane = threadIdx.x % WARP;

    for (int m = 0; m < MT; m++) {
        for (int n = 0; n < D / 8; n++) {
            unsigned r = row + m * 16 + lane / 4;
            unsigned low = ptx_pair<T>(c[m][n][0], c[m][n][1]);
            unsigned high = ptx_pair<T>(c[m][n][2], c[m][n][3]);

            memcpy(tile + place<D>(r, n) + lane % 4 * 2, &low, sizeof(low));
            memcpy(tile + place<D>(r + 8, n) + lane % 4 * 2, &high, sizeof(high));
        }
    }
    __syncwarp();
    for (unsigned i = lane; i < MT * 16 * D / PACK; i += WARP) {
        unsigned r = i / (D / PACK), column = i % (D / PACK) * PACK;
        const T *from = tile + place<D>(row + r, column / PACK);
        T *to = x + (first + r) * ld + column;

        if (first + r >= s.seq)
            continue;
        if (s.words) {
            if (column < s.size)
                *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
            continue;
        }
        for (unsigned e = 0; e < PACK && column + e < s.size; e++)
            to[e] = from[e];
    }
}

/* --- products ----------------------------------------------------------------------------------*/

/* Rows row .. row + 16 and columns 16 k .. of a tile, as a first operand. */
template <class T, int D>
static __device__ __forceinline__ void load_a(unsigned (&a)[4], const T *tile, unsigned row, int k)
{
    unsigned lane = threadIdx.x % WARP;

    ptx_ldmatrix<false>(a, tile + place<D>(row + lane % 16, 2 * k + lane / 16));
}

/* c += x y^T: the warp's rows of x, from `row` on, by ROWS rows of y. */
template <class T, int D, int ROWS, int MT>
static __device__ __forceinline__ void by_transposed(float (&c)[MT][ROWS / 8][4], const T *x,
                                                     unsigned row, const T *y)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int k = 0; k < D / 16; k++) {
        unsigned a[MT][4], b[4];

        DS_UNROLL
        for (int m = 0; m < MT; m++)
            load_a<T, D>(a[m], x, row + m * 16, k);
        DS_UNROLL
        for (int n = 0; n < ROWS / 16; n++) {
            ptx_ldmatrix<false>(
                b, y + place<D>(n * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            DS_UNROLL
            for (int m = 0; m < MT; m++) {
                ptx_mma<T>(c[m][2 * n], a[m], b[0], b[1]);
                ptx_mma<T>(c[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* c += p y: weights that a product left, rounded to T, by ROWS rows of y. */
template <class T, int D, int ROWS, int MT>
static __device__ __forceinline__ void by_rows(float (&c)[MT][D / 8][4],
                                               const float (&p)[MT][ROWS / 8][4], const T *y)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int k = 0; k < ROWS / 16; k++) {
        unsigned a[MT][4], b[4];

        DS_UNROLL
        for (int m = 0; m < MT; m++) {
            a[m][0] = ptx_pair<T>(p[m][2 * k][0], p[m][2 * k][1]);
            a[m][1] = ptx_pair<T>(p[m][2 * k][2], p[m][2 * k][3]);
            a[m][2] = ptx_pair<T>(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
            a[m][3] = ptx_pair<T>(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
        }
        DS_UNROLL
        for (int n = 0; n < D / 16; n++) {
            ptx_ldmatrix<true>(b, y + place<D>(k * 16 + lane % 16, 2 * n + lane / 16));
            DS_UNROLL
            for (int m = 0; m < MT; m++) {
                ptx_mma<T>(c[m][2 * n], a[m], b[0], b[1]);
                ptx_mma<T>(c[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* Dropout of a product whose rows are queries from `query` on and whose columns are keys from `key`
 * on. */
template <int MT>
static __device__ __forceinline__ void drop_weights(float (&p)[MT][FLASH_KEYS / 8][4],
                                                    const struct attention_shape &s, unsigned b,
                                                    unsigned h, unsigned query, unsigned key)
{
    unsigned lane = threadIdx.x % WARP, odd = lane % 2;

    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;
        uint64_t draws = draws_at(s, b, h, query + m * 16 + lane / 4 + i % 2 * 8);

        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++) {
            unsigned word[4];

            draw(s.drop, draws + (key + n * 8 + lane % 4 * 2) / 4, word);
            p[m][n][e] *= kept(s.drop, odd ? word[2] : word[0]);
            p[m][n][e + 1] *= kept(s.drop, odd ? word[3] : word[1]);
        }
    }
}

/* Without tensor cores, for F32 and for heads of any size up to PLAIN_MAX; attention_plain.cu. */
enum { PLAIN_MAX = 512 };

static inline bool attention_is_plain(enum ds_dtype act, size_t size)
{
    return act == DS_F32 || size > FLASH_MAX;
}

int ds__cuda_attention_plain_fwd(const struct ds_attention_fwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err);
/* `dots`: the sums of out * dout, [B,NH,T]. */
int ds__cuda_attention_plain_bwd(const struct ds_attention_bwd_args *a, const float *dots,
                                 struct ds_stream *stream, struct ds_error *err);

#endif
