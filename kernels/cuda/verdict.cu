/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * verdict.cu - what a step came to on this rank and on all, and what becomes of it.
 *
 * One block each: a few hundred numbers.  They are added in the order of the CPU backend.  Sums of
 * a rank for each tensor have a thread each.
 */
#include "kernels/cuda/device.cuh"

/* Parts come into shared memory a block at a time, where one thread adds them up one by one. */
static __global__ void __launch_bounds__(BLOCK) tally(struct ds_tally_args a)
{
    __shared__ struct ds_part some[BLOCK];
    struct ds_entry entry = {};

    entry.place[0] = entry.place[1] = DS_NOWHERE;
    for (size_t first = 0; first < a.parts; first += BLOCK) {
        unsigned n = (unsigned)(a.parts - first < BLOCK ? a.parts - first : (size_t)BLOCK);

        if (threadIdx.x < n)
            some[threadIdx.x] = a.part[first + threadIdx.x];
        __syncthreads();
        for (unsigned i = 0; threadIdx.x == 0 && i < n; i++)
            ds_entry_take(&entry, &some[i], first + i >= a.own);
        __syncthreads();
    }
    if (threadIdx.x != 0)
        return;
    entry.loss = *a.loss;
    entry.peaks = *a.peaks;
    entry.hash = a.hash;
    entry.stop = a.stop;
    entry.writing = a.writing;
    *a.entry = entry;
}

extern "C" int ds__cuda_tally(const struct ds_tally_args *a, struct ds_stream *stream,
                              struct ds_error *err)
{
    DS_LAUNCH(tally, 1, BLOCK, 0, stream_of(stream), *a);
    return launched("tally", err);
}

static __global__ void __launch_bounds__(BLOCK) verdict(struct ds_verdict_args a)
{
    for (size_t apart = 1; apart < a.ranks; apart *= 2) {
        for (size_t i = threadIdx.x * 2 * apart; i + apart < a.ranks; i += BLOCK * 2 * apart)
            ds_entry_add(&a.entry[i], &a.entry[i + apart]);
        __syncthreads();
    }
    if (threadIdx.x != 0)
        return;
    ds_verdict_make(a.verdict, a.entry, a.before, &a.size, a.clip, &a.rule);
    for (int i = 0; a.loss_factor != nullptr && i < DS_LOSS_FACTORS; i++)
        a.loss_factor[i] = a.verdict->loss_factor;
}

extern "C" int ds__cuda_verdict(const struct ds_verdict_args *a, struct ds_stream *stream,
                                struct ds_error *err)
{
    DS_LAUNCH(verdict, 1, BLOCK, 0, stream_of(stream), *a);
    return launched("verdict", err);
}

static __global__ void __launch_bounds__(BLOCK) rank_sum(struct ds_rank_sum_args a)
{
    size_t k = (size_t)blockIdx.x * BLOCK + threadIdx.x;

    if (k >= a.n)
        return;
    for (size_t apart = 1; apart < a.ranks; apart *= 2)
        for (size_t i = 0; i + apart < a.ranks; i += 2 * apart)
            a.x[i * a.n + k] += a.x[(i + apart) * a.n + k];
}

extern "C" int ds__cuda_rank_sum(const struct ds_rank_sum_args *a, struct ds_stream *stream,
                                 struct ds_error *err)
{
    unsigned grid = (unsigned)((a->n + BLOCK - 1) / BLOCK);

    if (a->n == 0)
        return 0;
    DS_LAUNCH(rank_sum, grid, BLOCK, 0, stream_of(stream), *a);
    return launched("rank_sum", err);
}
