/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_plain.cu - causal attention without tensor cores.
 *
 * For F32, whose sums are then F32 throughout, and for heads wider than the tiles.  A warp has one
 * query, or for gradients of keys and values one key, and goes over the other side 32 rows at a
 * time: first a lane has a row and works out its weight, then a lane has every 32nd column.
 */
#include "kernels/cuda/attention.cuh"

enum { PLAIN_WARPS = BLOCK / WARP, COLUMNS = PLAIN_MAX / WARP };

/* A warp's shared memory: two rows of numbers, two of weights. */
struct plain_rows {
    float *x, *y;         /* [size] */
    float *first, *other; /* [WARP] */
};

static __device__ __forceinline__ struct plain_rows plain_rows_of(float *shared, unsigned size)
{
    float *mine = shared + threadIdx.x / WARP * (2 * size + 2 * WARP);

    return {mine, mine + size, mine + 2 * size, mine + 2 * size + WARP};
}

/* The warp's task, of `seq` in each of `heads` * batch heads; false when there is none. */
static __device__ __forceinline__ bool plain_task(const struct attention_shape &s, unsigned heads,
                                                  unsigned *b, unsigned *h, unsigned *t)
{
    size_t i = (size_t)blockIdx.x * PLAIN_WARPS + threadIdx.x / WARP;

    *t = (unsigned)(i % s.seq);
    *h = (unsigned)(i / s.seq % heads);
    *b = (unsigned)(i / s.seq / heads);
    return *b < s.batch;
}

template <class T>
static __device__ __forceinline__ void plain_read(float *to, const T *from, unsigned size)
{
    for (unsigned i = threadIdx.x % WARP; i < size; i += WARP)
        to[i] = widen(from[i]);
}

template <class T>
static __device__ __forceinline__ float plain_dot(const float *x, const T *y, unsigned size)
{
    float sum = 0.0f;

    for (unsigned i = 0; i < size; i++)
        sum += x[i] * widen(y[i]);
    return sum;
}

/* out += the sum over `rows` rows of weight * row; a lane has the columns lane, lane + 32, ... */
template <class T>
static __device__ __forceinline__ void plain_add(float (&out)[COLUMNS], const float *weight,
                                                 const T *x, size_t ld, unsigned rows,
                                                 unsigned size)
{
    for (unsigned r = 0; r < rows; r++) {
        DS_UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            unsigned i = threadIdx.x % WARP + c * WARP;

            if (i < size)
                out[c] += weight[r] * widen(x[r * ld + i]);
        }
    }
}

template <class T>
static __device__ __forceinline__ void plain_write(T *to, const float (&x)[COLUMNS], float by,
                                                   unsigned size)
{
    DS_UNROLL
    for (int c = 0; c < COLUMNS; c++) {
        unsigned i = threadIdx.x % WARP + c * WARP;

        if (i < size)
            narrow(&to[i], x[c] * by);
    }
}

template <class T, bool CUT>
static __global__ void __launch_bounds__(BLOCK)
    plain_fwd(struct attention_shape s, bool drops, const T *qkv, T *out, float *lse)
{
    DS_DYN_SHARED(float, shared);
    struct plain_rows w = plain_rows_of(shared, s.size);
    unsigned lane = threadIdx.x % WARP, b, h, t;
    float o[COLUMNS] = {}, max = -INFINITY, sum = 0.0f;
    const T *keys, *values;
    uint64_t draws;

    if (!plain_task(s, s.heads, &b, &h, &t))
        return;
    draws = draws_at(s, b, h, t);
    keys = qkv + key_at(s, b, h / s.group);
    values = qkv + value_at(s, b, h / s.group);
    plain_read(w.x, qkv + query_at(s, b, h) + t * s.ld, s.size);
    __syncwarp();
    for (unsigned key = first_key<CUT>(s, b, t); key <= t; key += WARP) {
        unsigned rows = t + 1 - key < WARP ? t + 1 - key : (unsigned)WARP;
        float score = -INFINITY, top, shrink, p;

        if (lane < rows)
            score = plain_dot(w.x, keys + (key + lane) * s.ld, s.size) * s.scale;
        top = fmaxf(max, warp_max(score));
        shrink = expf(max - top);
        max = top;
        p = expf(score - max);
        sum = sum * shrink + warp_sum(p);
        w.first[lane] = drops ? p * keep_of(s, draws, key + lane) : p;
        __syncwarp();
        for (int c = 0; c < COLUMNS; c++)
            o[c] *= shrink;
        plain_add(o, w.first, values + key * s.ld, s.ld, rows, s.size);
        __syncwarp(); /* before the weights are overwritten */
    }
    plain_write(out + out_at(s, b, h) + t * out_ld(s), o, 1.0f / sum, s.size);
    if (lane == 0)
        lse[((size_t)b * s.heads + h) * s.seq + t] = max + logf(sum);
}

template <class T, bool CUT>
static __global__ void __launch_bounds__(BLOCK)
    plain_dq(struct attention_shape s, struct ds_attention_bwd_args a, const float *dots)
{
    DS_DYN_SHARED(float, shared);
    struct plain_rows w = plain_rows_of(shared, s.size);
    bool drops = a.drop.rate > 0.0;
    unsigned lane = threadIdx.x % WARP, b, h, t;
    const T *qkv = (const T *)a.qkv, *keys, *values;
    float dq[COLUMNS] = {}, lse, dot;
    uint64_t draws;
    size_t at;

    if (!plain_task(s, s.heads, &b, &h, &t))
        return;
    at = ((size_t)b * s.heads + h) * s.seq + t;
    lse = a.lse[at];
    dot = dots[at];
    draws = draws_at(s, b, h, t);
    keys = qkv + key_at(s, b, h / s.group);
    values = qkv + value_at(s, b, h / s.group);
    plain_read(w.x, qkv + query_at(s, b, h) + t * s.ld, s.size);
    plain_read(w.y, (const T *)a.dout + out_at(s, b, h) + t * out_ld(s), s.size);
    __syncwarp();
    for (unsigned key = first_key<CUT>(s, b, t); key <= t; key += WARP) {
        unsigned rows = t + 1 - key < WARP ? t + 1 - key : (unsigned)WARP;

        if (lane < rows) {
            float score = plain_dot(w.x, keys + (key + lane) * s.ld, s.size) * s.scale;
            float dp = plain_dot(w.y, values + (key + lane) * s.ld, s.size);

            if (drops)
                dp *= keep_of(s, draws, key + lane);
            w.first[lane] = expf(score - lse) * (dp - dot) * s.scale;
        }
        __syncwarp();
        plain_add(dq, w.first, keys + key * s.ld, s.ld, rows, s.size);
        __syncwarp(); /* before the weights are overwritten */
    }
    plain_write((T *)a.dqkv + query_at(s, b, h) + t * s.ld, dq, 1.0f, s.size);
}

template <class T, bool CUT>
static __global__ void __launch_bounds__(BLOCK)
    plain_dkv(struct attention_shape s, struct ds_attention_bwd_args a, const float *dots)
{
    DS_DYN_SHARED(float, shared);
    struct plain_rows w = plain_rows_of(shared, s.size);
    bool drops = a.drop.rate > 0.0;
    unsigned lane = threadIdx.x % WARP, b, kv, key, end;
    const T *qkv = (const T *)a.qkv;
    float dk[COLUMNS] = {}, dv[COLUMNS] = {};

    if (!plain_task(s, s.kv_heads, &b, &kv, &key))
        return;
    end = CUT ? key + tiles_that_see(s, b, key, 1, 1, s.seq - key) : s.seq;
    plain_read(w.x, qkv + key_at(s, b, kv) + key * s.ld, s.size);
    plain_read(w.y, qkv + value_at(s, b, kv) + key * s.ld, s.size);
    __syncwarp();
    for (unsigned h = kv * s.group; h < (kv + 1) * s.group; h++) {
        const T *queries = qkv + query_at(s, b, h), *douts = (const T *)a.dout + out_at(s, b, h);
        size_t at = ((size_t)b * s.heads + h) * s.seq;

        for (unsigned t = key; t < end; t += WARP) {
            unsigned rows = end - t < WARP ? end - t : (unsigned)WARP;

            if (lane < rows) {
                float score = plain_dot(w.x, queries + (t + lane) * s.ld, s.size) * s.scale;
                float dp = plain_dot(w.y, douts + (t + lane) * out_ld(s), s.size);
                float p = expf(score - a.lse[at + t + lane]);
                float keep = drops ? keep_of(s, draws_at(s, b, h, t + lane), key) : 1.0f;

                w.first[lane] = p * keep;
                w.other[lane] = p * (dp * keep - dots[at + t + lane]) * s.scale;
            }
            __syncwarp();
            plain_add(dv, w.first, douts + t * out_ld(s), out_ld(s), rows, s.size);
            plain_add(dk, w.other, queries + t * s.ld, s.ld, rows, s.size);
            __syncwarp(); /* before the weights are overwritten */
        }
    }
    plain_write((T *)a.dqkv + key_at(s, b, kv) + key * s.ld, dk, 1.0f, s.size);
    plain_write((T *)a.dqkv + value_at(s, b, kv) + key * s.ld, dv, 1.0f, s.size);
}

static unsigned plain_grid(const struct attention_shape &s, unsigned heads)
{
    size_t tasks = (size_t)s.batch * heads * s.seq;

    return (unsigned)((tasks + PLAIN_WARPS - 1) / PLAIN_WARPS);
}

static size_t plain_shared(const struct attention_shape &s)
{
    return PLAIN_WARPS * (2 * s.size + 2 * WARP) * sizeof(float);
}

static int too_wide(size_t size, struct ds_error *err)
{
    if (size <= PLAIN_MAX)
        return 0;
    return ds_fail(err, ENOTSUP, "heads of %zu elements: attention on CUDA has up to %d", size,
                   (int)PLAIN_MAX);
}

template <class T, bool CUT>
static void start_fwd(const struct ds_attention_fwd_args *a, const struct attention_shape &s,
                      struct ds_stream *stream)
{
    DS_LAUNCH((plain_fwd<T, CUT>), plain_grid(s, s.heads), BLOCK, plain_shared(s),
              stream_of(stream), s, a->drop.rate > 0.0, (const T *)a->qkv, (T *)a->out, a->lse);
}

template <class T, bool CUT>
static void start_bwd(const struct ds_attention_bwd_args *a, const struct attention_shape &s,
                      const float *dots, struct ds_stream *stream)
{
    DS_LAUNCH((plain_dq<T, CUT>), plain_grid(s, s.heads), BLOCK, plain_shared(s), stream_of(stream),
              s, *a, dots);
    DS_LAUNCH((plain_dkv<T, CUT>), plain_grid(s, s.kv_heads), BLOCK, plain_shared(s),
              stream_of(stream), s, *a, dots);
}

int ds__cuda_attention_plain_fwd(const struct ds_attention_fwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    struct attention_shape s = attention_shape_of(a);
    int rc = too_wide(a->head_size, err);

    if (rc != 0)
        return rc;
    if (a->low != NULL)
        DS_TYPED(a->act, T, (start_fwd<T, true>(a, s, stream)));
    else
        DS_TYPED(a->act, T, (start_fwd<T, false>(a, s, stream)));
    return launched("attention_fwd", err);
}

int ds__cuda_attention_plain_bwd(const struct ds_attention_bwd_args *a, const float *dots,
                                 struct ds_stream *stream, struct ds_error *err)
{
    struct attention_shape s = attention_shape_of(a);
    int rc = too_wide(a->head_size, err);

    if (rc != 0)
        return rc;
    if (a->low != NULL)
        DS_TYPED(a->act, T, (start_bwd<T, true>(a, s, dots, stream)));
    else
        DS_TYPED(a->act, T, (start_bwd<T, false>(a, s, dots, stream)));
    return launched("attention_bwd", err);
}
