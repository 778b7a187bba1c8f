/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * digest.cu - a number of all bits of a matrix, by which two ways to a product are compared without
 * keeping both results; the contract is in digest.h.
 *
 * Each element is mixed with its place, and what comes of it is added up modulo 2^64: the order
 * does not count.
 */
#include "kernels/cuda/device.cuh"

extern "C" {
#include "kernels/cuda/digest.h"
}

static __device__ __forceinline__ uint64_t mixed(uint64_t bits, uint64_t place)
{
    uint64_t x = bits ^ (place + 1) * 0x9e3779b97f4a7c15u; /* the golden ratio's fraction */

    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

template <class T>
static __global__ void __launch_bounds__(BLOCK)
    digest(const T *x, size_t rows, size_t n, size_t ld, struct ds_cuda_digest *parts)
{
    __shared__ uint64_t places[BLOCK / WARP];
    const T sign = (T)(T(1) << (8 * sizeof(T) - 1));
    uint64_t sum = 0, zeros = 0;

    for (size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x; i < rows * n;
         i += (size_t)gridDim.x * BLOCK) {
        T bits = x[i / n * ld + i % n];

        sum += mixed(bits, i);
        zeros += (bits & (T)~sign) == 0;
    }
    sum = block_sum(sum, places);
    zeros = block_sum(zeros, places);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = {sum, zeros};
}

extern "C" int ds__cuda_digest(const void *x, size_t rows, size_t n, size_t ld, enum ds_dtype type,
                               struct ds_cuda_digest *parts, struct ds_stream *stream)
{
    unsigned grid = (unsigned)ds__cuda_digest_parts(rows * n);

    if (type != DS_F32)
        DS_LAUNCH(digest<uint16_t>, grid, BLOCK, 0, stream_of(stream), (const uint16_t *)x, rows, n,
                  ld, parts);
    else
        DS_LAUNCH(digest<uint32_t>, grid, BLOCK, 0, stream_of(stream), (const uint32_t *)x, rows, n,
                  ld, parts);
    return (int)cudaGetLastError();
}
