/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pointwise.c - GELU, SwiGLU and casts against double; runs in another order.
 */
#include "tests/kernels/harness.h"

struct pointwise {
    size_t rows, n;
    enum ds_dtype act;
    enum ds_gate gate;
    struct nums x, dy;
    struct ds_reorder_args reorder;
    bool in_place;
    uint32_t *largest; /* of what is written, or NULL */
};

static const size_t sizes[] = {1, 7, 8, 48, 97, 113, 1000, 20001};

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* Of the cases that follow. */
static enum ds_gelu gelu_kind;

static int run_gelu(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct pointwise *c = ctx;
    struct ds_gelu_fwd_args args = {
        .n = c->n, .kind = gelu_kind, .act = c->act, .x = c->x.data, .y = out[0]};

    return ds_gelu_fwd(&args, stream, err);
}

static int run_gelu_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct pointwise *c = ctx;
    struct ds_gelu_bwd_args args = {.n = c->n,
                                    .kind = gelu_kind,
                                    .act = c->act,
                                    .x = c->x.data,
                                    .dy = c->in_place ? out[0] : c->dy.data,
                                    .dx = out[0]};

    return ds_gelu_bwd(&args, stream, err);
}

static double erf_gelu(double x)
{
    return 0.5 * x * erfc(-x / sqrt(2.0));
}

static double erf_slope(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0)) + x * exp(-0.5 * x * x) / sqrt(2.0 * acos(-1.0));
}

static void check_gelu(size_t n, enum ds_dtype act, double scale)
{
    struct pointwise c = {.n = n, .act = act};
    double *y = calloc(n, sizeof(double)), *dx = calloc(n, sizeof(double));
    struct trial t = {
        .what = "gelu_fwd", .out = {{act, n, y, NULL}}, .outs = 1, .run = run_gelu, .ctx = &c};

    c.x = nums_random(act, n, scale, 0.0);
    c.dy = nums_random(act, n, 1.0, 0.0);
    for (size_t i = 0; i < n; i++) {
        y[i] = gelu_kind == DS_GELU_ERF ? erf_gelu(c.x.d[i]) : gelu(c.x.d[i]);
        dx[i] = c.dy.d[i] * (gelu_kind == DS_GELU_ERF ? erf_slope(c.x.d[i]) : gelu_slope(c.x.d[i]));
    }
    try_all(&t);
    t = (struct trial){
        .what = "gelu_bwd", .out = {{act, n, dx, NULL}}, .outs = 1, .run = run_gelu_bwd, .ctx = &c};
    try_all(&t);
    c.in_place = true;
    t.out[0].before = &c.dy;
    try_all(&t);
    nums_free(&c.x);
    nums_free(&c.dy);
    free(y);
    free(dx);
}

Test(pointwise, gelu)
{
    for (int kind = 0; kind < 2; kind++) {
        gelu_kind = (enum ds_gelu)kind;
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            check_gelu(sizes[i], DS_F32, 2.0);
            check_gelu(sizes[i], DS_BF16, 2.0);
            check_gelu(sizes[i], DS_F16, 2.0);
        }
        check_gelu(100, DS_F32, 1e-3);
        check_gelu(100, DS_F32, 50.0);
        check_gelu(100, DS_F32, 1e5);
    }
    gelu_kind = DS_GELU_TANH;
}

/* Each value alone, where the relative L2 of many would hide it. */
Test(pointwise, gelu_of_every_magnitude)
{
    for (int kind = 0; kind < 2; kind++)
        for (double x = -9.0; x < 12.0; x += 0.037) {
            struct pointwise c = {.n = 1, .act = DS_F32};
            double y[1], at;
            struct trial t = {.what = "gelu_fwd of one value",
                              .out = {{DS_F32, 1, y, NULL}},
                              .outs = 1,
                              .run = run_gelu,
                              .ctx = &c,
                              .f32 = 1e-5};

            gelu_kind = (enum ds_gelu)kind;
            c.x = nums_blank(DS_F32, 1);
            nums_set(&c.x, 0, x);
            at = c.x.d[0];
            y[0] = kind == DS_GELU_ERF
                       ? erf_gelu(at)
                       : at * sigmoid(2.0 * sqrt(2.0 / M_PI) * (at + 0.044715 * at * at * at));
            try_all(&t);
            nums_free(&c.x);
        }
    gelu_kind = DS_GELU_TANH;
}

static float one_of(enum ds_dtype type, const void *x, size_t i)
{
    if (type == DS_F32)
        return ((const float *)x)[i];
    return type == DS_BF16 ? ds_bf16_to_f32(((const ds_bf16 *)x)[i])
                           : ds_f16_to_f32(((const ds_f16 *)x)[i]);
}

/* The largest element is that of what lies there, as it was rounded. */
static void check_written(const struct pointwise *c, const void *out, size_t n)
{
    uint32_t want = 0;

    for (size_t i = 0; c->largest != NULL && i < n; i++) {
        uint32_t bits = ds_fp8_bits(one_of(c->act, out, i)) & 0x7fffffffu;

        want = bits > want ? bits : want;
    }
    cr_assert(c->largest == NULL || *c->largest == want, "%zux%zu of %s: %08x for %08x", c->rows,
              c->n, ds_dtype_name(c->act), *c->largest, want);
}

static int run_swiglu(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct pointwise *c = ctx;
    struct ds_swiglu_fwd_args args = {.rows = c->rows,
                                      .ffn = c->n,
                                      .gate = c->gate,
                                      .act = c->act,
                                      .x = c->x.data,
                                      .y = out[0],
                                      .largest = c->largest};
    int rc = ds_swiglu_fwd(&args, stream, err);

    check_written(c, out[0], c->rows * c->n);
    return rc;
}

static int run_swiglu_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct pointwise *c = ctx;
    struct ds_swiglu_bwd_args args = {.rows = c->rows,
                                      .ffn = c->n,
                                      .gate = c->gate,
                                      .act = c->act,
                                      .x = c->in_place ? out[0] : c->x.data,
                                      .dy = c->dy.data,
                                      .dx = out[0],
                                      .largest = c->largest};
    int rc = ds_swiglu_bwd(&args, stream, err);

    check_written(c, out[0], 2 * c->rows * c->n);
    return rc;
}

/* silu(x) or gelu(x), and the slope there. */
static double let_through(enum ds_gate gate, double x, double *slope)
{
    const double root = sqrt(2.0 / acos(-1.0)), u = root * (x + 0.044715 * x * x * x);
    const double s = sigmoid(x), t = tanh(u);

    if (gate == DS_GATE_SILU) {
        *slope = s + x * s * (1.0 - s);
        return x * s;
    }
    *slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x);
    return 0.5 * x * (1.0 + t);
}

static void check_gated(size_t rows, size_t ffn, enum ds_dtype act, enum ds_gate gate)
{
    struct pointwise c = {.rows = rows, .n = ffn, .act = act, .gate = gate};
    double *y = calloc(rows * ffn, sizeof(double)), *dx = calloc(2 * rows * ffn, sizeof(double));
    uint32_t *largest = malloc(sizeof(*largest)); /* where any device reaches it */
    struct trial t = {.what = "swiglu_fwd",
                      .out = {{act, rows * ffn, y, NULL}},
                      .outs = 1,
                      .run = run_swiglu,
                      .ctx = &c};

    c.x = nums_random(act, 2 * rows * ffn, 2.0, 0.0);
    c.dy = nums_random(act, rows * ffn, 1.0, 0.0);
    for (size_t i = 0; i < rows * ffn; i++) {
        size_t g = i / ffn * 2 * ffn + i % ffn, u = g + ffn;
        double slope, value = let_through(gate, c.x.d[g], &slope);

        y[i] = value * c.x.d[u];
        dx[g] = c.dy.d[i] * c.x.d[u] * slope;
        dx[u] = c.dy.d[i] * value;
    }
    try_all(&t);
    c.largest = largest;
    try_all(&t);
    c.largest = NULL;
    t = (struct trial){.what = "swiglu_bwd",
                       .out = {{act, 2 * rows * ffn, dx, NULL}},
                       .outs = 1,
                       .run = run_swiglu_bwd,
                       .ctx = &c};
    try_all(&t);
    c.in_place = true;
    t.out[0].before = &c.x;
    try_all(&t);
    c.largest = largest;
    try_all(&t);
    free(largest);
    nums_free(&c.x);
    nums_free(&c.dy);
    free(y);
    free(dx);
}

Test(pointwise, swiglu)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) - 1; i++)
        for (size_t type = 0; type < 3; type++)
            check_gated(1 + i * 3, sizes[i], act_types[type], DS_GATE_SILU);
}

Test(pointwise, gates_of_gelu)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) - 1; i++)
        for (size_t type = 0; type < 3; type++)
            check_gated(1 + i * 3, sizes[i], act_types[type], DS_GATE_GELU);
}

static int run_cast(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct pointwise *c = ctx;
    struct ds_cast_args args = {
        .n = c->n, .from = c->x.type, .to = c->act, .x = c->x.data, .y = out[0]};

    return ds_cast(&args, stream, err);
}

static void check_cast(size_t n, enum ds_dtype from, enum ds_dtype to)
{
    struct pointwise c = {.n = n, .act = to, .x = nums_random(from, n, 1.0, 0.0)};
    struct nums rounded = nums_blank(to, n);
    struct trial t = {.what = "cast",
                      .out = {{to, n, rounded.d, NULL}},
                      .outs = 1,
                      .run = run_cast,
                      .ctx = &c,
                      .f32 = 1e-300,
                      .bf16 = 1e-300};

    for (size_t i = 0; i < n; i++)
        nums_set(&rounded, i, c.x.d[i]);
    try_all(&t);
    nums_free(&c.x);
    nums_free(&rounded);
}

Test(pointwise, cast)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t from = 0; from < 3; from++) {
            for (size_t to = 0; to < 3; to++)
                check_cast(sizes[i], act_types[from], act_types[to]);
        }
    }
}

/* --- runs in another order --------------------------------------------------------------------*/

static int run_reorder(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    const struct pointwise *c = ctx;
    struct ds_reorder_args args = c->reorder;

    args.from = c->x.data;
    args.to = out[0];
    return ds_reorder(&args, stream, err);
}

/* outer x inner runs of `run` elements, turned round; `more` elements stand between rows of what is
 * read, and none are written that no run has. */
static void check_reorder(size_t outer, size_t inner, size_t run, size_t more, enum ds_dtype act)
{
    size_t size = ds_dtype_bytes(act), row = outer * run + more, n = inner * row;
    struct pointwise c = {.x = nums_random(act, n, 1.0, 0.0),
                          .reorder = {.outer = outer,
                                      .inner = inner,
                                      .run = run * size,
                                      .from_outer = run * size,
                                      .from_inner = row * size,
                                      .to_outer = inner * run * size,
                                      .to_inner = run * size}};
    double *y = calloc(outer * inner * run + 1, sizeof(double));
    struct trial t = {.what = "reorder",
                      .out = {{act, outer * inner * run, y, NULL}},
                      .outs = 1,
                      .run = run_reorder,
                      .ctx = &c,
                      .query = {.act = act}};

    for (size_t i = 0; i < outer; i++)
        for (size_t j = 0; j < inner; j++)
            for (size_t k = 0; k < run; k++)
                y[(i * inner + j) * run + k] = c.x.d[j * row + i * run + k];
    try_all(&t);
    nums_free(&c.x);
    free(y);
}

Test(pointwise, reorder)
{
    for (size_t type = 0; type < 3; type++) {
        check_reorder(1, 1, 1, 0, act_types[type]);
        check_reorder(2, 5, 8, 0, act_types[type]); /* whole words */
        check_reorder(4, 3, 16, 8, act_types[type]);
        check_reorder(2, 7, 6, 2, act_types[type]);
        check_reorder(3, 11, 5, 1, act_types[type]); /* halves stand at odd places */
        check_reorder(8, 600, 32, 0, act_types[type]);
        check_reorder(2, 2, 20000, 4, act_types[type]);
    }
}

Test(pointwise, reorder_of_nothing)
{
    struct ds_device *device = open_cpu(NULL, 1, 0);
    struct ds_reorder_args args = {.outer = 0, .inner = 3, .run = 4};

    cr_assert(device != NULL);
    cr_assert(ds_reorder(&args, ds_device_stream(device), NULL) == 0);
    args = (struct ds_reorder_args){.outer = 3, .inner = 0, .run = 4};
    cr_assert(ds_reorder(&args, ds_device_stream(device), NULL) == 0);
    args = (struct ds_reorder_args){.outer = 3, .inner = 3, .run = 0};
    cr_assert(ds_reorder(&args, ds_device_stream(device), NULL) == 0);
    ds_device_close(device);
}

/* Ties, overflow to infinity, infinities and NaN, as the scalar rounding does them. */
/* What a NaN keeps of its bits is the CPU's own affair. */
static bool any_nan(bool both)
{
#ifdef DS_TESTS_EMULATED
    return both;
#else
    return both && false;
#endif
}

static bool same_bf16(ds_bf16 one, ds_bf16 other)
{
    return one == other || any_nan((one & 0x7fff) > 0x7f80 && (other & 0x7fff) > 0x7f80);
}

Test(pointwise, cast_of_special_values)
{
    static const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff,
                                    0x7f800000, 0xff800000, 0x7fc00001, 0x7f800001, 0xffffffff,
                                    0x80000000, 0x00000001, 0x00018000, 0x80008000};
    enum { N = sizeof(bits) / sizeof(bits[0]) };
    static const char *const isas[] = {"v4", "v3", "base"};

    for (size_t i = 0; i < 3; i++) {
        struct ds_device *device = open_cpu(isas[i], 1, 0);
        float x[2 * N];
        ds_bf16 y[2 * N];
        struct ds_cast_args args = {.n = 2 * N, .from = DS_F32, .to = DS_BF16, .x = x, .y = y};

        if (device == NULL)
            continue;
        memcpy(x, bits, sizeof(bits));
        memcpy(x + N, bits, sizeof(bits));
        cr_assert(ds_cast(&args, ds_device_stream(device), NULL) == 0);
        for (size_t j = 0; j < 2 * N; j++)
            cr_assert(same_bf16(y[j], ds_bf16_from_f32(x[j])), "isa %s: %08x became %04x, not %04x",
                      isas[i], bits[j % N], y[j], ds_bf16_from_f32(x[j]));
        ds_device_close(device);
    }
}

/* Every half there is widens to the value its bits stand for, and rounds back to itself. */
Test(pointwise, every_half)
{
    static const char *const isas[] = {"v4", "v3", "base"};
    ds_f16 *half = calloc(65536, sizeof(*half)), *back = calloc(65536, sizeof(*back));
    float *wide = calloc(65536, sizeof(*wide)); /* a device reaches no memory of the program */

    cr_assert(half != NULL && back != NULL && wide != NULL);
    for (unsigned i = 0; i < 65536; i++) {
        double mantissa = i & 0x3ff, power = i >> 10 & 0x1f;
        double value = power > 0 ? ldexp(1024 + mantissa, (int)power - 25) : ldexp(mantissa, -24);

        half[i] = (ds_f16)i;
        if (power < 31)
            cr_assert((double)ds_f16_to_f32((ds_f16)i) == (i & 0x8000 ? -value : value), "%04x", i);
        else if (mantissa > 0)
            cr_assert(isnan(ds_f16_to_f32((ds_f16)i)), "%04x", i);
        else
            cr_assert(isinf(ds_f16_to_f32((ds_f16)i)), "%04x", i);
    }
    for (size_t i = 0; i < 3; i++) {
        struct ds_device *device = open_cpu(isas[i], 1, 0);
        struct ds_cast_args widen = {
            .n = 65536, .from = DS_F16, .to = DS_F32, .x = half, .y = wide};
        struct ds_cast_args narrow = {
            .n = 65536, .from = DS_F32, .to = DS_F16, .x = wide, .y = back};

        if (device == NULL)
            continue;
        cr_assert(ds_cast(&widen, ds_device_stream(device), NULL) == 0);
        cr_assert(ds_cast(&narrow, ds_device_stream(device), NULL) == 0);
        for (unsigned j = 0; j < 65536; j++) {
            float one = ds_f16_to_f32(half[j]);
            bool nan = isnan(one);

            cr_assert(memcmp(&one, &wide[j], sizeof(one)) == 0 || any_nan(nan && isnan(wide[j])),
                      "isa %s: %04x", isas[i], j);
            cr_assert(back[j] == (nan ? half[j] | 0x200 : half[j]) ||
                          any_nan(nan && (back[j] & 0x7fff) > 0x7c00),
                      "isa %s: %04x came back %04x", isas[i], j, back[j]);
        }
        ds_device_close(device);
    }
    free(wide);
    free(back);
    free(half);
}

/* Between two halves the nearer one is taken, of two as near the even one. */
Test(pointwise, halves_are_rounded_to_nearest_even)
{
    static const char *const isas[] = {"v4", "v3", "base"};

    for (size_t i = 0; i < 3; i++) {
        struct ds_device *device = open_cpu(isas[i], 1, 0);

        for (unsigned h = 0; device != NULL && h < 0x7c00; h += 1 + h % 5) {
            double low = (double)ds_f16_to_f32((ds_f16)h);
            double high = h == 0x7bff ? 65536.0 : (double)ds_f16_to_f32((ds_f16)(h + 1));
            float middle = (float)((low + high) / 2), x[6];
            ds_f16 y[6], even = (ds_f16)(h + (h & 1)), up = (ds_f16)(h + 1);
            struct ds_cast_args args = {.n = 6, .from = DS_F32, .to = DS_F16, .x = x, .y = y};

            for (unsigned k = 0; k < 2; k++) {
                float sign = k == 0 ? 1.0f : -1.0f;

                x[3 * k] = sign * middle;
                x[3 * k + 1] = sign * nextafterf(middle, 0.0f);
                x[3 * k + 2] = sign * nextafterf(middle, 1e9f);
            }
            cr_assert(ds_cast(&args, ds_device_stream(device), NULL) == 0);
            for (unsigned k = 0; k < 6; k++) {
                ds_f16 want = k % 3 == 0 ? even : k % 3 == 1 ? (ds_f16)h : up;

                want |= k < 3 ? 0 : 0x8000;
                cr_assert(y[k] == want && ds_f16_from_f32(x[k]) == want,
                          "isa %s: %a became %04x and %04x, not %04x", isas[i], (double)x[k], y[k],
                          ds_f16_from_f32(x[k]), want);
            }
        }
        ds_device_close(device);
    }
}
