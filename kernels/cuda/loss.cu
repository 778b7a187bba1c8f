/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loss.cu - softmax cross-entropy over rows of logits.  Not yet run on a GPU.
 *
 * One block a row: its largest value, the sum of the exponentials, and the gradients.  A logit is
 * read by the thread that writes its gradient, so they may lie in the same memory.
 */
#include "kernels/cuda/device.cuh"

static __device__ float block_max(float x, float *places)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    if (lane == 0)
        places[warp] = x;
    __syncthreads();
    x = places[lane % (BLOCK / WARP)];
    for (unsigned o = WARP / 2; o > 0; o /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    __syncthreads(); /* before `places` is used again */
    return x;
}

template <class T>
static __device__ __forceinline__ void gradients(const struct ds_xent_args &a, const float *x, T *d,
                                                 size_t target, float max, float sum)
{
    float by = a.grad_scale / sum;

    FOR_ROW_PACKS(i, a.vocab)
    {
        float v[PACK];

        take(x + i, a.vocab - i, v);
        for (int j = 0; j < PACK; j++) {
            float e = expf(v[j] - max);

            v[j] = i + j == target ? (e / sum - 1.0f) * a.grad_scale : e * by;
        }
        give(d + i, a.vocab - i, v);
    }
}

template <class T>
static __global__ void __launch_bounds__(BLOCK) xent(struct ds_xent_args a, T *dlogits)
{
    __shared__ float places[BLOCK / WARP];

    FOR_ROWS(r, a.rows)
    {
        const float *x = a.logits + r * a.ld;
        bool inside = a.targets[r] >= 0 && (size_t)a.targets[r] < a.vocab;
        size_t target = inside ? (size_t)a.targets[r] : a.vocab;
        float wanted = inside ? x[target] : NAN, max = -INFINITY, sum = 0.0f;

        for (size_t i = threadIdx.x; i < a.vocab; i += BLOCK)
            max = fmaxf(max, x[i]);
        max = block_max(max, places);
        FOR_ROW_PACKS(i, a.vocab)
        {
            float v[PACK];

            take(x + i, a.vocab - i, v);
            for (int j = 0; j < PACK && i + j < a.vocab; j++)
                sum += expf(v[j] - max);
        }
        sum = block_sum(sum, places); /* all have read the wanted logit by now */
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
             DS_LAUNCH(xent, row_grid(a->rows), BLOCK, 0, stream_of(stream), *a, (T *)a->dlogits));
    return launched("xent", err);
}
