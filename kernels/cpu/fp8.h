/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fp8.h - products of FP8 for matmul.c.
 */
#ifndef DS_KERNELS_CPU_FP8_H
#define DS_KERNELS_CPU_FP8_H

#include "kernels/cpu/isa.h"

/* A product of in_type U8, without an epilogue. */
int DS_ISA(ds__cpu_fp8_matmul)(const struct ds_matmul_args *args, struct ds_stream *stream,
                               struct ds_error *err) DS_NODISCARD;

#endif
