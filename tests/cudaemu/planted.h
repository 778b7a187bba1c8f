/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * planted.h - a kernel of 64 threads that writes 63, 62, ... 0, with a defect at will.
 */
#ifndef DS_TESTS_CUDAEMU_PLANTED_H
#define DS_TESTS_CUDAEMU_PLANTED_H

enum { NONE, NO_BARRIER, DIVERGENT, DEADLOCK, HALF_WARP, UNSET_SHARED, PAST_SHARED, PAST_GLOBAL };

/* `out` has n places; the kernel writes the first 64. */
void planted(float *out, int n, int defect);

/* c[16,8] = a[16,16] b[16,8] of BF16 by one warp, operands loaded as matrices from shared memory or,
 * BY_HAND, put together element by element as the PTX ISA numbers them; with a defect at will. */
enum { AS_MATRICES, BY_HAND, NO_WAIT, MISALIGNED };
void planted_product(const unsigned short *a, const unsigned short *b, float *c, int how);

/* Of 64 x 64 numbers of BF16 by one warpgroup: c = a b^T from tiles in shared memory, or, DOWN, c = a b
 * with a in registers; with a defect at will. */
enum { ACROSS, DOWN, NOT_PLACED, NOT_BEGUN, NOT_PUBLISHED, NOT_WAITED, OVERWRITTEN, NOT_BY_ALL };
void planted_group(const unsigned short *a, const unsigned short *b, float *c, int how);

/* 0 when a block of that many threads is accepted, else -EIO. */
int planted_shape(unsigned threads);

#endif
