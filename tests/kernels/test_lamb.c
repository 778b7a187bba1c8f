/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_lamb.c - LAMB over several updates of a tensor against the paper's algorithm 2 in double.
 */
#include "tests/kernels/harness.h"

enum { UPDATES = 5 };

struct setting {
    const char *name;
    double lr, beta1, beta2, eps, decay;
    double scale; /* of the parameters */
};

static const struct setting settings[] = {
    {"lamb", 1e-2, 0.9, 0.999, 1e-6, 0.01, 1.0},
    {"lamb, no decay", 1e-2, 0.9, 0.999, 1e-6, 0.0, 0.02},
    {"lamb, much decay", 3e-2, 0.8, 0.95, 1e-3, 0.5, 1.0},
    {"lamb, from zero", 1e-2, 0.9, 0.999, 1e-6, 0.01, 0.0},
};

static const double grad_scale = 0.5;

struct run {
    const struct setting *h;
    size_t n;
    struct nums grad[UPDATES];
    bool low;
    size_t cut;     /* > 0: in pieces of that many elements, and ratio 0.5 */
    double sums[2]; /* of the last update, whole tensors only */
};

static double ratio_of(double squares_p, double squares_u)
{
    return squares_p > 0.0 && squares_u > 0.0 ? sqrt(squares_p) / sqrt(squares_u) : 1.0;
}

/* --- the formula ------------------------------------------------------------------------------ */

/* want[0] x, want[1] m, want[2] v; sums of squares of x and u before the last step. */
static void work_out(const struct run *run, const struct nums *p, double *want[4], double sums[2])
{
    const struct setting *h = run->h;
    double *u = calloc(run->n, sizeof(*u));

    memcpy(want[0], p->d, run->n * sizeof(double));
    for (unsigned t = 1; t <= UPDATES; t++) {
        sums[0] = sums[1] = 0.0;
        for (size_t i = 0; i < run->n; i++) {
            double g = run->grad[t - 1].d[i] * grad_scale;

            want[1][i] = h->beta1 * want[1][i] + (1 - h->beta1) * g;
            want[2][i] = h->beta2 * want[2][i] + (1 - h->beta2) * g * g;
            u[i] = want[1][i] / (1 - pow(h->beta1, t)) /
                       (sqrt(want[2][i] / (1 - pow(h->beta2, t))) + h->eps) +
                   h->decay * want[0][i];
            sums[0] += want[0][i] * want[0][i];
            sums[1] += u[i] * u[i];
        }
        for (size_t i = 0; i < run->n; i++)
            want[0][i] -= h->lr * ratio_of(sums[0], sums[1]) * u[i];
    }
    memcpy(want[3], want[0], run->n * sizeof(double));
    free(u);
}

/* --- ours ------------------------------------------------------------------------------------- */

static enum ds_dtype low_type_of(enum ds_dtype grad_type)
{
    return grad_type == DS_F16 ? DS_F16 : DS_BF16;
}

static int first_pass(struct run *run, void **out, size_t at, size_t n, unsigned t,
                      struct ds_stream *stream, struct ds_error *err)
{
    const struct nums *grad = &run->grad[t - 1];
    const struct ds_lamb_moments_args args = {
        .n = n,
        .p = (float *)out[0] + at,
        .m = (float *)out[1] + at,
        .v = (float *)out[2] + at,
        .grad_type = grad->type,
        .grad = grad->data + at * ds_dtype_bytes(grad->type),
        .beta1 = run->h->beta1,
        .beta2 = run->h->beta2,
        .eps = run->h->eps,
        .weight_decay = run->h->decay,
        .grad_scale = grad_scale,
        .bias1 = 1 - pow(run->h->beta1, t),
        .bias2 = 1 - pow(run->h->beta2, t),
        .p_sumsq = &run->sums[0],
        .u_sumsq = &run->sums[1],
    };

    return ds_lamb_moments(&args, stream, err);
}

static int second_pass(const struct run *run, void **out, size_t at, size_t n, unsigned t,
                       struct ds_stream *stream, struct ds_error *err)
{
    double ratio = run->cut > 0 ? 0.5 : ratio_of(run->sums[0], run->sums[1]);
    const struct ds_lamb_args args = {
        .n = n,
        .p = (float *)out[0] + at,
        .m = (float *)out[1] + at,
        .v = (float *)out[2] + at,
        .low_type = low_type_of(run->grad[t - 1].type),
        .p_low = run->low ? (ds_bf16 *)out[3] + at : NULL,
        .lr = run->h->lr * ratio,
        .eps = run->h->eps,
        .weight_decay = run->h->decay,
        .bias1 = 1 - pow(run->h->beta1, t),
        .bias2 = 1 - pow(run->h->beta2, t),
    };

    return ds_lamb(&args, stream, err);
}

static int run_updates(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct run *run = ctx;
    size_t piece = run->cut > 0 ? run->cut : run->n;
    int rc = 0;

    for (unsigned t = 1; t <= UPDATES; t++) {
        for (size_t at = 0; rc == 0 && at < run->n; at += piece)
            rc =
                first_pass(run, out, at, run->n - at < piece ? run->n - at : piece, t, stream, err);
        for (size_t at = 0; rc == 0 && at < run->n; at += piece)
            rc = second_pass(run, out, at, run->n - at < piece ? run->n - at : piece, t, stream,
                             err);
    }
    return rc;
}

static void check(const struct setting *h, size_t n, enum ds_dtype grad_type, bool low)
{
    struct run run = {.h = h, .n = n, .low = low};
    struct nums p = nums_random(DS_F32, n, h->scale, 0.0);
    struct nums zero = nums_random(DS_F32, n, 0.0, 0.0);
    double *want[4], sums[2];
    struct trial t = {.what = h->name,
                      .outs = low ? 4 : 3,
                      .run = run_updates,
                      .ctx = &run,
                      .f32 = 2e-6,
                      .bf16 = 4e-3};

    for (unsigned u = 0; u < UPDATES; u++)
        run.grad[u] = nums_random(grad_type, n, 1.0, 0.1);
    for (size_t i = 0; i < 4; i++)
        want[i] = calloc(n, sizeof(double));
    work_out(&run, &p, want, sums);
    t.out[0] = (struct out){DS_F32, n, want[0], &p};
    t.out[1] = (struct out){DS_F32, n, want[1], &zero};
    t.out[2] = (struct out){DS_F32, n, want[2], &zero};
    t.out[3] = (struct out){low_type_of(grad_type), n, want[3], NULL};
    try_all(&t);
    for (size_t i = 0; i < 2; i++)
        cr_assert(fabs(run.sums[i] - sums[i]) <= 1e-5 * sums[i], "%s, %zu elements: %g for %g",
                  h->name, n, run.sums[i], sums[i]);
    for (size_t i = 0; i < 4; i++)
        free(want[i]);
    for (unsigned u = 0; u < UPDATES; u++)
        nums_free(&run.grad[u]);
    nums_free(&p);
    nums_free(&zero);
}

Test(lamb, follows_its_formula)
{
    static const size_t sizes[] = {1, 7, 97, 3 * 5 * 211, 16385};

    for (size_t h = 0; h < sizeof(settings) / sizeof(settings[0]); h++)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            check(&settings[h], sizes[i], DS_F32, i % 2 == 0);
            check(&settings[h], sizes[i], DS_BF16, i % 2 != 0);
            check(&settings[h], sizes[i], DS_F16, i % 2 != 0);
        }
}

static void bits_of(struct run *run, const struct nums *p, void *out[4])
{
    struct ds_device *device = open_cpu(NULL, 2, ds_scratch_bytes(&(struct ds_scratch_query){0}));

    for (size_t i = 0; i < 4; i++)
        out[i] = calloc(run->n, sizeof(float));
    memcpy(out[0], p->data, run->n * sizeof(float));
    cr_assert(run_updates(run, out, ds_device_stream(device), NULL) == 0);
    ds_device_close(device);
}

/* A shard may start and end anywhere. */
Test(lamb, a_range_in_pieces_has_the_same_bits)
{
    static const size_t cuts[] = {1, 13, 16, 17, 1000};
    enum { N = 3001 };
    struct run run = {.h = &settings[0], .n = N, .low = true, .cut = N};
    struct nums p = nums_random(DS_F32, N, 1.0, 0.0);
    void *whole[4], *cut[4];

    for (unsigned u = 0; u < UPDATES; u++)
        run.grad[u] = nums_random(u % 2 == 0 ? DS_F32 : DS_BF16, N, 1.0, 0.0);
    bits_of(&run, &p, whole);
    for (size_t c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++) {
        run.cut = cuts[c];
        bits_of(&run, &p, cut);
        for (size_t i = 0; i < 4; i++) {
            cr_assert(memcmp(whole[i], cut[i], N * (i < 3 ? sizeof(float) : sizeof(ds_bf16))) == 0,
                      "output %zu in pieces of %zu", i, cuts[c]);
            free(cut[i]);
        }
    }
    for (size_t i = 0; i < 4; i++)
        free(whole[i]);
    for (unsigned u = 0; u < UPDATES; u++)
        nums_free(&run.grad[u]);
    nums_free(&p);
}

#ifndef DS_TESTS_FEW

/* More chunks than are summed at a time; u is 2 p where there is no gradient. */
Test(lamb, many_groups_of_chunks)
{
    size_t n = (size_t)DS_SUMSQ_CHUNK * 1030 + 5;
    struct ds_device *device = open_cpu(NULL, 2, ds_scratch_bytes(&(struct ds_scratch_query){0}));
    float *p = malloc(n * sizeof(float)), *zero = calloc(3 * n, sizeof(float));
    double sums[2] = {-1.0, -1.0};
    const struct ds_lamb_moments_args args = {.n = n,
                                              .p = p,
                                              .m = zero,
                                              .v = zero + n,
                                              .grad_type = DS_F32,
                                              .grad = zero + 2 * n,
                                              .beta1 = 0.9,
                                              .beta2 = 0.999,
                                              .eps = 1e-6,
                                              .weight_decay = 2.0,
                                              .grad_scale = 1.0,
                                              .bias1 = 0.1,
                                              .bias2 = 0.001,
                                              .p_sumsq = &sums[0],
                                              .u_sumsq = &sums[1]};

    cr_assert(p != NULL && zero != NULL);
    for (size_t i = 0; i < n; i++)
        p[i] = 0.5f;
    cr_assert(ds_lamb_moments(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(sums[0] == 0.25 * (double)n && sums[1] == (double)n, "%g, %g", sums[0], sums[1]);
    free(p);
    free(zero);
    ds_device_close(device);
}
#endif
