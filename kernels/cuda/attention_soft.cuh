/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_soft.cuh - the running maximum and sum of attention's rows, in powers of two.
 */
#ifndef DS_KERNELS_CUDA_ATTENTION_SOFT_CUH
#define DS_KERNELS_CUDA_ATTENTION_SOFT_CUH

#include "kernels/cuda/attention.cuh"

template <int MT> struct running { /* of the two rows of each block that a lane has */
    float max[MT][2], sum[MT][2];

    __device__ running()
    {
        for (int i = 0; i < 2 * MT; i++) {
            max[i / 2][i % 2] = -INFINITY;
            sum[i / 2][i % 2] = 0.0f;
        }
    }
};

/* Scores become weights 2^(scale s - max); sums and outputs so far are brought to the new
 * maximum. */
template <int D, int MT>
static __device__ __forceinline__ void soften(float (&s)[MT][FLASH_KEYS / 8][4],
                                              float (&o)[MT][D / 8][4], struct running<MT> &run,
                                              float scale)
{
    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;
        float max = -INFINITY, sum = 0.0f, shrink;

        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++)
            max = fmaxf(max, fmaxf(s[m][n][e], s[m][n][e + 1]));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
        max = fmaxf(run.max[m][i % 2], max * scale);
        shrink = ptx_exp2(run.max[m][i % 2] - max);
        run.max[m][i % 2] = max;
        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++) {
            s[m][n][e] = ptx_exp2(s[m][n][e] * scale - max);
            s[m][n][e + 1] = ptx_exp2(s[m][n][e + 1] * scale - max);
            sum += s[m][n][e] + s[m][n][e + 1];
        }
        run.sum[m][i % 2] = run.sum[m][i % 2] * shrink + sum; /* of this lane's columns */
        DS_UNROLL
        for (int n = 0; n < D / 8; n++) {
            o[m][n][e] *= shrink;
            o[m][n][e + 1] *= shrink;
        }
    }
}

/* Outputs are divided by their sums; the logarithms are stored. */
template <int D, int MT>
static __device__ __forceinline__ void finish(float (&o)[MT][D / 8][4], struct running<MT> &run,
                                              float *lse, unsigned query, unsigned seq)
{
    unsigned lane = threadIdx.x % WARP;

    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;
        unsigned row = query + m * 16 + lane / 4 + i % 2 * 8;
        float sum = run.sum[m][i % 2];

        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0 && row < seq)
            lse[row] = run.max[m][i % 2] / DS_LOG2E + logf(sum);
        sum = 1.0f / sum;
        DS_UNROLL
        for (int n = 0; n < D / 8; n++) {
            o[m][n][e] *= sum;
            o[m][n][e + 1] *= sum;
        }
    }
}

#endif
