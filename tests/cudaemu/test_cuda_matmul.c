/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products of kernels/cuda/ by the tests of the CPU's, on a stand-in for cuBLASLt that
 * checks what it is given; then what happens when it refuses.
 */
#include "tests/cudaemu/emulated.h"

#include <unistd.h>

#include "tests/kernels/test_matmul.c"

struct
try {
    struct ds_cuda_stream stream;
    struct ds_blaslt blaslt;
    _Alignas(16) uint64_t workspace[1024];
};

/* With a file the fastest is looked for, once. */
static int begin_at(struct try *t, const char *file, bool tf32, struct ds_error *err)
{
    const struct ds_cuda_matmul_args args = {.blaslt = &fake_blaslt_calls,
                                             .timer = fake_timer,
                                             .choices = file,
                                             .device = "fake",
                                             .tf32 = tf32};

    if (fake_blaslt.fail_at == 0)
        fake_blaslt = (struct fake_blaslt){0};
    t->stream = (struct ds_cuda_stream){.base = {.kernels = &ds__cuda_kernels},
                                        .scratch = t->workspace,
                                        .scratch_bytes = sizeof(t->workspace)};
    return ds__cuda_matmul_open(&t->stream.matmul, &args, err);
}

static int begin(struct try *t, bool measure, bool tf32, struct ds_error *err)
{
    static char file[64];

    if (file[0] == '\0')
        snprintf(file, sizeof(file), "/tmp/dsrun-products-%d", (int)getpid());
    (void)unlink(file);
    return begin_at(t, measure ? file : NULL, tf32, err);
}

/* d = 2 by 2 ones times `x`, and `n` columns, plus itself and a bias of 3 where asked. */
static int product(struct try *t, float x, size_t n, float *d, bool add, bool bias,
                   struct ds_error *err)
{
    _Alignas(16) static float a[4], b[2 * 600], three[600];
    const struct ds_matmul_args args = {.m = 2,
                                        .n = n,
                                        .k = 2,
                                        .a = a,
                                        .b = b,
                                        .lda = 2,
                                        .ldb = n,
                                        .c = add ? d : NULL,
                                        .ldc = n,
                                        .d = d,
                                        .ldd = n,
                                        .bias = bias ? three : NULL};

    for (size_t i = 0; i < 4; i++)
        a[i] = x;
    for (size_t i = 0; i < 600; i++)
        b[i] = b[600 + i] = 1.0f, three[i] = 3.0f;
    return ds_matmul(&args, &t->stream.base, err);
}

Test(cuda_matmul, takes_the_first_proposal)
{
    float d[4];
    struct try t;

    cr_assert(begin(&t, false, false, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        cr_assert(product(&t, 5.0f, 2, d, false, false, NULL) == 0);
        cr_assert(d[0] == 10.0f && d[3] == 10.0f);
    }
    cr_assert(ds__cuda_matmul_shapes(t.stream.matmul) == 1);
    cr_assert(fake_blaslt.ran[0] == 3 && fake_blaslt.products == 3);
    cr_assert(fake_blaslt.compute == DS_BLASLT_COMPUTE_32F);
    ds__cuda_matmul_close(t.stream.matmul);
    cr_assert(fake_blaslt.live == 0);
}

Test(cuda_matmul, tf32_where_it_is_wanted)
{
    float d[4];
    struct try t;

    cr_assert(begin(&t, false, true, NULL) == 0);
    cr_assert(product(&t, 5.0f, 2, d, false, false, NULL) == 0);
    cr_assert(fake_blaslt.compute == DS_BLASLT_COMPUTE_TF32);
    ds__cuda_matmul_close(t.stream.matmul);
}

/* Measured once, and a sum in place is added once. */
Test(cuda_matmul, measures_a_shape_once)
{
    _Alignas(16) float d[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    unsigned others;
    struct try t;

    cr_assert(begin(&t, true, false, NULL) == 0);
    fake_blaslt.broken = 1u << 1;
    cr_assert(product(&t, 5.0f, 2, d, true, true, NULL) == 0);
    cr_assert(d[0] == 14.0f && d[3] == 14.0f, "%g", (double)d[0]);
    others = fake_blaslt.products - fake_blaslt.ran[FAKE_FASTEST];
    cr_assert(others > 0 && fake_blaslt.ran[1] == 0);
    for (int i = 0; i < 5; i++)
        cr_assert(product(&t, 5.0f, 2, d, true, true, NULL) == 0);
    cr_assert(fake_blaslt.products - fake_blaslt.ran[FAKE_FASTEST] == others);
    cr_assert(d[0] == 14.0f + 5.0f * 13.0f);
    ds__cuda_matmul_close(t.stream.matmul);
    cr_assert(fake_blaslt.live == 0);
}

static void write_file(const char *file, const char *text)
{
    FILE *f = fopen(file, "w");

    cr_assert(f != NULL && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void read_file(const char *file, char text[4096])
{
    FILE *f = fopen(file, "r");
    size_t n = f != NULL ? fread(text, 1, 4095, f) : 0;

    cr_assert(f != NULL && fclose(f) == 0);
    text[n] = '\0';
}

/* The next process measures nothing, and takes what stands in the file even if it is slower. */
Test(cuda_matmul, what_was_chosen_is_kept)
{
    _Alignas(16) float d[4];
    char file[64], text[4096], *at;
    struct ds_error err = {0};
    struct try t;

    snprintf(file, sizeof(file), "/tmp/dsrun-products-kept-%d", (int)getpid());
    (void)unlink(file);
    cr_assert(begin_at(&t, file, false, NULL) == 0);
    cr_assert(product(&t, 5.0f, 2, d, false, false, NULL) == 0);
    cr_assert(fake_blaslt.ran[0] > 0);
    ds__cuda_matmul_close(t.stream.matmul);
    read_file(file, text);
    at = strstr(text, " = 000000000000000");
    cr_assert(at != NULL && at[18] == '0' + FAKE_FASTEST, "%s", text);
    at[18] = '3';
    memcpy(text + strlen(text), "half a li", sizeof("half a li"));
    write_file(file, text);
    cr_assert(begin_at(&t, file, false, NULL) == 0);
    for (int i = 0; i < 2; i++)
        cr_assert(product(&t, 5.0f, 2, d, false, false, NULL) == 0);
    cr_assert(d[0] == 10.0f && fake_blaslt.products == 2 && fake_blaslt.ran[3] == 2);
    cr_assert(product(&t, 5.0f, 1, d, false, false, NULL) == 0); /* where half a line was */
    ds__cuda_matmul_close(t.stream.matmul);
    read_file(file, text);
    cr_assert(strstr(text, "half") == NULL && strstr(text, " 2x1x2 ") != NULL, "%s", text);
    at = strstr(text, " = 000000000000000");
    at[18] = 'f'; /* an algorithm that there is not */
    write_file(file, text);
    cr_assert(begin_at(&t, file, false, NULL) == 0);
    cr_assert(product(&t, 5.0f, 2, d, false, false, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, file) != NULL, "%s", err.text);
    at[18] = 'g';
    write_file(file, text);
    cr_assert(product(&t, 5.0f, 2, d, false, false, &err) == -EBADMSG);
    cr_assert(strstr(err.text, ":2: ") != NULL, "%s", err.text);
    write_file(file, "to whom it may concern\n");
    cr_assert(product(&t, 5.0f, 2, d, false, false, &err) == -EBADMSG);
    cr_assert(unlink(file) == 0 && symlink("/dev/null", file) == 0);
    cr_assert(product(&t, 5.0f, 2, d, false, false, &err) == -EIO);
    ds__cuda_matmul_close(t.stream.matmul);
    cr_assert(unlink(file) == 0 && fake_blaslt.live == 0);
}

Test(cuda_matmul, takes_what_fits)
{
    _Alignas(16) float d[4];
    struct ds_error err = {0};
    struct try t;

    cr_assert(begin(&t, true, false, &err) == 0);
    fake_blaslt.unfit = 1u << FAKE_FASTEST;
    cr_assert(product(&t, 1.0f, 2, d, false, false, &err) == 0);
    cr_assert(fake_blaslt.ran[FAKE_FASTEST] == 0 && fake_blaslt.ran[3] > 3);
    fake_blaslt.unfit = ~0u;
    cr_assert(product(&t, 1.0f, 1, d, false, false, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "2 x 1 x 2") != NULL, "%s", err.text);
    ds__cuda_matmul_close(t.stream.matmul);
}

/* More shapes than are kept: the oldest goes, and nothing is lost. */
Test(cuda_matmul, many_shapes)
{
    static _Alignas(16) float d[2 * 600];
    struct try t;

    cr_assert(begin(&t, false, false, NULL) == 0);
    for (size_t n = 1; n < 600; n++) {
        cr_assert(product(&t, 2.0f, n, d, false, n % 2, NULL) == 0);
        cr_assert(d[2 * n - 1] == (n % 2 ? 7.0f : 4.0f));
    }
    cr_assert(ds__cuda_matmul_shapes(t.stream.matmul) == 256);
    ds__cuda_matmul_close(t.stream.matmul);
    cr_assert(fake_blaslt.live == 0);
}

/* Whatever call fails, with or without the clock: an error, nothing kept, and the next try works. */
static void fail_everywhere(bool measure, int status, int code)
{
    _Alignas(16) float d[4] = {0};
    unsigned failed = 0;

    for (unsigned at = 1;; at++) {
        struct ds_error err = {0};
        struct try t;
        int rc;

        fake_blaslt = (struct fake_blaslt){.fail_at = at, .fail_with = status};
        rc = begin(&t, measure, false, &err);
        if (rc == 0) {
            rc = product(&t, 1.0f, 2, d, true, true, &err);
            cr_assert(rc == 0 || fake_blaslt.calls >= at);
            fake_blaslt.fail_at = 0;
            cr_assert(product(&t, 1.0f, 2, d, true, true, NULL) == 0);
            ds__cuda_matmul_close(t.stream.matmul);
        }
        cr_assert(fake_blaslt.live == 0, "call %u: %d live", at, fake_blaslt.live);
        if (rc == 0 && fake_blaslt.calls < at)
            break;
        failed += rc != 0;
        /* A proposal that does not run is passed over; what the runtime says is EIO or ENOMEM. */
        cr_assert(rc == 0 || rc == code || (measure && (rc == -EIO || rc == -ENOMEM)), "%d", rc);
        cr_assert(rc == 0 || err.text[0] != '\0');
        cr_assert(at < 200);
    }
    cr_assert(failed >= (measure ? 25 : 15), "%u", failed);
}

Test(cuda_matmul, every_call_may_fail)
{
    fail_everywhere(false, 13, -EIO);
    fail_everywhere(false, DS_BLASLT_ALLOC_FAILED, -ENOMEM);
    fail_everywhere(false, DS_BLASLT_NOT_SUPPORTED, -ENOTSUP);
    fail_everywhere(true, 13, -EIO);
}

Test(cuda_matmul, what_cannot_be)
{
    struct ds_cuda_matmul_args args = {.blaslt = &fake_blaslt_calls, .choices = "/tmp/nowhere"};
    struct ds_cuda_matmul *matmul;
    struct ds_error err = {0};
    _Alignas(16) float d[4];
    struct try t;

    cr_assert(ds__cuda_matmul_open(&matmul, &args, &err) == -EINVAL);
    cr_assert(begin(&t, false, false, NULL) == 0);
    ds__cuda_matmul_close(t.stream.matmul);
    t.stream.matmul = NULL;
    cr_assert(product(&t, 1.0f, 2, d, false, false, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "cuBLASLt") != NULL, "%s", err.text);
    ds__cuda_matmul_close(NULL);
}

Test(cuda_matmul, the_library_is_loaded)
{
    struct ds_error err = {0};
    struct ds_blaslt blaslt;
    const char *build = getenv("B");
    char file[512];
    void *handle;

    snprintf(file, sizeof(file), "%s/tests/cudaemu/libfakelt.so", build != NULL ? build : "build");
    cr_assert(ds__blaslt_load(&blaslt, file, &err) == 0, "%s", err.text);
    cr_assert(blaslt.GetVersion() == 130000);
    cr_assert(blaslt.Create(&handle) == 0 && blaslt.Destroy(handle) == 0);
    ds__blaslt_unload(&blaslt);
    cr_assert(blaslt.library == NULL);
    cr_assert(ds__blaslt_load(&blaslt, "/nowhere/libcublasLt.so", &err) == -ENOENT);
    cr_assert(strstr(err.text, "/nowhere") != NULL, "%s", err.text);
    cr_assert(ds__blaslt_load(&blaslt, "libm.so.6", &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "cublasLtCreate") != NULL, "%s", err.text);
    cr_assert(blaslt.library == NULL);
}
