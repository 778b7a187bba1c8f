/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * chunks.cuh - sums of chunks added in their order, which fixes the bits.
 *
 * Many chunks are done in groups, so that the scratch has one size.
 */
#ifndef DS_KERNELS_CUDA_CHUNKS_CUH
#define DS_KERNELS_CUDA_CHUNKS_CUH

#include "kernels/cuda/device.cuh"

enum { GROUP = 8192, ADDED_AT_ONCE = 4 * BLOCK };

/* `begin` plus x[0 .. n), one after the other, in thread 0.  One block; all its threads call.  One
 * thread that reads memory itself would wait for each word. */
static __device__ __forceinline__ double add_in_order(unsigned n, const double *x, double begin,
                                                      double (&places)[ADDED_AT_ONCE])
{
    for (unsigned first = 0; first < n; first += ADDED_AT_ONCE) {
        unsigned many = n - first < ADDED_AT_ONCE ? n - first : (unsigned)ADDED_AT_ONCE;

        for (unsigned i = threadIdx.x; i < many; i += BLOCK)
            places[i] = x[first + i];
        __syncthreads();
        for (unsigned i = 0; i < many && threadIdx.x == 0; i++)
            begin += places[i];
        __syncthreads(); /* before `places` is used again */
    }
    return begin;
}

#endif
