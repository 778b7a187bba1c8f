/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * need.h - what attention by cuDNN takes of a device's scratch memory; for the planner, too.
 */
#ifndef DS_KERNELS_CUDA_NEED_H
#define DS_KERNELS_CUDA_NEED_H

#include <stddef.h>

/* The backward pass of one sequence and one key/value head, which `group` query heads share:
 * gradients of scores, two bytes each, which cuDNN adds up in one order, sums of each query, and
 * for a group two gradients of each query head.  cuDNN 9.19 says so of its kernels for sm_80, sm_90
 * and sm_100. */
static inline size_t ds__need_sdpa(size_t seq, size_t size, size_t group)
{
    size_t columns = (seq + 63) / 64 * 64;

    return group * columns * (columns * 2 + 4 + (group > 1 ? size * 4 : 0));
}

/* What it takes beside that, whatever the shape: two small areas, rounded up. */
enum { DS_NEED_SDPA_REST = 1024 };

#endif
