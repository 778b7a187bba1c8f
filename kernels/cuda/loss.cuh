/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loss.cuh - what the kernels of the loss share: sums of exponentials over a row, in one pass.
 *
 * A sum goes by the largest logit so far, and is scaled where a larger one comes.
 */
#ifndef DS_KERNELS_CUDA_LOSS_CUH
#define DS_KERNELS_CUDA_LOSS_CUH

#include "kernels/cuda/ptx.cuh"

enum { THREADS = 512, WARPS = THREADS / WARP, RESIDENT = 2 }; /* blocks of a multiprocessor */

static constexpr float LOG2E = 1.44269504f;

/* Of some logits the largest, and the sum of exp(logit - that); of none -INFINITY and 0. */
struct soft {
    float most, sum;
};

static __device__ __forceinline__ float power(float x, float base)
{
    return ptx_exp2((x - base) * LOG2E);
}

/* What is subtracted where `most` is the largest.  A NaN is larger than nothing: it comes into the
 * sum. */
static __device__ __forceinline__ float base_of(float most)
{
    return most == -INFINITY ? 0.0f : most;
}

/* The sum goes by `most` from now on. */
static __device__ __forceinline__ void raise(struct soft *s, float most)
{
    if (most > s->most) {
        s->sum *= power(s->most, most);
        s->most = most;
    }
}

static __device__ __forceinline__ struct soft warp_soft(struct soft s)
{
    float most = s.most;

    for (unsigned o = WARP / 2; o > 0; o /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, o));
    raise(&s, most);
    s.sum = warp_sum(s.sum);
    return s;
}

/* Of all logits of the block's row, in every thread.  All threads call.  Of two calls one after the
 * other `places` are not the same, so one barrier is enough. */
static __device__ __forceinline__ struct soft block_soft(struct soft s, struct soft *places)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    s = warp_soft(s);
    if (lane == 0)
        places[warp] = s;
    __syncthreads();
    s = {-INFINITY, 0.0f};
    if (lane < WARPS)
        s = places[lane];
    return warp_soft(s);
}

/* Of the block's row nothing is wanted: n gradients are 0.  Nobody reads its logits any more, in
 * whose place they may be. */
template <class D> static __device__ __forceinline__ void clear_row(D *d, size_t n)
{
    const float none[PACK32] = {};

    for (size_t i = threadIdx.x * PACK32; i < n; i += THREADS * PACK32)
        give(d + i, n - i, none);
}

/* The loss, and gradients, of columns that ranks share; loss_part.cu. */
int ds__cuda_xent_of_parts(const struct ds_xent_args *a, struct ds_stream *stream,
                           struct ds_error *err);

#endif
