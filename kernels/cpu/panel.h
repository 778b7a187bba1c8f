/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * panel.h - the innermost matrix product: many rows of A by a panel of B a few vectors wide.
 *
 * DS_PANEL_ROWS rows by DS_PANEL_COLUMNS columns of C live in registers while
 * k runs.  B is read a whole vector at a time, so rows of a panel must have
 * DS_PANEL_COLUMNS readable elements; what lies beyond `n` is computed and
 * thrown away.
 *
 * Source  Van Zee and van de Geijn, "BLIS", TOMS 41(3), 2015
 */
#ifndef DS_KERNELS_CPU_PANEL_H
#define DS_KERNELS_CPU_PANEL_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

enum {
    DS_PANEL_ROWS = DS_LANES == 16 ? 12 : 6,
    DS_PANEL_COLUMNS = 2 * DS_LANES,
};

/* C[m,n] (+)= A[m,k] B[k,n], n <= DS_PANEL_COLUMNS. */
struct ds_panel {
    size_t m, n, k;
    const float *a; /* element (i,p) of a group of DS_PANEL_ROWS rows: a[i * a_row + p * a_col] */
    size_t a_row, a_col;
    size_t a_group; /* from one group of rows to the next; a_row or a_col is 1 */
    const float *b; /* element (p,j): b[p * b_row + j] */
    size_t b_row;
    float *c;
    size_t ldc;
    bool add;
    /* What a causal mask leaves of A.  Below: row i has columns up to i + diagonal.  Above: row i
     * has columns from i - diagonal on. */
    enum { DS_PANEL_FULL, DS_PANEL_BELOW, DS_PANEL_ABOVE } part;
    size_t diagonal;
};

void DS_ISA(ds__panel)(const struct ds_panel *panel);

/* Bring part of a matrix of `type` into the order that panels want, as F32.  Of A: groups of
 * DS_PANEL_ROWS rows, [k][DS_PANEL_ROWS] each.  Of B: panels of DS_PANEL_COLUMNS columns,
 * [k][DS_PANEL_COLUMNS] each, filled up with zeros.  `trans`: stored with k first (A) or last (B).
 * `at` is the first element, `ld` the stored leading dimension. */
struct ds_pack {
    enum ds_dtype type;
    bool trans;
    const void *from;
    size_t at, ld;
    size_t m, k; /* rows of A or columns of B, and the inner dimension */
    float *to;
};

void DS_ISA(ds__pack_a)(const struct ds_pack *pack);
void DS_ISA(ds__pack_b)(const struct ds_pack *pack);

#endif
