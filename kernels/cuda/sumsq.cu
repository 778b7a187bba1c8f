/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sumsq.cu - sums over flat arrays; one array added to another.
 *
 * Sum of squares: one block a chunk; then a block adds up the sums of the chunks.
 */
#include "kernels/cuda/chunks.cuh"
#include "kernels/cuda/words.cuh"

enum { SQUARES_AT_ONCE = 8, SQUARES_ROUND = SQUARES_AT_ONCE * BLOCK * PACK32 };
static_assert(DS_SUMSQ_CHUNK % SQUARES_ROUND == 0, "a chunk is so many rounds");

/* What a thread has of a chunk. */
struct squares {
    double sum;
    unsigned nonfinite;
};

static __device__ __forceinline__ void add_squares(struct squares &s, const float (&v)[PACK32])
{
    for (int j = 0; j < PACK32; j++) {
        if (isfinite(v[j]))
            s.sum += (double)v[j] * (double)v[j];
        else
            s.nonfinite++;
    }
}

/* The same elements in the same order whether the chunk is whole words or not. */
static __global__ void __launch_bounds__(BLOCK, 4)
    chunks(size_t n, size_t first, const float *x, double *sums, unsigned long long *counts)
{
    __shared__ double sum_places[BLOCK / WARP];
    __shared__ unsigned count_places[BLOCK / WARP];
    size_t begin = (first + blockIdx.x) * DS_SUMSQ_CHUNK;
    size_t end = n - begin > DS_SUMSQ_CHUNK ? begin + DS_SUMSQ_CHUNK : n;
    size_t i = begin + threadIdx.x * PACK32;
    struct squares s = {};
    float v[PACK32];

    for (; end - begin == DS_SUMSQ_CHUNK && aligned(x) && i < end; i += SQUARES_ROUND) {
        uint4 w[SQUARES_AT_ONCE];

        DS_UNROLL
        for (int k = 0; k < SQUARES_AT_ONCE; k++)
            w[k] = word_at(x + i, k * BLOCK, true);
        DS_UNROLL
        for (int k = 0; k < SQUARES_AT_ONCE; k++) {
            widen_word<float>(w[k], v);
            add_squares(s, v);
        }
    }
    for (; i < end; i += BLOCK * PACK32) {
        take(x + i, end - i, v);
        add_squares(s, v);
    }
    s.sum = block_sum(s.sum, sum_places);
    s.nonfinite = block_sum(s.nonfinite, count_places);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = s.sum;
        counts[blockIdx.x] = s.nonfinite;
    }
}

/* The least of the block's, in every thread; all threads call. */
static __device__ unsigned block_least(unsigned x, unsigned (&places)[BLOCK / WARP])
{
    for (unsigned o = WARP / 2; o > 0; o /= 2) {
        unsigned other = __shfl_xor_sync(0xffffffffu, x, o);

        x = other < x ? other : x;
    }
    if (threadIdx.x % WARP == 0)
        places[threadIdx.x / WARP] = x;
    __syncthreads();
    for (unsigned i = 0; i < BLOCK / WARP; i++)
        x = places[i] < x ? places[i] : x;
    __syncthreads(); /* before `places` is used again */
    return x;
}

/* The index of the first element that is not finite, in every thread: of the first chunk that has
 * one, n of them from `first` on. */
static __device__ size_t first_bad(const struct ds_sumsq_args &a, size_t first, unsigned n,
                                   const unsigned long long *counts)
{
    __shared__ unsigned places[BLOCK / WARP];
    unsigned chunk = n, at = DS_SUMSQ_CHUNK;
    size_t begin;

    for (unsigned i = threadIdx.x; i < n && chunk == n; i += BLOCK)
        chunk = counts[i] > 0 ? i : n;
    begin = (first + block_least(chunk, places)) * DS_SUMSQ_CHUNK;
    for (unsigned i = threadIdx.x; i < DS_SUMSQ_CHUNK && begin + i < a.n && at == DS_SUMSQ_CHUNK;
         i += BLOCK)
        at = isfinite(a.x[begin + i]) ? (unsigned)DS_SUMSQ_CHUNK : i;
    return begin + block_least(at, places);
}

/* Chunks first .. first + n; those before them are in the results. */
static __global__ void __launch_bounds__(BLOCK)
    add_up(struct ds_sumsq_args a, size_t first, unsigned n, const double *sums,
           const unsigned long long *counts)
{
    __shared__ double places[BLOCK / WARP];
    __shared__ unsigned long long count_places[BLOCK / WARP];
    unsigned long long bad = 0, before = first == 0 ? 0 : *a.nonfinite;
    double all = add_chunk_sums(n, sums, places);
    size_t place = 0;

    for (unsigned i = threadIdx.x; i < n; i += BLOCK)
        bad += counts[i];
    bad = block_sum(bad, count_places); /* all have read what was before */
    if (a.place != nullptr && before == 0 && bad > 0)
        place = first_bad(a, first, n, counts);
    if (threadIdx.x != 0)
        return;
    *a.sum = (first == 0 ? 0.0 : *a.sum) + all;
    *a.nonfinite = before + bad;
    if (a.place != nullptr && before == 0)
        *a.place = bad > 0 ? a.base + place : DS_NOWHERE;
}

extern "C" int ds__cuda_sumsq(const struct ds_sumsq_args *a, struct ds_stream *stream,
                              struct ds_error *err)
{
    size_t all = a->n / DS_SUMSQ_CHUNK + (a->n % DS_SUMSQ_CHUNK != 0), first = 0;
    unsigned long long *counts;
    void *scratch;
    int rc = scratch_of(stream, GROUP * 16, &scratch, err);

    if (rc != 0)
        return rc;
    counts = (unsigned long long *)scratch + GROUP;
    do {
        unsigned n = (unsigned)(all - first < GROUP ? all - first : (size_t)GROUP);

        if (n > 0)
            DS_LAUNCH(chunks, n, BLOCK, 0, stream_of(stream), a->n, first, a->x, (double *)scratch,
                      counts);
        DS_LAUNCH(add_up, 1, BLOCK, 0, stream_of(stream), *a, first, n, (const double *)scratch,
                  counts);
        first += n;
    } while (first < all);
    return launched("sumsq", err);
}

/* One block: an array as long as a micro-batch has tokens. */
static __global__ void __launch_bounds__(BLOCK)
    total(size_t n, const float *x, bool accumulate, double *sum)
{
    __shared__ double places[BLOCK / WARP];
    double mine = 0.0;

    for (size_t i = threadIdx.x; i < n; i += BLOCK)
        mine += (double)x[i];
    mine = block_sum(mine, places);
    if (threadIdx.x == 0)
        *sum = (accumulate ? *sum : 0.0) + mine;
}

extern "C" int ds__cuda_sum(const struct ds_sum_args *a, struct ds_stream *stream,
                            struct ds_error *err)
{
    DS_LAUNCH(total, 1, BLOCK, 0, stream_of(stream), a->n, a->x, a->accumulate, a->sum);
    return launched("sum", err);
}

static __global__ void __launch_bounds__(BLOCK) add_to(size_t n, const float *x, float *y)
{
    FOR_PACKS32(i, n)
    {
        float a[PACK32], b[PACK32];

        take(x + i, n - i, a);
        take(y + i, n - i, b);
        for (int j = 0; j < PACK32; j++)
            b[j] += a[j];
        give(y + i, n - i, b);
    }
}

extern "C" int ds__cuda_add(const struct ds_add_args *a, struct ds_stream *stream,
                            struct ds_error *err)
{
    if (a->n == 0)
        return 0;
    DS_LAUNCH(add_to, flat_grid(a->n, PACK32), BLOCK, 0, stream_of(stream), a->n, a->x, a->y);
    return launched("add", err);
}
