/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tree.h - sums over ranks in one fixed order.
 *
 * The order is a binary tree over rank numbers: [lo, hi) is split at the largest power of two
 * below its count.  Three ranks add as (0+1)+2, five as ((0+1)+(2+3))+4.  Every element goes the
 * same way, so how a vector is cut among ranks and blocks does not show in the bits.
 *
 * Pure arithmetic over memory of the caller; blocks of DS_TREE_BLOCK elements keep partial sums
 * in the first-level cache.
 *
 * Tests   tests/comm/test_tree.c
 */
#ifndef DS_RUNTIME_COMM_TREE_H
#define DS_RUNTIME_COMM_TREE_H

#include <stddef.h>

enum {
    DS_TREE_BLOCK = 2048,                             /* floats */
    DS_TREE_LEVELS = 11,                              /* log2(DS_MAX_SLOTS) + 1 */
    DS_TREE_SCRATCH = DS_TREE_BLOCK * DS_TREE_LEVELS, /* floats of scratch memory */
};

/* out[0..n) = tree sum of src[k][0..n) over k < count.  `out` may be one of the sources. */
void ds__tree_sum_f32(float *out, const float *const *src, unsigned count, size_t n,
                      float *scratch);

/* Every vec[k][0..n), k < count, becomes the tree sum of them all. */
void ds__tree_sum_all_f32(float *const *vec, unsigned count, size_t n, float *scratch);

/* Tree sum of x[0..count). */
double ds__tree_sum_f64(const double *x, unsigned count);

/* Where the tree splits `count` >= 2 ranks: the largest power of two below it. */
unsigned ds__tree_left(unsigned count);

/* Add partial sums by a postfix program: a number from 0 puts src[number] on the stack, a negative
 * one adds the upper two.  `out` may be one of the sources. */
void ds__tree_run_f32(float *out, const int *program, unsigned steps, const float *const *src,
                      size_t n, float *scratch);
double ds__tree_run_f64(const int *program, unsigned steps, const double *src);

#endif
