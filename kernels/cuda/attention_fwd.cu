/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_fwd.cu - causal attention, forward, on tensor cores.  Not yet run on a GPU.
 *
 * A block has the queries of one head, 16 MT a warp, and goes over tiles of keys and values with a
 * running maximum and sum, in powers of two; while it computes with one tile the next is copied.
 */
#include "kernels/cuda/attention.cuh"

enum { ROWS_PER_WARP = 16 };

template <int MT> struct running { /* of the two rows of each block that a lane has */
    float max[MT][2], sum[MT][2];
};

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

/* Scores become weights 2^(scale s - max); sums and outputs so far are brought to the new
 * maximum. */
template <int D, int MT>
static __device__ __forceinline__ void soften(float (&s)[MT][FLASH_KEYS / 8][4],
                                              float (&o)[MT][D / 8][4], struct running<MT> &run,
                                              float scale)
{
    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;
        float max = -INFINITY, sum = 0.0f, shrink;

        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++)
            max = fmaxf(max, fmaxf(s[m][n][e], s[m][n][e + 1]));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
        max = fmaxf(run.max[m][i % 2], max * scale);
        shrink = ptx_exp2(run.max[m][i % 2] - max);
        run.max[m][i % 2] = max;
        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++) {
            s[m][n][e] = ptx_exp2(s[m][n][e] * scale - max);
            s[m][n][e + 1] = ptx_exp2(s[m][n][e + 1] * scale - max);
            sum += s[m][n][e] + s[m][n][e + 1];
        }
        run.sum[m][i % 2] = run.sum[m][i % 2] * shrink + sum; /* of this lane's columns */
        DS_UNROLL
        for (int n = 0; n < D / 8; n++) {
            o[m][n][e] *= shrink;
            o[m][n][e + 1] *= shrink;
        }
    }
}

/* Outputs are divided by their sums; the logarithms are stored. */
template <int D, int MT>
static __device__ __forceinline__ void finish(float (&o)[MT][D / 8][4], struct running<MT> &run,
                                              float *lse, unsigned query, unsigned seq)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;
        unsigned row = query + m * 16 + lane / 4 + i % 2 * 8;
        float sum = run.sum[m][i % 2];

        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0 && row < seq)
            lse[row] = run.max[m][i % 2] / DS_LOG2E + logf(sum);
        sum = 1.0f / sum;
        DS_UNROLL
        for (int n = 0; n < D / 8; n++) {
            o[m][n][e] *= sum;
            o[m][n][e + 1] *= sum;
        }
    }
}

template <class T, int D, int MT, bool DROP>
static __global__ void __launch_bounds__(FLASH_THREADS, 2)
    flash_fwd(struct attention_shape s, const T *qkv, T *out, float *lse)
{
    constexpr int ROWS = FLASH_WARPS * ROWS_PER_WARP * MT, TILE = FLASH_KEYS * D;
    DS_DYN_SHARED(T, q);
    T *k = q + ROWS * D, *v = k + 2 * TILE;
    unsigned head = blockIdx.x % (s.batch * s.heads), b = head / s.heads, h = head % s.heads;
    unsigned tile = gridDim.x / (s.batch * s.heads) - 1 - blockIdx.x / (s.batch * s.heads);
    unsigned begin = tile * ROWS, end = begin + ROWS < s.seq ? begin + ROWS : s.seq;
    unsigned row = threadIdx.x / WARP * ROWS_PER_WARP * MT, query = begin + row;
    const T *keys = qkv + key_at(s, b, h / s.group), *values = qkv + value_at(s, b, h / s.group);
    float o[MT][D / 8][4] = {};
    struct running<MT> run;

    for (int i = 0; i < 2 * MT; i++) {
        run.max[i / 2][i % 2] = -INFINITY;
        run.sum[i / 2][i % 2] = 0.0f;
    }
    load_tile<T, D, ROWS>(q, s, qkv + query_at(s, b, h), s.ld, begin);
    load_tile<T, D, FLASH_KEYS>(k, s, keys, s.ld, 0);
    load_tile<T, D, FLASH_KEYS>(v, s, values, s.ld, 0);
    ptx_commit();
    for (unsigned key = 0, stage = 0; key < end; key += FLASH_KEYS, stage ^= 1) {
        if (key + FLASH_KEYS < end) {
            load_tile<T, D, FLASH_KEYS>(k + (stage ^ 1) * TILE, s, keys, s.ld, key + FLASH_KEYS);
            load_tile<T, D, FLASH_KEYS>(v + (stage ^ 1) * TILE, s, values, s.ld, key + FLASH_KEYS);
        }
        ptx_commit();
        ptx_wait<1>();
        __syncthreads();
        if (key < query + ROWS_PER_WARP * MT) { /* else no row of this warp sees any of it */
            float p[MT][FLASH_KEYS / 8][4] = {};

            by_transposed<T, D, FLASH_KEYS>(p, q, row, k + stage * TILE);
            hide(p, query, key);
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

template <class T, int D, int MT, bool DROP>
static int start(const struct ds_attention_fwd_args *a, struct attention_shape s,
                 struct ds_stream *stream, struct ds_error *err)
{
    constexpr unsigned ROWS = FLASH_WARPS * ROWS_PER_WARP * MT;
    constexpr size_t SHARED = (ROWS + 4 * FLASH_KEYS) * D * sizeof(T);
    unsigned grid = (s.seq + ROWS - 1) / ROWS * s.batch * s.heads;
    int rc = allow_shared(flash_fwd<T, D, MT, DROP>, SHARED, err);

    if (rc != 0)
        return rc;
    DS_LAUNCH((flash_fwd<T, D, MT, DROP>), grid, FLASH_THREADS, SHARED, stream_of(stream), s,
              (const T *)a->qkv, (T *)a->out, a->lse);
    return launched("attention_fwd", err);
}

template <class T>
static int start_drop(const struct ds_attention_fwd_args *a, struct attention_shape s,
                      struct ds_stream *stream, struct ds_error *err)
{
    if (a->drop.rate > 0.0)
        return s.size <= 64 ? start<T, 64, 2, true>(a, s, stream, err)
                            : start<T, 128, 1, true>(a, s, stream, err);
    return s.size <= 64 ? start<T, 64, 2, false>(a, s, stream, err)
                        : start<T, 128, 1, false>(a, s, stream, err);
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
    return a->act == DS_BF16 ? start_drop<__nv_bfloat16>(a, s, stream, err)
                             : start_drop<__half>(a, s, stream, err);
}
