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

enum { ADDING_WARPS = 32, SLABS_AT_ONCE = 8 };

/* The rows of `partial`, a slab each, are for `out`; those behind them for `second`, where there is
 * one: grids of two rows of blocks.  A warp has WARP columns of every 32nd slab, several under way;
 * the warps are added in their order. */
static __global__ void __launch_bounds__(ADDING_WARPS *WARP)
    add_slabs(size_t n, unsigned slabs, const float *partial, float *out, float *second,
              bool accumulate)
{
    __shared__ float places[ADDING_WARPS][WARP];
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    size_t c = (size_t)blockIdx.x * WARP + lane;
    float sum = 0.0f;

    partial += blockIdx.y * slabs * n;
    out = blockIdx.y == 0 ? out : second;
    for (unsigned s = warp; s < slabs; s += ADDING_WARPS * SLABS_AT_ONCE) {
        float x[SLABS_AT_ONCE];

        DS_UNROLL
        for (unsigned k = 0; k < SLABS_AT_ONCE; k++) {
            unsigned at = s + k * ADDING_WARPS;

            x[k] = at < slabs && c < n ? partial[at * n + c] : 0.0f;
        }
        DS_UNROLL
        for (int k = 0; k < SLABS_AT_ONCE; k++)
            sum += x[k];
    }
    places[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || c >= n)
        return;
    sum = accumulate ? out[c] : 0.0f;
    for (int w = 0; w < ADDING_WARPS; w++)
        sum += places[w][lane];
    out[c] = sum;
}

static inline void launch_add_slabs(size_t n, unsigned slabs, const float *partial, float *out,
                                    float *second, bool accumulate, cudaStream_t queue)
{
    dim3 grid((unsigned)((n + WARP - 1) / WARP), second != nullptr ? 2 : 1);

    DS_LAUNCH(add_slabs, grid, ADDING_WARPS * WARP, 0, queue, n, slabs, partial, out, second,
              accumulate);
}

#endif
