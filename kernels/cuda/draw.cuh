/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * draw.cuh - counter-based random words, as base/rng.h and kernels/cpu/draw.h have them.
 */
#ifndef DS_KERNELS_CUDA_DRAW_CUH
#define DS_KERNELS_CUDA_DRAW_CUH

#include "base/philox.h"
#include "kernels/cuda/device.cuh"

/* What is kept is multiplied by `scale`: words from `below` on. */
struct drop_rule {
    uint64_t seed, stream, first;
    unsigned below;
    float scale;
};

static inline struct drop_rule drop_rule_of(double rate, uint64_t seed, uint64_t stream,
                                            uint64_t first)
{
    return {seed, stream, first, (unsigned)(rate * 0x1p32), (float)(1.0 / (1.0 - rate))};
}

/* The four words of a block. */
static __device__ __forceinline__ void draw(const struct drop_rule &d, uint64_t block,
                                            unsigned (&x)[4])
{
    unsigned k0 = (unsigned)d.seed, k1 = (unsigned)(d.seed >> 32);

    x[0] = (unsigned)block;
    x[1] = (unsigned)(block >> 32);
    x[2] = (unsigned)d.stream;
    x[3] = (unsigned)(d.stream >> 32);
    DS_NO_UNROLL /* it is inlined for every weight of a lane */
        for (int round = 0; round < DS_PHILOX_ROUNDS; round++)
    {
        DS_PHILOX_ROUND(x[0], x[1], x[2], x[3], k0, k1);
        DS_PHILOX_NEXT_KEY(k0, k1);
    }
}

/* Word `at` % 4, without an address. */
static __device__ __forceinline__ unsigned pick(const unsigned (&word)[4], unsigned at)
{
    unsigned low = at % 2 ? word[1] : word[0], high = at % 2 ? word[3] : word[2];

    return at % 4 < 2 ? low : high;
}

/* What an element with that word is multiplied with. */
static __device__ __forceinline__ float kept(const struct drop_rule &d, unsigned word)
{
    return word >= d.below ? d.scale : 0.0f;
}

#endif
