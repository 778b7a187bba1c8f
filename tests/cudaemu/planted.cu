/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * planted.cu - kernels with a defect each, to see that the emulation notices.  See test_emulation.c.
 */
#include "kernels/cuda/ptx.cuh"

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

/* The two numbers of a lane's word: row or column `i`, and `k` the first one's place in the sum. */
static __device__ unsigned word(const unsigned short *x, int i, int k, int row, int column)
{
    return x[i * row + k * column] | (unsigned)x[i * row + (k + 1) * column] << 16;
}

static __global__ void multiply(const unsigned short *a, const unsigned short *b, float *c, int how)
{
    __shared__ uint4 rows[32 + 16 + 1];
    unsigned short *x = (unsigned short *)rows, *y = x + 256;
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4 * 2;
    unsigned ra[4], rb[4];
    float sum[4] = {};

    ptx_copy16(x + lane * 8, a + lane * 8, true);
    ptx_copy16(y + lane % 16 * 8, b + lane % 16 * 8, true);
    ptx_commit();
    if (how != NO_WAIT)
        ptx_wait<0>();
    __syncwarp();
    ptx_ldmatrix<false>(ra, x + lane % 16 * 16 + lane / 16 * 8 + (how == MISALIGNED));
    ptx_ldmatrix<true>(rb, y + lane % 16 * 8);
    if (how == BY_HAND) {
        ra[0] = word(a, g, t, 16, 1);
        ra[1] = word(a, g + 8, t, 16, 1);
        ra[2] = word(a, g, t + 8, 16, 1);
        ra[3] = word(a, g + 8, t + 8, 16, 1);
        rb[0] = word(b, g, t, 1, 8);
        rb[1] = word(b, g, t + 8, 1, 8);
    }
    ptx_mma<__nv_bfloat16>(sum, ra, rb[0], rb[1]);
    for (int i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * 8 + t + i % 2] = sum[i];
}

void planted_product(const unsigned short *a, const unsigned short *b, float *c, int how)
{
    DS_LAUNCH(multiply, 1, WARP, 0, nullptr, a, b, c, how);
}

int planted_shape(unsigned threads)
{
    struct ds_error err;

    DS_LAUNCH(turn, 1, threads, 0, nullptr, nullptr, 0, NONE);
    return launched("turn", &err);
}
