/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_sm90_bwd.cu - causal attention, backward, by warpgroups.
 *
 * The passes of attention_bwd.cu: gradients of queries, a block of queries over tiles of keys, then
 * gradients of keys and values, a block of keys over tiles of queries.  While a warpgroup is at its
 * weights, others of the multiprocessor are at their products.  Tiles on the diagonal alone are
 * masked.
 */
#include "kernels/cuda/attention_sm90.cuh"

struct gradients {
    const float *lse, *dots; /* [B,NH,T] */
};

/* A number each of two queries whose columns a lane has. */
struct alignas(8) column_pair {
    float of[2];
};

#if defined(DS_HAS_WGMMA)
/* Of the two rows that a lane has; numbers as the exponent and the scaled gradient need them. */
struct row_numbers {
    float lse[2], dot[2];
};

static __device__ __forceinline__ struct row_numbers row_numbers_of(const struct attention_shape &s,
                                                                    struct gradients g, size_t head,
                                                                    unsigned query)
{
    struct row_numbers r;

    DS_UNROLL
    for (unsigned i = 0; i < 2; i++) {
        unsigned t = query + threadIdx.x % WARP / 4 + i * 8;
        bool there = t < s.seq;

        r.lse[i] = there ? g.lse[head * s.seq + t] * DS_LOG2E : 0.0f;
        r.dot[i] = there ? g.dots[head * s.seq + t] * s.scale : 0.0f;
    }
    return r;
}

/* Of queries by columns of keys: p from scores to weights, d from gradients of weights to those of
 * scores. */
static __device__ __forceinline__ void row_weights(float (&p)[8][4], const struct row_numbers &r,
                                                   float scale)
{
    DS_UNROLL
    for (int e = 0; e < 32; e++)
        p[e / 4][e % 4] = ptx_exp2(p[e / 4][e % 4] * (scale * DS_LOG2E) - r.lse[e / 2 % 2]);
}

static __device__ __forceinline__ void row_gradients(float (&d)[8][4], const float (&p)[8][4],
                                                     const struct row_numbers &r, float scale)
{
    DS_UNROLL
    for (int e = 0; e < 32; e++)
        d[e / 4][e % 4] = p[e / 4][e % 4] * (d[e / 4][e % 4] * scale - r.dot[e / 2 % 2]);
}

/* Of keys by columns of queries: p from scores to weights. */
static __device__ __forceinline__ void column_weights(float (&p)[8][4],
                                                      const struct column_pair *lse, float scale)
{
    DS_UNROLL
    for (int n = 0; n < 8; n++) {
        struct column_pair c = lse[n * 4 + threadIdx.x % 4];

        DS_UNROLL
        for (int e = 0; e < 4; e++)
            p[n][e] = ptx_exp2(p[n][e] * (scale * DS_LOG2E) - c.of[e % 2] * DS_LOG2E);
    }
}

/* d from gradients of weights to those of scores. */
static __device__ __forceinline__ void column_gradients(float (&d)[8][4], const float (&p)[8][4],
                                                        const struct column_pair *dots, float scale)
{
    DS_UNROLL
    for (int n = 0; n < 8; n++) {
        struct column_pair c = dots[n * 4 + threadIdx.x % 4];

        DS_UNROLL
        for (int e = 0; e < 4; e++)
            d[n][e] = p[n][e] * (d[n][e] * scale - c.of[e % 2] * scale);
    }
}
#endif

/* Warpgroups of a block, with a tile of queries each, that go over the same tiles of keys and
 * values.  What a product of 64 x 64 x 64 reads, 16 KiB for each of them, is as much as the second
 * level cache gives in its time; heads of 128 elements have registers for one. */
template <int D> constexpr int QUERY_GROUPS = D == 64 ? 2 : 1;

/* A block's tiles of queries and of their gradients of outputs. */
template <class T, int D>
static __device__ __forceinline__ void load_queries(T *q, T *o, const struct attention_shape &s,
                                                    const T *queries, const T *dout, unsigned tile)
{
    constexpr unsigned GROUPS = QUERY_GROUPS<D>, THREADS = GROUPS * GROUP;

    DS_UNROLL
    for (unsigned i = 0; i < GROUPS; i++) {
        unsigned first = (tile + i) * TILE_ROWS;

        load_panels<T, D, THREADS>(q + i * TILE<D>, s, queries, s.ld, first);
        load_panels<T, D, THREADS>(o + i * TILE<D>, s, dout, out_ld(s), first);
    }
}

/* A tile of keys and one of values, which all warpgroups of the block read. */
template <class T, int D>
static __device__ __forceinline__ void load_keys(T *k, T *v, const struct attention_shape &s,
                                                 const T *keys, const T *values, unsigned first)
{
    load_panels<T, D, QUERY_GROUPS<D> * GROUP>(k, s, keys, s.ld, first);
    load_panels<T, D, QUERY_GROUPS<D> * GROUP>(v, s, values, s.ld, first);
}

template <class T, int D, bool CUT>
static __global__ void __launch_bounds__(QUERY_GROUPS<D> *GROUP, 2)
    sm90_dq(struct attention_shape s, const T *qkv, const T *dout, struct gradients g, T *dqkv)
{
#if defined(DS_HAS_WGMMA)
    constexpr unsigned GROUPS = QUERY_GROUPS<D>;
    DS_TILES_SHARED(T, q);
    T *o = q + GROUPS * TILE<D>, *k = o + GROUPS * TILE<D>, *v = k + 2 * TILE<D>;
    struct work work = work_of(s, s.batch * s.heads);
    unsigned b = work.head / s.heads, h = work.head % s.heads;
    unsigned tile = (gridDim.x / (s.batch * s.heads) - 1 - work.turn) * GROUPS;
    unsigned tiles = (s.seq + TILE_ROWS - 1) / TILE_ROWS, past = tile + GROUPS;
    unsigned end = past < tiles ? past : tiles; /* of tiles of keys */
    unsigned group = ptx_uniform(threadIdx.x / GROUP), mine = tile + group,
             row = threadIdx.x % GROUP / WARP * 16;
    struct front front = front_of<CUT>(s, b, tile, mine);
    const T *keys = qkv + key_at(s, b, h / s.group), *values = qkv + value_at(s, b, h / s.group);
    uint64_t q_at = wgmma_tile(wgmma_address(q + group * TILE<D>));
    uint64_t o_at = wgmma_tile(wgmma_address(o + group * TILE<D>));
    uint64_t k_at = wgmma_tile(wgmma_address(k)), v_at = wgmma_tile(wgmma_address(v));
    float dq[D / 64][8][4] = {};
    struct row_numbers r = row_numbers_of(s, g, work.head, mine * TILE_ROWS + row);

    load_queries<T, D>(q, o, s, qkv + query_at(s, b, h), dout + out_at(s, b, h), tile);
    load_keys<T, D>(k, v, s, keys, values, front.block * TILE_ROWS);
    ptx_commit();
    DS_NO_UNROLL
    for (unsigned i = front.block; i < end; i++) {
        unsigned stage = (i - front.block) % 2, at = stage * (D / 64) * WGMMA_TILE;
        float p[8][4], d[8][4];
        unsigned a[4][4];

        next_tiles();
        if (i + 1 < end) {
            unsigned to = (stage ^ 1) * TILE<D>;

            load_keys<T, D>(k + to, v + to, s, keys, values, (i + 1) * TILE_ROWS);
        }
        ptx_commit();
        if (i > mine || (CUT && i < front.tile))
            continue; /* another of the block's tiles of queries sees these keys */
        wgmma_begin();
        start_scores<T, D>(p, q_at, k_at + at);
        start_scores<T, D>(d, o_at, v_at + at);
        finish_scores<1>(p);
        hide_unseen<CUT>(p, s, b, front, mine, i, row);
        row_weights(p, r, s.scale);
        finish_scores<0>(d);
        row_gradients(d, p, r, s.scale);
        to_operands<T>(a, d);
        wgmma_begin();
        add_rows<T, D>(dq, a, k_at + at);
        wgmma_commit();
        wgmma_wait<0>();
        done_rows<D>(dq);
    }
    __syncthreads();
    store_panels<T, D>(q + group * TILE<D>, row, dq, s, dqkv + query_at(s, b, h), s.ld,
                       mine * TILE_ROWS);
#else
    __trap(); /* not for this device: attention_is_sm90() */
#endif
}

/* Tiles of queries and of their gradients of outputs, two of each, and numbers of their rows; where
 * they are CUT, the first keys that these see, too. */
template <class T, int D, bool CUT> struct query_tiles {
    static constexpr int PAIRS = TILE_ROWS / 2;
    static constexpr size_t BYTES =
        4 * TILE<D> * sizeof(T) + (CUT ? 6 : 4) * PAIRS * sizeof(struct column_pair);
    T *q, *g;
    struct column_pair *columns;
    unsigned *low;

    __device__ explicit query_tiles(T *at)
        : q(at), g(q + 2 * TILE<D>),
          columns(reinterpret_cast<struct column_pair *>(g + 2 * TILE<D>)),
          low(reinterpret_cast<unsigned *>(columns + 4 * PAIRS))
    {
    }

    __device__ void load(unsigned stage, const struct attention_shape &s, const T *qkv,
                         const T *dout, struct gradients of, unsigned b, unsigned h, unsigned first)
    {
        unsigned i = threadIdx.x % TILE_ROWS;
        const float *from = threadIdx.x < TILE_ROWS ? of.lse : of.dots;
        float *to = reinterpret_cast<float *>(columns + 2 * stage * PAIRS) + threadIdx.x;
        size_t at = ((size_t)b * s.heads + h) * s.seq;
        bool there = first + i < s.seq;

        static_assert(GROUP == 2 * TILE_ROWS, "a number for each thread");
        load_panels<T, D, GROUP>(q + stage * TILE<D>, s, qkv + query_at(s, b, h), s.ld, first);
        load_panels<T, D, GROUP>(g + stage * TILE<D>, s, dout + out_at(s, b, h), out_ld(s), first);
        ptx_copy4(to, from + at + (there ? first + i : 0), there);
        if (CUT && threadIdx.x < TILE_ROWS) /* behind the last query, its own */
            ptx_copy4(low + stage * TILE_ROWS + i,
                      s.low + (size_t)b * s.seq + (there ? first + i : s.seq - 1), true);
    }
};

/* Where the queries end that see a key of the tile from `begin` on. */
template <bool CUT>
static __device__ __forceinline__ unsigned past_queries(const struct attention_shape &s, unsigned b,
                                                        unsigned begin)
{
    unsigned tiles = (s.seq - begin + TILE_ROWS - 1) / TILE_ROWS;

    if (!CUT)
        return s.seq;
    return begin + tiles_that_see(s, b, begin, TILE_ROWS, TILE_ROWS, tiles) * TILE_ROWS;
}

/* Of a tile of keys from `begin` on by one of queries from `query` on, scores of keys in front of
 * `low`, the first ones that queries see, become -infinity.  `row`: the warp's first. */
static __device__ __forceinline__ void hide_columns(float (&s)[8][4], const unsigned *low,
                                                    unsigned begin, unsigned row, unsigned query)
{
    unsigned lane = threadIdx.x % WARP;

    if (low[TILE_ROWS - 1] <= begin) /* the largest */
        return;
    DS_UNROLL
    for (int n = 0; n < 8; n++) {
        DS_UNROLL
        for (int e = 0; e < 4; e++) {
            unsigned c = n * 8 + lane % 4 * 2 + e % 2, key = begin + row + lane / 4 + e / 2 * 8;

            if (key < low[c] && key != query + c) /* whatever `low` says, a query sees itself */
                s[n][e] = -INFINITY;
        }
    }
}

template <class T, int D, bool CUT>
static __global__ void __launch_bounds__(GROUP, D == 64 ? 3 : 2)
    sm90_dkv(struct attention_shape s, const T *qkv, const T *dout, struct gradients g, T *dqkv)
{
#if defined(DS_HAS_WGMMA)
    DS_TILES_SHARED(T, k);
    T *v = k + TILE<D>;
    query_tiles<T, D, CUT> tiles(v + TILE<D>);
    struct work work = work_of(s, s.batch * s.kv_heads);
    unsigned b = work.head / s.kv_heads, kv = work.head % s.kv_heads;
    unsigned begin = work.turn * TILE_ROWS, row = threadIdx.x / WARP * 16;
    unsigned query = begin, h = kv * s.group, end = h + s.group, past;
    uint64_t k_at = wgmma_tile(wgmma_address(k)), v_at = wgmma_tile(wgmma_address(v));
    uint64_t q_at = wgmma_tile(wgmma_address(tiles.q)), g_at = wgmma_tile(wgmma_address(tiles.g));
    float dk[D / 64][8][4] = {}, dv[D / 64][8][4] = {};

    load_panels<T, D, GROUP>(k, s, qkv + key_at(s, b, kv), s.ld, begin);
    load_panels<T, D, GROUP>(v, s, qkv + value_at(s, b, kv), s.ld, begin);
    tiles.load(0, s, qkv, dout, g, b, h, query);
    ptx_commit();
    past = past_queries<CUT>(s, b, begin);
    DS_NO_UNROLL
    for (unsigned stage = 0; h < end; stage ^= 1) {
        const struct column_pair *lse = tiles.columns + 2 * stage * tiles.PAIRS;
        unsigned at = stage * (D / 64) * WGMMA_TILE;
        float p[8][4], d[8][4];
        unsigned a[4][4], c[4][4], first = query;

        next_tiles();
        if ((query += TILE_ROWS) >= past) { /* the next head's first */
            query = begin;
            h++;
        }
        if (h < end)
            tiles.load(stage ^ 1, s, qkv, dout, g, b, h, query);
        ptx_commit();
        wgmma_begin();
        start_scores<T, D>(p, k_at, q_at + at);
        start_scores<T, D>(d, v_at, g_at + at);
        finish_scores<1>(p);
        if (first == begin)
            hide_diagonal<true>(p, row);
        if (CUT)
            hide_columns(p, tiles.low + stage * TILE_ROWS, begin, row, first);
        column_weights(p, lse, s.scale);
        to_operands<T>(a, p);
        finish_scores<0>(d);
        column_gradients(d, p, lse + tiles.PAIRS, s.scale);
        to_operands<T>(c, d);
        wgmma_begin();
        add_rows<T, D>(dv, a, g_at + at);
        add_rows<T, D>(dk, c, q_at + at);
        wgmma_commit();
        wgmma_wait<0>();
        done_rows<D>(dv);
        done_rows<D>(dk);
    }
    __syncthreads();
    store_panels<T, D>(k, row, dk, s, dqkv + key_at(s, b, kv), s.ld, begin);
    store_panels<T, D>(v, row, dv, s, dqkv + value_at(s, b, kv), s.ld, begin);
#else
    __trap(); /* not for this device: attention_is_sm90() */
#endif
}

template <class T, int D, bool CUT>
static int start(const struct ds_attention_bwd_args *a, struct attention_shape s,
                 struct gradients g, struct ds_stream *stream, struct ds_error *err)
{
    constexpr unsigned GROUPS = QUERY_GROUPS<D>, ROWS = GROUPS * TILE_ROWS;
    constexpr size_t SHARED_DQ = (2 * GROUPS + 4) * TILE<D> * sizeof(T);
    constexpr size_t SHARED_DKV = 2 * TILE<D> * sizeof(T) + query_tiles<T, D, CUT>::BYTES;
    unsigned tiles = (s.seq + TILE_ROWS - 1) / TILE_ROWS;
    const T *qkv = (const T *)a->qkv, *dout = (const T *)a->dout;
    T *dqkv = (T *)a->dqkv;
    int rc = allow_shared(sm90_dq<T, D, CUT>, SHARED_DQ, err);

    if (rc == 0)
        rc = allow_shared(sm90_dkv<T, D, CUT>, SHARED_DKV, err);
    if (rc != 0)
        return rc;
    s.together = heads_by_keys(s);
    DS_LAUNCH((sm90_dq<T, D, CUT>), (s.seq + ROWS - 1) / ROWS * s.batch * s.heads, GROUPS * GROUP,
              SHARED_DQ, stream_of(stream), s, qkv, dout, g, dqkv);
    s.together = heads_by_queries(s);
    DS_LAUNCH((sm90_dkv<T, D, CUT>), tiles * s.batch * s.kv_heads, GROUP, SHARED_DKV,
              stream_of(stream), s, qkv, dout, g, dqkv);
    return launched("attention_bwd", err);
}

template <class T, bool CUT>
static int start_size(const struct ds_attention_bwd_args *a, const struct attention_shape &s,
                      struct gradients g, struct ds_stream *stream, struct ds_error *err)
{
    return s.size <= 64 ? start<T, 64, CUT>(a, s, g, stream, err)
                        : start<T, 128, CUT>(a, s, g, stream, err);
}

template <class T>
static int start_cut(const struct ds_attention_bwd_args *a, const struct attention_shape &s,
                     struct gradients g, struct ds_stream *stream, struct ds_error *err)
{
    return a->low != NULL ? start_size<T, true>(a, s, g, stream, err)
                          : start_size<T, false>(a, s, g, stream, err);
}

int ds__cuda_attention_sm90_bwd(const struct ds_attention_bwd_args *a,
                                const struct attention_shape &s, const float *dots,
                                struct ds_stream *stream, struct ds_error *err)
{
    const struct gradients g = {a->lse, dots};

    return a->act == DS_BF16 ? start_cut<__nv_bfloat16>(a, s, g, stream, err)
                             : start_cut<__half>(a, s, g, stream, err);
}
