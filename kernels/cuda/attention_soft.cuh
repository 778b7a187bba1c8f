/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_soft.cuh - the running maximum and sum of attention's rows, in powers of two.
 *
 * The maximum may lag behind the true one by DS_SOFT_SLACK; what comes out does not depend on it.
 */
#ifndef DS_KERNELS_CUDA_ATTENTION_SOFT_CUH
#define DS_KERNELS_CUDA_ATTENTION_SOFT_CUH

#include <float.h>

#include "kernels/cuda/attention.cuh"

template <int MT> struct running { /* of the two rows of each block that a lane has */
    float max[MT][2], sum[MT][2];

    /* Where a row may see nothing of its first tiles the maximum begins as a number, from which
     * -infinity can be subtracted. */
    __device__ explicit running(bool cut)
    {
        for (int i = 0; i < 2 * MT; i++) {
            max[i / 2][i % 2] = cut ? -FLT_MAX : -INFINITY;
            sum[i / 2][i % 2] = 0.0f;
        }
    }
};

/* Sums and outputs so far as if the maxima had been these. */
template <int D, int MT>
static __device__ __forceinline__ void bring_to(float (&o)[MT][D / 8][4], struct running<MT> &run,
                                                const float (&max)[2 * MT])
{
    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;
        float shrink = ptx_exp2(run.max[m][i % 2] - max[i]);

        run.max[m][i % 2] = max[i];
        run.sum[m][i % 2] *= shrink;
        DS_UNROLL
        for (int n = 0; n < D / 8; n++) {
            o[m][n][e] *= shrink;
            o[m][n][e + 1] *= shrink;
        }
    }
}

/* So far a maximum may be passed, as a power of two, before sums and outputs are brought to the new
 * one: weights stay far from what F16 can hold, and most tiles leave the outputs alone. */
#define DS_SOFT_SLACK 8.0f

/* Scores become weights 2^(scale s - max). */
template <int D, int MT>
static __device__ __forceinline__ void soften(float (&s)[MT][FLASH_KEYS / 8][4],
                                              float (&o)[MT][D / 8][4], struct running<MT> &run,
                                              float scale)
{
    float max[2 * MT];
    bool passed = false;

    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;

        max[i] = -INFINITY;
        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++)
            max[i] = fmaxf(max[i], fmaxf(s[m][n][e], s[m][n][e + 1]));
        max[i] = fmaxf(max[i], __shfl_xor_sync(0xffffffffu, max[i], 1));
        max[i] = fmaxf(max[i], __shfl_xor_sync(0xffffffffu, max[i], 2));
        max[i] = fmaxf(run.max[m][i % 2], max[i] * scale);
        passed = passed || max[i] - run.max[m][i % 2] > DS_SOFT_SLACK;
    }
    if (__ballot_sync(0xffffffffu, passed) != 0)
        bring_to<D>(o, run, max);
    DS_UNROLL
    for (int i = 0; i < 2 * MT; i++) {
        const int m = i / 2, e = i % 2 * 2;
        float sum = 0.0f;

        DS_UNROLL
        for (int n = 0; n < FLASH_KEYS / 8; n++) {
            s[m][n][e] = ptx_exp2(s[m][n][e] * scale - run.max[m][i % 2]);
            s[m][n][e + 1] = ptx_exp2(s[m][n][e + 1] * scale - run.max[m][i % 2]);
            sum += s[m][n][e] + s[m][n][e + 1];
        }
        run.sum[m][i % 2] += sum; /* of this lane's columns */
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
