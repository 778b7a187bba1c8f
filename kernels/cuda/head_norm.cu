/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * head_norm.cu - RMS norm of the query and key heads of packed rows.
 *
 * A block has some of the rows, and of them the queries, the keys or the values.  A head is a
 * group's: a warp, or where a head is short as small a part of one as has a pack a lane.  So lanes
 * keep to their columns: weights are read once, and gradients of weights stay in registers from the
 * first head to the last; groups are then added in their order, and slabs as in columns.cuh.
 *
 * What is longer than a warp's packs is read again for each thing that is asked of it, with
 * gradients of weights from a kernel of their own.
 */
#include "kernels/cuda/columns.cuh"

enum { FWD_ROWS = 4, BWD_ROWS = 8, QUERIES = 0, KEYS = 1, VALUES = 2, MOST_HELD = WARP * PACK };

/* The heads of one sort in some rows: `before` it a row has others, `all` of every sort, and
 * `normed` that have statistics. */
struct part {
    size_t row, before, all, normed;
    unsigned heads, units; /* of a row, and of all the rows */
};

/* The rows of slab blockIdx.x, the sort blockIdx.y.  Heads of a slab have numbers of 32 bits: there
 * are hundreds of slabs, or few rows in each. */
template <class Args> static __device__ __forceinline__ struct part part_of(const Args &a)
{
    size_t end = a.rows * (blockIdx.x + 1) / gridDim.x;
    struct part p;

    p.row = a.rows * blockIdx.x / gridDim.x;
    p.normed = a.heads + a.kv_heads;
    p.all = p.normed + a.kv_heads;
    p.before = blockIdx.y == QUERIES ? 0 : blockIdx.y == KEYS ? a.heads : p.normed;
    p.heads = (unsigned)(blockIdx.y == QUERIES ? a.heads : a.kv_heads);
    p.units = (unsigned)(end - p.row) * p.heads;
    return p;
}

/* Where head `unit` of a part begins, and where its rstd is. */
struct head {
    size_t at, stats;
    bool there;
};

static __device__ __forceinline__ struct head head_of(const struct part &p, unsigned unit, size_t n)
{
    size_t row = p.row + unit / p.heads, h = p.before + unit % p.heads;

    return {(row * p.all + h) * n, row * p.normed + h, unit < p.units};
}

/* Rounds of a block over the heads of a part, LANES lanes a head; all its threads take part. */
#define FOR_HEADS(lanes, unit, p)                                                                  \
    for (unsigned unit = threadIdx.x / (lanes); unit - threadIdx.x / (lanes) < (p).units;          \
         unit += BLOCK / (lanes))

/* The packs of a head behind the first of each lane, of which heads of fewer lanes have none. */
#define FOR_REST(lanes, i, c, n)                                                                   \
    for (size_t i = (c) + MOST_HELD; (lanes) == WARP && i < (n); i += MOST_HELD)

/* The sum over the lanes of a group, in each of them. */
template <int LANES> static __device__ __forceinline__ float group_sum(float x)
{
    for (unsigned o = LANES / 2; o > 0; o /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}

template <class Args> static __device__ __forceinline__ const void *weight_of(const Args &a)
{
    return blockIdx.y == QUERIES ? a.q_weight : a.k_weight;
}

static __device__ __forceinline__ void take_weight(enum ds_dtype type, const void *weight, size_t i,
                                                   size_t left, float (&w)[PACK])
{
    DS_TYPED(type, P, take((const P *)weight + i, left, w));
}

template <class T>
static __device__ __forceinline__ void copy_values(const struct part &p, size_t n, const void *from,
                                                   void *to)
{
    size_t lane = threadIdx.x % WARP * PACK;

    FOR_HEADS(WARP, unit, p)
    {
        struct head h = head_of(p, unit, n);

        for (size_t i = lane; h.there && i < n; i += MOST_HELD) {
            float v[PACK];

            take((const T *)from + h.at + i, n - i, v);
            give((T *)to + h.at + i, n - i, v);
        }
    }
}

static __device__ __forceinline__ float squares(const float (&v)[PACK])
{
    float sum = 0.0f;

    for (int j = 0; j < PACK; j++)
        sum += v[j] * v[j];
    return sum;
}

template <class T>
static __device__ __forceinline__ void give_normed(T *y, size_t left, float (&v)[PACK], float rstd,
                                                   const float (&w)[PACK])
{
    for (int j = 0; j < PACK; j++)
        v[j] = v[j] * rstd * w[j];
    give(y, left, v);
}

template <class T, int LANES>
static __global__ void __launch_bounds__(BLOCK) head_norm_fwd(struct ds_head_norm_fwd_args a)
{
    const struct part p = part_of(a);
    const void *weight = weight_of(a);
    size_t n = a.head_size, c = threadIdx.x % LANES * PACK, held = c < n ? n - c : 0;
    float v[PACK], w[PACK], first[PACK];

    if (blockIdx.y == VALUES) {
        copy_values<T>(p, n, a.x, a.y);
        return;
    }
    take_weight(a.param, weight, c, held, first);
    FOR_HEADS(LANES, unit, p)
    {
        struct head h = head_of(p, unit, n);
        const T *x = (const T *)a.x + h.at;
        T *y = (T *)a.y + h.at;
        size_t end = h.there ? n : 0;
        float x0[PACK], sum, rstd;

        take(x + c, h.there ? held : 0, x0);
        sum = squares(x0);
        FOR_REST(LANES, i, c, end)
        {
            take(x + i, n - i, v);
            sum += squares(v);
        }
        rstd = 1.0f / sqrtf(group_sum<LANES>(sum) / (float)n + a.eps);
        give_normed(y + c, h.there ? held : 0, x0, rstd, first);
        FOR_REST(LANES, i, c, end)
        {
            take(x + i, n - i, v);
            take_weight(a.param, weight, i, n - i, w);
            give_normed(y + i, n - i, v, rstd, w);
        }
        if (c == 0 && h.there)
            a.rstd[h.stats] = rstd;
    }
}

/* What was normed, and the gradient of y; returns the pack's part of the sum that dx needs. */
template <class T>
static __device__ __forceinline__ float take_both(const struct ds_head_norm_bwd_args &a, size_t at,
                                                  size_t left, float rstd, const float (&w)[PACK],
                                                  float (&v)[PACK], float (&d)[PACK])
{
    float dot = 0.0f;

    take((const T *)a.x + at, left, v);
    take((const T *)a.dy + at, left, d);
    for (int j = 0; j < PACK; j++) {
        v[j] *= rstd;
        dot += d[j] * w[j] * v[j];
    }
    return dot;
}

template <class T>
static __device__ __forceinline__ void give_dx(T *dx, size_t left, float rstd, float dot,
                                               const float (&w)[PACK], const float (&v)[PACK],
                                               float (&d)[PACK])
{
    for (int j = 0; j < PACK; j++)
        d[j] = rstd * (d[j] * w[j] - v[j] * dot);
    give(dx, left, d);
}

/* What groups of LANES lanes have of the columns from `first` on, to the slab's row of `partial`;
 * all threads of the block call, once. */
template <int LANES>
static __device__ __forceinline__ void give_groups(const float (&sum)[PACK],
                                                   float (&places)[BLOCK * PACK], size_t first,
                                                   size_t n, float *partial)
{
    constexpr int COLUMNS = LANES * PACK;
    size_t column = first + threadIdx.x;
    float all = 0.0f;

    give(&places[threadIdx.x * PACK], PACK, sum);
    __syncthreads();
    if (threadIdx.x >= COLUMNS || column >= n)
        return;
    for (int g = 0; g < BLOCK / LANES; g++)
        all += places[g * COLUMNS + threadIdx.x];
    partial[(blockIdx.y * gridDim.x + blockIdx.x) * n + column] = all;
}

/* dx may be dy: a lane has read its packs before it writes them, and no other does. */
template <class T, int LANES>
static __global__ void __launch_bounds__(BLOCK)
    head_norm_bwd(struct ds_head_norm_bwd_args a, float *partial)
{
    alignas(16) __shared__ float places[BLOCK * PACK];
    const struct part p = part_of(a);
    size_t n = a.head_size, c = threadIdx.x % LANES * PACK, held = c < n ? n - c : 0;
    float v[PACK], d[PACK], w[PACK], dw[PACK] = {};

    if (blockIdx.y == VALUES) {
        copy_values<T>(p, n, a.dy, a.dx);
        return;
    }
    take_weight(a.param, weight_of(a), c, held, w);
    FOR_HEADS(LANES, unit, p)
    {
        struct head h = head_of(p, unit, n);
        size_t left = h.there ? held : 0;
        float rstd = h.there ? a.rstd[h.stats] : 0.0f;
        float dot = take_both<T>(a, h.at + c, left, rstd, w, v, d);

        for (int j = 0; j < PACK; j++)
            dw[j] += d[j] * v[j];
        dot = group_sum<LANES>(dot) / (float)n;
        give_dx((T *)a.dx + h.at + c, left, rstd, dot, w, v, d);
    }
    give_groups<LANES>(dw, places, 0, n, partial);
}

/* The same of long heads, in two: gradients of weights, a warp's packs of columns at a time. */
template <class T>
static __global__ void __launch_bounds__(BLOCK)
    head_norm_columns(struct ds_head_norm_bwd_args a, float *partial)
{
    alignas(16) __shared__ float places[BLOCK * PACK];
    const struct part p = part_of(a);
    size_t n = a.head_size, tile = (size_t)blockIdx.z * MOST_HELD;
    size_t c = tile + threadIdx.x % WARP * PACK, held = c < n ? n - c : 0;
    float v[PACK], d[PACK], dw[PACK] = {};

    FOR_HEADS(WARP, unit, p)
    {
        struct head h = head_of(p, unit, n);
        size_t left = h.there ? held : 0;
        float rstd = h.there ? a.rstd[h.stats] : 0.0f;

        take((const T *)a.x + h.at + c, left, v);
        take((const T *)a.dy + h.at + c, left, d);
        for (int j = 0; j < PACK; j++)
            dw[j] += d[j] * (v[j] * rstd);
    }
    give_groups<WARP>(dw, places, tile, n, partial);
}

/* And dx, which may be dy as above. */
template <class T>
static __global__ void __launch_bounds__(BLOCK) head_norm_dx(struct ds_head_norm_bwd_args a)
{
    const struct part p = part_of(a);
    size_t n = a.head_size, c = threadIdx.x % WARP * PACK;
    float v[PACK], d[PACK], w[PACK];

    if (blockIdx.y == VALUES) {
        copy_values<T>(p, n, a.dy, a.dx);
        return;
    }
    FOR_HEADS(WARP, unit, p)
    {
        struct head h = head_of(p, unit, n);
        size_t end = h.there ? n : 0;
        float rstd = h.there ? a.rstd[h.stats] : 0.0f, dot = 0.0f;

        for (size_t i = c; i < end; i += MOST_HELD) {
            take_weight(a.param, weight_of(a), i, n - i, w);
            dot += take_both<T>(a, h.at + i, n - i, rstd, w, v, d);
        }
        dot = warp_sum(dot) / (float)n;
        for (size_t i = c; i < end; i += MOST_HELD) {
            take_weight(a.param, weight_of(a), i, n - i, w);
            take_both<T>(a, h.at + i, n - i, rstd, w, v, d);
            give_dx((T *)a.dx + h.at + i, n - i, rstd, dot, w, v, d);
        }
    }
}

static unsigned slabs_for(size_t rows, size_t each, size_t most)
{
    size_t slabs = (rows + each - 1) / each;

    return (unsigned)(slabs < most ? slabs : most);
}

template <class T> static void launch_fwd(const struct ds_head_norm_fwd_args *a, cudaStream_t queue)
{
    const dim3 grid(slabs_for(a->rows, FWD_ROWS, MAX_GRID), VALUES + 1);

    if (a->head_size <= 8 * PACK)
        DS_LAUNCH((head_norm_fwd<T, 8>), grid, BLOCK, 0, queue, *a);
    else if (a->head_size <= 16 * PACK)
        DS_LAUNCH((head_norm_fwd<T, 16>), grid, BLOCK, 0, queue, *a);
    else
        DS_LAUNCH((head_norm_fwd<T, WARP>), grid, BLOCK, 0, queue, *a);
}

extern "C" int ds__cuda_head_norm_fwd(const struct ds_head_norm_fwd_args *a,
                                      struct ds_stream *stream, struct ds_error *err)
{
    DS_TYPED(a->act, T, launch_fwd<T>(a, stream_of(stream)));
    return launched("head_norm_fwd", err);
}

template <class T>
static void launch_bwd(const struct ds_head_norm_bwd_args *a, unsigned slabs, float *partial,
                       cudaStream_t queue)
{
    const dim3 grid(slabs, a->dx == a->dy ? KEYS + 1 : VALUES + 1);
    const dim3 tiles(slabs, KEYS + 1, (unsigned)((a->head_size + MOST_HELD - 1) / MOST_HELD));

    if (a->head_size <= 8 * PACK) {
        DS_LAUNCH((head_norm_bwd<T, 8>), grid, BLOCK, 0, queue, *a, partial);
    } else if (a->head_size <= 16 * PACK) {
        DS_LAUNCH((head_norm_bwd<T, 16>), grid, BLOCK, 0, queue, *a, partial);
    } else if (a->head_size <= MOST_HELD) {
        DS_LAUNCH((head_norm_bwd<T, WARP>), grid, BLOCK, 0, queue, *a, partial);
    } else {
        DS_LAUNCH(head_norm_columns<T>, tiles, BLOCK, 0, queue, *a, partial);
        DS_LAUNCH(head_norm_dx<T>, grid, BLOCK, 0, queue, *a);
    }
}

extern "C" int ds__cuda_head_norm_bwd(const struct ds_head_norm_bwd_args *a,
                                      struct ds_stream *stream, struct ds_error *err)
{
    size_t n = a->head_size;
    unsigned slabs = slabs_for(a->rows, BWD_ROWS, DS_NEED_HEAD_SLABS);
    cudaStream_t queue = stream_of(stream);
    void *scratch;
    int rc = scratch_of(stream, 2 * sizeof(float) * slabs * n, &scratch, err);

    if (rc != 0)
        return rc;
    DS_TYPED(a->act, T, launch_bwd<T>(a, slabs, (float *)scratch, queue));
    launch_add_slabs(n, slabs, (const float *)scratch, a->dq_weight, a->dk_weight, a->accumulate,
                     queue);
    return launched("head_norm_bwd", err);
}
