/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cublaslt.c - the stand-in for cuBLASLt behind the fake runtime: its product is a kernel like
 * another.
 */
#define cublasLtMatmul fake_matmul /* the product itself, under another name */
#include "tests/cudaemu/fake_blaslt.c"
#undef cublasLtMatmul

#include "tests/fakes/fake.h"

enum { EXECUTION_FAILED = 13 };

int cublasLtMatmul(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
                   const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                   void *d, void *d_layout, const struct ds_blaslt_algo *algo, void *workspace,
                   size_t workspace_bytes, void *stream);

int cublasLtMatmul(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
                   const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                   void *d, void *d_layout, const struct ds_blaslt_algo *algo, void *workspace,
                   size_t workspace_bytes, void *stream)
{
    int status;

    if (fake_launch(stream) != 0)
        return EXECUTION_FAILED;
    status = fake_matmul(handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d,
                         d_layout, algo, workspace, workspace_bytes, stream);
    fake_launched();
    return status;
}
