/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * largest.cuh - the largest magnitude of a tensor, found by whatever passes over it.
 *
 * Bits of magnitudes are ordered as they are, infinite and NaN above all others.  Blocks come in
 * any order, which does not show in a maximum.
 */
#ifndef DS_KERNELS_CUDA_LARGEST_CUH
#define DS_KERNELS_CUDA_LARGEST_CUH

#include "kernels/cuda/device.cuh"

static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

static __device__ __forceinline__ unsigned magnitude(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

/* *largest, of which all blocks know, is `x` of one of the block's threads at least; all call. */
static __device__ __forceinline__ void raise_largest(unsigned *largest, unsigned x)
{
    __shared__ unsigned places[BLOCK / WARP];
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = larger(x, __shfl_xor_sync(0xffffffffu, x, o));
    if (lane == 0)
        places[warp] = x;
    __syncthreads();
    if (warp != 0)
        return;
    x = lane < BLOCK / WARP ? places[lane] : 0;
    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = larger(x, __shfl_xor_sync(0xffffffffu, x, o));
    if (lane == 0)
        atomicMax(largest, x);
}

/* A launch by itself, before the one that raises it. */
static __global__ void lower_largest(unsigned *largest)
{
    *largest = 0;
}

#endif
