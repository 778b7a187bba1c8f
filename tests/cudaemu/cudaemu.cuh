/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cudaemu.cuh - compile a .cu file with an ordinary C++17 compiler and run it on the CPU, for tests.
 *
 * Every CUDA thread of a block is a fiber of one OS thread: the fibers take turns at barriers and
 * warp collectives only, and the blocks of a grid run one after the other.  The file is put before
 * the kernels by -include; kernels start their launches with DS_LAUNCH and take dynamic shared
 * memory from DS_DYN_SHARED, which kernels/cuda/device.cuh defines for nvcc.
 *
 * Found here  (abort with file and line) barriers and collectives in divergent code, mismatched
 *             masks, a lane outside its own mask, deadlock.  A launch of an impossible shape fails
 *             as on a device.  AddressSanitizer sees accesses past global, shared and local memory;
 *             dynamic shared memory starts as NaN; cudaemu_order() changes which thread goes first.
 *             ThreadSanitizer takes every fiber for a thread and barriers, collectives, begin and end
 *             of a block for all that orders them: it finds races between threads of a block.
 * Not seen    races between blocks, the memory model, alignment of vector loads, registers, time.
 * Subset      *_sync collectives of at most 8 bytes, block barriers, 1 to 3 dimensions, the
 *             instructions of ptx.cuh and wgmma.cuh; no atomics, no waiting for another block.
 * Tests       tests/cudaemu/test_emulation.c
 */
#ifndef DS_TESTS_CUDAEMU_CUH
#define DS_TESTS_CUDAEMU_CUH

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <type_traits>

#include "kernels/dtype.h"
#include "kernels/fp8.h"

/* The scheduler reads and writes stacks of fibers: none of a sanitizer's business. */
#if defined(__SANITIZE_ADDRESS__)
#define CUDAEMU_INTERNAL __attribute__((noinline, no_sanitize("address")))
#elif defined(__SANITIZE_THREAD__)
#define CUDAEMU_INTERNAL __attribute__((noinline, no_sanitize("thread")))
#else
#define CUDAEMU_INTERNAL
#endif

#define DS_CUDAEMU 1
#define __global__
#define __device__
#define __host__
#define __shared__      static /* one block at a time, on one OS thread */
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DS_UNROLL
#define DS_NO_UNROLL

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
};

struct alignas(8) uint2 {
    unsigned x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

/* --- numbers of 16 bits ------------------------------------------------------------------------ */

struct __nv_bfloat16 {
    uint16_t bits;
};

struct __half {
    uint16_t bits;
};

static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    return {isnan(x) ? (uint16_t)0x7fff : ds_bf16_from_f32(x)}; /* the one NaN of a device */
}

static inline float __bfloat162float(__nv_bfloat16 x)
{
    return ds_bf16_to_f32(x.bits);
}

static inline __half __float2half_rn(float x)
{
    return {isnan(x) ? (uint16_t)0x7fff : ds_f16_from_f32(x)};
}

static inline float __half2float(__half x)
{
    return ds_f16_to_f32(x.bits);
}

/* --- numbers of 8 bits ------------------------------------------------------------------------- */

struct float2 {
    float x, y;
};

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
typedef unsigned short __nv_fp8x2_storage_t;

/* x in the lower byte. */
static inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 v, __nv_saturation_t saturation,
                                                            __nv_fp8_interpretation_t type)
{
    enum ds_fp8 kind = type == __NV_E4M3 ? DS_E4M3 : DS_E5M2;

    if (saturation != __NV_SATFINITE)
        abort();
    return (__nv_fp8x2_storage_t)(ds_fp8_from_f32(kind, v.x) | ds_fp8_from_f32(kind, v.y) << 8);
}

static inline unsigned __float_as_uint(float x)
{
    unsigned bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/* What was there before; other threads of the grid may do the same. */
static inline unsigned atomicMax(unsigned *at, unsigned value)
{
    unsigned was = __atomic_load_n(at, __ATOMIC_RELAXED);

    while (value > was &&
           !__atomic_compare_exchange_n(at, &was, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return was;
}

/* --- the scheduler (cudaemu.cc) ---------------------------------------------------------------- */

/* An asynchronous copy under way. */
struct cudaemu_copy_of {
    void *to;
    const void *from; /* nullptr: zeros */
    unsigned bytes, group;
};

enum {
    CUDAEMU_COPIES = 256, /* of a thread, at a time */
    CUDAEMU_SUMS = 8,
    CUDAEMU_READS = 64,
    CUDAEMU_SHARED = 163 << 10, /* dynamic shared memory: the most that sm_80 gives a block */
};

/* Registers that products of a warpgroup under way add to, and what one of them reads. */
struct cudaemu_sum {
    float (*c)[4];
    float value[32];
    unsigned group;
};

struct cudaemu_wgmma { /* what one lane brings to a product of a warpgroup */
    float (*c)[4];
    const unsigned *a; /* registers, or nullptr */
    uint64_t a_tile, b_tile;
    bool half, add, down;
};

struct cudaemu_read {
    struct cudaemu_wgmma what;
    unsigned group;
    uint64_t digest;
};

/* What a thread has under way beside itself.  Large, so it lies apart from what every switch reads. */
struct cudaemu_async {
    struct cudaemu_copy_of copy[CUDAEMU_COPIES];
    struct cudaemu_sum sum[CUDAEMU_SUMS];
    struct cudaemu_read read[CUDAEMU_READS]; /* of the warp, with its first lane */
};

/* What a switch and a collective need comes first, within one line of the cache. */
struct alignas(64) cudaemu_thread {
    uint3 tid;
    unsigned index; /* of all threads of the block */
    int state;
    unsigned source; /* the lane whose value a collective gives to this one */
    uint64_t value, result;
    void *given; /* to cudaemu_together() */
    void *sp;    /* nullptr: it has not begun */
    unsigned products;
    int line; /* where it waits */
    const char *file;
    bool unpublished; /* copies were waited for, and wgmma_publish() has not come */
    bool begun;
    unsigned copies, groups; /* groups: committed so far */
    unsigned sums, reads, product_groups;
    struct cudaemu_async *async;
    char *stack;
    size_t stack_bytes;
    void *fake; /* AddressSanitizer's stack of this fiber */
    void *tsan; /* ThreadSanitizer's name of this fiber */
};

extern cudaemu_thread *cudaemu_current;
extern uint3 cudaemu_block;
extern dim3 cudaemu_block_dim, cudaemu_grid_dim;

void *cudaemu_shared();
size_t cudaemu_shared_bytes();
bool cudaemu_unpublished(); /* by any thread of the block */
void cudaemu_barrier(const char *file, int line);
uint64_t cudaemu_collective(unsigned mask, uint64_t value, unsigned source, const char *file,
                            int line);

/* All 32 lanes meet; the last one calls `all`, if any, with what each of them gave. */
void cudaemu_together(void *given, void (*all)(void *const *lanes), const char *file, int line);
void cudaemu_launch(dim3 grid, dim3 block, size_t shared_bytes, const char *name,
                    void (*run)(void *), void *arg);

/* The order in which threads that may run are started: 0 forward, 1 backward, else a random one of
 * that seed at every barrier. */
extern "C" void cudaemu_order(unsigned order);

#define threadIdx (cudaemu_current->tid)
#define blockIdx  (cudaemu_block)
#define blockDim  (cudaemu_block_dim)
#define gridDim   (cudaemu_grid_dim)

#define DS_DYN_SHARED(type, name) type *name = static_cast<type *>(cudaemu_shared())
#define DS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    do {                                                                                           \
        auto cudaemu_run = [&] { kernel(__VA_ARGS__); };                                           \
        (void)(stream);                                                                            \
        cudaemu_launch((grid), (block), (shared_bytes), #kernel,                                   \
                       [](void *run) { (*static_cast<decltype(cudaemu_run) *>(run))(); },          \
                       &cudaemu_run);                                                              \
    } while (0)

/* --- collectives ------------------------------------------------------------------------------- */

#define __syncthreads()                cudaemu_barrier(__FILE__, __LINE__)
#define __shfl_sync(mask, value, lane) cudaemu_shfl((mask), (value), (lane), __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, d)                                                            \
    cudaemu_shfl((mask), (value), (cudaemu_current->index & 31u) ^ (d), __FILE__, __LINE__)

template <class T>
static inline T cudaemu_shfl(unsigned mask, T value, unsigned source, const char *file, int line)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "type of a shuffle");
    uint64_t bits = 0;

    memcpy(&bits, &value, sizeof(value));
    bits = cudaemu_collective(mask, bits, source & 31u, file, line);
    memcpy(&value, &bits, sizeof(value));
    return value;
}

#define __ballot_sync(mask, holds) cudaemu_ballot((mask), (holds), __FILE__, __LINE__)
#define __popc(x)                  __builtin_popcount(x)

unsigned cudaemu_ballot(unsigned mask, bool holds, const char *file, int line);

/* --- functions of a device --------------------------------------------------------------------- */

/* Of pi times x. */
static inline void sincospi(double x, double *sine, double *cosine)
{
    double part = M_PI * (x - 2.0 * rint(x / 2.0)); /* exact but for the product */

    *sine = sin(part);
    *cosine = cos(part);
}

/* --- the little of the runtime that launchers use ---------------------------------------------- */

typedef int cudaError_t;
typedef void *cudaStream_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9 };

enum {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};

extern cudaError_t cudaemu_last;

template <class Kernel> static inline cudaError_t cudaFuncSetAttribute(Kernel, int, int bytes)
{
    return bytes <= CUDAEMU_SHARED ? cudaSuccess : cudaErrorInvalidConfiguration;
}

static inline cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

/* Of a device with so few multiprocessors that a block has several rows. */
static inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 2; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = CUDAEMU_SHARED + 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = CUDAEMU_SHARED; break;
    }
    return cudaSuccess;
}

static inline cudaError_t cudaGetLastError()
{
    cudaError_t last = cudaemu_last;

    cudaemu_last = cudaSuccess;
    return last;
}

static inline const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
                                                  : "out of memory";
}

#include "tests/cudaemu/ptx.cuh"
#include "tests/cudaemu/wgmma.cuh"

#endif
