/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sigmoid.cuh - 1 / (1 + exp(-x)), of which GELU and SwiGLU are made.
 */
#ifndef DS_KERNELS_CUDA_SIGMOID_CUH
#define DS_KERNELS_CUDA_SIGMOID_CUH

#include "kernels/cuda/device.cuh"

/* Of x and of -x, from one exponential that cannot overflow. */
struct sigmoids {
    float of, of_minus;
};

static __device__ __forceinline__ struct sigmoids sigmoids_of(float x)
{
    float e = expf(-fabsf(x)), large = 1.0f / (1.0f + e), small = e * large;

    return {x < 0.0f ? small : large, x < 0.0f ? large : small};
}

static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* silu(gate) and its slope. */
struct silu {
    float value, slope;
};

static __device__ __forceinline__ struct silu silu_of(float gate)
{
    struct sigmoids s = sigmoids_of(gate);
    float value = gate * s.of;

    return {value, s.of + value * s.of_minus};
}

#endif
