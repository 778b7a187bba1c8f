/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * norm.cu - LayerNorm and RMSNorm.  Not yet run on a GPU.
 *
 * A warp a row, with shuffles alone.  Rows of up to HELD packs a lane stay in registers from the
 * first pass over them to the last, wider ones are read again.  Gradients of weight and bias as in
 * columns.cuh.
 */
#include "kernels/cuda/columns.cuh"

/* The rows of this warp, and the packs of this lane. */
#define FOR_WARP_ROWS(r, rows)                                                                     \
    for (size_t r = (size_t)blockIdx.x * WARPS + threadIdx.x / WARP; r < (rows);                   \
         r += (size_t)gridDim.x * WARPS)
#define FOR_LANE_PACKS(i, n) for (size_t i = threadIdx.x % WARP * PACK; i < (n); i += WARP * PACK)

/* The mean of x - shift over n elements, or of its square. */
template <class T>
static __device__ __forceinline__ float row_mean(const T *x, size_t n, float shift, bool square)
{
    float sum = 0.0f;

    FOR_LANE_PACKS(i, n)
    {
        float v[PACK];

        take(x + i, n - i, v);
        for (int j = 0; j < PACK && i + j < n; j++) {
            float d = v[j] - shift;

            sum += square ? d * d : d;
        }
    }
    return warp_sum(sum) / (float)n;
}

enum { HELD = 4 }; /* packs; twice as many would leave room for one block */

static inline bool can_hold(enum ds_dtype act, enum ds_dtype param, size_t n)
{
    return act == param && n <= HELD * WARP * PACK;
}

/* The lane's packs of a row; zeros past its end. */
template <class T>
static __device__ __forceinline__ void hold(const T *x, size_t n, float (&v)[HELD][PACK])
{
    DS_UNROLL
    for (int p = 0; p < HELD; p++) {
        size_t i = (p * WARP + threadIdx.x % WARP) * PACK;

        take(x + i, i < n ? n - i : 0, v[p]);
    }
}

template <class T>
static __global__ void __launch_bounds__(BLOCK, 2) norm_fwd_held(struct ds_norm_fwd_args a)
{
    const T *weight = (const T *)a.weight, *bias = (const T *)a.bias;
    size_t n = a.channels, first = threadIdx.x % WARP * PACK;
    bool layer = a.kind == DS_NORM_LAYER;

    FOR_WARP_ROWS(r, a.rows)
    {
        float v[HELD][PACK], mean = 0.0f, square = 0.0f, rstd;

        hold((const T *)a.x + r * n, n, v);
        DS_UNROLL
        for (int p = 0; p < HELD && layer; p++) {
            for (int j = 0; j < PACK; j++)
                mean += v[p][j];
        }
        mean = warp_sum(mean) / (float)n;
        DS_UNROLL
        for (int p = 0; p < HELD; p++) {
            for (int j = 0; j < PACK; j++) {
                float d = v[p][j] - mean;

                square += first + p * WARP * PACK + j < n ? d * d : 0.0f;
            }
        }
        rstd = 1.0f / sqrtf(warp_sum(square) / (float)n + a.eps);
        DS_UNROLL
        for (int p = 0; p < HELD; p++) {
            size_t i = first + p * WARP * PACK, left = i < n ? n - i : 0;
            float w[PACK], b[PACK] = {};

            take(weight + i, left, w);
            if (layer)
                take(bias + i, left, b);
            for (int j = 0; j < PACK; j++)
                v[p][j] = (v[p][j] - mean) * rstd * w[j] + b[j];
            give((T *)a.y + r * n + i, left, v[p]);
        }
        if (threadIdx.x % WARP == 0) {
            a.rstd[r] = rstd;
            if (layer)
                a.mean[r] = mean;
        }
    }
}

/* dx may be dres: a lane has read its packs before it writes them. */
template <class T>
static __global__ void __launch_bounds__(BLOCK, 2) norm_dx_held(struct ds_norm_bwd_args a)
{
    const T *weight = (const T *)a.weight;
    size_t n = a.channels, first = threadIdx.x % WARP * PACK;
    bool layer = a.kind == DS_NORM_LAYER;

    FOR_WARP_ROWS(r, a.rows)
    {
        float v[HELD][PACK], d[HELD][PACK], sum = 0.0f, dot = 0.0f;
        float mean = layer ? a.mean[r] : 0.0f, rstd = a.rstd[r];

        hold((const T *)a.x + r * n, n, v);
        hold((const T *)a.dy + r * n, n, d);
        DS_UNROLL
        for (int p = 0; p < HELD; p++) {
            size_t i = first + p * WARP * PACK;
            float w[PACK];

            take(weight + i, i < n ? n - i : 0, w);
            for (int j = 0; j < PACK; j++) {
                v[p][j] = (v[p][j] - mean) * rstd;
                d[p][j] *= w[j]; /* 0 past the end */
                sum += d[p][j];
                dot += d[p][j] * v[p][j];
            }
        }
        sum = layer ? warp_sum(sum) / (float)n : 0.0f;
        dot = warp_sum(dot) / (float)n;
        DS_UNROLL
        for (int p = 0; p < HELD; p++) {
            size_t i = first + p * WARP * PACK, left = i < n ? n - i : 0;
            float old[PACK] = {};

            if (a.dres != nullptr)
                take((const T *)a.dres + r * n + i, left, old);
            for (int j = 0; j < PACK; j++)
                d[p][j] = old[j] + rstd * (d[p][j] - sum - v[p][j] * dot);
            give((T *)a.dx + r * n + i, left, d[p]);
        }
    }
}

template <class T, class P>
static __global__ void __launch_bounds__(BLOCK) norm_fwd(struct ds_norm_fwd_args a)
{
    const P *weight = (const P *)a.weight, *bias = (const P *)a.bias;
    bool layer = a.kind == DS_NORM_LAYER;

    FOR_WARP_ROWS(r, a.rows)
    {
        const T *x = (const T *)a.x + r * a.channels;
        float mean = layer ? row_mean(x, a.channels, 0.0f, false) : 0.0f;
        float rstd = 1.0f / sqrtf(row_mean(x, a.channels, mean, true) + a.eps);

        FOR_LANE_PACKS(i, a.channels)
        {
            size_t left = a.channels - i;
            float v[PACK], w[PACK], b[PACK] = {};

            take(x + i, left, v);
            take(weight + i, left, w);
            if (layer)
                take(bias + i, left, b);
            for (int j = 0; j < PACK; j++)
                v[j] = (v[j] - mean) * rstd * w[j] + b[j];
            give((T *)a.y + r * a.channels + i, left, v);
        }
        if (threadIdx.x % WARP == 0) {
            a.rstd[r] = rstd;
            if (layer)
                a.mean[r] = mean;
        }
    }
}

/* dx may be dres: a lane has read its packs before it writes them. */
template <class T, class P>
static __global__ void __launch_bounds__(BLOCK) norm_dx(struct ds_norm_bwd_args a)
{
    const P *weight = (const P *)a.weight;
    bool layer = a.kind == DS_NORM_LAYER;

    FOR_WARP_ROWS(r, a.rows)
    {
        size_t n = a.channels, at = r * n;
        const T *x = (const T *)a.x + at, *dy = (const T *)a.dy + at;
        float mean = layer ? a.mean[r] : 0.0f, rstd = a.rstd[r], sum = 0.0f, dot = 0.0f;
        float v[PACK], d[PACK], w[PACK], old[PACK] = {};

        FOR_LANE_PACKS(i, n)
        {
            take(x + i, n - i, v);
            take(dy + i, n - i, d);
            take(weight + i, n - i, w);
            for (int j = 0; j < PACK; j++) {
                sum += d[j] * w[j];
                dot += d[j] * w[j] * ((v[j] - mean) * rstd);
            }
        }
        sum = layer ? warp_sum(sum) / (float)n : 0.0f;
        dot = warp_sum(dot) / (float)n;
        FOR_LANE_PACKS(i, n)
        {
            take(x + i, n - i, v);
            take(dy + i, n - i, d);
            take(weight + i, n - i, w);
            if (a.dres != nullptr)
                take((const T *)a.dres + at + i, n - i, old);
            for (int j = 0; j < PACK; j++)
                d[j] = old[j] + rstd * (d[j] * w[j] - sum - (v[j] - mean) * rstd * dot);
            give((T *)a.dx + at + i, n - i, d);
        }
    }
}

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    norm_columns(struct ds_norm_bwd_args a, float *dweight, float *dbias)
{
    alignas(16) __shared__ float places[WARPS][TILE_COLUMNS];
    const T *dy = (const T *)a.dy, *x = (const T *)a.x;
    size_t c = lane_column(), n = a.channels;
    float w[PACK] = {}, b[PACK] = {};
    bool layer = a.kind == DS_NORM_LAYER;

    FOR_SLAB_ROWS(r, a.rows)
    {
        float d[PACK], v[PACK], mean = layer ? a.mean[r] : 0.0f, rstd = a.rstd[r];

        if (c >= n)
            break;
        take(dy + r * n + c, n - c, d);
        take(x + r * n + c, n - c, v);
        for (int j = 0; j < PACK; j++) {
            w[j] += d[j] * ((v[j] - mean) * rstd);
            b[j] += d[j];
        }
    }
    give_slab(w, places, n, dweight);
    if (layer)
        give_slab(b, places, n, dbias);
}

extern "C" int ds__cuda_norm_fwd(const struct ds_norm_fwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    unsigned grid = row_grid((a->rows + WARPS - 1) / WARPS);
    cudaStream_t queue = stream_of(stream);

    if (can_hold(a->act, a->param, a->channels))
        DS_TYPED(a->act, T, DS_LAUNCH(norm_fwd_held<T>, grid, BLOCK, 0, queue, *a));
    else
        DS_TYPED(a->act, T,
                 DS_TYPED(a->param, P, DS_LAUNCH((norm_fwd<T, P>), grid, BLOCK, 0, queue, *a)));
    return launched("norm_fwd", err);
}

extern "C" int ds__cuda_norm_bwd(const struct ds_norm_bwd_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    unsigned grid = row_grid((a->rows + WARPS - 1) / WARPS), slabs = slabs_of(a->rows);
    size_t n = a->channels;
    cudaStream_t queue = stream_of(stream);
    void *scratch;
    float *dweight, *dbias;
    int rc = scratch_of(stream, 2 * sizeof(float) * slabs * n, &scratch, err);

    if (rc != 0)
        return rc;
    dweight = (float *)scratch;
    dbias = dweight + slabs * n;
    DS_TYPED(
        a->act, T,
        DS_LAUNCH(norm_columns<T>, slab_grid(a->rows, n), BLOCK, 0, queue, *a, dweight, dbias));
    DS_LAUNCH(add_slabs, add_slabs_grid(n), BLOCK, 0, queue, n, slabs, dweight, a->dweight,
              a->accumulate);
    if (a->kind == DS_NORM_LAYER)
        DS_LAUNCH(add_slabs, add_slabs_grid(n), BLOCK, 0, queue, n, slabs, dbias, a->dbias,
                  a->accumulate);
    if (can_hold(a->act, a->param, a->channels))
        DS_TYPED(a->act, T, DS_LAUNCH(norm_dx_held<T>, grid, BLOCK, 0, queue, *a));
    else
        DS_TYPED(a->act, T,
                 DS_TYPED(a->param, P, DS_LAUNCH((norm_dx<T, P>), grid, BLOCK, 0, queue, *a)));
    return launched("norm_bwd", err);
}
