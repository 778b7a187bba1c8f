/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_bwd.cu - causal attention, backward, on tensor cores.
 *
 * Three passes, so that each gradient has one writer and its bits are fixed: the sums of out * dout
 * per query; gradients of queries, a block of queries over tiles of keys; gradients of keys and
 * values, a block of keys over tiles of queries of all heads that share them.  The last one works
 * on transposed scores, so that its products too take their first operand from registers.
 */
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/need.h"

/* Sums of out * dout over a head: dots[b,h,t].  LANES lanes a row, in the order of memory. */
template <class T, int LANES>
static __global__ void __launch_bounds__(BLOCK)
    attention_dots(struct attention_shape s, const T *out, const T *dout, float *dots)
{
    size_t row = (size_t)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    bool there = row < (size_t)s.batch * s.seq * s.heads;
    unsigned h = (unsigned)(row % s.heads);
    size_t token = row / s.heads;
    float sum = 0.0f;

    for (unsigned j = threadIdx.x % LANES * PACK; there && j < s.size; j += LANES * PACK) {
        float x[PACK], y[PACK];

        take<T, PACK>(out + row * s.size + j, s.size - j, x);
        take<T, PACK>(dout + row * s.size + j, s.size - j, y);
        for (int i = 0; i < PACK; i++)
            sum += x[i] * y[i];
    }
    for (unsigned o = LANES / 2; o > 0; o /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (there && threadIdx.x % LANES == 0)
        dots[(token / s.seq * s.heads + h) * s.seq + token % s.seq] = sum;
}

template <class T>
static void start_dots(const struct ds_attention_bwd_args *a, const struct attention_shape &s,
                       float *dots, struct ds_stream *stream)
{
    size_t rows = (size_t)s.batch * s.heads * s.seq, each = BLOCK / (s.size <= 64 ? 8 : 16);
    unsigned grid = (unsigned)((rows + each - 1) / each);
    const T *out = (const T *)a->out, *dout = (const T *)a->dout;

    if (s.size <= 64)
        DS_LAUNCH((attention_dots<T, 8>), grid, BLOCK, 0, stream_of(stream), s, out, dout, dots);
    else
        DS_LAUNCH((attention_dots<T, 16>), grid, BLOCK, 0, stream_of(stream), s, out, dout, dots);
}

/* What a row of scores needs to become weights and gradients. */
struct row_stats {
    const float *lse, *dots; /* of one head, [T] */
};

/* s: scores of queries by keys, to gradients of scores; dp: gradients of weights.  `low`: the first
 * keys that the lane's rows see. */
template <int MT>
static __device__ __forceinline__ void score_gradients(float (&s)[MT][FLASH_KEYS / 8][4],
                                                       const float (&dp)[MT][FLASH_KEYS / 8][4],
                                                       const float (&lse)[MT][2],
                                                       const float (&dot)[MT][2],
                                                       const unsigned (&low)[MT][2], unsigned query,
                                                       unsigned key, float scale)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int m = 0; m < MT; m++) {
        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++) {
            DS_UNROLL
            for (int e = 0; e < 4; e++) {
                unsigned column = key + n * 8 + lane % 4 * 2 + e % 2;
                bool seen =
                    column <= query + m * 16 + lane / 4 + e / 2 * 8 && column >= low[m][e / 2];
                float p = ptx_exp2(s[m][n][e] * (scale * DS_LOG2E) - lse[m][e / 2]);

                s[m][n][e] = seen ? p * (dp[m][n][e] - dot[m][e / 2]) * scale : 0.0f;
            }
        }
    }
}

template <class T, int D, int MT, bool DROP, bool CUT>
static __global__ void __launch_bounds__(FLASH_THREADS)
    flash_dq(struct attention_shape s, const T *qkv, const T *dout, struct row_stats stats, T *dqkv)
{
    constexpr int ROWS = FLASH_WARPS * 16 * MT, TILE = FLASH_KEYS * D;
    DS_DYN_SHARED(T, q);
    T *g = q + ROWS * D, *k = g + ROWS * D, *v = k + 2 * TILE;
    struct work work = work_of(s, s.batch * s.heads);
    unsigned head = work.head, b = head / s.heads, h = head % s.heads;
    unsigned tile = gridDim.x / (s.batch * s.heads) - 1 - work.turn;
    unsigned begin = tile * ROWS, end = begin + ROWS < s.seq ? begin + ROWS : s.seq;
    unsigned lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16 * MT, query = begin + row;
    const T *keys = qkv + key_at(s, b, h / s.group), *values = qkv + value_at(s, b, h / s.group);
    unsigned from = first_key<CUT>(s, b, begin) / FLASH_KEYS * FLASH_KEYS;
    unsigned low[MT][2], least = first_key<CUT>(s, b, query); /* of the warp's rows */
    float dq[MT][D / 8][4] = {}, lse[MT][2], dot[MT][2];

    load_tile<T, D, ROWS>(q, s, qkv + query_at(s, b, h), s.ld, begin);
    load_tile<T, D, ROWS>(g, s, dout + out_at(s, b, h), out_ld(s), begin);
    load_tile<T, D, FLASH_KEYS>(k, s, keys, s.ld, from);
    load_tile<T, D, FLASH_KEYS>(v, s, values, s.ld, from);
    ptx_commit();
    for (int i = 0; i < 2 * MT; i++) {
        unsigned t = query + i / 2 * 16 + lane / 4 + i % 2 * 8;
        size_t at = (size_t)head * s.seq + t;

        lse[i / 2][i % 2] = t < s.seq ? stats.lse[at] * DS_LOG2E : 0.0f;
        dot[i / 2][i % 2] = t < s.seq ? stats.dots[at] : 0.0f;
        low[i / 2][i % 2] = first_key<CUT>(s, b, t);
    }
    for (unsigned key = from, stage = 0; key < end; key += FLASH_KEYS, stage ^= 1) {
        if (key + FLASH_KEYS < end) {
            load_tile<T, D, FLASH_KEYS>(k + (stage ^ 1) * TILE, s, keys, s.ld, key + FLASH_KEYS);
            load_tile<T, D, FLASH_KEYS>(v + (stage ^ 1) * TILE, s, values, s.ld, key + FLASH_KEYS);
        }
        ptx_commit();
        ptx_wait<1>();
        __syncthreads();
        if (key < query + 16 * MT && (!CUT || key + FLASH_KEYS > least)) {
            float p[MT][FLASH_KEYS / 8][4] = {}, dp[MT][FLASH_KEYS / 8][4] = {};

            by_transposed<T, D, FLASH_KEYS>(p, q, row, k + stage * TILE);
            by_transposed<T, D, FLASH_KEYS>(dp, g, row, v + stage * TILE);
            if (DROP)
                drop_weights(dp, s, b, h, query, key);
            score_gradients(p, dp, lse, dot, low, query, key, s.scale);
            by_rows<T, D, FLASH_KEYS>(dq, p, k + stage * TILE);
        }
        __syncthreads(); /* before the tile is overwritten */
    }
    store_rows<T, D>(q, row, dq, s, dqkv + query_at(s, b, h), s.ld, query);
}

/* Tiles of queries, their gradients of outputs, and numbers of their rows: statistics and, where
 * they are CUT, the first keys that they see. */
template <class T, int D, int ROWS, bool CUT> struct query_tile {
    static constexpr size_t BYTES = 2 * ROWS * D * sizeof(T) + (CUT ? 3 : 2) * ROWS * sizeof(float);
    T *q, *g;
    float *lse, *dots;
    unsigned *low;

    __device__ explicit query_tile(char *at)
        : q((T *)(void *)at), g(q + ROWS * D), lse((float *)(void *)(g + ROWS * D)),
          dots(lse + ROWS), low((unsigned *)(void *)(dots + ROWS))
    {
    }

    /* The `i`th tile of the head `first_head` + i / tiles, from query `first` on. */
    __device__ void load(const struct attention_shape &s, const T *qkv, const T *dout,
                         struct row_stats stats, unsigned b, unsigned h, unsigned first)
    {
        load_tile<T, D, ROWS>(q, s, qkv + query_at(s, b, h), s.ld, first);
        load_tile<T, D, ROWS>(g, s, dout + out_at(s, b, h), out_ld(s), first);
        for (unsigned i = threadIdx.x; i < ROWS; i += FLASH_THREADS) {
            size_t at = ((size_t)b * s.heads + h) * s.seq;
            bool there = first + i < s.seq;

            at += there ? first + i : 0;
            ptx_copy4(lse + i, stats.lse + at, there);
            ptx_copy4(dots + i, stats.dots + at, there);
            if (CUT)
                ptx_copy4(low + i, s.low + (size_t)b * s.seq + (there ? first + i : 0), there);
        }
    }
};

/* p: scores of keys by queries, to weights; dp: gradients of weights, to those of scores. */
template <int ROWS, bool DROP, bool CUT>
static __device__ __forceinline__ void transposed_gradients(
    float (&p)[1][ROWS / 8][4], float (&dp)[1][ROWS / 8][4], const float *lse, const float *dots,
    const unsigned *low, const struct attention_shape &s, unsigned b, unsigned h, unsigned key,
    unsigned query)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int n = 0; n < ROWS / 8; n++) {
        DS_UNROLL
        for (int e = 0; e < 4; e++) {
            unsigned column = n * 8 + lane % 4 * 2 + e % 2, row = key + lane / 4 + e / 2 * 8;
            float w = ptx_exp2(p[0][n][e] * (s.scale * DS_LOG2E) - lse[column] * DS_LOG2E);
            float keep = DROP ? keep_of(s, draws_at(s, b, h, query + column), row) : 1.0f;
            bool seen = row <= query + column;

            if (CUT) /* whatever `low` says, a query sees itself */
                seen = seen && (row >= low[column] || row == query + column);
            p[0][n][e] = seen ? w * keep : 0.0f;
            dp[0][n][e] = seen ? w * (dp[0][n][e] * keep - dots[column]) * s.scale : 0.0f;
        }
    }
}

template <class T, int D, int ROWS, bool DROP, bool CUT>
static __global__ void __launch_bounds__(FLASH_THREADS)
    flash_dkv(struct attention_shape s, const T *qkv, const T *dout, struct row_stats stats,
              T *dqkv)
{
    typedef query_tile<T, D, ROWS, CUT> tile;
    DS_DYN_SHARED(T, k);
    T *v = k + FLASH_KEYS * D;
    char *stages = (char *)(v + FLASH_KEYS * D);
    struct work work = work_of(s, s.batch * s.kv_heads);
    unsigned b = work.head / s.kv_heads, kv = work.head % s.kv_heads;
    unsigned begin = work.turn * FLASH_KEYS;
    unsigned row = threadIdx.x / WARP * 16, key = begin + row;
    unsigned tiles = (s.seq - begin + ROWS - 1) / ROWS, all = tiles * s.group;
    float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};

    load_tile<T, D, FLASH_KEYS>(k, s, qkv + key_at(s, b, kv), s.ld, begin);
    load_tile<T, D, FLASH_KEYS>(v, s, qkv + value_at(s, b, kv), s.ld, begin);
    tile(stages).load(s, qkv, dout, stats, b, kv * s.group, begin);
    ptx_commit();
    if (CUT) {
        tiles = tiles_that_see(s, b, begin, FLASH_KEYS, ROWS, tiles);
        all = tiles * s.group;
    }
    for (unsigned i = 0; i < all; i++) {
        unsigned query = begin + i % tiles * ROWS, h = kv * s.group + i / tiles, next = i + 1;
        tile now(stages + i % 2 * tile::BYTES), then(stages + next % 2 * tile::BYTES);

        if (next < all)
            then.load(s, qkv, dout, stats, b, kv * s.group + next / tiles,
                      begin + next % tiles * ROWS);
        ptx_commit();
        ptx_wait<1>();
        __syncthreads();
        if (key < query + ROWS) { /* else no query of the tile sees a key of this warp */
            float p[1][ROWS / 8][4] = {}, dp[1][ROWS / 8][4] = {};

            by_transposed<T, D, ROWS>(p, k, row, now.q);
            by_transposed<T, D, ROWS>(dp, v, row, now.g);
            transposed_gradients<ROWS, DROP, CUT>(p, dp, now.lse, now.dots, now.low, s, b, h, key,
                                                  query);
            by_rows<T, D, ROWS>(dv, p, now.g);
            by_rows<T, D, ROWS>(dk, dp, now.q);
        }
        __syncthreads(); /* before the tile is overwritten */
    }
    store_rows<T, D>(k, row, dk, s, dqkv + key_at(s, b, kv), s.ld, key);
    store_rows<T, D>(v, row, dv, s, dqkv + value_at(s, b, kv), s.ld, key);
}

template <class T, int D, int MT, int ROWS, bool DROP, bool CUT>
static int start(const struct ds_attention_bwd_args *a, struct attention_shape s,
                 struct row_stats stats, struct ds_stream *stream, struct ds_error *err)
{
    constexpr unsigned QUERIES = FLASH_WARPS * 16 * MT;
    constexpr size_t SHARED_DQ = (2 * QUERIES + 4 * FLASH_KEYS) * D * sizeof(T);
    constexpr size_t SHARED_DKV =
        2 * FLASH_KEYS * D * sizeof(T) + 2 * query_tile<T, D, ROWS, CUT>::BYTES;
    unsigned dq_grid = (s.seq + QUERIES - 1) / QUERIES * s.batch * s.heads;
    unsigned dkv_grid = (s.seq + FLASH_KEYS - 1) / FLASH_KEYS * s.batch * s.kv_heads;
    const T *qkv = (const T *)a->qkv, *dout = (const T *)a->dout;
    T *dqkv = (T *)a->dqkv;
    int rc = allow_shared(flash_dq<T, D, MT, DROP, CUT>, SHARED_DQ, err);

    if (rc == 0)
        rc = allow_shared(flash_dkv<T, D, ROWS, DROP, CUT>, SHARED_DKV, err);
    if (rc != 0)
        return rc;
    s.together = heads_by_keys(s);
    DS_LAUNCH((flash_dq<T, D, MT, DROP, CUT>), dq_grid, FLASH_THREADS, SHARED_DQ, stream_of(stream),
              s, qkv, dout, stats, dqkv);
    s.together = heads_by_queries(s);
    DS_LAUNCH((flash_dkv<T, D, ROWS, DROP, CUT>), dkv_grid, FLASH_THREADS, SHARED_DKV,
              stream_of(stream), s, qkv, dout, stats, dqkv);
    return launched("attention_bwd", err);
}

template <class T, bool CUT>
static int start_drop(const struct ds_attention_bwd_args *a, struct attention_shape s,
                      struct row_stats stats, struct ds_stream *stream, struct ds_error *err)
{
    if (a->drop.rate > 0.0)
        return s.size <= 64 ? start<T, 64, 1, 32, true, CUT>(a, s, stats, stream, err)
                            : start<T, 128, 1, 32, true, CUT>(a, s, stats, stream, err);
    return s.size <= 64 ? start<T, 64, 1, 64, false, CUT>(a, s, stats, stream, err)
                        : start<T, 128, 1, 32, false, CUT>(a, s, stats, stream, err);
}

template <class T>
static int flash_bwd(const struct ds_attention_bwd_args *a, struct attention_shape s,
                     struct row_stats stats, struct ds_stream *stream, struct ds_error *err)
{
    return a->low != NULL ? start_drop<T, true>(a, s, stats, stream, err)
                          : start_drop<T, false>(a, s, stats, stream, err);
}

extern "C" int ds__cuda_attention_bwd(const struct ds_attention_bwd_args *a,
                                      struct ds_stream *stream, struct ds_error *err)
{
    struct attention_shape s = attention_shape_of(a);
    bool done = false;
    void *dots;
    int rc = ds__cuda_sdpa_bwd(a, (struct ds_cuda_stream *)stream, &done, err);

    if (rc == 0 && !done)
        rc = scratch_of(stream, ds__need_dots((size_t)s.batch * s.seq, s.heads), &dots, err);
    if (rc != 0 || done)
        return rc;
    DS_TYPED(a->act, T, start_dots<T>(a, s, (float *)dots, stream));
    if (attention_is_plain(a->act, a->head_size))
        return ds__cuda_attention_plain_bwd(a, (const float *)dots, stream, err);
    s.words = s.words && aligned(a->dout) && aligned(a->dqkv);
    if (attention_is_sm90(a, s, stream))
        return ds__cuda_attention_sm90_bwd(a, s, (const float *)dots, stream, err);
    if (a->act == DS_BF16)
        return flash_bwd<__nv_bfloat16>(a, s, {a->lse, (const float *)dots}, stream, err);
    return flash_bwd<__half>(a, s, {a->lse, (const float *)dots}, stream, err);
}
