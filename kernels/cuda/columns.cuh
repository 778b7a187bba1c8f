/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * columns.cuh - sums over the rows of a matrix, column by column, with fixed bits.
 *
 * The rows are cut into slabs, by their number alone.  In a first kernel a block has a slab of a
 * tile of columns: a lane a pack of columns, a warp every eighth row, so that all loads are wide
 * and many are under way; its warps are added in their order.  A second kernel adds the slabs.
 */
#ifndef DS_KERNELS_CUDA_COLUMNS_CUH
#define DS_KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/need.h"

enum { WARPS = BLOCK / WARP, TILE_COLUMNS = WARP * PACK, SLAB_ROWS = 64 };
static_assert((int)TILE_COLUMNS == (int)BLOCK, "a thread has a column of the tile at the end");

static inline unsigned slabs_of(size_t rows)
{
    size_t slabs = (rows + SLAB_ROWS - 1) / SLAB_ROWS;

    return slabs < DS_NEED_SLABS ? (unsigned)slabs : (unsigned)DS_NEED_SLABS;
}

/* Blocks of the first kernel, for so many columns. */
static inline dim3 slab_grid(size_t rows, size_t n)
{
    return dim3((unsigned)((n + TILE_COLUMNS - 1) / TILE_COLUMNS), slabs_of(rows));
}

/* The rows of this warp in the block's slab, and the first column of this lane. */
#define FOR_SLAB_ROWS(r, rows)                                                                     \
    for (size_t r = (rows)*blockIdx.y / gridDim.y + threadIdx.x / WARP,                            \
                ds_end = (rows) * (blockIdx.y + 1) / gridDim.y;                                    \
         r < ds_end; r += WARPS)

static __device__ __forceinline__ size_t lane_column()
{
    return (size_t)blockIdx.x * TILE_COLUMNS + threadIdx.x % WARP * PACK;
}

/* What the lanes have of their columns, over the warps, to the slab's row of `partial`.  `places`
 * has room for a tile of each warp; all threads of the block call. */
static __device__ __forceinline__ void give_slab(const float (&sum)[PACK],
                                                 float (&places)[WARPS][TILE_COLUMNS], size_t n,
                                                 float *partial)
{
    size_t column = (size_t)blockIdx.x * TILE_COLUMNS + threadIdx.x;
    float all = 0.0f;

    give(&places[threadIdx.x / WARP][threadIdx.x % WARP * PACK], PACK, sum);
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        all += places[w][threadIdx.x];
    if (column < n)
        partial[blockIdx.y * n + column] = all;
    __syncthreads(); /* before `places` is used again */
}

/* A warp has WARP columns of every eighth slab; the warps are added in their order. */
static __global__ void __launch_bounds__(BLOCK)
    add_slabs(size_t n, unsigned slabs, const float *partial, float *out, bool accumulate)
{
    __shared__ float places[WARPS][WARP];
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    size_t c = (size_t)blockIdx.x * WARP + lane;
    float sum = 0.0f;

    for (unsigned s = warp; s < slabs && c < n; s += WARPS)
        sum += partial[s * n + c];
    places[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || c >= n)
        return;
    sum = accumulate ? out[c] : 0.0f;
    for (int w = 0; w < WARPS; w++)
        sum += places[w][lane];
    out[c] = sum;
}

static inline unsigned add_slabs_grid(size_t n)
{
    return (unsigned)((n + WARP - 1) / WARP);
}

#endif
