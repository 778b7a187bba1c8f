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

/* A product with all that it was given, as it was then. */
struct kept {
    struct desc desc;
    struct layout layout[4];
    float alpha, beta;
    const void *a, *b, *c;
    void *d, *workspace;
    struct ds_blaslt_algo algo;
    size_t workspace_bytes;
};

static void run_kept(void *arg)
{
    struct kept *k = arg;

    (void)fake_matmul(NULL, &k->desc, &k->alpha, k->a, &k->layout[0], k->b, &k->layout[1], &k->beta,
                      k->c, &k->layout[2], k->d, &k->layout[3], &k->algo, k->workspace,
                      k->workspace_bytes, NULL);
}

/* All that is memory lies on the device. */
static void check_given(const struct kept *k)
{
    const void *const given[] = {k->a,
                                 k->b,
                                 k->c,
                                 k->d,
                                 k->workspace,
                                 k->desc.bias,
                                 k->desc.aux,
                                 k->desc.scale[0],
                                 k->desc.scale[1]};

    fake_given("cublasLtMatmul", given, sizeof(given));
}

int cublasLtMatmul(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
                   const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                   void *d, void *d_layout, const struct ds_blaslt_algo *algo, void *workspace,
                   size_t workspace_bytes, void *stream)
{
    struct kept *k = malloc(sizeof(*k));
    int status;

    if (k == NULL)
        abort();
    *k = (struct kept){
        .desc = *(struct desc *)desc,
        .layout = {*(struct layout *)a_layout, *(struct layout *)b_layout,
                   *(struct layout *)c_layout, *(struct layout *)d_layout},
        .alpha = *(const float *)alpha,
        .beta = *(const float *)beta,
        .a = a,
        .b = b,
        .c = c,
        .d = d,
        .workspace = workspace,
        .algo = *algo,
        .workspace_bytes = workspace_bytes,
    };
    check_given(k);
    if (fake_kept(stream, run_kept, k))
        return 0;
    free(k);
    if (fake_launch(stream) != 0)
        return EXECUTION_FAILED;
    status = fake_matmul(handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d,
                         d_layout, algo, workspace, workspace_bytes, stream);
    fake_launched();
    return status;
}
