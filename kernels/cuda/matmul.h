/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * matmul.h - matrix products through cuBLASLt: what a stream keeps for them.
 *
 * Everything that depends on a shape only (descriptors, the algorithm, its workspace) is made when
 * the shape first comes and kept; the shapes of a training run are few.  The first product of a
 * shape allocates, and waits for the stream where it is measured: not under the capture of a graph.
 *
 * Epilogues  The library does them where it proposes something and they are wanted: GELU and its
 *         derivative with `epilogues`, all where products are measured and it is the faster way.
 *         Else, for rows of a length that it does not take, and for types that differ, an operation
 *         follows the product.
 * Bits    Without `choices` the library's first proposal is taken, or for results of at least
 *         `alike_from` elements the fastest of those that leave the same bits: the same shape has
 *         the same bits on the same GPU and library.  With it the fastest of some proposals is,
 *         once; what was found is kept in that file and taken from it from then on (choices.h).
 * Tests   tests/cudaemu/test_cuda_matmul.c
 */
#ifndef DS_KERNELS_CUDA_MATMUL_H
#define DS_KERNELS_CUDA_MATMUL_H

#include <stdbool.h>

#include "kernels/cuda/blaslt.h"
#include "kernels/op.h"

struct ds_cuda_matmul;
struct ds_device;

/* Functions of the CUDA runtime, which return its error codes; needed to measure only. */
struct ds_cuda_timer {
    int (*create)(void **event);
    int (*record)(void *event, void *stream);
    int (*wait)(void *event);
    int (*elapsed)(float *ms, void *begin, void *end);
    int (*destroy)(void *event);
    int (*alloc)(void **memory, size_t bytes);
    int (*free)(void *memory);
    int (*read)(void *to, const void *from, size_t bytes, void *stream); /* waits for the stream */
};

struct ds_cuda_matmul_args {
    const struct ds_blaslt *blaslt; /* kept as long as the object */
    struct ds_cuda_timer timer;
    const char *choices; /* or NULL; kept as long as the object */
    uint64_t alike_from; /* elements of a result, without choices; 0: nothing is measured */
    const char *device;  /* what the measured times hold for, in one word; with choices */
    bool tf32;           /* products of F32 may round their operands to TF32 */
    bool epilogues;      /* that were not measured are left to the library */
};

/* -EINVAL `choices` without a timer, -EIO the library refuses, -ENOMEM. */
int ds__cuda_matmul_open(struct ds_cuda_matmul **out, const struct ds_cuda_matmul_args *args,
                         struct ds_error *err) DS_NODISCARD;
void ds__cuda_matmul_close(struct ds_cuda_matmul *matmul);

extern const struct ds_cuda_timer ds__cuda_timer; /* timer.c */
/* Whose waits for it are counted; a process opens one device.  NULL: nobody's. */
void ds__cuda_timer_of(struct ds_device *device);

/* Shapes that are kept now. */
size_t ds__cuda_matmul_shapes(const struct ds_cuda_matmul *matmul);

#endif
