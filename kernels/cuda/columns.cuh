/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * columns.cuh - sums over the rows of a matrix, column by column, with fixed bits.
 *
 * The rows are cut into slabs, by their number alone; a first kernel sums each slab into scratch, a
 * second one adds the slabs in their order.
 */
#ifndef DS_KERNELS_CUDA_COLUMNS_CUH
#define DS_KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/device.cuh"

enum { SLAB_ROWS = 64, MAX_SLABS = 32 };

static inline unsigned slabs_of(size_t rows)
{
    size_t slabs = (rows + SLAB_ROWS - 1) / SLAB_ROWS;

    return slabs < MAX_SLABS ? (unsigned)slabs : (unsigned)MAX_SLABS;
}

/* Thread and block, as a column and a slab of `rows`: begin and end of the slab. */
static __device__ __forceinline__ size_t slab_begin(size_t rows, unsigned slab)
{
    return rows * slab / gridDim.y;
}

static __global__ void __launch_bounds__(BLOCK)
    add_slabs(size_t n, unsigned slabs, const float *partial, float *out, bool accumulate)
{
    size_t c = (size_t)blockIdx.x * BLOCK + threadIdx.x;
    float sum = 0.0f;

    if (c >= n)
        return;
    for (unsigned s = 0; s < slabs; s++)
        sum += partial[s * n + c];
    out[c] = accumulate ? out[c] + sum : sum;
}

#endif
