/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_lamb.c - LAMB over several updates of a tensor against the paper's algorithm 2 in double.
 */
#include "tests/kernels/updates.h"

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

struct run {
    struct updates all; /* in pieces: with ratio 0.5 */
    const struct setting *h;
    double sums[2]; /* of the last update, whole tensors only */
};

/* Of the whole tensor, when a piece is updated. */
static const double half[2] = {1.0, 4.0};

static double ratio_of(double squares_p, double squares_u)
{
    return squares_p > 0.0 && squares_u > 0.0 ? sqrt(squares_p) / sqrt(squares_u) : 1.0;
}

/* --- the formula ------------------------------------------------------------------------------ */

/* want[0] x, want[1] m, want[2] v; sums of squares of x and u before the last step. */
static void work_out(const struct run *run, const struct nums *p, double *want[UPDATE_OUTS],
                     double sums[2])
{
    const struct setting *h = run->h;
    double *u = calloc(run->all.n, sizeof(*u));

    memcpy(want[0], p->d, run->all.n * sizeof(double));
    for (unsigned t = 1; t <= UPDATES; t++) {
        sums[0] = sums[1] = 0.0;
        for (size_t i = 0; i < run->all.n; i++) {
            double g = run->all.grad[t - 1].d[i] * grad_scale;

            want[1][i] = h->beta1 * want[1][i] + (1 - h->beta1) * g;
            want[2][i] = h->beta2 * want[2][i] + (1 - h->beta2) * g * g;
            u[i] = want[1][i] / (1 - pow(h->beta1, t)) /
                       (sqrt(want[2][i] / (1 - pow(h->beta2, t))) + h->eps) +
                   h->decay * want[0][i];
            sums[0] += want[0][i] * want[0][i];
            sums[1] += u[i] * u[i];
        }
        for (size_t i = 0; i < run->all.n; i++)
            want[0][i] -= h->lr * ratio_of(sums[0], sums[1]) * u[i];
    }
    memcpy(want[3], want[0], run->all.n * sizeof(double));
    free(u);
}

/* --- ours ------------------------------------------------------------------------------------- */

static int first_pass(struct run *run, void **out, struct updates_range range,
                      struct ds_stream *stream, struct ds_error *err)
{
    const struct nums *grad = &run->all.grad[range.t - 1];
    const struct ds_lamb_moments_args args = {
        .n = range.n,
        .p = (float *)out[0] + range.at,
        .m = (float *)out[1] + range.at,
        .v = (float *)out[2] + range.at,
        .grad_type = grad->type,
        .grad = grad->data + range.at * ds_dtype_bytes(grad->type),
        .beta1 = run->h->beta1,
        .beta2 = run->h->beta2,
        .eps = run->h->eps,
        .weight_decay = run->h->decay,
        .grad_scale = grad_scale,
        .bias1 = 1 - pow(run->h->beta1, range.t),
        .bias2 = 1 - pow(run->h->beta2, range.t),
        .p_sumsq = &run->sums[0],
        .u_sumsq = &run->sums[1],
    };

    return ds_lamb_moments(&args, stream, err);
}

static int second_pass(const struct run *run, void **out, struct updates_range range,
                       struct ds_stream *stream, struct ds_error *err)
{
    const double *sums = run->all.cut > 0 ? half : run->sums;
    const struct ds_lamb_args args = {
        .n = range.n,
        .p = (float *)out[0] + range.at,
        .m = (float *)out[1] + range.at,
        .v = (float *)out[2] + range.at,
        .low_type = updates_low_type(run->all.grad[range.t - 1].type),
        .p_low = run->all.low ? (ds_bf16 *)out[3] + range.at : NULL,
        .lr = run->h->lr,
        .eps = run->h->eps,
        .weight_decay = run->h->decay,
        .bias1 = 1 - pow(run->h->beta1, range.t),
        .bias2 = 1 - pow(run->h->beta2, range.t),
        .p_sumsq = &sums[0],
        .u_sumsq = &sums[1],
    };

    return ds_lamb(&args, stream, err);
}

static int pass_of(struct updates *all, unsigned pass, void **out, struct updates_range range,
                   struct ds_stream *stream, struct ds_error *err)
{
    struct run *run = (struct run *)all;

    return pass == 0 ? first_pass(run, out, range, stream, err)
                     : second_pass(run, out, range, stream, err);
}

static struct run run_of(const struct setting *h, size_t n, bool low)
{
    return (struct run){.all = {.name = h->name, .pass = pass_of, .passes = 2, .n = n, .low = low},
                        .h = h};
}

static void check(const struct setting *h, size_t n, enum ds_dtype grad_type, bool low)
{
    struct run run = run_of(h, n, low);
    struct nums p = nums_random(DS_F32, n, h->scale, 0.0);
    double *want[UPDATE_OUTS], sums[2];

    updates_draw(&run.all, &grad_type, 1, 0.1);
    for (size_t i = 0; i < UPDATE_OUTS; i++)
        want[i] = calloc(n, sizeof(double));
    work_out(&run, &p, want, sums);
    updates_try(&run.all, &p, want);
    for (size_t i = 0; i < 2; i++)
        cr_assert(fabs(run.sums[i] - sums[i]) <= 1e-5 * sums[i], "%s, %zu elements: %g for %g",
                  h->name, n, run.sums[i], sums[i]);
    for (size_t i = 0; i < UPDATE_OUTS; i++)
        free(want[i]);
    updates_free(&run.all);
    nums_free(&p);
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

Test(lamb, a_range_in_pieces_has_the_same_bits)
{
    struct run run = run_of(&settings[0], 3001, true);

    run.all.cut = run.all.n;
    updates_in_pieces(&run.all);
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
