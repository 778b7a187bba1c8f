/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_norm.c - LayerNorm and RMSNorm, forward and backward, against double.
 */
#include <errno.h>

#include "tests/kernels/harness.h"

struct norm {
    size_t rows, n, ld;
    enum ds_norm_kind kind;
    enum ds_dtype act, param;
    bool accumulate, residual, in_place, over; /* over: dx comes in the place of dy */
    size_t skew; /* elements before the first of x and dy: they are not aligned to a word then */
    struct nums x, weight, bias, dy, dres, mean, rstd, before_w, before_b, before;
    double *y, *want_mean, *want_rstd, *dx, *dweight, *dbias;
};

static const float eps = 1e-5f;

static void reference_row(struct norm *c, size_t row)
{
    const double *x = c->x.d + c->skew + row * c->ld, *dy = c->dy.d + c->skew + row * c->ld;
    const double *w = c->weight.d;
    bool layer = c->kind == DS_NORM_LAYER;
    double n = (double)c->n, mean = 0.0, var = 0.0, dot = 0.0, sum = 0.0, rstd;

    for (size_t i = 0; layer && i < c->n; i++)
        mean += x[i] / n;
    for (size_t i = 0; i < c->n; i++)
        var += (x[i] - mean) * (x[i] - mean) / n;
    rstd = 1.0 / sqrt(var + (double)eps);
    c->want_mean[row] = mean;
    c->want_rstd[row] = rstd;
    for (size_t i = 0; i < c->n; i++) {
        double h = (x[i] - mean) * rstd;

        c->y[row * c->ld + i] = h * w[i] + (layer         ? c->bias.d[i]
                                            : c->residual ? c->dres.d[row * c->ld + i]
                                                          : 0.0);
        c->dweight[i] += dy[i] * h;
        c->dbias[i] += dy[i];
        dot += dy[i] * w[i] * h / n;
        sum += layer ? dy[i] * w[i] / n : 0.0;
    }
    for (size_t i = 0; i < c->n; i++)
        c->dx[row * c->ld + i] = rstd * (dy[i] * w[i] - sum - (x[i] - mean) * rstd * dot) +
                                 (c->residual ? c->dres.d[row * c->ld + i] : 0.0);
}

static const void *skewed(const struct norm *c, const struct nums *x)
{
    return x->data + c->skew * ds_dtype_bytes(x->type);
}

static int run_fwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct norm *c = ctx;
    bool layer = c->kind == DS_NORM_LAYER;
    struct ds_norm_fwd_args args = {.rows = c->rows,
                                    .channels = c->n,
                                    .ld = c->ld == c->n ? 0 : c->ld,
                                    .kind = c->kind,
                                    .eps = eps,
                                    .act = c->act,
                                    .param = c->param,
                                    .x = skewed(c, &c->x),
                                    .weight = c->weight.data,
                                    .y = out[0],
                                    .rstd = out[1],
                                    .bias = layer ? c->bias.data : NULL,
                                    .residual = !layer && c->residual ? c->dres.data : NULL,
                                    .mean = layer ? out[2] : NULL};

    if (c->in_place && !layer)
        args.residual = out[0];
    return ds_norm_fwd(&args, stream, err);
}

static int run_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct norm *c = ctx;
    bool layer = c->kind == DS_NORM_LAYER;
    struct ds_norm_bwd_args args = {.rows = c->rows,
                                    .channels = c->n,
                                    .ld = c->ld == c->n ? 0 : c->ld,
                                    .kind = c->kind,
                                    .act = c->act,
                                    .param = c->param,
                                    .dy = skewed(c, &c->dy),
                                    .x = skewed(c, &c->x),
                                    .weight = c->weight.data,
                                    .mean = layer ? (float *)(void *)c->mean.data : NULL,
                                    .rstd = (float *)(void *)c->rstd.data,
                                    .dres = c->residual ? c->dres.data : NULL,
                                    .dx = out[0],
                                    .dweight = out[1],
                                    .dbias = layer ? out[2] : NULL,
                                    .accumulate = c->accumulate};

    if (c->in_place)
        args.dres = out[0];
    if (c->over)
        args.dy = out[0];
    return ds_norm_bwd(&args, stream, err);
}

static void try_both(struct norm *c, const char *what)
{
    bool layer = c->kind == DS_NORM_LAYER;
    struct nums *first = c->in_place && !layer ? &c->dres : &c->before;
    struct trial t = {.what = what,
                      .out = {{c->act, c->rows * c->ld, c->y, first},
                              {DS_F32, c->rows, c->want_rstd, NULL},
                              {DS_F32, c->rows, c->want_mean, NULL}},
                      .outs = layer ? 3 : 2,
                      .run = run_fwd,
                      .ctx = c,
                      .query = {.act = c->act, .rows = c->rows, .hidden = c->n},
                      .low = c->act != DS_F32};

    try_all(&t);
    for (size_t i = 0; i < c->rows; i++) {
        nums_set(&c->mean, i, c->want_mean[i]);
        nums_set(&c->rstd, i, c->want_rstd[i]);
    }
    for (size_t i = 0; c->accumulate && i < c->n; i++) {
        c->dweight[i] += c->before_w.d[i];
        c->dbias[i] += c->before_b.d[i];
    }
    first = c->in_place ? &c->dres : c->over ? &c->dy : &c->before;
    t.out[0] = (struct out){c->act, c->rows * c->ld, c->dx, first};
    t.out[1] = (struct out){DS_F32, c->n, c->dweight, c->accumulate ? &c->before_w : NULL};
    t.out[2] = (struct out){DS_F32, c->n, c->dbias, c->accumulate ? &c->before_b : NULL};
    t.run = run_bwd;
    try_all(&t);
}

/* What is between rows that lie apart stays as it was. */
static void keep_gaps(const struct norm *c)
{
    const struct nums *y = c->in_place && c->kind == DS_NORM_RMS ? &c->dres : &c->before;
    const struct nums *dx = c->in_place ? &c->dres : c->over ? &c->dy : &c->before;

    for (size_t i = 0; i < c->rows * c->ld; i++)
        if (i % c->ld >= c->n) {
            c->y[i] = y->d[i];
            c->dx[i] = dx->d[i];
        }
}

static void check_apart(size_t rows, size_t n, size_t more, enum ds_norm_kind kind,
                        enum ds_dtype act, enum ds_dtype param, unsigned mode, size_t skew)
{
    struct norm c = {.rows = rows,
                     .n = n,
                     .ld = n + more,
                     .kind = kind,
                     .act = act,
                     .param = param,
                     .accumulate = mode & 1,
                     .residual = (mode & 2) != 0,
                     .in_place = mode == 3,
                     .over = mode == 4,
                     .skew = skew};
    struct nums *all[] = {&c.x,    &c.weight, &c.bias,     &c.dy,       &c.dres,
                          &c.mean, &c.rstd,   &c.before_w, &c.before_b, &c.before};
    char what[128];

    snprintf(what, sizeof(what), "%zu rows of %zu of %zu, kind %d, %s by %s, mode %u", rows, n,
             c.ld, (int)kind, ds_dtype_name(act), ds_dtype_name(param), mode);
    c.x = nums_random(act, skew + rows * c.ld, 2.0, 0.7);
    c.weight = nums_random(param, n, 0.3, 1.0);
    c.bias = nums_random(param, n, 0.5, 0.0);
    c.dy = nums_random(act, skew + rows * c.ld, 1.0, 0.0);
    c.dres = nums_random(act, rows * c.ld, 1.0, 0.0);
    c.before = nums_random(act, rows * c.ld, 1.0, 0.0);
    c.before_w = nums_random(DS_F32, n, 1.0, 0.0);
    c.before_b = nums_random(DS_F32, n, 1.0, 0.0);
    c.mean = nums_blank(DS_F32, rows);
    c.rstd = nums_blank(DS_F32, rows);
    c.y = calloc(rows * c.ld, sizeof(double));
    c.dx = calloc(rows * c.ld, sizeof(double));
    c.want_mean = calloc(rows, sizeof(double));
    c.want_rstd = calloc(rows, sizeof(double));
    c.dweight = calloc(n, sizeof(double));
    c.dbias = calloc(n, sizeof(double));
    for (size_t row = 0; row < rows; row++)
        reference_row(&c, row);
    keep_gaps(&c);
    try_both(&c, what);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        nums_free(all[i]);
    free(c.y);
    free(c.dx);
    free(c.want_mean);
    free(c.want_rstd);
    free(c.dweight);
    free(c.dbias);
}

static void check_skewed(size_t rows, size_t n, enum ds_norm_kind kind, enum ds_dtype act,
                         enum ds_dtype param, unsigned mode, size_t skew)
{
    check_apart(rows, n, 0, kind, act, param, mode, skew);
}

static void check_types(size_t rows, size_t n, enum ds_norm_kind kind, enum ds_dtype act,
                        enum ds_dtype param, unsigned mode)
{
    check_skewed(rows, n, kind, act, param, mode, 0);
}

static void check(size_t rows, size_t n, enum ds_norm_kind kind, enum ds_dtype act, unsigned mode)
{
    check_types(rows, n, kind, act, act, mode);
}

Test(norm, shapes_types_and_modes)
{
    static const size_t rows[] = {1, 31, 33, 100, 700}, widths[] = {7, 48, 64, 97, 113, 384};
    unsigned mode = 0;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t j = 0; j < sizeof(widths) / sizeof(widths[0]); j++) {
            for (size_t type = 0; type < 3; type++) {
                check(rows[i], widths[j], DS_NORM_LAYER, act_types[type], mode++ % 4);
                check(rows[i], widths[j], DS_NORM_RMS, act_types[type], mode % 4);
            }
        }
    }
}

/* Every way that a GPU takes: by a warp or a block, with more or fewer words a thread. */
Test(norm, rows_of_whole_words_of_every_width)
{
    static const size_t widths[] = {256,  512,  520,  768,  1024, 1032, 1280,
                                    2048, 2056, 3072, 4096, 6144, 8192, 16384};
    unsigned mode = 0;

    for (size_t j = 0; j < sizeof(widths) / sizeof(widths[0]); j++) {
        for (size_t type = 0; type < 3; type++) {
#ifdef DS_TESTS_FEW
            if (type != j % 3)
                continue;
#endif
            check(widths[j] > 2048 ? 3 : 19, widths[j], DS_NORM_LAYER, act_types[type], mode++ % 4);
            check(widths[j] > 2048 ? 2 : 9, widths[j], DS_NORM_RMS, act_types[type], mode % 4);
        }
    }
}

Test(norm, rows_that_are_no_whole_words)
{
    unsigned mode = 0;

    for (size_t type = 0; type < 3; type++) {
        check(9, 1030, DS_NORM_LAYER, act_types[type], mode++ % 4);
        check(3, 1030, DS_NORM_RMS, act_types[type], mode++ % 4);
        check(2, 16392, DS_NORM_LAYER, act_types[type], mode++ % 4); /* too long to be held */
        for (size_t skew = 1; skew < 4; skew++) {
            check_skewed(33, 48, DS_NORM_LAYER, act_types[type], act_types[type], mode % 4, skew);
            check_skewed(9, 768, DS_NORM_RMS, act_types[type], act_types[type], mode++ % 4, skew);
        }
    }
}

/* Of some columns of packed rows, with and without whole words, and with a gradient in the place of
 * the other. */
Test(norm, rows_that_lie_apart)
{
    for (unsigned mode = 0; mode < 5; mode++)
        for (size_t type = 0; type < 3; type++) {
            const enum ds_dtype act = act_types[type];

            check_apart(33, 48, 80, DS_NORM_RMS, act, act, mode, 0);
            check_apart(70, 1032, 8, DS_NORM_RMS, act, act, mode, 0);
            check_apart(9, 64, 3, DS_NORM_RMS, act, act, mode, 0);
            check_apart(9, 113, 7, DS_NORM_LAYER, act, act, mode, 0);
            check_apart(9, 64, 64, DS_NORM_LAYER, act, act, mode, 0);
            check_apart(5, 97, 0, DS_NORM_RMS, act, act, mode, 0);
            check_apart(40, 384, 0, DS_NORM_RMS, act, act, mode, 0);
        }
    check_apart(9, 64, 64, DS_NORM_RMS, DS_F32, DS_F32, 1, 16);
}

#ifndef DS_TESTS_EMULATED
Test(norm, rows_that_cannot_be)
{
    float x[32] = {0}, mean[2], rstd[2];
    const struct ds_norm_fwd_args good = {.rows = 2,
                                          .channels = 4,
                                          .ld = 8,
                                          .kind = DS_NORM_LAYER,
                                          .x = x,
                                          .weight = x,
                                          .bias = x,
                                          .y = x + 16,
                                          .mean = mean,
                                          .rstd = rstd};
    struct ds_device *device = open_cpu(NULL, 1, 1 << 16);
    struct ds_norm_fwd_args bad = good;
    struct ds_norm_bwd_args back = {.rows = 2,
                                    .channels = 4,
                                    .ld = 3,
                                    .kind = DS_NORM_RMS,
                                    .dy = x,
                                    .x = x,
                                    .weight = x,
                                    .rstd = rstd,
                                    .dx = x,
                                    .dweight = x + 16};

    cr_assert_eq(ds_norm_fwd(&good, ds_device_stream(device), NULL), 0);
    bad.ld = 3;
    cr_assert_eq(ds_norm_fwd(&bad, ds_device_stream(device), NULL), -EINVAL);
    bad.ld = SIZE_MAX / 2;
    cr_assert_eq(ds_norm_fwd(&bad, ds_device_stream(device), NULL), -EINVAL);
    bad = good;
    bad.residual = x; /* where there is a bias */
    cr_assert_eq(ds_norm_fwd(&bad, ds_device_stream(device), NULL), -EINVAL);
    cr_assert_eq(ds_norm_bwd(&back, ds_device_stream(device), NULL), -EINVAL);
    ds_device_close(device);
}

Test(norm, weights_of_another_type_than_the_rows)
{
    static const size_t widths[] = {7, 64, 113};
    unsigned mode = 0;

    for (size_t i = 0; i < 3 * sizeof(widths) / sizeof(widths[0]); i++)
        for (size_t act = 0; act < 3; act++, mode++) {
            enum ds_dtype param = act_types[i % 3];

            check_types(33, widths[i / 3], DS_NORM_LAYER, act_types[act], param, mode % 4);
            check_types(33, widths[i / 3], DS_NORM_RMS, act_types[act], param, (mode + 1) % 4);
        }
}
#endif
