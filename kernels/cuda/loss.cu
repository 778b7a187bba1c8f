/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loss.cu - softmax cross-entropy over rows of logits.  Not yet run on a GPU.
 *
 * One block a row, as wide as a block may be, so that the rows under way at a time stay in the
 * second cache: they are read twice, for maximum and sum together, then for the gradients.  A logit
 * is read by the thread that writes its gradient, so they may lie in the same memory.
 */
#include "kernels/cuda/device.cuh"

enum { WIDE = 1024, WIDE_WARPS = WIDE / WARP };

#define FOR_WIDE_PACKS(i, n) for (size_t i = threadIdx.x * PACK32; i < (n); i += WIDE * PACK32)

static __device__ float block_max(float x, float *places)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    if (lane == 0)
        places[warp] = x;
    __syncthreads();
    x = places[lane % WIDE_WARPS];
    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    __syncthreads(); /* before `places` is used again */
    return x;
}

/* Of this thread's logits the largest, and the sum of exp(logit - that); without any 0. */
static __device__ __forceinline__ float soften(const float *x, size_t n, float *most)
{
    float max = -INFINITY, sum = 0.0f;

    FOR_WIDE_PACKS(i, n)
    {
        float v[PACK32], base = max;

        take(x + i, n - i, v);
        for (int j = 0; j < PACK32 && i + j < n; j++)
            base = fmaxf(base, v[j]);
        if (base > max) {
            sum *= expf(max - base);
            max = base;
        }
        base = max == -INFINITY ? 0.0f : max;
        for (int j = 0; j < PACK32 && i + j < n; j++)
            sum += expf(v[j] - base);
    }
    *most = max;
    return sum;
}

template <class T>
static __device__ __forceinline__ void gradients(const struct ds_xent_args &a, const float *x, T *d,
                                                 size_t target, float max, float sum)
{
    float by = a.grad_scale / sum;

    FOR_WIDE_PACKS(i, a.vocab)
    {
        float v[PACK32];

        take(x + i, a.vocab - i, v);
        for (int j = 0; j < PACK32; j++) {
            float e = expf(v[j] - max);

            v[j] = i + j == target ? (e / sum - 1.0f) * a.grad_scale : e * by;
        }
        give(d + i, a.vocab - i, v);
    }
}

template <class T>
static __global__ void __launch_bounds__(WIDE) xent(struct ds_xent_args a, T *dlogits)
{
    __shared__ float places[WIDE_WARPS];

    FOR_ROWS(r, a.rows)
    {
        const float *x = a.logits + r * a.ld;
        bool inside = a.targets[r] >= 0 && (size_t)a.targets[r] < a.vocab;
        size_t target = inside ? (size_t)a.targets[r] : a.vocab;
        float wanted = inside ? x[target] : NAN, mine, max, sum = soften(x, a.vocab, &mine);

        max = block_max(mine, places);
        sum = mine == max ? sum : sum * expf(mine - max);
        sum = block_sum<WIDE>(sum, places); /* all have read the wanted logit by now */
        if (dlogits != nullptr)
            gradients(a, x, dlogits + r * a.dld, target, max, sum);
        if (threadIdx.x == 0)
            a.losses[r] = logf(sum) + max - wanted;
    }
}

extern "C" int ds__cuda_xent(const struct ds_xent_args *a, struct ds_stream *stream,
                             struct ds_error *err)
{
    DS_TYPED(a->act, T,
             DS_LAUNCH(xent, row_grid(a->rows), WIDE, 0, stream_of(stream), *a, (T *)a->dlogits));
    return launched("xent", err);
}
