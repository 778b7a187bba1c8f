/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * device.cuh - what the kernels share: types, 16-byte loads with tails, sums over a block.
 *
 * Memory is moved in packs of PACK elements.  A pack that is whole and whose address is aligned
 * goes as words of 16 bytes, any other one element by element: rows of odd length need no padding.
 * Sums over a block add in an order that depends on the size of the block only.
 */
#ifndef DS_KERNELS_CUDA_DEVICE_CUH
#define DS_KERNELS_CUDA_DEVICE_CUH

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define DS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define DS_UNROLL    _Pragma("unroll")
#define DS_NO_UNROLL _Pragma("unroll 1")
#define DS_DYN_SHARED(type, name)                                                                  \
    extern __shared__ uint4 ds_dyn_shared[];                                                       \
    type *name = reinterpret_cast<type *>(ds_dyn_shared)
#endif

extern "C" {
#include "kernels/cuda/cuda.h"
}

/* A pack of F32 alone is of PACK32: a thread's words then lie beside those of the next thread. */
enum { PACK = 8, PACK32 = 4, WARP = 32, BLOCK = 256, MAX_GRID = 1 << 20 };

/* Run the statement with T as the element type of that name. */
#define DS_TYPED(type, T, ...)                                                                     \
    do {                                                                                           \
        if ((type) == DS_F32) {                                                                    \
            using T = float;                                                                       \
            __VA_ARGS__;                                                                           \
        } else if ((type) == DS_BF16) {                                                            \
            using T = __nv_bfloat16;                                                               \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            using T = __half;                                                                      \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* Packs of a flat array, in rounds of the whole grid. */
#define FOR_PACKS_OF(pack, i, n)                                                                   \
    for (size_t i = ((size_t)blockIdx.x * BLOCK + threadIdx.x) * (pack); i < (n);                  \
         i += (size_t)gridDim.x * BLOCK * (pack))
#define FOR_PACKS(i, n)   FOR_PACKS_OF(PACK, i, n)
#define FOR_PACKS32(i, n) FOR_PACKS_OF(PACK32, i, n)

/* Rows in rounds of the grid, and the packs of each. */
#define FOR_ROWS(r, rows) for (size_t r = blockIdx.x; r < (rows); r += gridDim.x)
#define FOR_ROW_PACKS(i, length)                                                                   \
    for (size_t i = threadIdx.x * PACK; i < (length); i += BLOCK * PACK)

static __device__ __forceinline__ float widen(float x)
{
    return x;
}

static __device__ __forceinline__ float widen(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

static __device__ __forceinline__ float widen(__half x)
{
    return __half2float(x);
}

static __device__ __forceinline__ void narrow(float *to, float x)
{
    *to = x;
}

static __device__ __forceinline__ void narrow(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

static __device__ __forceinline__ void narrow(__half *to, float x)
{
    *to = __float2half_rn(x);
}

static __host__ __device__ __forceinline__ bool aligned(const void *p, unsigned bytes = 16)
{
    return (uintptr_t)p % bytes == 0;
}

/* What N elements of a type are moved by: words of 16 bytes, or of 8 or 4 when that is all. */
template <int BYTES> struct word_of {
    typedef uint4 type;
};
template <> struct word_of<8> {
    typedef uint2 type;
};
template <> struct word_of<4> {
    typedef unsigned type;
};

/* At most N of the `left` elements from p; zeros behind them. */
template <class T, int N>
static __device__ __forceinline__ void take(const T *p, size_t left, float (&out)[N])
{
    typedef typename word_of<N * sizeof(T)>::type word;

    if (left >= N && aligned(p, sizeof(word))) {
        constexpr int WORDS = N * sizeof(T) / sizeof(word);
        word w[WORDS];
        T x[N];

        for (int i = 0; i < WORDS; i++)
            w[i] = reinterpret_cast<const word *>(p)[i];
        memcpy(x, w, sizeof(x));
        for (int i = 0; i < N; i++)
            out[i] = widen(x[i]);
        return;
    }
    for (int i = 0; i < N; i++)
        out[i] = (size_t)i < left ? widen(p[i]) : 0.0f;
}

template <class T, int N>
static __device__ __forceinline__ void give(T *p, size_t left, const float (&in)[N])
{
    typedef typename word_of<N * sizeof(T)>::type word;
    T x[N];

    for (int i = 0; i < N; i++)
        narrow(&x[i], in[i]);
    if (left >= N && aligned(p, sizeof(word))) {
        constexpr int WORDS = N * sizeof(T) / sizeof(word);
        word w[WORDS];

        memcpy(w, x, sizeof(x));
        for (int i = 0; i < WORDS; i++)
            reinterpret_cast<word *>(p)[i] = w[i];
        return;
    }
    for (int i = 0; i < N; i++) {
        if ((size_t)i < left)
            p[i] = x[i];
    }
}

/* The sum over the warp, in every lane. */
template <class T> static __device__ __forceinline__ T warp_sum(T x)
{
    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}

/* The largest of the warp, in every lane. */
static __device__ __forceinline__ float warp_max(float x)
{
    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}

/* The sum over the lanes up to this one. */
static __device__ __forceinline__ unsigned sum_so_far(unsigned x)
{
    unsigned lane = threadIdx.x % WARP;

    for (unsigned o = 1; o < WARP; o *= 2) {
        unsigned below = __shfl_sync(0xffffffffu, x, (lane - o) % WARP);

        x += lane >= o ? below : 0;
    }
    return x;
}

/* The sum over a block of THREADS, in every thread.  `shared` has THREADS / WARP places; all
 * threads call. */
template <int THREADS = BLOCK, class T> static __device__ T block_sum(T x, T *shared)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    x = warp_sum(x);
    if (lane == 0)
        shared[warp] = x;
    __syncthreads();
    x = warp_sum(lane < THREADS / WARP ? shared[lane] : T(0));
    __syncthreads(); /* before `shared` is used again */
    return x;
}

/* Blocks of BLOCK threads for n elements, `pack` a thread; what is more is done in rounds. */
static inline unsigned flat_grid(size_t n, size_t pack = PACK)
{
    size_t blocks = (n + BLOCK * pack - 1) / (BLOCK * pack);

    return blocks < MAX_GRID ? (unsigned)blocks : (unsigned)MAX_GRID;
}

/* Rows, one block each; what is more than a grid may hold is done in rounds. */
static inline unsigned row_grid(size_t rows)
{
    return (unsigned)(rows < (1u << 30) ? rows : 1u << 30);
}

static inline cudaStream_t stream_of(struct ds_stream *stream)
{
    return (cudaStream_t) reinterpret_cast<struct ds_cuda_stream *>(stream)->stream;
}

/* The stream's scratch as `bytes` bytes for partial results. */
static inline int scratch_of(struct ds_stream *stream, size_t bytes, void **out,
                             struct ds_error *err)
{
    struct ds_cuda_stream *s = reinterpret_cast<struct ds_cuda_stream *>(stream);

    *out = s->scratch;
    if (bytes <= s->scratch_bytes)
        return 0;
    return ds_fail(err, EINVAL, "%zu bytes of scratch for an operation that needs %zu",
                   s->scratch_bytes, bytes);
}

/* Dynamic shared memory beyond what every kernel may have is asked for. */
template <class Kernel>
static inline int allow_shared(Kernel kernel, size_t bytes, struct ds_error *err)
{
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);

    if (error == cudaSuccess)
        return 0;
    return ds_fail(err, EIO, "%zu bytes of shared memory for a block were refused: %s", bytes,
                   cudaGetErrorString(error));
}

/* What the launches since the last call came to. */
static inline int launched(const char *what, struct ds_error *err)
{
    cudaError_t error = cudaGetLastError();

    if (error == cudaSuccess)
        return 0;
    return ds_fail(err, EIO, "CUDA kernel '%s' was refused: %s", what, cudaGetErrorString(error));
}

#endif
