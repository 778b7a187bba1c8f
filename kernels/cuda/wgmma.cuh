/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * wgmma.cuh - products of tiles by a warpgroup, which only code for sm_90a has.
 *
 * A tile of 64 rows of 64 elements is 8 KiB from a multiple of 1 KiB on, its chunks of 16 bytes
 * placed as attention.cuh says: it is what a descriptor calls a swizzle of 128 bytes, whichever way
 * the tile is read.  Four warps call together; warp w has rows 16 w .. 16 w + 16 of the product, a
 * lane those elements that it has of m16n8k16, and of a first operand in registers likewise.
 *
 * wgmma_begin()   after registers of the products were written, before the first of them
 * wgmma_ss/rs()   products, queued; the first operand in shared memory or in registers
 * wgmma_commit()  those since the last commit are one group
 * wgmma_wait<N>() until at most N groups are under way; wgmma_done(c) then makes c readable
 *
 * What threads wrote to shared memory the products see after wgmma_publish() by each of them and a
 * barrier.  DS_HAS_WGMMA: this is code for sm_90a, or the emulation (tests/cudaemu/wgmma.cuh).
 *
 * Source  PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions": matrix
 *         descriptor, strides, figures of the fragments of m64nNk16; "Async proxy"
 */
#ifndef DS_KERNELS_CUDA_WGMMA_CUH
#define DS_KERNELS_CUDA_WGMMA_CUH

#include "kernels/cuda/ptx.cuh"

/* Of a descriptor: eight rows lie 1 KiB after the eight before; swizzle of 128 bytes.  Its units
 * are 16 bytes. */
enum { WGMMA_STRIDE = 1024 / 16, WGMMA_TILE = 64 * 64 * 2 / 16 };
enum { WGMMA_ALONG = 16 * 2 / 16, WGMMA_DOWN = 16 * 64 * 2 / 16 }; /* to the next 16 of k */

static __device__ __forceinline__ uint64_t wgmma_tile(unsigned shared_address)
{
    return (uint64_t)1 << 62 | (uint64_t)WGMMA_STRIDE << 32 | (uint64_t)WGMMA_STRIDE << 16 |
           (shared_address & 0x3ffffu) >> 4;
}

#if defined(__CUDACC__)
#define DS_TILES_SHARED(type, name)                                                                \
    extern __shared__ __align__(1024) unsigned char ds_tiles_shared[];                             \
    type *name = reinterpret_cast<type *>(ds_tiles_shared)

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DS_HAS_WGMMA 1
#endif

#define DS_WGMMA_4(c, j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define DS_WGMMA_C(c)                                                                              \
    DS_WGMMA_4(c, 0), DS_WGMMA_4(c, 1), DS_WGMMA_4(c, 2), DS_WGMMA_4(c, 3), DS_WGMMA_4(c, 4),      \
        DS_WGMMA_4(c, 5), DS_WGMMA_4(c, 6), DS_WGMMA_4(c, 7)
#define DS_WGMMA_SUMS                                                                              \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                      \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define DS_WGMMA_SS(type)                                                                          \
    "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                   \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " DS_WGMMA_SUMS                  \
    ", %32, %33, p, 1, 1, 0, 0;\n}"
#define DS_WGMMA_RS(type)                                                                          \
    "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                                     \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " DS_WGMMA_SUMS                  \
    ", {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n}"

static __device__ __forceinline__ unsigned wgmma_address(const void *shared)
{
    return (unsigned)__cvta_generic_to_shared(shared);
}

static __device__ __forceinline__ void wgmma_publish()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The compiler knows nothing of who writes c, and when: no use of it goes before this. */
static __device__ __forceinline__ void wgmma_done(float (&c)[8][4])
{
    asm volatile("" : DS_WGMMA_C(c)::"memory");
}

/* c[64,64] = a[64,16] b[64,16]^T, or += with `add`. */
template <class T>
static __device__ __forceinline__ void wgmma_ss(float (&c)[8][4], uint64_t a, uint64_t b, int add)
{
    if constexpr (std::is_same<T, __half>::value)
        asm volatile(DS_WGMMA_SS("f16") : DS_WGMMA_C(c) : "l"(a), "l"(b), "r"(add));
    else
        asm volatile(DS_WGMMA_SS("bf16") : DS_WGMMA_C(c) : "l"(a), "l"(b), "r"(add));
}

/* c += a b with a in registers and b[16,64] as it lies there. */
template <class T>
static __device__ __forceinline__ void wgmma_rs(float (&c)[8][4], const unsigned (&a)[4],
                                                uint64_t b)
{
    if constexpr (std::is_same<T, __half>::value)
        asm volatile(DS_WGMMA_RS("f16")
                     : DS_WGMMA_C(c)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else
        asm volatile(DS_WGMMA_RS("bf16")
                     : DS_WGMMA_C(c)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#endif

#endif
