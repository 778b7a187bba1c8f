/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_experts.c - products of sorted rows with their expert's matrix and SwiGLU of rows that have a
 * weight, against double; no operation leaves its arrays, whatever is in those of numbers.
 */
#include "tests/kernels/harness.h"

struct products {
    struct ds_experts_matmul_args args;
    struct nums x, y, weight, before;
    uint32_t *offset; /* of the heap, where any device reaches it */
};

static int run_products(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct products *p = ctx;
    struct ds_experts_matmul_args args = p->args;

    args.to = out[0];
    return ds_experts_matmul(&args, stream, err);
}

/* The elements of what is written, summed one multiplication after the other. */
static void want_product(const struct products *p, double *want)
{
    const struct ds_experts_matmul_args *a = &p->args;

    for (size_t e = 0; e < a->experts; e++) {
        const double *weight = p->weight.d + e * a->out * a->in;
        double *gradient = want + e * a->out * a->in;

        for (size_t r = p->offset[e]; r < p->offset[e + 1]; r++) {
            const double *x = p->x.d + r * a->in, *y = p->y.d + r * a->out;

            for (size_t i = 0; i < a->out * a->in; i++) {
                size_t o = i / a->in, c = i % a->in;

                if (a->product == DS_EXPERTS_FWD)
                    want[r * a->out + o] += weight[i] * x[c];
                else if (a->product == DS_EXPERTS_BWD_X)
                    want[r * a->in + c] += weight[i] * y[o];
                else
                    gradient[i] += y[o] * x[c];
            }
        }
    }
}

static void try_product(struct products *p, enum ds_experts_product product, bool accumulate)
{
    const struct ds_experts_matmul_args *a = &p->args;
    bool weights = product == DS_EXPERTS_BWD_W;
    size_t n = weights                     ? a->experts * a->out * a->in
               : product == DS_EXPERTS_FWD ? a->rows * a->out
                                           : a->rows * a->in;
    double *want = calloc(n, sizeof(*want));
    char what[96];
    struct trial t = {.what = what,
                      .out = {{weights ? DS_F32 : a->act, n, want, accumulate ? &p->before : NULL}},
                      .outs = 1,
                      .run = run_products,
                      .ctx = p,
                      .query = {.act = a->act},
                      .bf16 = weights ? 1e-4 : 0.0,
                      .low = a->act != DS_F32};

    p->args.product = product;
    p->args.accumulate = accumulate;
    want_product(p, want);
    for (size_t i = 0; accumulate && i < n; i++)
        want[i] += p->before.d[i];
    snprintf(what, sizeof(what), "experts_matmul %d%s, %zu rows, %zu of %zux%zu %s", (int)product,
             accumulate ? " +=" : "", a->rows, a->experts, a->out, a->in, ds_dtype_name(a->act));
    try_all(&t);
    free(want);
}

/* As if it began so many elements behind. */
static void move_begin(struct nums *x, ptrdiff_t behind)
{
    x->data += behind * (ptrdiff_t)ds_dtype_bytes(x->type);
    x->d += behind;
    x->n -= (size_t)behind;
}

/* Experts with so many rows each; x is not aligned where it begins `behind` its memory. */
static void check_products(const size_t *counts, size_t experts, size_t in, size_t out,
                           enum ds_dtype act, ptrdiff_t behind)
{
    struct products p = {.args = {.experts = experts, .in = in, .out = out, .act = act}};

    p.offset = calloc(experts + 1, sizeof(*p.offset));
    for (size_t e = 0; e < experts; e++)
        p.offset[e + 1] = p.offset[e] + (uint32_t)counts[e];
    p.args.rows = p.offset[experts];
    p.x = nums_random(act, p.args.rows * in + (size_t)behind, 1.0, 0.1);
    move_begin(&p.x, behind);
    p.y = nums_random(act, p.args.rows * out, 1.0, 0.0);
    p.weight = nums_random(act, experts * out * in, 1.0, 0.0);
    p.before = nums_random(DS_F32, experts * out * in, 3.0, 0.0);
    p.args.offset = p.offset;
    p.args.x = p.x.data;
    p.args.y = p.y.data;
    p.args.weight = p.weight.data;
    try_product(&p, DS_EXPERTS_FWD, false);
    try_product(&p, DS_EXPERTS_BWD_X, false);
    try_product(&p, DS_EXPERTS_BWD_W, false);
    try_product(&p, DS_EXPERTS_BWD_W, true);
    move_begin(&p.x, -behind);
    nums_free(&p.x);
    nums_free(&p.y);
    nums_free(&p.weight);
    nums_free(&p.before);
    free(p.offset);
}

/* The last ones have more than a tile of rows, and rows of gradients that are summed at a time. */
static const struct {
    size_t experts, in, out, counts[8];
} products[] = {{1, 1, 1, {1}},
                {1, 7, 5, {5}},
                {4, 33, 130, {3, 0, 2, 0}},
                {8, 40, 24, {0, 1, 0, 0, 1, 0, 0, 0}},
                {3, 64, 48, {0, 70, 0}},
                {4, 17, 9, {1, 1, 1, 1}},
                {2, 176, 136, {3, 66}},
                {6, 48, 80, {0, 300, 1, 0, 65, 64}},
                {2, 530, 270, {3, 66}},
                {2, 16, 24, {600, 129}},
                {2, 16, 136, {2100, 3}},
                {1, 8, 2056, {3}}};

#ifdef DS_TESTS_FEW
enum { PRODUCTS = 7 };
#else
enum { PRODUCTS = sizeof(products) / sizeof(products[0]) };
#endif

Test(experts, products)
{
    for (size_t i = 0; i < PRODUCTS; i++) {
        for (size_t type = 0; type < 3; type++)
            check_products(products[i].counts, products[i].experts, products[i].in, products[i].out,
                           act_types[type], 0);
    }
}

Test(experts, products_of_what_is_not_aligned)
{
    static const size_t counts[] = {3, 0, 5};

    for (size_t type = 0; type < 3; type++)
        check_products(counts, 3, 16, 24, act_types[type], 1);
}

/* 256 experts, of which one in three has rows. */
Test(experts, products_of_as_many_as_there_can_be)
{
    size_t counts[DS_MAX_EXPERTS];

    for (size_t e = 0; e < DS_MAX_EXPERTS; e++)
        counts[e] = e % 3 == 0 ? e % 5 : 0;
    for (size_t type = 0; type < 3; type++)
        check_products(counts, DS_MAX_EXPERTS, 9, 6, act_types[type], 0);
}

struct garbage {
    enum ds_dtype act;
    size_t wide;
};

/* Of what is wrong in the device's memory nothing is read or written outside of arrays; what comes
 * of it is nobody's concern. */
static int run_on_garbage(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    static const uint32_t numbers[] = {5, 0xffffffffu, 3, 0x80000000u, 7, 0, 0xfffffff0u, 9};
    uint32_t *garbage = memcpy(malloc(sizeof(numbers)), numbers, sizeof(numbers));
    const struct garbage *g = ctx;
    const size_t n = g->wide;
    struct nums x = nums_random(g->act, 8 * n, 1.0, 0.0), y = nums_blank(g->act, 8 * n);
    struct nums w = nums_random(g->act, 7 * n * n, 1.0, 0.0), dw = nums_blank(DS_F32, 7 * n * n);
    struct nums floats = nums_random(DS_F32, 4 * 6, 1.0, 0.0);
    const float *f = (void *)floats.data;
    struct ds_rows_take_args take = {.rows = 4, .each = 2, .channels = n, .act = g->act};
    struct ds_rows_sum_args sum = {.rows = 4, .each = 2, .channels = n, .act = g->act};
    struct ds_route_bwd_args back = {.batch = 1, .seq = 4, .sequence = 4, .experts = 6, .each = 2};
    struct ds_experts_matmul_args product = {.rows = 8, .experts = 7, .in = n, .out = n};
    int rc;

    take.source = sum.place = back.chosen = back.place = product.offset = garbage;
    take.x = sum.x = product.x = product.y = x.data;
    take.y = sum.y = back.dlogits = product.to = y.data;
    back.probs = back.weight = back.dweight = back.load = f;
    back.balance = back.grad_scale = 1.0f;
    back.act = product.act = g->act;
    product.weight = w.data;
    rc = ds_rows_take(&take, stream, err);
    rc = rc != 0 ? rc : ds_rows_sum(&sum, stream, err);
    rc = rc != 0 ? rc : ds_route_bwd(&back, stream, err);
    rc = rc != 0 ? rc : ds_experts_matmul(&product, stream, err);
    product.product = DS_EXPERTS_BWD_X;
    rc = rc != 0 ? rc : ds_experts_matmul(&product, stream, err);
    product.product = DS_EXPERTS_BWD_W;
    product.to = dw.data;
    rc = rc != 0 ? rc : ds_experts_matmul(&product, stream, err);
    nums_free(&x);
    nums_free(&y);
    nums_free(&w);
    nums_free(&dw);
    nums_free(&floats);
    free(garbage);
    *(float *)out[0] = 1.0f;
    return rc;
}

/* Rows of an odd length, and such as are moved and multiplied by words. */
Test(experts, garbage)
{
    const double want = 1.0;
    struct garbage kinds[] = {{DS_F32, 6}, {DS_F32, 8}, {DS_BF16, 8}};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct trial t = {.what = "garbage for numbers of rows",
                          .out = {{DS_F32, 1, &want, NULL}},
                          .outs = 1,
                          .run = run_on_garbage,
                          .ctx = &kinds[i],
                          .query = {.act = kinds[i].act}};

        try_all(&t);
    }
}

struct swiglu {
    size_t rows, ffn;
    enum ds_dtype act;
    struct nums x, dy, weight;
    bool in_place;
};

static int run_swiglu(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct swiglu *s = ctx;
    const struct ds_swiglu_rows_fwd_args args = {.rows = s->rows,
                                                 .ffn = s->ffn,
                                                 .act = s->act,
                                                 .x = s->x.data,
                                                 .weight = (void *)s->weight.data,
                                                 .y = out[0]};

    return ds_swiglu_rows_fwd(&args, stream, err);
}

static int run_swiglu_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct swiglu *s = ctx;
    const struct ds_swiglu_rows_bwd_args args = {.rows = s->rows,
                                                 .ffn = s->ffn,
                                                 .act = s->act,
                                                 .x = s->in_place ? out[0] : s->x.data,
                                                 .dy = s->dy.data,
                                                 .weight = (void *)s->weight.data,
                                                 .dx = out[0],
                                                 .dweight = out[1]};

    return ds_swiglu_rows_bwd(&args, stream, err);
}

static void check_swiglu(size_t rows, size_t ffn, enum ds_dtype act)
{
    struct swiglu s = {.rows = rows, .ffn = ffn, .act = act};
    double *y = calloc(rows * ffn, sizeof(*y)), *dx = calloc(2 * rows * ffn, sizeof(*dx));
    double *dweight = calloc(rows, sizeof(*dweight));
    struct trial t = {.what = "swiglu_rows_fwd",
                      .out = {{act, rows * ffn, y, NULL}},
                      .outs = 1,
                      .run = run_swiglu,
                      .ctx = &s};

    s.x = nums_random(act, 2 * rows * ffn, 2.0, 0.0);
    s.dy = nums_random(act, rows * ffn, 1.0, 0.2);
    s.weight = nums_random(DS_F32, rows, 0.3, 0.5);
    for (size_t i = 0; i < rows * ffn; i++) {
        size_t row = i / ffn, g = row * 2 * ffn + i % ffn, u = g + ffn;
        double sigmoid = 1.0 / (1.0 + exp(-s.x.d[g])), silu = s.x.d[g] * sigmoid;

        y[i] = s.weight.d[row] * silu * s.x.d[u];
        dx[g] = s.weight.d[row] * s.dy.d[i] * s.x.d[u] * (sigmoid + silu * (1.0 - sigmoid));
        dx[u] = s.weight.d[row] * s.dy.d[i] * silu;
        dweight[row] += s.dy.d[i] * silu * s.x.d[u];
    }
    try_all(&t);
    t = (struct trial){.what = "swiglu_rows_bwd",
                       .out = {{act, 2 * rows * ffn, dx, NULL}, {DS_F32, rows, dweight, NULL}},
                       .outs = 2,
                       .run = run_swiglu_bwd,
                       .ctx = &s};
    try_all(&t);
    s.in_place = true;
    t.out[0].before = &s.x;
    try_all(&t);
    nums_free(&s.x);
    nums_free(&s.dy);
    nums_free(&s.weight);
    free(y);
    free(dx);
    free(dweight);
}

Test(experts, swiglu)
{
    static const size_t sizes[] = {1, 7, 8, 48, 97, 113, 1000};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t type = 0; type < 3; type++)
            check_swiglu(1 + i * 3, sizes[i], act_types[type]);
    }
}
