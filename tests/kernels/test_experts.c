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
    struct nums rows = nums_random(a->act, weights ? 1 : n, 1.0, 0.0);
    char what[96];
    struct trial t = {.what = what,
                      .out = {{weights ? DS_F32 : a->act, n, want,
                               weights && !accumulate ? NULL
                               : weights              ? &p->before
                                                      : &rows}},
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
    for (size_t i = p->offset[a->experts] * (n / a->rows); !weights && i < n; i++)
        want[i] = rows.d[i];
    snprintf(what, sizeof(what), "experts_matmul %d%s, %zu rows, %zu of %zux%zu %s", (int)product,
             accumulate ? " +=" : "", a->rows, a->experts, a->out, a->in, ds_dtype_name(a->act));
    try_all(&t);
    nums_free(&rows);
    free(want);
}

/* As if it began so many elements behind. */
static void move_begin(struct nums *x, ptrdiff_t behind)
{
    x->data += behind * (ptrdiff_t)ds_dtype_bytes(x->type);
    x->d += behind;
    x->n -= (size_t)behind;
}

static void no_numbers(struct nums *x, size_t from)
{
    for (size_t i = from; i < x->n; i++)
        nums_set(x, i, (double)NAN);
}

/* Experts with so many rows each, and room for `spare` more; x is not aligned where it begins
 * `behind` its memory. */
static void check_products(const size_t *counts, size_t experts, size_t spare, size_t in,
                           size_t out, enum ds_dtype act, ptrdiff_t behind)
{
    struct products p = {.args = {.experts = experts, .in = in, .out = out, .act = act}};

    p.offset = calloc(experts + 1, sizeof(*p.offset));
    for (size_t e = 0; e < experts; e++)
        p.offset[e + 1] = p.offset[e] + (uint32_t)counts[e];
    p.args.rows = p.offset[experts] + spare;
    p.x = nums_random(act, p.args.rows * in + (size_t)behind, 1.0, 0.1);
    move_begin(&p.x, behind);
    p.y = nums_random(act, p.args.rows * out, 1.0, 0.0);
    no_numbers(&p.x, p.offset[experts] * in);
    no_numbers(&p.y, p.offset[experts] * out);
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
    size_t experts, spare, in, out, counts[8];
} products[] = {{1, 0, 1, 1, {1}},
                {1, 3, 7, 5, {5}},
                {4, 0, 33, 130, {3, 0, 2, 0}},
                {8, 200, 40, 24, {0, 1, 0, 0, 1, 0, 0, 0}},
                {3, 0, 64, 48, {0, 70, 0}},
                {4, 5, 17, 9, {1, 1, 1, 1}},
                {3, 140, 16, 24, {0, 0, 0}},
                {2, 1, 176, 136, {3, 66}},
                {6, 0, 48, 80, {0, 300, 1, 0, 65, 64}},
                {2, 2, 530, 270, {3, 66}},
                {2, 300, 16, 24, {600, 129}},
                {2, 0, 16, 136, {2100, 3}},
                {1, 0, 8, 2056, {3}}};

#ifdef DS_TESTS_FEW
enum { PRODUCTS = 8 };
#else
enum { PRODUCTS = sizeof(products) / sizeof(products[0]) };
#endif

Test(experts, products)
{
    for (size_t i = 0; i < PRODUCTS; i++) {
        for (size_t type = 0; type < 3; type++)
            check_products(products[i].counts, products[i].experts, products[i].spare,
                           products[i].in, products[i].out, act_types[type], 0);
    }
}

Test(experts, products_of_what_is_not_aligned)
{
    static const size_t counts[] = {3, 0, 5};

    for (size_t type = 0; type < 3; type++)
        check_products(counts, 3, 4, 16, 24, act_types[type], 1);
}

/* 256 experts, of which one in three has rows. */
Test(experts, products_of_as_many_as_there_can_be)
{
    size_t counts[DS_MAX_EXPERTS];

    for (size_t e = 0; e < DS_MAX_EXPERTS; e++)
        counts[e] = e % 3 == 0 ? e % 5 : 0;
    for (size_t type = 0; type < 3; type++)
        check_products(counts, DS_MAX_EXPERTS, 0, 9, 6, act_types[type], 0);
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
    float *f = (void *)floats.data;
    struct ds_rows_take_args take = {.rows = 4, .each = 2, .channels = n, .sorted = 8};
    struct ds_rows_sum_args sum = {.rows = 4, .each = 2, .channels = n, .sorted = 8};
    struct ds_swiglu_rows_fwd_args act = {.rows = 8, .pairs = 8, .ffn = n / 2, .act = g->act};
    struct ds_swiglu_rows_bwd_args act_bwd = {.rows = 8, .pairs = 8, .ffn = n / 2, .act = g->act};
    struct ds_route_bwd_args back = {.batch = 1, .seq = 4, .sequence = 4, .experts = 6, .each = 2};
    struct ds_experts_matmul_args product = {.rows = 8, .experts = 7, .in = n, .out = n};
    int rc;

    take.source = act.source = act_bwd.source = garbage;
    take.count = act.count = act_bwd.count = garbage + 1;
    sum.place = back.chosen = product.offset = garbage;
    take.x = sum.x = act.x = act_bwd.x = act_bwd.dy = product.x = product.y = x.data;
    take.y = sum.y = act.y = act_bwd.dx = back.dlogits = product.to = y.data;
    act.weight = act_bwd.weight = back.probs = back.weight = back.dweight = back.load = f;
    act_bwd.dweight = f + 8;
    back.balance = back.grad_scale = 1.0f;
    take.act = sum.act = back.act = product.act = g->act;
    product.weight = w.data;
    rc = ds_rows_take(&take, stream, err);
    rc = rc != 0 ? rc : ds_rows_sum(&sum, stream, err);
    rc = rc != 0 ? rc : ds_swiglu_rows_fwd(&act, stream, err);
    rc = rc != 0 ? rc : ds_swiglu_rows_bwd(&act_bwd, stream, err);
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

/* Of room for so many rows `count` are there, each of a pair that no other is of. */
struct swiglu {
    size_t rows, pairs, ffn;
    uint32_t *source, *count; /* of the heap, where any device reaches them */
    enum ds_dtype act;
    struct nums x, dy, weight;
    bool in_place;
};

static int run_swiglu(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct swiglu *s = ctx;
    const struct ds_swiglu_rows_fwd_args args = {.rows = s->rows,
                                                 .pairs = s->pairs,
                                                 .ffn = s->ffn,
                                                 .act = s->act,
                                                 .source = s->source,
                                                 .count = s->count,
                                                 .x = s->x.data,
                                                 .weight = (void *)s->weight.data,
                                                 .y = out[0]};

    return ds_swiglu_rows_fwd(&args, stream, err);
}

static int run_swiglu_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct swiglu *s = ctx;
    const struct ds_swiglu_rows_bwd_args args = {.rows = s->rows,
                                                 .pairs = s->pairs,
                                                 .ffn = s->ffn,
                                                 .act = s->act,
                                                 .source = s->source,
                                                 .count = s->count,
                                                 .x = s->in_place ? out[0] : s->x.data,
                                                 .dy = s->dy.data,
                                                 .weight = (void *)s->weight.data,
                                                 .dx = out[0],
                                                 .dweight = out[1]};

    return ds_swiglu_rows_bwd(&args, stream, err);
}

static struct swiglu swiglu_of(size_t rows, size_t count, size_t ffn, enum ds_dtype act)
{
    struct swiglu s = {.rows = rows, .pairs = 2 * rows + 1, .ffn = ffn, .act = act};

    s.source = malloc(rows * sizeof(*s.source));
    s.count = malloc(sizeof(*s.count));
    *s.count = (uint32_t)count;
    for (size_t r = 0; r < rows; r++)
        s.source[r] = (uint32_t)(2 * (rows - r) - r % 2);
    s.x = nums_random(act, 2 * rows * ffn, 2.0, 0.0);
    s.dy = nums_random(act, rows * ffn, 1.0, 0.2);
    s.weight = nums_random(DS_F32, s.pairs, 0.3, 0.5);
    no_numbers(&s.dy, count * ffn);
    return s;
}

static void drop_swiglu(struct swiglu *s)
{
    nums_free(&s->x);
    nums_free(&s->dy);
    nums_free(&s->weight);
    free(s->source);
    free(s->count);
}

/* Of the rows that there are; of the others, and of pairs without a row, what was before. */
static void want_swiglu(const struct swiglu *s, double *y, double *dx, double *dweight)
{
    for (size_t r = 0; r < *s->count; r++)
        dweight[s->source[r]] = 0.0;
    for (size_t i = 0; i < *s->count * s->ffn; i++) {
        size_t row = i / s->ffn, g = row * 2 * s->ffn + i % s->ffn, u = g + s->ffn;
        double sigmoid = 1.0 / (1.0 + exp(-s->x.d[g])), silu = s->x.d[g] * sigmoid;
        double weight = s->weight.d[s->source[row]];

        y[i] = weight * silu * s->x.d[u];
        dx[g] = weight * s->dy.d[i] * s->x.d[u] * (sigmoid + silu * (1.0 - sigmoid));
        dx[u] = weight * s->dy.d[i] * silu;
        dweight[s->source[row]] += s->dy.d[i] * silu * s->x.d[u];
    }
}

static double *copy_of(const struct nums *x)
{
    return memcpy(malloc(x->n * sizeof(*x->d)), x->d, x->n * sizeof(*x->d));
}

static void check_swiglu(size_t rows, size_t count, size_t ffn, enum ds_dtype act)
{
    struct swiglu s = swiglu_of(rows, count, ffn, act);
    struct nums before = nums_random(act, rows * ffn, 1.0, 0.0);
    struct nums dbefore = nums_random(DS_F32, s.pairs, 1.0, 0.0);
    double *y = copy_of(&before), *dx = copy_of(&s.x), *dweight = copy_of(&dbefore);
    struct trial t = {.what = "swiglu_rows_fwd",
                      .out = {{act, rows * ffn, y, &before}},
                      .outs = 1,
                      .run = run_swiglu,
                      .ctx = &s};

    want_swiglu(&s, y, dx, dweight);
    try_all(&t);
    t = (struct trial){
        .what = "swiglu_rows_bwd",
        .out = {{act, 2 * rows * ffn, dx, &s.x}, {DS_F32, s.pairs, dweight, &dbefore}},
        .outs = 2,
        .run = run_swiglu_bwd,
        .ctx = &s};
    try_all(&t);
    s.in_place = true;
    try_all(&t);
    drop_swiglu(&s);
    nums_free(&before);
    nums_free(&dbefore);
    free(y);
    free(dx);
    free(dweight);
}

Test(experts, swiglu)
{
    static const size_t sizes[] = {1, 7, 8, 48, 97, 113, 1000};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t type = 0; type < 3; type++)
            check_swiglu(1 + i * 3, i % 3 == 0 ? 1 + i * 3 : i - 1, sizes[i], act_types[type]);
    }
}
