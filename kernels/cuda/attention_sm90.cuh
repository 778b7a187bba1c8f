/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_sm90.cuh - what the attention kernels for sm_90 share: tiles, products by warpgroups.
 *
 * A tile has TILE_ROWS rows of D elements, 64 or 128, as panels of 64 columns, one after the other;
 * how a panel lies is told in wgmma.cuh.  A warpgroup works on one tile of rows, a warp on 16 of
 * them; columns of its products are in panels too.
 */
#ifndef DS_KERNELS_CUDA_ATTENTION_SM90_CUH
#define DS_KERNELS_CUDA_ATTENTION_SM90_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/wgmma.cuh"

enum { GROUP = 128, TILE_ROWS = 64, PANEL = TILE_ROWS * 64 };
template <int D> constexpr int TILE = TILE_ROWS *D; /* elements */

/* Has the device wgmma, and are these kernels for such operands? */
template <class Args>
static inline bool attention_is_sm90(const Args *a, const struct attention_shape &s,
                                     struct ds_stream *stream)
{
    return reinterpret_cast<struct ds_cuda_stream *>(stream)->capability == 90 && s.words &&
           a->drop.rate <= 0.0 && !attention_is_plain(a->act, a->head_size);
}

/* TILE_ROWS rows of a head from `first` on by THREADS threads, zeros past row `seq` and column
 * `size`; the caller commits and waits. */
template <class T, int D, int THREADS>
static __device__ __forceinline__ void load_panels(T *tile, const struct attention_shape &s,
                                                   const T *x, size_t ld, unsigned first)
{
    constexpr unsigned STEP = THREADS / 8;
    unsigned row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    T *to = tile + place<64>(row, chunk); /* STEP is a multiple of 8: the place in a row stays */

    DS_UNROLL
    for (unsigned p = 0; p < D / 64; p++) {
        unsigned column = p * 64 + chunk * PACK;
        const T *from = x + (size_t)(first + row) * ld + column;

        DS_UNROLL
        for (unsigned r = 0; r < TILE_ROWS; r += STEP) {
            ptx_copy16(to + p * PANEL + r * 64, from, first + row + r < s.seq && column < s.size);
            from += STEP * ld;
        }
    }
}

/* The copies of all threads are there for products, and nobody reads the tiles before any more. */
static __device__ __forceinline__ void next_tiles()
{
    ptx_wait<0>();
    wgmma_publish();
    __syncthreads();
}

/* Of a product rounded to T, first operands of the next one. */
template <class T>
static __device__ __forceinline__ void to_operands(unsigned (&a)[4][4], const float (&p)[8][4])
{
    DS_UNROLL
    for (int k = 0; k < 4; k++) {
        a[k][0] = ptx_pair<T>(p[2 * k][0], p[2 * k][1]);
        a[k][1] = ptx_pair<T>(p[2 * k][2], p[2 * k][3]);
        a[k][2] = ptx_pair<T>(p[2 * k + 1][0], p[2 * k + 1][1]);
        a[k][3] = ptx_pair<T>(p[2 * k + 1][2], p[2 * k + 1][3]);
    }
}

/* c = a b^T of two tiles, a group of its own.  Both are in shared memory: ptxas 13.0 was seen to
 * give away registers of a first operand that stays the same in a loop. */
template <class T, int D>
static __device__ __forceinline__ void start_scores(float (&c)[8][4], uint64_t a, uint64_t b)
{
    DS_UNROLL
    for (int k = 0; k < D / 16; k++) {
        unsigned at = k / 4 * WGMMA_TILE + k % 4 * WGMMA_ALONG;

        wgmma_ss<T>(c, a + at, b + at, k > 0);
    }
    wgmma_commit();
}

/* c when all but the last N groups are done. */
template <int N> static __device__ __forceinline__ void finish_scores(float (&c)[8][4])
{
    wgmma_wait<N>();
    wgmma_done(c);
}

/* c += a b, without a commit. */
template <class T, int D>
static __device__ __forceinline__ void add_rows(float (&c)[D / 64][8][4], const unsigned (&a)[4][4],
                                                uint64_t b)
{
    DS_UNROLL
    for (int k = 0; k < 4; k++) {
        DS_UNROLL
        for (int p = 0; p < D / 64; p++)
            wgmma_rs<T>(c[p], a[k], b + p * WGMMA_TILE + k * WGMMA_DOWN);
    }
}

template <int D> static __device__ __forceinline__ void done_rows(float (&c)[D / 64][8][4])
{
    DS_UNROLL
    for (int p = 0; p < D / 64; p++)
        wgmma_done(c[p]);
}

/* Scores of keys behind their query become -infinity, in a tile on the diagonal.  With TRANSPOSED
 * rows are keys and columns queries.  `row`: of the tile, the warp's first. */
template <bool TRANSPOSED>
static __device__ __forceinline__ void hide_diagonal(float (&s)[8][4], unsigned row)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int n = 0; n < 8; n++) {
        DS_UNROLL
        for (int e = 0; e < 4; e++) {
            unsigned r = row + lane / 4 + e / 2 * 8, c = n * 8 + lane % 4 * 2 + e % 2;

            if (TRANSPOSED ? r > c : c > r)
                s[n][e] = -INFINITY;
        }
    }
}

/* So do those of keys in front of the first that their query sees, of a warp's queries from `query`
 * on by keys from `key` on. */
static __device__ __forceinline__ void hide_front(float (&s)[8][4],
                                                  const struct attention_shape &of, unsigned b,
                                                  unsigned query, unsigned key)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int i = 0; i < 2; i++) {
        unsigned low = first_key<true>(of, b, query + lane / 4 + i * 8);

        DS_UNROLL
        for (int n = 0; n < 8; n++) {
            DS_UNROLL
            for (int e = 0; e < 2; e++) {
                if (key + n * 8 + lane % 4 * 2 + e < low)
                    s[n][2 * i + e] = -INFINITY;
            }
        }
    }
}

/* Tiles of keys that are the first of which a block's queries see some, and its tile of queries
 * some; and the first from which on all of these see all in front of them. */
struct front {
    unsigned block, tile, whole;
};

template <bool CUT>
static __device__ __forceinline__ struct front front_of(const struct attention_shape &s, unsigned b,
                                                        unsigned block, unsigned tile)
{
    unsigned last = first_key<CUT>(s, b, tile * TILE_ROWS + TILE_ROWS - 1);

    return {first_key<CUT>(s, b, block * TILE_ROWS) / TILE_ROWS,
            first_key<CUT>(s, b, tile * TILE_ROWS) / TILE_ROWS, (last + TILE_ROWS - 1) / TILE_ROWS};
}

/* What a tile of queries does not see of one of keys; `row` as before. */
template <bool CUT>
static __device__ __forceinline__ void hide_unseen(float (&s)[8][4],
                                                   const struct attention_shape &of, unsigned b,
                                                   const struct front &front, unsigned queries,
                                                   unsigned keys, unsigned row)
{
    if (keys == queries)
        hide_diagonal<false>(s, row);
    if (CUT && keys < front.whole)
        hide_front(s, of, b, queries * TILE_ROWS + row, keys * TILE_ROWS);
}

/* The warp's rows through its part of a tile, which nobody reads any more, to a head's rows. */
template <class T, int D>
static __device__ __forceinline__ void store_panels(T *tile, unsigned row,
                                                    const float (&c)[D / 64][8][4],
                                                    struct attention_shape s, T *x, size_t ld,
                                                    unsigned first)
{
    unsigned size = s.size;

    DS_UNROLL
    for (unsigned p = 0; p < D / 64; p++) {
        s.size = size > p * 64 ? size - p * 64 : 0;
        store_rows<T, 64, 1>(tile + p * PANEL, row, reinterpret_cast<const float(&)[1][8][4]>(c[p]),
                             s, x + p * 64, ld, first + row);
    }
}

int ds__cuda_attention_sm90_fwd(const struct ds_attention_fwd_args *a,
                                const struct attention_shape &s, struct ds_stream *stream,
                                struct ds_error *err);
/* `dots`: the sums of out * dout, [B,NH,T]. */
int ds__cuda_attention_sm90_bwd(const struct ds_attention_bwd_args *a,
                                const struct attention_shape &s, const float *dots,
                                struct ds_stream *stream, struct ds_error *err);

#endif
