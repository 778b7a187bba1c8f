/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * planted.cu - kernels with a defect each, to see that the emulation notices.  See test_emulation.c.
 */
#include "kernels/cuda/device.cuh"

extern "C" {
#include "tests/cudaemu/planted.h"
}

/* Turns 64 numbers round; past the dynamic shared memory's 64 floats and the output's n there is
 * nothing. */
static __global__ void turn(float *out, int n, int defect)
{
    __shared__ float fixed[64];
    DS_DYN_SHARED(float, grown);
    int t = (int)threadIdx.x;
    float x;

    fixed[t] = (float)t;
    if (defect != NO_BARRIER)
        __syncthreads();
    x = fixed[63 - t];
    if (defect == DIVERGENT) {
        if (t < 32)
            __syncthreads();
        else
            __syncthreads();
    }
    if (defect == DEADLOCK) {
        if (t >= 32 && t < 40)
            x = __shfl_xor_sync(0xffffffffu, x, 1);
        __syncthreads();
    }
    if (defect == HALF_WARP && t % 2 == 1)
        x = __shfl_xor_sync(0x55555555u, x, 1);
    if (defect == UNSET_SHARED)
        x += grown[t];
    if (defect == PAST_SHARED)
        x += grown[t + 1];
    if (defect == PAST_GLOBAL)
        out[n] = x;
    out[t] = x;
}

void planted(float *out, int n, int defect)
{
    DS_LAUNCH(turn, 1, 64, 64 * sizeof(float), nullptr, out, n, defect);
}

int planted_shape(unsigned threads)
{
    struct ds_error err;

    DS_LAUNCH(turn, 1, threads, 0, nullptr, nullptr, 0, NONE);
    return launched("turn", &err);
}
