/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * chunks.cuh - sums of chunks added up in an order that their number gives, which fixes the bits.
 *
 * Many chunks are done in groups, so that the scratch has one size.
 */
#ifndef DS_KERNELS_CUDA_CHUNKS_CUH
#define DS_KERNELS_CUDA_CHUNKS_CUH

#include "kernels/cuda/device.cuh"

enum { GROUP = 8192, CHUNKS_AT_ONCE = 8 };

/* The sum of x[0 .. n), in every thread of the one block, all of which call.  A thread adds up what
 * is BLOCK apart, with several under way: one that added up all would wait for each. */
static __device__ __forceinline__ double add_chunk_sums(unsigned n, const double *x,
                                                        double (&places)[BLOCK / WARP])
{
    double sum = 0.0;

    for (unsigned first = threadIdx.x; first < n; first += BLOCK * CHUNKS_AT_ONCE) {
        double some[CHUNKS_AT_ONCE];

        DS_UNROLL
        for (int k = 0; k < CHUNKS_AT_ONCE; k++)
            some[k] = first + k * BLOCK < n ? x[first + k * BLOCK] : 0.0;
        DS_UNROLL
        for (int k = 0; k < CHUNKS_AT_ONCE; k++)
            sum += some[k];
    }
    return block_sum(sum, places);
}

#endif
