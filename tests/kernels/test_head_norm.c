/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_head_norm.c - RMS norm of query and key heads, forward and backward, against double; the
 * reference's own gradients against central differences.
 */
#include "tests/kernels/harness.h"

struct heads {
    size_t rows, heads, kv_heads, size;
    enum ds_dtype act, param;
    bool accumulate, in_place;
    size_t skew; /* elements before the first of x and dy: they are not aligned to a word then */
    struct nums x, dy, dy_whole, q_weight, k_weight, rstd, before_q, before_k;
    double *y, *want_rstd, *dx, *dq, *dk;
};

static const float eps = 0.03f; /* large enough to be missed */

static size_t all_heads(const struct heads *c)
{
    return c->heads + 2 * c->kv_heads;
}

static size_t elems(const struct heads *c)
{
    return c->rows * all_heads(c) * c->size;
}

static void reference_fwd(struct heads *c, const double *x)
{
    size_t normed = c->heads + c->kv_heads;

    for (size_t i = 0; i < c->rows * all_heads(c); i++) {
        size_t row = i / all_heads(c), h = i % all_heads(c), at = i * c->size;
        const double *w = h < c->heads ? c->q_weight.d : c->k_weight.d;
        double square = 0.0, rstd;

        for (size_t j = 0; j < c->size; j++)
            square += x[at + j] * x[at + j] / (double)c->size;
        rstd = 1.0 / sqrt(square + (double)eps);
        if (h < normed)
            c->want_rstd[row * normed + h] = rstd;
        for (size_t j = 0; j < c->size; j++)
            c->y[at + j] = h < normed ? x[at + j] * rstd * w[j] : x[at + j];
    }
}

/* After reference_fwd(). */
static void reference_bwd(struct heads *c, const double *x, const double *dy)
{
    size_t normed = c->heads + c->kv_heads, n = c->size;

    for (size_t i = 0; i < c->rows * all_heads(c); i++) {
        size_t row = i / all_heads(c), h = i % all_heads(c), at = i * n;
        bool query = h < c->heads;
        const double *w = query ? c->q_weight.d : c->k_weight.d;
        double *dw = query ? c->dq : c->dk, dot = 0.0, rstd;

        if (h >= normed) {
            memcpy(c->dx + at, dy + at, n * sizeof(double));
            continue;
        }
        rstd = c->want_rstd[row * normed + h];
        for (size_t j = 0; j < n; j++) {
            dw[j] += dy[at + j] * x[at + j] * rstd;
            dot += dy[at + j] * w[j] * x[at + j] * rstd / (double)n;
        }
        for (size_t j = 0; j < n; j++)
            c->dx[at + j] = rstd * (dy[at + j] * w[j] - x[at + j] * rstd * dot);
    }
}

static void *skewed(const struct heads *c, const struct nums *x)
{
    return x->data + c->skew * ds_dtype_bytes(x->type);
}

static int run_fwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct heads *c = ctx;
    struct ds_head_norm_fwd_args args = {.rows = c->rows,
                                         .heads = c->heads,
                                         .kv_heads = c->kv_heads,
                                         .head_size = c->size,
                                         .eps = eps,
                                         .act = c->act,
                                         .param = c->param,
                                         .x = skewed(c, &c->x),
                                         .q_weight = c->q_weight.data,
                                         .k_weight = c->k_weight.data,
                                         .y = out[0],
                                         .rstd = out[1]};

    return ds_head_norm_fwd(&args, stream, err);
}

static int run_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct heads *c = ctx;
    struct ds_head_norm_bwd_args args = {.rows = c->rows,
                                         .heads = c->heads,
                                         .kv_heads = c->kv_heads,
                                         .head_size = c->size,
                                         .act = c->act,
                                         .param = c->param,
                                         .dy = c->in_place ? out[0] : skewed(c, &c->dy),
                                         .x = skewed(c, &c->x),
                                         .q_weight = c->q_weight.data,
                                         .k_weight = c->k_weight.data,
                                         .rstd = (float *)(void *)c->rstd.data,
                                         .dx = out[0],
                                         .dq_weight = out[1],
                                         .dk_weight = out[2],
                                         .accumulate = c->accumulate};

    return ds_head_norm_bwd(&args, stream, err);
}

static void try_both(struct heads *c, const char *what)
{
    size_t stats = c->rows * (c->heads + c->kv_heads);
    struct trial t = {.what = what,
                      .out = {{c->act, elems(c), c->y, NULL}, {DS_F32, stats, c->want_rstd, NULL}},
                      .outs = 2,
                      .run = run_fwd,
                      .ctx = c,
                      .query = {.act = c->act,
                                .rows = c->rows,
                                .heads = c->heads,
                                .kv_heads = c->kv_heads,
                                .head_size = c->size},
                      .low = c->act != DS_F32};

    try_all(&t);
    for (size_t i = 0; i < stats; i++)
        nums_set(&c->rstd, i, c->want_rstd[i]);
    for (size_t i = 0; c->accumulate && i < c->size; i++) {
        c->dq[i] += c->before_q.d[i];
        c->dk[i] += c->before_k.d[i];
    }
    t.out[0] = (struct out){c->act, elems(c), c->dx, c->in_place ? &c->dy_whole : NULL};
    t.out[1] = (struct out){DS_F32, c->size, c->dq, c->accumulate ? &c->before_q : NULL};
    t.out[2] = (struct out){DS_F32, c->size, c->dk, c->accumulate ? &c->before_k : NULL};
    t.outs = 3;
    t.run = run_bwd;
    try_all(&t);
}

static void make(struct heads *c)
{
    size_t n = elems(c), stats = c->rows * (c->heads + c->kv_heads);

    c->x = nums_random(c->act, c->skew + n, 2.0, 0.3);
    c->dy = nums_random(c->act, c->skew + n, 1.0, 0.0);
    c->dy_whole = nums_blank(c->act, n);
    for (size_t i = 0; i < n; i++)
        nums_set(&c->dy_whole, i, c->dy.d[c->skew + i]);
    c->q_weight = nums_random(c->param, c->size, 0.3, 1.0);
    c->k_weight = nums_random(c->param, c->size, 0.3, -0.7);
    c->before_q = nums_random(DS_F32, c->size, 1.0, 0.0);
    c->before_k = nums_random(DS_F32, c->size, 1.0, 0.0);
    c->rstd = nums_blank(DS_F32, stats);
    c->y = calloc(n, sizeof(double));
    c->dx = calloc(n, sizeof(double));
    c->want_rstd = calloc(stats, sizeof(double));
    c->dq = calloc(c->size, sizeof(double));
    c->dk = calloc(c->size, sizeof(double));
}

static void unmake(struct heads *c)
{
    struct nums *all[] = {&c->x,        &c->dy,   &c->dy_whole, &c->q_weight,
                          &c->k_weight, &c->rstd, &c->before_q, &c->before_k};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        nums_free(all[i]);
    free(c->y);
    free(c->dx);
    free(c->want_rstd);
    free(c->dq);
    free(c->dk);
}

/* Mode: 1 accumulates, 2 is in place. */
static void check(struct heads c, unsigned mode)
{
    char what[128];

    c.accumulate = mode & 1;
    c.in_place = (mode & 2) != 0;
    snprintf(what, sizeof(what), "%zu rows, %zu/%zu heads of %zu, %s by %s, mode %u, skew %zu",
             c.rows, c.heads, c.kv_heads, c.size, ds_dtype_name(c.act), ds_dtype_name(c.param),
             mode, c.skew);
    make(&c);
    reference_fwd(&c, c.x.d + c.skew);
    reference_bwd(&c, c.x.d + c.skew, c.dy.d + c.skew);
    try_both(&c, what);
    unmake(&c);
}

Test(head_norm, shapes_types_and_modes)
{
    static const size_t rows[] = {1, 31, 70}, sizes[] = {1, 7, 32, 64, 72, 97, 128};
    static const size_t heads[][2] = {{4, 4}, {4, 1}, {6, 3}, {1, 1}};
    unsigned mode = 0;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++)
            for (size_t type = 0; type < 3; type++, mode++) {
                const size_t *h = heads[mode % 4];

#ifdef DS_TESTS_FEW
                if (type != (i + j) % 3)
                    continue;
#endif
                check((struct heads){.rows = rows[i],
                                     .heads = h[0],
                                     .kv_heads = h[1],
                                     .size = sizes[j],
                                     .act = act_types[type],
                                     .param = act_types[type]},
                      mode / 3 % 4);
            }
}

/* What a warp holds of a head, and heads that are longer. */
Test(head_norm, long_heads)
{
    static const size_t sizes[] = {136, 255, 256, 257, 300, 520};

    for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++)
        for (unsigned mode = 0; mode < 4; mode++)
            check((struct heads){.rows = 9,
                                 .heads = 2,
                                 .kv_heads = 1,
                                 .size = sizes[j],
                                 .act = act_types[(j + mode) % 3],
                                 .param = act_types[(j + mode) % 3]},
                  mode);
}

/* More rows than there are partial sums, so that each has several. */
Test(head_norm, many_rows)
{
    for (size_t type = 0; type < 3; type++)
        check((struct heads){.rows = 4200,
                             .heads = 2,
                             .kv_heads = 1,
                             .size = 8,
                             .act = act_types[type],
                             .param = act_types[type]},
              (unsigned)type + 1);
}

Test(head_norm, rows_that_are_no_whole_words)
{
    for (size_t type = 0; type < 3; type++)
        for (size_t skew = 1; skew < 4; skew++)
            check((struct heads){.rows = 5,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .size = 64,
                                 .act = act_types[type],
                                 .param = act_types[type],
                                 .skew = skew},
                  (unsigned)skew % 2);
}

Test(head_norm, weights_of_another_type_than_the_rows)
{
    static const size_t sizes[] = {7, 64, 300};

    for (unsigned i = 0; i < 9; i++)
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++)
            check((struct heads){.rows = 3,
                                 .heads = 2,
                                 .kv_heads = 1,
                                 .size = sizes[j],
                                 .act = act_types[i / 3],
                                 .param = act_types[i % 3]},
                  i % 4);
}

/* The sum of dy * y, whose gradient backward is. */
static double loss(struct heads *c, const double *x)
{
    double sum = 0.0;

    reference_fwd(c, x);
    for (size_t i = 0; i < elems(c); i++)
        sum += c->dy.d[i] * c->y[i];
    return sum;
}

static double slope(struct heads *c, double *at)
{
    const double step = 1e-5, was = *at;
    double up, down;

    *at = was + step;
    up = loss(c, c->x.d);
    *at = was - step;
    down = loss(c, c->x.d);
    *at = was;
    return (up - down) / (2.0 * step);
}

Test(head_norm, the_reference_is_the_gradient)
{
    struct heads c = {.rows = 3, .heads = 4, .kv_heads = 2, .size = 5};

    make(&c);
    reference_fwd(&c, c.x.d);
    reference_bwd(&c, c.x.d, c.dy.d);
    for (size_t i = 0; i < elems(&c); i++)
        cr_assert_float_eq(slope(&c, &c.x.d[i]), c.dx[i], 1e-7, "dx of element %zu", i);
    for (size_t i = 0; i < c.size; i++) {
        cr_assert_float_eq(slope(&c, &c.q_weight.d[i]), c.dq[i], 1e-7);
        cr_assert_float_eq(slope(&c, &c.k_weight.d[i]), c.dk[i], 1e-7);
    }
    unmake(&c);
}
