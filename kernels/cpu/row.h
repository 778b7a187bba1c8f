/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * row.h - the product of one row and a matrix, as when a text is made token by token.
 *
 * Each element of the matrix is used once, so memory sets the pace: nothing is packed or copied,
 * and a task reads what lies together.  With B stored [n,k] a task has some of the columns; with
 * [k,n] it has some of the rows, whose sums are added up in their order.  How many rows follows
 * from k alone, so that neither threads nor tasks show in the bits.
 */
#ifndef DS_KERNELS_CPU_ROW_H
#define DS_KERNELS_CPU_ROW_H

#include "kernels/cpu/isa.h"

/* Is it such a product, of a type that is computed with directly? */
static inline bool ds__is_row(const struct ds_matmul_args *a)
{
    return a->m == 1 && !a->trans_a && a->in_type != DS_U8;
}

/* The product of `args`, without an epilogue.  Scratch as of ds__need_matmul(). */
int DS_ISA(ds__row)(const struct ds_matmul_args *args, struct ds_stream *stream,
                    struct ds_error *err) DS_NODISCARD;

/* The same by the calling thread alone, of at most DS_ROW_COLUMNS columns. */
enum { DS_ROW_COLUMNS = 512 };
void DS_ISA(ds__row_alone)(const struct ds_matmul_args *args);

/* matmul.c: D = sums + C + bias for columns n0 .. n0 + n - 1 of the first row. */
void DS_ISA(ds__finish_row)(const struct ds_matmul_args *args, size_t n0, size_t n,
                            const float *sums);

#endif
