/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * isa.h - names of the kernels that are compiled once per instruction set.
 *
 * The makefile compiles each file of SRC_isa_cpu with DS_CPU_ISA=base, v3 (AVX2)
 * and v4 (AVX-512); DS_ISA(f) is f with that suffix.  cpu.c chooses one table
 * of kernels when the device is opened.
 */
#ifndef DS_KERNELS_CPU_ISA_H
#define DS_KERNELS_CPU_ISA_H

#include "kernels/op.h"

#define DS_ISA_PASTE(fn, isa) fn##_##isa
#define DS_ISA_NAME(fn, isa)  DS_ISA_PASTE(fn, isa)
#define DS_ISA(fn)            DS_ISA_NAME(fn, DS_CPU_ISA)

#ifdef DS_CPU_ISA
#define X(id, fn)                                                                                  \
    int DS_ISA(ds__cpu_##fn)(const struct ds_##fn##_args *, struct ds_stream *, struct ds_error *);
DS_OPS(X)
#undef X
#endif

extern const struct ds_kernels ds__cpu_kernels_base;
double ds__cpu_multiply_add_base(size_t turns);
#ifdef __x86_64__
extern const struct ds_kernels ds__cpu_kernels_v3, ds__cpu_kernels_v4;
double ds__cpu_multiply_add_v3(size_t turns), ds__cpu_multiply_add_v4(size_t turns);
#endif

#endif
