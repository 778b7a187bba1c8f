/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ptx.cuh - the instructions of sm_80 that C++ has no name for: products of tiles by a warp, loads
 * of their operands, copies that go on while the thread does, loads without a branch.
 *
 * All lanes of a warp call ptx_mma() and ptx_ldmatrix() together.  The emulation brings functions
 * of the same names (tests/cudaemu/ptx.cuh).
 *
 * Source  PTX ISA, "Matrix multiply-accumulate operation using mma instruction" (m16n8k16),
 *         "ldmatrix", "cp.async"
 */
#ifndef DS_KERNELS_CUDA_PTX_CUH
#define DS_KERNELS_CUDA_PTX_CUH

#include "kernels/cuda/device.cuh"

#if defined(__CUDACC__)
#include <type_traits>

#define DS_PTX_MMA(type)                                                                           \
    "mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                                 \
    "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"

/* c[16,8] += a[16,16] b[16,8], of T with sums in F32. */
template <class T>
static __device__ __forceinline__ void ptx_mma(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                               unsigned b1)
{
    if constexpr (std::is_same<T, __half>::value)
        asm volatile(DS_PTX_MMA("f16")
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile(DS_PTX_MMA("bf16")
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Two numbers, rounded to T, in a word, the first one in its lower half. */
template <class T> static __device__ __forceinline__ unsigned ptx_pair(float low, float high)
{
    unsigned word;

    if constexpr (std::is_same<T, __half>::value)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

/* x, which all lanes of the warp have alike, where the compiler sees that they do. */
static __device__ __forceinline__ unsigned ptx_uniform(unsigned x)
{
    return __shfl_sync(0xffffffffu, x, 0);
}

/* 2^x by the unit that has it, tiny results as 0: exp2f() is four instructions. */
static __device__ __forceinline__ float ptx_exp2(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Four 8 x 8 matrices of 2-byte elements; lane l names row l % 8 of matrix l / 8. */
template <bool TRANS>
static __device__ __forceinline__ void ptx_ldmatrix(unsigned (&r)[4], const void *row)
{
    unsigned at = (unsigned)__cvta_generic_to_shared(row);

    if constexpr (TRANS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

/* 16 bytes, or zeros when they are not `there`.  Loads on a branch each would not be scheduled
 * together. */
static __device__ __forceinline__ uint4 ptx_load16(const void *from, bool there)
{
    uint4 w = {};

    asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0;"
                 " @p ld.global.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "+r"(w.x), "+r"(w.y), "+r"(w.z), "+r"(w.w)
                 : "l"(from), "r"((unsigned)there)
                 : "memory");
    return w;
}

/* The same of what nobody writes while the kernel runs: it may be loaded before any store. */
static __device__ __forceinline__ uint4 ptx_load16_fixed(const void *from, bool there)
{
    uint4 w = {};

    asm("{ .reg .pred p; setp.ne.u32 p, %5, 0;"
        " @p ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4]; }"
        : "+r"(w.x), "+r"(w.y), "+r"(w.z), "+r"(w.w)
        : "l"(from), "r"((unsigned)there));
    return w;
}

/* 16 or 4 bytes into shared memory, or zeros when they are not `there`; done after ptx_wait(). */
static __device__ __forceinline__ void ptx_copy16(void *to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void ptx_copy4(void *to, const void *from, bool there)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 4 : 0)
                 : "memory");
}

/* 16 bytes of shared memory at once: what is taken apart into smaller numbers the compiler loads in
 * two. */
static __device__ __forceinline__ uint4 ptx_read16(const uint4 *from)
{
    uint4 word;

    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "r"((unsigned)__cvta_generic_to_shared(from))
                 : "memory");
    return word;
}

/* The copies since the last commit are one group; wait until at most N groups are under way. */
static __device__ __forceinline__ void ptx_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void ptx_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

#endif
