/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * table.c - the CUDA backend's kernels.
 */
#include "kernels/cuda/cuda.h"

/* clang-format off */
#define KERNELS(X) \
    X(matmul) X(bias_bwd) X(embed_fwd) X(embed_bwd) X(norm_fwd) X(norm_bwd) X(rope) \
    X(attention_fwd) X(attention_bwd) X(gelu_fwd) X(gelu_bwd) X(swiglu_fwd) X(swiglu_bwd) \
    X(dropout) X(cast) X(xent) X(sumsq) X(adamw) X(sgd) X(lion) X(adagrad) X(lamb_moments) X(lamb)
/* clang-format on */

const struct ds_kernels ds__cuda_kernels = {.name = "cuda",
#define X(fn) .fn = ds__cuda_##fn,
                                            KERNELS(X)
#undef X
};
