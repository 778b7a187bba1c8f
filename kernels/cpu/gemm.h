/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gemm.h - matrix products of oneDNN, each on the calling thread alone.
 *
 * oneDNN is never run on several threads: matmul.c divides the work, and two
 * pools of threads would fight for the cores.
 */
#ifndef DS_KERNELS_CPU_GEMM_H
#define DS_KERNELS_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "kernels/dtype.h"

/* C[m,n] = op(A) op(B) + (add ? C : 0), row-major F32.  0, -ENOMEM or -EIO. */
struct ds_gemm_f32 {
    bool trans_a, trans_b, add;
    size_t m, n, k;
    const float *a, *b;
    size_t lda, ldb;
    float *c;
    size_t ldc;
};
int ds__gemm_f32(const struct ds_gemm_f32 *args) DS_NODISCARD;

/* A shape for which a compiled product (a oneDNN primitive) is kept. */
struct ds_gemm_shape {
    size_t m, n, k, lda, ldb, ldd;
    enum ds_dtype in_type, out_type;
    bool trans_a, trans_b, add, bias;
};

struct ds_gemm;

int ds__gemm_open(struct ds_gemm **gemm, unsigned threads, struct ds_error *err) DS_NODISCARD;
void ds__gemm_close(struct ds_gemm *gemm);

/* Does this processor multiply BF16 faster than F32?  Only then are primitives used for it. */
bool ds__gemm_has_bf16(void);

/* D = op(A) op(B) + (add ? D : 0) + (bias ? bias : 0).  The primitive of a shape is made, and
 * memory for it allocated, when `thread` first meets it.  0, -ENOTSUP, -ENOMEM, -EIO. */
int ds__gemm_run(struct ds_gemm *gemm, unsigned thread, const struct ds_gemm_shape *shape,
                 const void *a, const void *b, const void *bias, void *d) DS_NODISCARD;

/* "oneDNN 2.6.3" */
const char *ds__gemm_describe(void);

#endif
