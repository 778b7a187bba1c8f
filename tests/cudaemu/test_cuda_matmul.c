/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products of kernels/cuda/ by the tests of the CPU's, on a stand-in for cuBLASLt that
 * checks what it is given; then what happens when it refuses.
 */
#include "tests/cudaemu/emulated.h"

#include <unistd.h>

#include "tests/kernels/test_epilogue.c"
#include "tests/kernels/test_matmul.c"

struct
try {
    struct ds_cuda_stream stream;
    struct ds_blaslt blaslt;
    _Alignas(16) uint64_t workspace[1024];
};

static uint64_t alike_from; /* elements of a result */

/* With a file the fastest is looked for, once. */
static int begin_at(struct try *t, const char *file, bool tf32, struct ds_error *err)
{
    const struct ds_cuda_matmul_args args = {.blaslt = &fake_blaslt_calls,
                                             .timer = fake_timer,
                                             .choices = file,
                                             .alike_from = alike_from,
                                             .device = "fake",
                                             .tf32 = tf32,
                                             .epilogues = true};

    if (fake_blaslt.fail_at == 0)
        fake_blaslt = (struct fake_blaslt){0};
    t->stream = (struct ds_cuda_stream){
        .base = emulated_stream(), .scratch = t->workspace, .scratch_bytes = sizeof(t->workspace)};
    return ds__cuda_matmul_open(&t->stream.matmul, &args, err);
}

static const char *choices_file(void)
{
    static char file[64];

    if (file[0] == '\0')
        snprintf(file, sizeof(file), "/tmp/dsrun-products-%d", (int)getpid());
    return file;
}

static void remove_choices(void)
{
    (void)unlink(choices_file());
}

TestSuite(cuda_matmul, .fini = remove_choices);

static int begin(struct try *t, bool measure, bool tf32, struct ds_error *err)
{
    const char *file = choices_file();

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

/* Which algorithm products of `n` columns have, after the first one of `x`. */
static int settled(unsigned strays, float x, size_t n, bool add)
{
    _Alignas(16) float d[2 * 600] = {1.0f, 1.0f, 1.0f, 1.0f};
    unsigned ran[FAKE_PROPOSALS];
    int found = -1;
    struct try t;

    alike_from = 4;
    cr_assert(begin(&t, false, false, NULL) == 0);
    fake_blaslt.strays = strays;
    cr_assert(product(&t, x, n, d, add, false, NULL) == 0);
    cr_assert(d[0] == (add ? 1.0f : 0.0f) + 2.0f * x, "%g", (double)d[0]);
    memcpy(ran, fake_blaslt.ran, sizeof(ran));
    cr_assert(product(&t, x, n, d, false, false, NULL) == 0 &&
              product(&t, x, n, d, add, false, NULL) == 0);
    memcpy(ran, fake_blaslt.ran, sizeof(ran));
    cr_assert(product(&t, x, n, d, add, false, NULL) == 0);
    for (int i = 0; i < FAKE_PROPOSALS; i++)
        found = fake_blaslt.ran[i] > ran[i] ? i : found;
    ds__cuda_matmul_close(t.stream.matmul);
    cr_assert(fake_blaslt.live == 0);
    alike_from = 0;
    return found;
}

/* Without a file the fastest of those whose results have the bits of the first one's. */
Test(cuda_matmul, the_fastest_of_the_alike)
{
    for (int add = 0; add < 2; add++) {
        cr_assert(settled(0, 5.0f, 2, add) == FAKE_FASTEST);
        cr_assert(settled(1u << FAKE_FASTEST, 5.0f, 2, add) == 3);
        cr_assert(settled(~1u, 5.0f, 2, add) == 0);
        cr_assert(settled(0, 5.0f, 600, add) == FAKE_FASTEST);
    }
    cr_assert(settled(0, 0.0f, 2, false) == 0); /* which tells nothing */
    cr_assert(settled(0, 5.0f, 1, false) == 0); /* two numbers are too few */
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

/* --- epilogues --------------------------------------------------------------------------------- */

/* d = gelu(x) of 2 by 8, x = 2 by 2 ones times 2 by 8 halves, plus a bias of 0.5. */
static int with_gelu(struct try *t, struct ds_error *err)
{
    _Alignas(16) static ds_bf16 a[4], b[16], bias[8], d[16], x[16];
    const ds_bf16 one = ds_bf16_from_f32(1.0f), half = ds_bf16_from_f32(0.5f);
    const struct ds_matmul_args args = {.m = 2,
                                        .n = 8,
                                        .k = 2,
                                        .in_type = DS_BF16,
                                        .out_type = DS_BF16,
                                        .a = a,
                                        .b = b,
                                        .lda = 2,
                                        .ldb = 8,
                                        .d = d,
                                        .ldd = 8,
                                        .bias = bias,
                                        .epilogue = DS_EPILOGUE_GELU,
                                        .gelu_x = x};
    int rc;

    for (size_t i = 0; i < 16; i++)
        a[i / 4] = one, b[i] = bias[i / 2] = half, d[i] = x[i] = ds_bf16_from_f32(NAN);
    rc = ds_matmul(&args, &t->stream.base, err);
    for (size_t i = 0; rc == 0 && i < 16; i++)
        cr_assert(ds_bf16_to_f32(x[i]) == 1.5f &&
                  fabs((double)ds_bf16_to_f32(d[i]) - gelu(1.5)) < 4e-3);
    return rc;
}

/* Gradients of a weight of 3 by n and of its bias, from two ones in a column, added to 5. */
static int with_dbias(struct try *t, size_t n, struct ds_error *err)
{
    _Alignas(16) static float x[6], dy[2 * 2048], dw[3 * 2048], dbias[2048];
    const struct ds_matmul_args args = {.m = 3,
                                        .n = n,
                                        .k = 2,
                                        .trans_a = true,
                                        .a = x,
                                        .b = dy,
                                        .lda = 3,
                                        .ldb = n,
                                        .c = dw,
                                        .ldc = n,
                                        .d = dw,
                                        .ldd = n,
                                        .dbias = dbias,
                                        .accumulate_dbias = true};
    int rc;

    for (size_t i = 0; i < n; i++)
        x[i % 6] = 1.0f, dy[i] = dy[n + i] = 1.0f, dw[i] = dw[n + i] = dw[2 * n + i] = 1.0f,
              dbias[i] = 5.0f;
    rc = ds_matmul(&args, &t->stream.base, err);
    for (size_t i = 0; rc == 0 && i < n; i++)
        cr_assert(dw[i] == 3.0f && dw[2 * n + i] == 3.0f && dbias[i] == 7.0f, "%g",
                  (double)dbias[i]);
    return rc;
}

static void all_epilogues(const char *file)
{
    (void)unlink(file);
    emulated_choices = file;
    for (size_t s = 1; s < 6; s++) {
        size_t m = wide[s].m, n = wide[s].n, k = wide[s].k;

        check_gelu(m, n, k, 0, DS_F32, DS_F32, true);
        check_gelu(m, n, k, 1, DS_BF16, DS_BF16, s % 2);
        check_gelu_bwd(m, n, k, 2, DS_F32, DS_F32);
        check_gelu_bwd(m, n, k, 3, DS_BF16, DS_BF16);
        for (int add = 0; add < 2; add++) {
            check_dbias(m, n, k, 1, DS_F32, add);
            check_dbias(m, n, k, 1, DS_BF16, add);
        }
    }
}

/* By the library where that is faster, with the same numbers as by operations of their own. */
Test(cuda_matmul, epilogues_are_measured)
{
    fake_blaslt = (struct fake_blaslt){0};
    all_epilogues(choices_file());
    cr_assert(fake_blaslt.epilogues > 0);
    fake_blaslt = (struct fake_blaslt){.epilogue_ms = 100.0f};
    all_epilogues(choices_file());
    cr_assert(fake_blaslt.epilogues > 0); /* while they were measured */
    emulated_choices = NULL;
    (void)unlink(choices_file());
}

/* Which of the two is kept, for the next process, too. */
Test(cuda_matmul, what_was_chosen_of_epilogues_is_kept)
{
    struct try t;

    for (unsigned slow = 0; slow < 2; slow++) {
        cr_assert(begin(&t, true, false, NULL) == 0);
        fake_blaslt.epilogue_ms = slow ? 100.0f : 0.0f;
        cr_assert(with_gelu(&t, NULL) == 0 && with_dbias(&t, 8, NULL) == 0);
        ds__cuda_matmul_close(t.stream.matmul);
        cr_assert(begin_at(&t, choices_file(), false, NULL) == 0);
        fake_blaslt.epilogue_ms = slow ? 0.0f : 100.0f;
        cr_assert(with_gelu(&t, NULL) == 0 && with_dbias(&t, 8, NULL) == 0);
        cr_assert(fake_blaslt.products == 2 && fake_blaslt.epilogues == (slow ? 0 : 2));
        ds__cuda_matmul_close(t.stream.matmul);
        cr_assert(fake_blaslt.live == 0);
    }
    (void)unlink(choices_file());
}

/* Not measured: GELU as it is said, the gradient of a bias by itself. */
Test(cuda_matmul, epilogues_that_were_not_measured)
{
    const struct ds_cuda_matmul_args none = {.blaslt = &fake_blaslt_calls};
    struct try t;

    cr_assert(begin(&t, false, false, NULL) == 0);
    cr_assert(with_gelu(&t, NULL) == 0 && with_gelu(&t, NULL) == 0);
    cr_assert(fake_blaslt.epilogues == 2 && fake_blaslt.products == 2);
    cr_assert(with_dbias(&t, 8, NULL) == 0);
    cr_assert(fake_blaslt.epilogues == 2 && fake_blaslt.products == 3);
    ds__cuda_matmul_close(t.stream.matmul);
    cr_assert(ds__cuda_matmul_open(&t.stream.matmul, &none, NULL) == 0);
    cr_assert(with_gelu(&t, NULL) == 0);
    cr_assert(fake_blaslt.epilogues == 2 && fake_blaslt.products == 4);
    ds__cuda_matmul_close(t.stream.matmul);
    cr_assert(fake_blaslt.live == 0);
}

/* The library's tanh may be less exact than F32 is. */
Test(cuda_matmul, gelu_of_f32_is_never_an_epilogue)
{
    fake_blaslt = (struct fake_blaslt){0};
    check_gelu(16, 24, 8, 0, DS_F32, DS_F32, true);
    check_gelu_bwd(16, 24, 8, 1, DS_F32, DS_F32);
    cr_assert(fake_blaslt.epilogues == 0 && fake_blaslt.products > 0);
    check_gelu(16, 24, 8, 0, DS_BF16, DS_BF16, true);
    cr_assert(fake_blaslt.epilogues > 0);
}

/* What the library has not, has no fitting algorithm for, or cannot run when it is measured; and
 * a gradient for which the workspace has no room. */
Test(cuda_matmul, epilogues_that_there_are_not)
{
    struct try t;

    for (unsigned measure = 0; measure < 2; measure++) {
        cr_assert(begin(&t, measure, false, NULL) == 0);
        fake_blaslt.lacks = DS_BLASLT_EPILOGUE_GELU_AUX_BIAS;
        cr_assert(with_gelu(&t, NULL) == 0 && with_gelu(&t, NULL) == 0);
        fake_blaslt.lacks = DS_BLASLT_EPILOGUE_BGRADA;
        cr_assert(with_dbias(&t, 8, NULL) == 0);
        fake_blaslt.lacks = 0;
        cr_assert(with_dbias(&t, 2048, NULL) == 0);
        cr_assert(fake_blaslt.epilogues == 0);
        ds__cuda_matmul_close(t.stream.matmul);
        cr_assert(fake_blaslt.live == 0);
    }
}

/* --- failures ---------------------------------------------------------------------------------- */

enum kind { PLAIN, GELU, DBIAS };

static int call(struct try *t, enum kind kind, struct ds_error *err)
{
    _Alignas(16) static float d[4];

    return kind == PLAIN  ? product(t, 1.0f, 2, d, true, true, err)
           : kind == GELU ? with_gelu(t, err)
                          : with_dbias(t, 8, err);
}

/* Whatever call fails, with or without the clock: an error, nothing kept, and the next try works. */
static void fail_everywhere(bool measure, int status, int code, enum kind kind)
{
    bool measures = measure || alike_from > 0;
    unsigned failed = 0;

    for (unsigned at = 1;; at++) {
        struct ds_error err = {0};
        struct try t;
        int rc;

        fake_blaslt = (struct fake_blaslt){.fail_at = at, .fail_with = status};
        rc = begin(&t, measure, false, &err);
        if (rc == 0) {
            rc = call(&t, kind, &err);
            cr_assert(rc == 0 || fake_blaslt.calls >= at);
            fake_blaslt.fail_at = 0;
            cr_assert(call(&t, kind, NULL) == 0);
            ds__cuda_matmul_close(t.stream.matmul);
        }
        cr_assert(fake_blaslt.live == 0, "call %u: %d live", at, fake_blaslt.live);
        if (rc == 0 && fake_blaslt.calls < at)
            break;
        failed += rc != 0;
        /* A proposal that does not run is passed over; what the runtime says is EIO or ENOMEM. */
        cr_assert(rc == 0 || rc == code || (measures && (rc == -EIO || rc == -ENOMEM)), "%d", rc);
        cr_assert(rc == 0 || err.text[0] != '\0');
        cr_assert(at < 400);
    }
    cr_assert(failed >= (measure ? 25 : 15), "%u", failed);
}

Test(cuda_matmul, every_call_may_fail)
{
    for (int kind = PLAIN; kind <= DBIAS; kind++) {
        fail_everywhere(false, 13, -EIO, (enum kind)kind);
        fail_everywhere(false, DS_BLASLT_ALLOC_FAILED, -ENOMEM, (enum kind)kind);
        fail_everywhere(false, DS_BLASLT_NOT_SUPPORTED, -ENOTSUP, (enum kind)kind);
        fail_everywhere(true, 13, -EIO, (enum kind)kind);
        alike_from = 4;
        fail_everywhere(false, 13, -EIO, (enum kind)kind);
        alike_from = 0;
    }
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
