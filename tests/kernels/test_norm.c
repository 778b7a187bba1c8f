/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_norm.c - LayerNorm and RMSNorm, forward and backward, against double.
 */
#include "tests/kernels/harness.h"

struct norm {
    size_t rows, n;
    enum ds_norm_kind kind;
    enum ds_dtype act, param;
    bool accumulate, residual, in_place;
    size_t skew; /* elements before the first of x and dy: they are not aligned to a word then */
    struct nums x, weight, bias, dy, dres, mean, rstd, before_w, before_b;
    double *y, *want_mean, *want_rstd, *dx, *dweight, *dbias;
};

static const float eps = 1e-5f;

static void reference_row(struct norm *c, size_t row)
{
    const double *x = c->x.d + c->skew + row * c->n, *dy = c->dy.d + c->skew + row * c->n;
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

        c->y[row * c->n + i] = h * w[i] + (layer ? c->bias.d[i] : 0.0);
        c->dweight[i] += dy[i] * h;
        c->dbias[i] += dy[i];
        dot += dy[i] * w[i] * h / n;
        sum += layer ? dy[i] * w[i] / n : 0.0;
    }
    for (size_t i = 0; i < c->n; i++)
        c->dx[row * c->n + i] = rstd * (dy[i] * w[i] - sum - (x[i] - mean) * rstd * dot) +
                                (c->residual ? c->dres.d[row * c->n + i] : 0.0);
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
                                    .kind = c->kind,
                                    .eps = eps,
                                    .act = c->act,
                                    .param = c->param,
                                    .x = skewed(c, &c->x),
                                    .weight = c->weight.data,
                                    .y = out[0],
                                    .rstd = out[1],
                                    .bias = layer ? c->bias.data : NULL,
                                    .mean = layer ? out[2] : NULL};

    return ds_norm_fwd(&args, stream, err);
}

static int run_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct norm *c = ctx;
    bool layer = c->kind == DS_NORM_LAYER;
    struct ds_norm_bwd_args args = {.rows = c->rows,
                                    .channels = c->n,
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
    return ds_norm_bwd(&args, stream, err);
}

static void try_both(struct norm *c, const char *what)
{
    bool layer = c->kind == DS_NORM_LAYER;
    struct trial t = {.what = what,
                      .out = {{c->act, c->rows * c->n, c->y, NULL},
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
    t.out[0] = (struct out){c->act, c->rows * c->n, c->dx, c->in_place ? &c->dres : NULL};
    t.out[1] = (struct out){DS_F32, c->n, c->dweight, c->accumulate ? &c->before_w : NULL};
    t.out[2] = (struct out){DS_F32, c->n, c->dbias, c->accumulate ? &c->before_b : NULL};
    t.run = run_bwd;
    try_all(&t);
}

static void check_skewed(size_t rows, size_t n, enum ds_norm_kind kind, enum ds_dtype act,
                         enum ds_dtype param, unsigned mode, size_t skew)
{
    struct norm c = {.rows = rows,
                     .n = n,
                     .kind = kind,
                     .act = act,
                     .param = param,
                     .accumulate = mode & 1,
                     .residual = (mode & 2) != 0,
                     .in_place = mode == 3,
                     .skew = skew};
    struct nums *all[] = {&c.x,    &c.weight, &c.bias,     &c.dy,      &c.dres,
                          &c.mean, &c.rstd,   &c.before_w, &c.before_b};
    char what[128];

    snprintf(what, sizeof(what), "%zu rows of %zu, kind %d, %s by %s, mode %u", rows, n, (int)kind,
             ds_dtype_name(act), ds_dtype_name(param), mode);
    c.x = nums_random(act, skew + rows * n, 2.0, 0.7);
    c.weight = nums_random(param, n, 0.3, 1.0);
    c.bias = nums_random(param, n, 0.5, 0.0);
    c.dy = nums_random(act, skew + rows * n, 1.0, 0.0);
    c.dres = nums_random(act, rows * n, 1.0, 0.0);
    c.before_w = nums_random(DS_F32, n, 1.0, 0.0);
    c.before_b = nums_random(DS_F32, n, 1.0, 0.0);
    c.mean = nums_blank(DS_F32, rows);
    c.rstd = nums_blank(DS_F32, rows);
    c.y = calloc(rows * n, sizeof(double));
    c.dx = calloc(rows * n, sizeof(double));
    c.want_mean = calloc(rows, sizeof(double));
    c.want_rstd = calloc(rows, sizeof(double));
    c.dweight = calloc(n, sizeof(double));
    c.dbias = calloc(n, sizeof(double));
    for (size_t row = 0; row < rows; row++)
        reference_row(&c, row);
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

#ifndef DS_TESTS_EMULATED
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
