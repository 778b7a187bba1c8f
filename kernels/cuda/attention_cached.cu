/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_cached.cu - attention of new rows against a cache of keys and values.
 *
 * A block has one query head of one row.  Its warps take the keys 32 at a time, a lane a key, so
 * that a tile of the cache is read in whole lines; then a lane has every 32nd column of the
 * values.  What the warps have seen is brought to one maximum and added up at the end, in their
 * order.
 *
 * Source  Dao et al., "Flash-Decoding for long-context inference", 2023
 */
#include "kernels/cuda/attention.cuh"

enum { SPLITS = BLOCK / WARP, COLUMNS = PLAIN_MAX / WARP };

/* The query, the weights of each warp's keys, and what each warp comes to. */
struct cached_room {
    float *query, *weights, *max, *sum, *out;
};

static __device__ __forceinline__ struct cached_room cached_room_of(float *shared, unsigned size)
{
    float *weights = shared + size, *max = weights + BLOCK;

    return {shared, weights, max, max + SPLITS, max + 2 * SPLITS};
}

static size_t cached_room_bytes(size_t size)
{
    return (size + BLOCK + 2 * SPLITS + SPLITS * size) * sizeof(float);
}

static __device__ __forceinline__ float largest_of_warp(float x)
{
    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    cached_put(struct ds_attention_cached_args a, const T *qkv, T *keys, T *values)
{
    size_t size = a.head_size, width = a.kv_heads * size;

    FOR_ROWS(t, a.seq)
    {
        const T *key = qkv + t * (a.heads * size + 2 * width) + a.heads * size;
        size_t row = a.first + t;

        for (size_t i = threadIdx.x; i < width; i += BLOCK) {
            size_t kv = i / size, tile = kv * a.room + row / DS_CACHE_TILE * DS_CACHE_TILE;

            keys[tile * size + i % size * DS_CACHE_TILE + row % DS_CACHE_TILE] = key[i];
            values[(kv * a.room + row) * size + i % size] = key[width + i];
        }
    }
}

/* A lane's key against the query. */
template <class T>
static __device__ __forceinline__ float cached_score(const float *query, const T *key,
                                                     unsigned size)
{
    float sum = 0.0f;

    for (unsigned i = 0; i < size; i++)
        sum += query[i] * widen(key[i * DS_CACHE_TILE]);
    return sum;
}

/* A warp's share of keys low .. seen - 1 of a head; the cache's head begins at keys and values. */
template <class T>
static __device__ __forceinline__ void cached_split(const struct cached_room &w, unsigned size,
                                                    size_t low, size_t seen, const T *keys,
                                                    const T *values)
{
    unsigned lane = threadIdx.x % WARP, split = threadIdx.x / WARP;
    float out[COLUMNS] = {}, max = -INFINITY, sum = 0.0f, *weights = w.weights + split * WARP;

    for (size_t first = low / WARP * WARP + split * WARP; first < seen; first += BLOCK) {
        unsigned rows = seen - first < WARP ? (unsigned)(seen - first) : (unsigned)WARP;
        size_t key = first + lane, tile = key / DS_CACHE_TILE * DS_CACHE_TILE;
        float score = -INFINITY, top, shrink, p;

        if (lane < rows && key >= low)
            score = cached_score(w.query, keys + tile * size + key % DS_CACHE_TILE, size);
        top = fmaxf(max, largest_of_warp(score));
        shrink = expf(max - top);
        max = top;
        p = expf(score - max);
        sum = sum * shrink + warp_sum(p);
        weights[lane] = p;
        __syncwarp();
        DS_UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            unsigned i = lane + c * WARP;

            out[c] *= shrink;
            for (unsigned r = 0; i < size && r < rows; r++)
                out[c] += weights[r] * widen(values[(first + r) * size + i]);
        }
        __syncwarp(); /* before the weights are overwritten */
    }
    DS_UNROLL
    for (int c = 0; c < COLUMNS; c++)
        if (lane + c * WARP < size)
            w.out[split * size + lane + c * WARP] = out[c];
    if (lane == 0) {
        w.max[split] = max;
        w.sum[split] = sum;
    }
}

/* With CUT rows see a window. */
template <class T, bool CUT>
static __global__ void __launch_bounds__(BLOCK)
    cached(struct ds_attention_cached_args a, const T *qkv, const T *keys, const T *values, T *out)
{
    DS_DYN_SHARED(float, shared);
    unsigned size = (unsigned)a.head_size;
    struct cached_room w = cached_room_of(shared, size);
    size_t t = blockIdx.x / a.heads, head = blockIdx.x % a.heads;
    size_t at = head / (a.heads / a.kv_heads) * a.room * size, seen = a.first + t + 1;
    size_t low = CUT && a.window < seen ? seen - a.window : 0;
    float max = -INFINITY, sum = 0.0f;

    for (unsigned i = threadIdx.x; i < size; i += BLOCK)
        w.query[i] = widen(qkv[(t * (a.heads + 2 * a.kv_heads) + head) * size + i]) * a.scale;
    __syncthreads();
    cached_split(w, size, low, seen, keys + at, values + at);
    __syncthreads();
    for (unsigned split = 0; split < SPLITS; split++)
        max = fmaxf(max, w.max[split]);
    for (unsigned split = 0; split < SPLITS; split++)
        sum += w.sum[split] * expf(w.max[split] - max);
    for (unsigned i = threadIdx.x; i < size; i += BLOCK) {
        float value = 0.0f;

        for (unsigned split = 0; split < SPLITS; split++)
            value += w.out[split * size + i] * expf(w.max[split] - max);
        narrow(&out[(t * a.heads + head) * size + i], value / sum);
    }
}

template <class T, bool CUT>
static void start_rows(const struct ds_attention_cached_args *a, unsigned blocks,
                       cudaStream_t queue)
{
    DS_LAUNCH((cached<T, CUT>), blocks, BLOCK, cached_room_bytes(a->head_size), queue, *a,
              (const T *)a->qkv, (const T *)a->keys, (const T *)a->values, (T *)a->out);
}

extern "C" int ds__cuda_attention_cached(const struct ds_attention_cached_args *a,
                                         struct ds_stream *stream, struct ds_error *err)
{
    cudaStream_t queue = stream_of(stream);
    size_t blocks = a->seq * a->heads;
    if (a->head_size > PLAIN_MAX || blocks > INT32_MAX)
        return ds_fail(err, ENOTSUP,
                       "%zu rows and heads of %zu elements: attention against a cache on CUDA has "
                       "heads of up to %d",
                       a->seq, a->head_size, PLAIN_MAX);
    DS_TYPED(a->act, T,
             DS_LAUNCH(cached_put<T>, row_grid(a->seq), BLOCK, 0, queue, *a, (const T *)a->qkv,
                       (T *)a->keys, (T *)a->values));
    if (a->window != 0)
        DS_TYPED(a->act, T, (start_rows<T, true>(a, (unsigned)blocks, queue)));
    else
        DS_TYPED(a->act, T, (start_rows<T, false>(a, (unsigned)blocks, queue)));
    return launched("attention_cached", err);
}
