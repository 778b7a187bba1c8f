/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * table.c - the CUDA backend's kernels: those that there are so far.
 */
#include "kernels/cuda/cuda.h"

#define KERNELS(X) X(gelu_fwd) X(gelu_bwd) X(swiglu_fwd) X(swiglu_bwd) X(rope) X(cast)

#define X(fn)                                                                                      \
    int ds__cuda_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream,                 \
                      struct ds_error *err);
KERNELS(X)
#undef X

const struct ds_kernels ds__cuda_kernels = {.name = "cuda",
#define X(fn) .fn = ds__cuda_##fn,
                                            KERNELS(X)
#undef X
};
