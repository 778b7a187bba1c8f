/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sdpa.h - attention by cuDNN, where it is there and takes the shape.
 *
 * It does BF16 and F16 of all weights and keys, in heads of up to 128 elements.  What it does not
 * take is left to our own kernels, which read and write the same things, so the passes of one layer
 * may be done by either.  So is, without `must`, what they do faster.  The choice depends on the
 * arguments, the library and the GPU only.
 *
 * A plan is made when a shape first comes, which takes a second or so and is not for the capture of
 * a graph, and kept.  A plan's workspace must fit into the stream's scratch memory: a batch that
 * needs more is done in parts of equal size, by sequences and then by heads.  Nothing is allocated
 * on the device.
 *
 * Bits    Of cuDNN's kernels only those are taken that do not call themselves nondeterministic.
 * Tests   tests/cudaemu/test_cuda_sdpa.c, tests/e2e/cuda.py
 */
#ifndef DS_KERNELS_CUDA_SDPA_H
#define DS_KERNELS_CUDA_SDPA_H

#include <stdbool.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/cudnn.h"

struct ds_cuda_sdpa;

struct ds_cuda_sdpa_args {
    const struct ds_cudnn *cudnn; /* kept as long as the object */
    void *stream;                 /* a cudaStream_t, of all calls */
    int capability;               /* to compute, 90 for 9.0 */
    bool must;                    /* what is not taken is an error */
};

/* -ENOTSUP the library is too old or one that computes wrongly, -EIO it does not start, -ENOMEM. */
int ds__cuda_sdpa_open(struct ds_cuda_sdpa **out, const struct ds_cuda_sdpa_args *args,
                       struct ds_error *err) DS_NODISCARD;
void ds__cuda_sdpa_close(struct ds_cuda_sdpa *sdpa);

/* *done: it is queued; else our own kernels are to do it.  -ENOTSUP with `must`, -EIO, -ENOMEM. */
int ds__cuda_sdpa_fwd(const struct ds_attention_fwd_args *a, struct ds_cuda_stream *stream,
                      bool *done, struct ds_error *err) DS_NODISCARD;
int ds__cuda_sdpa_bwd(const struct ds_attention_bwd_args *a, struct ds_cuda_stream *stream,
                      bool *done, struct ds_error *err) DS_NODISCARD;

/* Once: what cuDNN was asked for and did not take, NULL when there is nothing to say. */
const char *ds__cuda_sdpa_note(struct ds_cuda_sdpa *sdpa);

/* Of the library, as 91900 for 9.19.0. */
size_t ds__cuda_sdpa_version(const struct ds_cuda_sdpa *sdpa);

#endif
