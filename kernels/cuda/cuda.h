/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cuda.h - the CUDA backend's kernels as the rest of the backend sees them; plain C.
 *
 * An operation is queued on the stream and returns at once; -EIO when the launch is refused.
 * Pointers of the args structs are device memory, those of results too (ds_sumsq_args: sum and
 * nonfinite).  Attention scales must be positive.
 *
 * State  The kernels run under the emulation of tests/cudaemu/ only: none has run on a GPU yet, and
 *        nothing here tells of speed.  dsrun-cuda.so loads it: kernels/cuda/cuda.c.
 * Tests  tests/cudaemu/ (every kernel against the CPU backend and float64)
 */
#ifndef DS_KERNELS_CUDA_CUDA_H
#define DS_KERNELS_CUDA_CUDA_H

#include <stddef.h>

#include "kernels/backend.h"

struct ds_cuda_matmul;
struct ds_cuda_sdpa;

struct ds_cuda_stream {
    struct ds_stream base;
    void *stream;  /* a cudaStream_t */
    void *scratch; /* device memory for partial results; 16-byte aligned */
    size_t scratch_bytes;
    int capability;                /* to compute, 90 for 9.0 */
    struct ds_cuda_matmul *matmul; /* matmul.h; NULL: no matrix products */
    struct ds_cuda_sdpa *sdpa;     /* sdpa.h; NULL: attention by our own kernels */
};

/* d[m,n] of F32 += a's bias of in_type. */
int ds__cuda_add_bias(const struct ds_matmul_args *a, struct ds_stream *stream,
                      struct ds_error *err);

extern const struct ds_kernels ds__cuda_kernels;

/* The entries of that table. */
#define X(id, fn)                                                                                  \
    int ds__cuda_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream,                 \
                      struct ds_error *err);
DS_OPS(X)
#undef X

#endif
