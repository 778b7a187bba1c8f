/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * table.c - the CUDA backend's kernels: every operation of op.h.
 */
#include "kernels/cuda/cuda.h"

const struct ds_kernels ds__cuda_kernels = {.name = "cuda",
#define X(id, fn) .fn = ds__cuda_##fn,
                                            DS_OPS(X)
#undef X
};
