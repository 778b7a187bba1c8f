/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * digest.h - a number of all bits of a matrix on the device, and how many of its elements are zero.
 *
 * Tests   tests/cudaemu/test_cuda_matmul.c
 */
#ifndef DS_KERNELS_CUDA_DIGEST_H
#define DS_KERNELS_CUDA_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

struct ds_stream;

enum { DS_DIGEST_PARTS = 512 };

struct ds_cuda_digest {
    uint64_t sum, zeros;
};

/* How many parts the digest of so many elements has; a block of the device makes one. */
static inline size_t ds__cuda_digest_parts(size_t elements)
{
    size_t blocks = (elements + 255) / 256;

    return blocks < DS_DIGEST_PARTS ? blocks : (size_t)DS_DIGEST_PARTS;
}

/* Of x[rows,n], rows `ld` elements apart, of F32, BF16 or F16: its parts on the device, to be added
 * up.  An error of the CUDA runtime, or 0. */
int ds__cuda_digest(const void *x, size_t rows, size_t n, size_t ld, enum ds_dtype type,
                    struct ds_cuda_digest *parts, struct ds_stream *stream);

#endif
