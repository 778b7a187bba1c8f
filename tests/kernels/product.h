/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * product.h - a matrix product of random numbers, and what it is in double.
 */
#ifndef DS_TESTS_KERNELS_PRODUCT_H
#define DS_TESTS_KERNELS_PRODUCT_H

#include "tests/kernels/harness.h"

enum added { NOTHING, ITSELF, OTHER };

struct product {
    struct ds_matmul_args args;
    struct nums a, b, c, bias;
    double *want;
};

static inline double product_at(const struct product *p, size_t i, size_t j)
{
    const struct ds_matmul_args *a = &p->args;
    const double *x = p->a.d + (a->trans_a ? i : i * a->lda);
    const double *y = p->b.d + (a->trans_b ? j * a->ldb : j);
    const size_t x_step = a->trans_a ? a->lda : 1, y_step = a->trans_b ? 1 : a->ldb;
    double sum = 0.0;

    for (size_t k = 0; k < a->k; k++)
        sum += x[k * x_step] * y[k * y_step];
    return sum;
}

static inline struct product make(size_t m, size_t n, size_t k, unsigned layout, enum ds_dtype in,
                                  enum ds_dtype out, enum added added, bool bias, size_t pad)
{
    struct product p = {.args = {.m = m, .n = n, .k = k, .in_type = in, .out_type = out}};
    struct ds_matmul_args *a = &p.args;

    a->trans_a = (layout & 1) != 0;
    a->trans_b = (layout & 2) != 0;
    a->lda = (a->trans_a ? m : k) + pad;
    a->ldb = (a->trans_b ? k : n) + 2 * pad;
    a->ldd = n;
    a->ldc = added == OTHER ? n + pad : n;
    p.a = nums_random(in, a->lda * (a->trans_a ? k : m), 1.0, 0.1);
    p.b = nums_random(in, a->ldb * (a->trans_b ? n : k), 1.0, 0.0);
    p.c = nums_random(out, a->ldc * m, 3.0, 0.0);
    p.bias = nums_random(in, n, 5.0, 0.0);
    a->a = p.a.data;
    a->b = p.b.data;
    a->bias = bias ? p.bias.data : NULL;
    a->c = added == OTHER ? (void *)p.c.data : added == ITSELF ? (void *)&p : NULL;
    p.want = calloc(m * n, sizeof(double));
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++)
            p.want[i * n + j] = product_at(&p, i, j) + (bias ? p.bias.d[j] : 0.0) +
                                (added == NOTHING ? 0.0 : p.c.d[i * a->ldc + j]);
    }
    return p;
}

static inline void drop(struct product *p)
{
    nums_free(&p->a);
    nums_free(&p->b);
    nums_free(&p->c);
    nums_free(&p->bias);
    free(p->want);
}

#endif
