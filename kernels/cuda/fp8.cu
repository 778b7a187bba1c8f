/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fp8.cu - matrices of FP8: the largest element, and codes, as they lie and turned.
 *
 * Codes are made in tiles of 64 x 64, which are turned in shared memory: both ways are written in
 * whole words.
 */
#include "kernels/cuda/largest.cuh"

#if defined(__CUDACC__)
#include <cuda_fp8.h>
#endif

extern "C" {
#include "kernels/fp8.h"
}

enum { SEARCHERS = 2048, TILES = 1024, TILE = 64, WORDS = TILE / 4, CODES16 = 16 };

template <class T>
static __global__ void __launch_bounds__(BLOCK) largest_of(size_t n, const T *x, unsigned *largest)
{
    unsigned most = 0;

    FOR_PACKS(i, n)
    {
        float v[PACK];

        take(x + i, n - i, v);
        for (int j = 0; j < PACK; j++)
            most = larger(most, magnitude(v[j]));
    }
    raise_largest(largest, most);
}

extern "C" int ds__cuda_largest(const struct ds_largest_args *a, struct ds_stream *stream,
                                struct ds_error *err)
{
    unsigned grid = flat_grid(a->n) < SEARCHERS ? flat_grid(a->n) : (unsigned)SEARCHERS;

    DS_LAUNCH(lower_largest, 1, 1, 0, stream_of(stream), a->largest);
    if (a->n != 0)
        DS_TYPED(a->act, T,
                 DS_LAUNCH(largest_of, grid, BLOCK, 0, stream_of(stream), a->n, (const T *)a->x,
                           a->largest));
    return launched("largest", err);
}

template <int TYPE> static __device__ __forceinline__ unsigned two_codes(float low, float high)
{
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE,
                                    TYPE == DS_E4M3 ? __NV_E4M3 : __NV_E5M2);
}

/* Eight elements from x. */
template <int TYPE, class T>
static __device__ __forceinline__ uint2 codes_of(const T *x, float factor)
{
    float v[PACK];
    unsigned pair[PACK / 2];

    take(x, PACK, v);
    for (int j = 0; j < PACK / 2; j++)
        pair[j] = two_codes<TYPE>(v[2 * j] * factor, v[2 * j + 1] * factor);
    return {pair[0] | pair[1] << 16, pair[2] | pair[3] << 16};
}

/* `tile` has a column of the matrix in each row; a word more keeps rows in different banks. */
static __device__ __forceinline__ void turn(unsigned (*tile)[WORDS + 1], unsigned row,
                                            unsigned column, uint2 w)
{
    for (unsigned j = 0; j < PACK; j++) {
        unsigned word = j < 4 ? w.x : w.y;

        reinterpret_cast<uint8_t *>(tile[column + j])[row] = (uint8_t)(word >> (j % 4 * 8));
    }
}

/* Rows and columns are multiples of 16: a pack and a word of 16 codes are whole or not there. */
template <int TYPE, class T>
static __global__ void __launch_bounds__(BLOCK)
    cast_fp8(size_t rows, size_t cols, const T *x, uint8_t *codes, uint8_t *turned,
             const unsigned *largest, float *scale)
{
    __shared__ unsigned tile[TILE][WORDS + 1];
    size_t across = (cols + TILE - 1) / TILE, tiles = across * ((rows + TILE - 1) / TILE);
    float factor = ds_fp8_factor((enum ds_fp8)TYPE, *largest);

    if (blockIdx.x == 0 && threadIdx.x == 0)
        *scale = ds_fp8_scale(factor, *largest);
    for (size_t t = blockIdx.x; t < tiles; t += gridDim.x) {
        size_t r0 = t / across * TILE, c0 = t % across * TILE;

        for (unsigned i = threadIdx.x; i < TILE * TILE / PACK; i += BLOCK) {
            unsigned row = i / (TILE / PACK), column = i % (TILE / PACK) * PACK;
            size_t at = (r0 + row) * cols + c0 + column;

            if (r0 + row >= rows || c0 + column >= cols)
                continue;
            uint2 w = codes_of<TYPE>(x + at, factor);
            if (codes != nullptr)
                *reinterpret_cast<uint2 *>(codes + at) = w;
            if (turned != nullptr)
                turn(tile, row, column, w);
        }
        if (turned == nullptr)
            continue;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < TILE * TILE / CODES16; i += BLOCK) {
            unsigned column = i / (TILE / CODES16), word = i % (TILE / CODES16) * 4;
            const unsigned *from = &tile[column][word];

            if (c0 + column < cols && r0 + word * 4 < rows)
                *reinterpret_cast<uint4 *>(turned + (c0 + column) * rows + r0 +
                                           word * 4) = {from[0], from[1], from[2], from[3]};
        }
        __syncthreads(); /* before the next tile */
    }
}

extern "C" int ds__cuda_fp8_cast(const struct ds_fp8_cast_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    size_t tiles = (a->rows + TILE - 1) / TILE * ((a->cols + TILE - 1) / TILE);
    unsigned grid = tiles < TILES ? (unsigned)tiles : (unsigned)TILES;

    if (a->type == DS_E4M3)
        DS_TYPED(a->act, T,
                 DS_LAUNCH((cast_fp8<DS_E4M3, T>), grid, BLOCK, 0, stream_of(stream), a->rows,
                           a->cols, (const T *)a->x, a->codes, a->turned, a->largest, a->scale));
    else
        DS_TYPED(a->act, T,
                 DS_LAUNCH((cast_fp8<DS_E5M2, T>), grid, BLOCK, 0, stream_of(stream), a->rows,
                           a->cols, (const T *)a->x, a->codes, a->turned, a->largest, a->scale));
    return launched("fp8_cast", err);
}
