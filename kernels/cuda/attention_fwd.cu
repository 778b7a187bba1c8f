/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_fwd.cu - causal attention, forward, on tensor cores.
 *
 * A block has the queries of one head, 16 MT a warp, and goes over tiles of keys and values with a
 * running maximum and sum, in powers of two; while it computes with one tile the next is copied.
 */
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/attention_soft.cuh"

enum { ROWS_PER_WARP = 16 };

/* Scores of keys behind their query are -infinity.  `query`: of the first row; `key`: of the first
 * column. */
template <int MT>
static __device__ __forceinline__ void hide(float (&s)[MT][FLASH_KEYS / 8][4], unsigned query,
                                            unsigned key)
{
    unsigned lane = threadIdx.x % WARP;

    if (key + FLASH_KEYS - 1 <= query)
        return;
    DS_UNROLL
    for (int m = 0; m < MT; m++) {
        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++) {
            DS_UNROLL
            for (int e = 0; e < 4; e++) {
                if (key + n * 8 + lane % 4 * 2 + e % 2 > query + m * 16 + lane / 4 + e / 2 * 8)
                    s[m][n][e] = -INFINITY;
            }
        }
    }
}

/* So are those of keys in front of the first one that their query sees, `low`. */
template <int MT>
static __device__ __forceinline__ void hide_front(float (&s)[MT][FLASH_KEYS / 8][4],
                                                  const unsigned (&low)[MT][2], unsigned key)
{
    unsigned lane = threadIdx.x % WARP;

    if (key >= low[MT - 1][1]) /* that of the last row, the largest */
        return;
    DS_UNROLL
    for (int m = 0; m < MT; m++) {
        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++) {
            DS_UNROLL
            for (int e = 0; e < 4; e++) {
                if (key + n * 8 + lane % 4 * 2 + e % 2 < low[m][e / 2])
                    s[m][n][e] = -INFINITY;
            }
        }
    }
}

template <class T, int D, int MT, bool DROP, bool CUT>
static __global__ void __launch_bounds__(FLASH_THREADS, 2)
    flash_fwd(struct attention_shape s, const T *qkv, T *out, float *lse)
{
    constexpr int ROWS = FLASH_WARPS * ROWS_PER_WARP * MT, TILE = FLASH_KEYS * D;
    DS_DYN_SHARED(T, q);
    T *k = q + ROWS * D, *v = k + 2 * TILE;
    struct work work = work_of(s, s.batch * s.heads);
    unsigned b = work.head / s.heads, h = work.head % s.heads;
    unsigned tile = gridDim.x / (s.batch * s.heads) - 1 - work.turn;
    unsigned begin = tile * ROWS, end = begin + ROWS < s.seq ? begin + ROWS : s.seq;
    unsigned row = threadIdx.x / WARP * ROWS_PER_WARP * MT, query = begin + row;
    const T *keys = qkv + key_at(s, b, h / s.group), *values = qkv + value_at(s, b, h / s.group);
    unsigned from = first_key<CUT>(s, b, begin) / FLASH_KEYS * FLASH_KEYS;
    unsigned low[MT][2], least = first_key<CUT>(s, b, query); /* of the warp's rows */
    float o[MT][D / 8][4] = {};
    struct running<MT> run(CUT);

    load_tile<T, D, ROWS>(q, s, qkv + query_at(s, b, h), s.ld, begin);
    load_tile<T, D, FLASH_KEYS>(k, s, keys, s.ld, from);
    load_tile<T, D, FLASH_KEYS>(v, s, values, s.ld, from);
    ptx_commit();
    for (int i = 0; i < 2 * MT; i++)
        low[i / 2][i % 2] =
            first_key<CUT>(s, b, query + i / 2 * 16 + threadIdx.x % WARP / 4 + i % 2 * 8);
    for (unsigned key = from, stage = 0; key < end; key += FLASH_KEYS, stage ^= 1) {
        if (key + FLASH_KEYS < end) {
            load_tile<T, D, FLASH_KEYS>(k + (stage ^ 1) * TILE, s, keys, s.ld, key + FLASH_KEYS);
            load_tile<T, D, FLASH_KEYS>(v + (stage ^ 1) * TILE, s, values, s.ld, key + FLASH_KEYS);
        }
        ptx_commit();
        ptx_wait<1>();
        __syncthreads();
        /* Else no row of this warp sees any of it. */
        if (key < query + ROWS_PER_WARP * MT && (!CUT || key + FLASH_KEYS > least)) {
            float p[MT][FLASH_KEYS / 8][4] = {};

            by_transposed<T, D, FLASH_KEYS>(p, q, row, k + stage * TILE);
            hide(p, query, key);
            if (CUT)
                hide_front(p, low, key);
            soften<D>(p, o, run, s.scale * DS_LOG2E);
            if (DROP)
                drop_weights(p, s, b, h, query, key);
            by_rows<T, D, FLASH_KEYS>(o, p, v + stage * TILE);
        }
        __syncthreads(); /* before the tile is overwritten */
    }
    finish<D>(o, run, lse + ((size_t)b * s.heads + h) * s.seq, query, s.seq);
    store_rows<T, D>(q, row, o, s, out + out_at(s, b, h), out_ld(s), query);
}

template <class T, int D, int MT, bool DROP, bool CUT>
static int start(const struct ds_attention_fwd_args *a, struct attention_shape s,
                 struct ds_stream *stream, struct ds_error *err)
{
    constexpr unsigned ROWS = FLASH_WARPS * ROWS_PER_WARP * MT;
    constexpr size_t SHARED = (ROWS + 4 * FLASH_KEYS) * D * sizeof(T);
    unsigned grid = (s.seq + ROWS - 1) / ROWS * s.batch * s.heads;
    int rc = allow_shared(flash_fwd<T, D, MT, DROP, CUT>, SHARED, err);

    if (rc != 0)
        return rc;
    s.together = heads_by_keys(s);
    DS_LAUNCH((flash_fwd<T, D, MT, DROP, CUT>), grid, FLASH_THREADS, SHARED, stream_of(stream), s,
              (const T *)a->qkv, (T *)a->out, a->lse);
    return launched("attention_fwd", err);
}

template <class T, bool CUT>
static int start_drop(const struct ds_attention_fwd_args *a, struct attention_shape s,
                      struct ds_stream *stream, struct ds_error *err)
{
    if (a->drop.rate > 0.0)
        return s.size <= 64 ? start<T, 64, 2, true, CUT>(a, s, stream, err)
                            : start<T, 128, 1, true, CUT>(a, s, stream, err);
    return s.size <= 64 ? start<T, 64, 2, false, CUT>(a, s, stream, err)
                        : start<T, 128, 1, false, CUT>(a, s, stream, err);
}

template <class T>
static int start_cut(const struct ds_attention_fwd_args *a, struct attention_shape s,
                     struct ds_stream *stream, struct ds_error *err)
{
    return a->low != NULL ? start_drop<T, true>(a, s, stream, err)
                          : start_drop<T, false>(a, s, stream, err);
}

extern "C" int ds__cuda_attention_fwd(const struct ds_attention_fwd_args *a,
                                      struct ds_stream *stream, struct ds_error *err)
{
    struct attention_shape s = attention_shape_of(a);
    bool done = false;
    int rc = ds__cuda_sdpa_fwd(a, (struct ds_cuda_stream *)stream, &done, err);

    if (rc != 0 || done)
        return rc;
    if (attention_is_plain(a->act, a->head_size))
        return ds__cuda_attention_plain_fwd(a, stream, err);
    s.words = s.words && aligned(a->out);
    if (attention_is_sm90(a, s, stream))
        return ds__cuda_attention_sm90_fwd(a, s, stream, err);
    return a->act == DS_BF16 ? start_cut<__nv_bfloat16>(a, s, stream, err)
                             : start_cut<__half>(a, s, stream, err);
}
