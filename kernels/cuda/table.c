/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * table.c - the CUDA backend's kernels: those that there are so far.
 */
#include "kernels/cuda/cuda.h"

/* clang-format off */
#define KERNELS(X) \
    X(bias_bwd) X(embed_fwd) X(embed_bwd) X(norm_fwd) X(norm_bwd) X(rope) X(attention_fwd) X(attention_bwd) \
    X(gelu_fwd) X(gelu_bwd) X(swiglu_fwd) X(swiglu_bwd) X(cast) \
    X(xent) X(sumsq) X(adamw) X(sgd) X(lion) X(adagrad)
/* clang-format on */

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
