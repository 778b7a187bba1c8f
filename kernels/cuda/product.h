/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * product.h - what matmul.c and choose.c share: a shape of products, described to cuBLASLt once.
 *
 * The library's matrices have contiguous columns, ours contiguous rows, so it is asked for the
 * transpose: D^T = op(B)^T op(A)^T, where each matrix is the transpose of itself as it lies there.
 * Its A is our B and the other way round.  The bias is then one of the library's columns, and the
 * gradient of a bias sums the rows of the library's A.
 */
#ifndef DS_KERNELS_CUDA_PRODUCT_H
#define DS_KERNELS_CUDA_PRODUCT_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul.h"

enum { DS_PRODUCTS = 256 };
enum ds_matrix { DS_MATRIX_A, DS_MATRIX_B, DS_MATRIX_C, DS_MATRIX_D, DS_MATRICES };

/* All that a choice depends on.  No padding: compared as bytes. */
struct ds_product_key {
    uint64_t m, n, k, ld[DS_MATRICES];
    uint32_t alignment[DS_MATRICES];           /* in bytes */
    uint32_t bias_alignment, gelu_x_alignment; /* 0: there is none */
    uint32_t epilogue;                         /* the library's number */
    uint8_t trans_a, trans_b, in_type, out_type, add;
    uint8_t a_type, b_type; /* the library's numbers */
    uint8_t fast;           /* sums of FP8 */
    uint8_t unused[4];
};

struct ds_product {
    struct ds_product_key key;
    void *desc, *layout[DS_MATRICES];
    struct ds_blaslt_algo algo;
    bool apart; /* of one with an epilogue: it is not done by the library */
};

struct ds_cuda_matmul {
    struct ds_cuda_matmul_args args;
    const struct ds_blaslt *lt;
    void *handle;
    struct ds_product product[DS_PRODUCTS];
    size_t n, next; /* kept; the place of the next one, round and round */
};

/* What a product works on: pointers, which may differ from call to call. */
struct ds_operands {
    const void *a, *b, *c;
    const float *a_scale, *b_scale; /* of FP8 */
    void *d, *bias, *gelu_x, *workspace, *stream;
    size_t workspace_bytes;
};

struct ds_operands ds__operands(const struct ds_cuda_stream *stream,
                                const struct ds_matmul_args *args);

/* Of a failed call; *err is filled in. */
int ds__blaslt_refused(const struct ds_cuda_matmul *w, const char *what, int status,
                       struct ds_error *err);

/* A status of the library. */
int ds__product_run(const struct ds_cuda_matmul *w, const struct ds_product *p,
                    const struct ds_blaslt_algo *algo, const struct ds_operands *x);

/* p->algo, or that p is apart, for a product that is described.  With an epilogue `plain` is the
 * same without one, which an operation follows when p is apart; else it is NULL. */
int ds__product_choose(const struct ds_cuda_matmul *w, struct ds_product *p,
                       const struct ds_product *plain, const struct ds_matmul_args *args,
                       struct ds_cuda_stream *stream, struct ds_error *err);

#endif
