/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reorder.cu - runs of bytes in another order: what ranks exchange, laid out by who gets it.
 *
 * A thread moves words, neighbours in a run by neighbours in a warp, of the largest size that
 * divides all that a run begins and ends at.
 */
#include "kernels/cuda/device.cuh"

template <class Word>
static __global__ void __launch_bounds__(BLOCK) reorder(struct ds_reorder_args a)
{
    size_t words = a.run / sizeof(Word), all = a.outer * a.inner * words;

    for (size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x; i < all;
         i += (size_t)gridDim.x * BLOCK) {
        size_t run = i / words, outer = run / a.inner, inner = run % a.inner;
        const char *from = (const char *)a.from + outer * a.from_outer + inner * a.from_inner;
        char *to = (char *)a.to + outer * a.to_outer + inner * a.to_inner;

        ((Word *)to)[i % words] = ((const Word *)from)[i % words];
    }
}

static bool divides(const struct ds_reorder_args *a, size_t word)
{
    uintptr_t all = (uintptr_t)a->from | (uintptr_t)a->to | a->run | a->from_outer | a->from_inner |
                    a->to_outer | a->to_inner;

    return all % word == 0;
}

extern "C" int ds__cuda_reorder(const struct ds_reorder_args *a, struct ds_stream *stream,
                                struct ds_error *err)
{
    size_t bytes = a->outer * a->inner * a->run;
    cudaStream_t queue = stream_of(stream);

    if (bytes == 0)
        return 0;
    if (divides(a, sizeof(uint4)))
        DS_LAUNCH(reorder<uint4>, flat_grid(bytes / sizeof(uint4), 1), BLOCK, 0, queue, *a);
    else if (divides(a, sizeof(uint32_t)))
        DS_LAUNCH(reorder<uint32_t>, flat_grid(bytes / sizeof(uint32_t), 1), BLOCK, 0, queue, *a);
    else
        DS_LAUNCH(reorder<unsigned char>, flat_grid(bytes, 1), BLOCK, 0, queue, *a);
    return launched("reorder", err);
}
