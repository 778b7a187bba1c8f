/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * FP8 of kernels/cuda/ by the tests of the CPU's; what is asked of cuBLASLt for it, and kept.
 */
#include "tests/cudaemu/emulated.h"

#include <unistd.h>

#include "tests/kernels/test_fp8.c"

enum { SIDE = 32 };

struct asked {
    struct ds_cuda_stream stream;
    _Alignas(16) uint64_t workspace[1024];
    _Alignas(16) uint8_t a[SIDE * SIDE], b[SIDE * SIDE];
    _Alignas(16) float d[SIDE * SIDE + 1];
    _Alignas(DS_FP8_UNIT) float one;
};

static struct asked *asked_new(const char *choices)
{
    const struct ds_cuda_matmul_args args = {
        .blaslt = &fake_blaslt_calls, .timer = fake_timer, .choices = choices, .device = "fake"};
    struct asked *x = aligned_alloc(16, (sizeof(*x) + 15) / 16 * 16);

    cr_assert(x != NULL);
    memset(x, 0, sizeof(*x));
    memset(x->a, 0x38, sizeof(x->a)); /* 1 of E4M3 */
    memset(x->b, 0x3c, sizeof(x->b)); /* 1 of E5M2 */
    x->one = 1.0f;
    x->stream = (struct ds_cuda_stream){
        .base = emulated_stream(), .scratch = x->workspace, .scratch_bytes = sizeof(x->workspace)};
    fake_blaslt = (struct fake_blaslt){0};
    cr_assert(ds__cuda_matmul_open(&x->stream.matmul, &args, NULL) == 0);
    return x;
}

static int ask(struct asked *x, float *d, bool fast, struct ds_error *err)
{
    const struct ds_matmul_args args = {.m = SIDE,
                                        .n = SIDE,
                                        .k = SIDE,
                                        .trans_b = true,
                                        .in_type = DS_U8,
                                        .out_type = DS_F32,
                                        .fp8 = {DS_E4M3, DS_E5M2, &x->one, &x->one, fast},
                                        .a = x->a,
                                        .b = x->b,
                                        .lda = SIDE,
                                        .ldb = SIDE,
                                        .d = d,
                                        .ldd = SIDE};

    return ds_matmul(&args, &x->stream.base, err);
}

static void asked_free(struct asked *x)
{
    ds__cuda_matmul_close(x->stream.matmul);
    cr_assert(fake_blaslt.live == 0);
    free(x);
}

/* Short sums are another product, and are there where they are asked for only. */
Test(cuda_fp8, short_sums_where_they_are_asked_for)
{
    struct asked *x = asked_new(NULL);

    for (unsigned i = 0; i < 4; i++) {
        cr_assert(ask(x, x->d, i % 2, NULL) == 0);
        cr_assert(fake_blaslt.fast == (int)(i % 2) && x->d[0] == SIDE, "%g", (double)x->d[0]);
    }
    cr_assert(ds__cuda_matmul_shapes(x->stream.matmul) == 2);
    asked_free(x);
}

/* Types and sums are in the key of a choice; what is chosen is taken from the file from then on. */
Test(cuda_fp8, choices_are_kept)
{
    char file[64], text[2048] = "";
    struct asked *x;
    FILE *f;

    snprintf(file, sizeof(file), "/tmp/dsrun-products-fp8-%d", (int)getpid());
    (void)unlink(file);
    x = asked_new(file);
    cr_assert(ask(x, x->d, true, NULL) == 0 && fake_blaslt.ran[FAKE_FASTEST] > 0);
    asked_free(x);
    f = fopen(file, "r");
    cr_assert(f != NULL && fread(text, 1, sizeof(text) - 1, f) > 0 && fclose(f) == 0);
    cr_assert(strstr(text, " fp8 28 29 fast 1 32x32x32 ") != NULL, "%s", text);
    x = asked_new(file);
    cr_assert(ask(x, x->d, true, NULL) == 0);
    cr_assert(fake_blaslt.products == 1 && fake_blaslt.ran[FAKE_FASTEST] == 1);
    asked_free(x);
    cr_assert(unlink(file) == 0);
}

/* What the library has no product for is an error with the shape in it. */
Test(cuda_fp8, what_is_not_aligned_is_refused)
{
    struct asked *x = asked_new(NULL);
    struct ds_error err = {0};

    cr_assert(ask(x, x->d + 1, false, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "32 x 32 x 32") != NULL, "%s", err.text);
    cr_assert(ask(x, x->d, false, &err) == 0);
    asked_free(x);
}
