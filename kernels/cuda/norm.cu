/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * norm.cu - LayerNorm and RMSNorm.
 *
 * Rows of whole words are read once.  Forward: by a warp, or by a block where a warp would hold too
 * much of a row.  Backward: a block has a slab of the rows and each of its threads a word of every
 * row, so that sums over rows stay in registers from the first row to the last; while a row is
 * summed up the next one is on its way.
 *
 * Any other row is read again for each thing that is asked of it, a warp a row, with gradients of
 * weight and bias as in columns.cuh.
 */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/words.cuh"

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

/* The sum over the WIDTH warps that have a row: one, or the block. */
template <int WIDTH>
static __device__ __forceinline__ float row_sum(float x, float (&places)[WARPS])
{
    if constexpr (WIDTH == 1)
        return warp_sum(x);
    else
        return block_sum(x, places);
}

template <class T>
static __device__ __forceinline__ uint4 normed(const uint4 &x, const uint4 &weight,
                                               const uint4 &bias, float mean, float rstd)
{
    float v[EACH<T>], w[EACH<T>], b[EACH<T>];

    widen_word<T>(x, v);
    widen_word<T>(weight, w);
    widen_word<T>(bias, b);
    for (int j = 0; j < EACH<T>; j++)
        v[j] = (v[j] - mean) * rstd * w[j] + b[j];
    return narrow_word<T>(v);
}

/* Words of a row that a thread holds at most. */
enum { HELD = 8 };

/* Of the row whose words this thread has, from `first` on. */
struct row_stats {
    float mean, rstd;
};

template <class T, int WIDTH, int MANY>
static __device__ __forceinline__ struct row_stats stats_of(const struct ds_norm_fwd_args &a,
                                                            uint4 (&x)[MANY], unsigned first,
                                                            float (&places)[WARPS])
{
    float v[EACH<T>], mean = 0.0f, square = 0.0f;

    if (a.kind == DS_NORM_LAYER) {
        DS_UNROLL
        for (int p = 0; p < MANY; p++) {
            widen_word<T>(x[p], v);
            for (int j = 0; j < EACH<T>; j++)
                mean += v[j];
            forget(x[p]);
        }
        mean = row_sum<WIDTH>(mean, places) / (float)a.channels;
    }
    DS_UNROLL
    for (int p = 0; p < MANY; p++) {
        bool there = first + p * WIDTH * WARP < (unsigned)a.channels / EACH<T>;

        widen_word<T>(x[p], v);
        for (int j = 0; j < EACH<T>; j++) {
            float d = there ? v[j] - mean : 0.0f;

            square += d * d;
        }
        forget(x[p]);
    }
    return {mean, 1.0f / sqrtf(row_sum<WIDTH>(square, places) / (float)a.channels + a.eps)};
}

/* WIDTH warps a row, MANY words of it a thread: where those are many a block has fewer beside it,
 * but more under way. */
template <class T, int WIDTH, int MANY>
static __global__ void __launch_bounds__(BLOCK, MANY < 4      ? 5
                                                : MANY < HELD ? 4
                                                              : 3)
    norm_fwd_words(struct ds_norm_fwd_args a)
{
    constexpr unsigned THREADS = WIDTH * WARP, ROWS = BLOCK / THREADS;
    constexpr int AT_ONCE = MANY % 2 == 0 ? 2 : 1; /* of weight and bias */
    __shared__ float places[WARPS];
    unsigned words = (unsigned)a.channels / EACH<T>, first = threadIdx.x % THREADS;
    size_t ld = a.ld / EACH<T>, r = (size_t)blockIdx.x * ROWS + threadIdx.x / THREADS;
    bool layer = a.kind == DS_NORM_LAYER;

    for (; r < a.rows; r += (size_t)gridDim.x * ROWS) {
        uint4 x[MANY], w[AT_ONCE], b[AT_ONCE];
        struct row_stats row;

        DS_UNROLL
        for (int p = 0; p < MANY; p++) {
            unsigned i = first + p * THREADS;

            x[p] = word_at(a.x, r * ld + i, i < words);
        }
        row = stats_of<T, WIDTH>(a, x, first, places);
        DS_UNROLL
        for (int p = 0; p < MANY; p += AT_ONCE) {
            DS_UNROLL
            for (int k = 0; k < AT_ONCE; k++) {
                unsigned i = first + (p + k) * THREADS;

                w[k] = fixed_word_at(a.weight, i, i < words);
                b[k] = layer ? fixed_word_at(a.bias, i, i < words)
                             : word_at(a.residual, r * ld + i, a.residual != nullptr && i < words);
            }
            DS_UNROLL
            for (int k = 0; k < AT_ONCE; k++) {
                unsigned i = first + (p + k) * THREADS;

                if (i < words)
                    static_cast<uint4 *>(a.y)[r * ld + i] =
                        normed<T>(x[p + k], w[k], b[k], row.mean, row.rstd);
            }
        }
        if (first == 0) {
            a.rstd[r] = row.rstd;
            if (layer)
                a.mean[r] = row.mean;
        }
    }
}

/* Backward: warps of a block, and rows that are worth a slab. */
enum { MAX_WIDTH = 32, LEAST_ROWS = 8 };

/* What a thread has of a row, as it lies in memory. */
struct row_words {
    uint4 x, dy, old;
    float mean, rstd;
};

/* Rows that are on their way are put into shared memory, where they take no registers; the words of
 * a thread lie apart by the threads of the block, and no other thread looks at them. */
enum { STAGES = 2 };

static __device__ __forceinline__ void send_for(uint4 *stage, const struct ds_norm_bwd_args &a,
                                                unsigned at, bool there)
{
    const size_t i = there ? at : 0;

    ptx_copy16(stage, static_cast<const uint4 *>(a.x) + i, there);
    ptx_copy16(stage + blockDim.x, static_cast<const uint4 *>(a.dy) + i, there);
    if (a.dres != nullptr)
        ptx_copy16(stage + 2 * blockDim.x, static_cast<const uint4 *>(a.dres) + i, there);
}

static __device__ __forceinline__ void take_row(struct row_words &row, const uint4 *stage,
                                                const struct ds_norm_bwd_args &a)
{
    row.x = stage[0];
    row.dy = stage[blockDim.x];
    row.old = a.dres != nullptr ? stage[2 * blockDim.x] : uint4{};
}

/* What was normed, its gradient, the weights. */
template <class T>
static __device__ __forceinline__ void widen_row(const struct row_words &row, const uint4 &weight,
                                                 float (&h)[EACH<T>], float (&d)[EACH<T>],
                                                 float (&w)[EACH<T>])
{
    widen_word<T>(row.x, h);
    widen_word<T>(row.dy, d);
    widen_word<T>(weight, w);
    for (int j = 0; j < EACH<T>; j++)
        h[j] = (h[j] - row.mean) * row.rstd;
}

/* Both sums over the block, in all its threads.  `places` are others than those of the last call,
 * which a thread may still be reading. */
template <bool LAYER>
static __device__ __forceinline__ void add_both(float &sum, float &dot, float (&places)[2][WARP])
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;

    dot = warp_sum(dot);
    if (LAYER)
        sum = warp_sum(sum);
    if (lane == 0) {
        places[0][warp] = sum;
        places[1][warp] = dot;
    }
    __syncthreads();
    dot = warp_sum(lane < warps ? places[1][lane] : 0.0f);
    if (LAYER)
        sum = warp_sum(lane < warps ? places[0][lane] : 0.0f);
}

/* A block has a slab of the rows, a thread a word of each.  dx may be dres or dy: a thread has read
 * its word of a row before it writes it, and no other. */
template <class T, bool LAYER>
static __global__ void __launch_bounds__(MAX_WIDTH *WARP, 1)
    norm_bwd_words(struct ds_norm_bwd_args a, float *dweight, float *dbias)
{
    DS_DYN_SHARED(uint4, stages);
    __shared__ float places[2][2][WARP];
    unsigned words = (unsigned)a.channels / EACH<T>, turn = 0;
    unsigned ld = LAYER ? words : (unsigned)(a.ld / EACH<T>); /* registers are few */
    unsigned r = (unsigned)(a.rows * blockIdx.x / gridDim.x), at = r * ld + threadIdx.x;
    unsigned end = (unsigned)(a.rows * (blockIdx.x + 1) / gridDim.x);
    bool there = threadIdx.x < words;
    float scale = 1.0f / (float)a.channels, dw[EACH<T>] = {}, db[EACH<T>] = {};
    uint4 weight = word_at(a.weight, threadIdx.x, there);

    for (unsigned s = 0; s < STAGES; s++) {
        if (r + s < end)
            send_for(stages + s * 3 * blockDim.x + threadIdx.x, a, at + s * ld, there);
        ptx_commit();
    }
    for (; r < end; r++, at += ld, turn = (turn + 1) % STAGES) {
        uint4 *stage = stages + turn * 3 * blockDim.x + threadIdx.x;
        struct row_words row;
        float h[EACH<T>], d[EACH<T>], v[EACH<T>], sum = 0.0f, dot = 0.0f;

        row.mean = LAYER ? a.mean[r] : 0.0f;
        row.rstd = a.rstd[r];
        ptx_wait<STAGES - 1>();
        take_row(row, stage, a);
        widen_row<T>(row, weight, h, d, v);
        for (int j = 0; j < EACH<T>; j++) {
            dw[j] += d[j] * h[j];
            db[j] += d[j];
            if (LAYER)
                sum += d[j] * v[j]; /* 0 past the end */
            dot += d[j] * v[j] * h[j];
        }
        add_both<LAYER>(sum, dot, places[r % 2]);
        if (r + STAGES < end)
            send_for(stage, a, at + STAGES * ld, there);
        ptx_commit();
        forget(row.x);
        forget(row.dy);
        forget(weight);
        widen_row<T>(row, weight, h, d, v);
        for (int j = 0; j < EACH<T>; j++)
            d[j] = row.rstd * (d[j] * v[j] - sum * scale - h[j] * (dot * scale));
        widen_word<T>(row.old, v);
        for (int j = 0; j < EACH<T>; j++)
            d[j] += v[j];
        if (there)
            static_cast<uint4 *>(a.dx)[at] = narrow_word<T>(d);
    }
    if (!there)
        return;
    give(dweight + blockIdx.x * a.channels + threadIdx.x * EACH<T>, EACH<T>, dw);
    if (LAYER)
        give(dbias + blockIdx.x * a.channels + threadIdx.x * EACH<T>, EACH<T>, db);
}

template <class T, class P>
static __global__ void __launch_bounds__(BLOCK) norm_fwd(struct ds_norm_fwd_args a)
{
    const P *weight = (const P *)a.weight, *bias = (const P *)a.bias;
    bool layer = a.kind == DS_NORM_LAYER;

    FOR_WARP_ROWS(r, a.rows)
    {
        const T *x = (const T *)a.x + r * a.ld;
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
            else if (a.residual != nullptr)
                take((const T *)a.residual + r * a.ld + i, left, b);
            for (int j = 0; j < PACK; j++)
                v[j] = (v[j] - mean) * rstd * w[j] + b[j];
            give((T *)a.y + r * a.ld + i, left, v);
        }
        if (threadIdx.x % WARP == 0) {
            a.rstd[r] = rstd;
            if (layer)
                a.mean[r] = mean;
        }
    }
}

/* dx may be dres or dy: a lane has read its packs before it writes them. */
template <class T, class P>
static __global__ void __launch_bounds__(BLOCK) norm_dx(struct ds_norm_bwd_args a)
{
    const P *weight = (const P *)a.weight;
    bool layer = a.kind == DS_NORM_LAYER;

    FOR_WARP_ROWS(r, a.rows)
    {
        size_t n = a.channels, at = r * a.ld;
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
        take(dy + r * a.ld + c, n - c, d);
        take(x + r * a.ld + c, n - c, v);
        for (int j = 0; j < PACK; j++) {
            w[j] += d[j] * ((v[j] - mean) * rstd);
            b[j] += d[j];
        }
    }
    give_slab(w, places, n, dweight);
    if (layer)
        give_slab(b, places, n, dbias);
}

/* Rows and parameters that are whole words. */
static bool whole_fwd(const struct ds_norm_fwd_args *a)
{
    return a->act == a->param && whole_words(a->act, a->channels) && whole_words(a->act, a->ld) &&
           aligned(a->x) && aligned(a->weight) && aligned(a->bias) && aligned(a->residual) &&
           aligned(a->y) && bytes_of(a->act, a->channels) <= 16 * HELD * BLOCK;
}

template <class T> static void launch_fwd(const struct ds_norm_fwd_args *a, cudaStream_t queue)
{
    unsigned words = (unsigned)a->channels / EACH<T>, warps = (words + WARP - 1) / WARP;
    unsigned grid = row_grid((a->rows + WARPS - 1) / WARPS), wide = row_grid(a->rows);

    if (warps == 1)
        DS_LAUNCH((norm_fwd_words<T, 1, 1>), grid, BLOCK, 0, queue, *a);
    else if (warps == 2)
        DS_LAUNCH((norm_fwd_words<T, 1, 2>), grid, BLOCK, 0, queue, *a);
    else if (warps == 3)
        DS_LAUNCH((norm_fwd_words<T, 1, 3>), grid, BLOCK, 0, queue, *a);
    else if (warps == 4)
        DS_LAUNCH((norm_fwd_words<T, 1, 4>), grid, BLOCK, 0, queue, *a);
    else if (warps <= HELD)
        DS_LAUNCH((norm_fwd_words<T, 1, HELD>), grid, BLOCK, 0, queue, *a);
    else if (warps <= 2 * WARPS)
        DS_LAUNCH((norm_fwd_words<T, WARPS, 2>), wide, BLOCK, 0, queue, *a);
    else if (warps <= 4 * WARPS)
        DS_LAUNCH((norm_fwd_words<T, WARPS, 4>), wide, BLOCK, 0, queue, *a);
    else
        DS_LAUNCH((norm_fwd_words<T, WARPS, HELD>), wide, BLOCK, 0, queue, *a);
}

extern "C" int ds__cuda_norm_fwd(const struct ds_norm_fwd_args *args, struct ds_stream *stream,
                                 struct ds_error *err)
{
    unsigned grid = row_grid((args->rows + WARPS - 1) / WARPS);
    struct ds_norm_fwd_args a = *args;
    cudaStream_t queue = stream_of(stream);

    a.ld = a.ld > 0 ? a.ld : a.channels;
    if (whole_fwd(&a))
        DS_TYPED(a.act, T, launch_fwd<T>(&a, queue));
    else
        DS_TYPED(a.act, T,
                 DS_TYPED(a.param, P, DS_LAUNCH((norm_fwd<T, P>), grid, BLOCK, 0, queue, a)));
    return launched("norm_fwd", err);
}

/* Warps that have a row of whole words, one word a thread; 0: it is none, or too long. */
static unsigned width_of(const struct ds_norm_bwd_args *a)
{
    size_t bytes = bytes_of(a->act, a->channels), ld = bytes_of(a->act, a->ld) / 16;

    if (a->rows > UINT32_MAX / (ld + MAX_WIDTH * WARP)) /* so that words have numbers of 32 bits */
        return 0;
    if (a->kind == DS_NORM_LAYER && a->ld != a->channels)
        return 0;
    if (a->act != a->param || bytes % 16 != 0 || !whole_words(a->act, a->ld) ||
        bytes > 16 * MAX_WIDTH * WARP || !aligned(a->x) || !aligned(a->dy) || !aligned(a->weight) ||
        !aligned(a->dres) || !aligned(a->dx))
        return 0;
    return (unsigned)((bytes / 16 + WARP - 1) / WARP);
}

/* About as many blocks as a device has room for at a time, by the shape alone, as the sums are. */
static unsigned slabs_of_words(size_t rows, unsigned width)
{
    size_t slabs = (rows + LEAST_ROWS - 1) / LEAST_ROWS, most = MAX_WIDTH / width * DS_NEED_SLABS;

    return (unsigned)(slabs < most ? slabs : most);
}

template <class T, bool LAYER>
static int launch_bwd(const struct ds_norm_bwd_args *a, unsigned slabs, unsigned width,
                      float *dweight, float *dbias, cudaStream_t queue, struct ds_error *err)
{
    size_t bytes = STAGES * 3 * sizeof(uint4) * width * WARP;
    int rc = allow_shared(norm_bwd_words<T, LAYER>, bytes, err);

    if (rc == 0)
        DS_LAUNCH((norm_bwd_words<T, LAYER>), slabs, width * WARP, bytes, queue, *a, dweight,
                  dbias);
    return rc;
}

static int norm_bwd(const struct ds_norm_bwd_args *a, struct ds_stream *stream,
                    struct ds_error *err)
{
    unsigned grid = row_grid((a->rows + WARPS - 1) / WARPS), width = width_of(a);
    unsigned slabs = width > 0 ? slabs_of_words(a->rows, width) : slabs_of(a->rows);
    size_t n = a->channels;
    cudaStream_t queue = stream_of(stream);
    void *scratch;
    float *dweight, *dbias;
    int rc = scratch_of(stream, 2 * sizeof(float) * slabs * n, &scratch, err);

    if (rc != 0)
        return rc;
    dweight = (float *)scratch;
    dbias = dweight + slabs * n;
    if (width > 0 && a->kind == DS_NORM_LAYER)
        DS_TYPED(a->act, T, rc = launch_bwd<T, true>(a, slabs, width, dweight, dbias, queue, err));
    else if (width > 0)
        DS_TYPED(a->act, T, rc = launch_bwd<T, false>(a, slabs, width, dweight, dbias, queue, err));
    else
        DS_TYPED(
            a->act, T,
            DS_LAUNCH(norm_columns<T>, slab_grid(a->rows, n), BLOCK, 0, queue, *a, dweight, dbias));
    if (rc != 0)
        return rc;
    launch_add_slabs(n, slabs, dweight, a->dweight, a->kind == DS_NORM_LAYER ? a->dbias : nullptr,
                     a->accumulate, queue);
    if (width == 0)
        DS_TYPED(a->act, T,
                 DS_TYPED(a->param, P, DS_LAUNCH((norm_dx<T, P>), grid, BLOCK, 0, queue, *a)));
    return launched("norm_bwd", err);
}

extern "C" int ds__cuda_norm_bwd(const struct ds_norm_bwd_args *args, struct ds_stream *stream,
                                 struct ds_error *err)
{
    struct ds_norm_bwd_args a = *args;

    a.ld = a.ld > 0 ? a.ld : a.channels;
    return norm_bwd(&a, stream, err);
}
