/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * alone.h - a matrix product of the calling thread alone, for operations that divide many of them
 * among threads themselves; matmul.c has it.
 */
#ifndef DS_KERNELS_CPU_ALONE_H
#define DS_KERNELS_CPU_ALONE_H

#include "kernels/cpu/isa.h"

struct ds_gemm;

/* What a thread works with. */
struct ds_alone {
    struct ds_gemm *gemm; /* NULL: nothing that must be made for a shape before it runs */
    unsigned thread;
    float *scratch; /* ds__need_matmul(1, low) bytes */
};

/* The product of `args`, of F32, BF16 or F16, without an epilogue.  0, or a negative errno. */
int DS_ISA(ds__product)(const struct ds_matmul_args *args, const struct ds_alone *alone)
    DS_NODISCARD;

#endif
