/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * half.h - vectors of bf16 and fp16: from and to fp32, and sums over ranks in the order of tree.h.
 *
 * A sum is taken in fp32 and rounded once, to nearest even; a NaN stays one, and what is too large
 * for fp16 is infinite.  `type` is DS_BF16 or DS_F16, `scratch` of DS_TREE_SCRATCH floats.
 *
 * Tests   tests/comm/test_half.c
 */
#ifndef DS_RUNTIME_COMM_HALF_H
#define DS_RUNTIME_COMM_HALF_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

void ds_bf16_pack(uint16_t *out, const float *x, size_t n);
void ds_bf16_unpack(float *out, const uint16_t *x, size_t n);
void ds_f16_pack(uint16_t *out, const float *x, size_t n);
void ds_f16_unpack(float *out, const uint16_t *x, size_t n);

/* As ds__tree_sum_f32(), ds__tree_sum_all_f32(), ds__tree_run_f32(). */
void ds__tree_sum_half(enum ds_dtype type, uint16_t *out, const uint16_t *const *src,
                       unsigned count, size_t n, float *scratch);
void ds__tree_sum_all_half(enum ds_dtype type, uint16_t *const *vec, unsigned count, size_t n,
                           float *scratch);
void ds__tree_run_half(enum ds_dtype type, uint16_t *out, const int *program, unsigned steps,
                       const uint16_t *const *src, size_t n, float *scratch);

#endif
