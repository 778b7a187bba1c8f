/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_fp8.c - codes of FP8 against their definition in double, all of them and all ties; matrices
 * of them byte by byte; their products against double; what is not finite.
 */
#include "tests/kernels/harness.h"

static const enum ds_fp8 types[] = {DS_E4M3, DS_E5M2};

/* A code by the definition of its format: sign, exponent, mantissa. */
static double defined(enum ds_fp8 type, unsigned code)
{
    int bits = type == DS_E4M3 ? 3 : 2, bias = type == DS_E4M3 ? 7 : 15;
    int mantissa = (int)(code & ((1u << bits) - 1)), exponent = (int)(code & 0x7f) >> bits;
    double sign = code & 0x80 ? -1.0 : 1.0;

    if (type == DS_E4M3 && (code & 0x7f) == 0x7f)
        return (double)NAN;
    if (type == DS_E5M2 && exponent == 31)
        return mantissa == 0 ? sign * (double)INFINITY : (double)NAN;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - bits);
    return sign * ldexp((1 << bits) + mantissa, exponent - bias - bits);
}

static unsigned last_code(enum ds_fp8 type)
{
    return type == DS_E4M3 ? 0x7e : 0x7b;
}

Test(fp8, every_code)
{
    for (size_t t = 0; t < 2; t++) {
        for (unsigned code = 0; code < 256; code++) {
            double want = defined(types[t], code);
            double got = (double)ds_fp8_to_f32(types[t], (uint8_t)code);

            cr_assert(isnan(want) ? isnan(got) : got == want && !signbit(got) == !signbit(want),
                      "type %zu, code %02x: %g, not %g", t, code, got, want);
        }
    }
    cr_assert(defined(DS_E4M3, 0x7e) == 448.0 && defined(DS_E5M2, 0x7b) == 57344.0);
}

static void rounds_to(enum ds_fp8 type, float x, unsigned code)
{
    unsigned got = ds_fp8_from_f32(type, x), minus = ds_fp8_from_f32(type, -x);

    cr_assert(got == code && minus == (code | 0x80), "type %d, %a: %02x and %02x, not %02x",
              (int)type, (double)x, got, minus, code);
}

/* Every code is its own; half way to the next the even one is taken, and beside that the nearer. */
Test(fp8, every_tie)
{
    for (size_t t = 0; t < 2; t++) {
        enum ds_fp8 type = types[t];

        for (unsigned code = 0; code < last_code(type); code++) {
            float low = (float)defined(type, code), high = (float)defined(type, code + 1);
            float middle = (low + high) / 2;

            rounds_to(type, low, code);
            rounds_to(type, middle, code + (code & 1));
            rounds_to(type, nextafterf(middle, 0.0f), code);
            rounds_to(type, nextafterf(middle, INFINITY), code + 1);
        }
        rounds_to(type, (float)defined(type, last_code(type)), last_code(type));
        rounds_to(type, 60000.0f, last_code(type));
        rounds_to(type, 3e38f, last_code(type));
        rounds_to(type, INFINITY, last_code(type));
        rounds_to(type, 1e-38f, 0);
        rounds_to(type, 1e-45f, 0);
        cr_assert(ds_fp8_from_f32(type, NAN) == 0x7f && ds_fp8_from_f32(type, -NAN) == 0x7f);
    }
}

/* The largest power of two that leaves the largest element representable. */
Test(fp8, factors)
{
    for (size_t t = 0; t < 2; t++) {
        double most = defined(types[t], last_code(types[t]));

        for (uint32_t bits = 1; bits < DS_FP8_INFINITE; bits += bits / 3 + 1) {
            double x = (double)ds_fp8_of_bits(bits);
            float factor = ds_fp8_factor(types[t], bits);
            int power;

            cr_assert(frexp((double)factor, &power) == 0.5);
            cr_assert((double)factor * x <= most, "%a of %a", (double)factor, x);
            cr_assert((double)factor * x * 2.0 > most || factor == 0x1p126f, "%a of %a",
                      (double)factor, x);
            cr_assert((double)ds_fp8_scale(factor, bits) * (double)factor == 1.0);
        }
        cr_assert(ds_fp8_factor(types[t], 0) == 1.0f && ds_fp8_scale(1.0f, 0) == 1.0f);
        cr_assert(ds_fp8_factor(types[t], DS_FP8_INFINITE) == 1.0f);
        cr_assert(isnan(ds_fp8_scale(1.0f, DS_FP8_INFINITE)));
        cr_assert(isnan(ds_fp8_scale(1.0f, DS_FP8_INFINITE + 1)));
    }
}

/* --- casts -------------------------------------------------------------------------------------*/

/* Bytes for codes, aligned, with a guard behind them. */
static uint8_t *bytes_new(size_t n)
{
    uint8_t *bytes = aligned_alloc(16, n + 16);

    cr_assert(bytes != NULL);
    memset(bytes, 0xee, n + 16);
    return bytes;
}

static void bytes_free(uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < 16; i++)
        cr_assert(bytes[n + i] == 0xee, "written past the end");
    free(bytes);
}

/* The same, each computed once: matrices ask for every element. */
static double value_of(enum ds_fp8 type, unsigned code)
{
    static double value[2][256];
    static bool made;

    for (unsigned i = 0; !made && i < 256; i++) {
        value[DS_E4M3][i] = defined(DS_E4M3, i);
        value[DS_E5M2][i] = defined(DS_E5M2, i);
    }
    made = true;
    return value[type][code];
}

/* Compare with what the definition gives: the nearest code, the even one of two. */
static unsigned nearest(enum ds_fp8 type, double x)
{
    unsigned best = 0;

    for (unsigned code = 1; code <= last_code(type); code++) {
        double now = fabs(value_of(type, code) - fabs(x)),
               then = fabs(value_of(type, best) - fabs(x));

        if (now < then || (now == then && code % 2 == 0))
            best = code;
    }
    return best | (signbit(x) ? 0x80u : 0u);
}

static void check_codes(const struct nums *x, size_t rows, size_t cols, enum ds_fp8 type,
                        const uint8_t *codes, const uint8_t *turned, float scale, const char *what)
{
    double largest = 0.0;
    int power;

    for (size_t i = 0; i < rows * cols; i++)
        largest = fmax(largest, fabs(x->d[i]));
    cr_assert(frexp((double)scale, &power) == 0.5, "%s: scale %a", what, (double)scale);
    cr_assert(largest / (double)scale <= defined(type, last_code(type)), "%s: scale %a", what,
              (double)scale);
    cr_assert(largest == 0.0 || 2.0 * largest / (double)scale > defined(type, last_code(type)),
              "%s: scale %a", what, (double)scale);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            unsigned want = nearest(type, x->d[i * cols + j] / (double)scale);

            cr_assert(codes == NULL || codes[i * cols + j] == want, "%s: (%zu,%zu) %02x, not %02x",
                      what, i, j, codes[i * cols + j], want);
            cr_assert(turned == NULL || turned[j * rows + i] == want,
                      "%s: turned (%zu,%zu) %02x, not %02x", what, i, j, turned[j * rows + i],
                      want);
        }
    }
}

/* Its largest element is found first. */
static void cast(const char *isa, unsigned threads, const struct ds_fp8_cast_args *args)
{
    struct ds_device *device = open_cpu(isa, threads, 4096);
    uint32_t *largest = malloc(sizeof(*largest)); /* where any device reaches it */
    const struct ds_largest_args first = {
        .n = args->rows * args->cols, .act = args->act, .x = args->x, .largest = largest};
    struct ds_fp8_cast_args then = *args;
    struct ds_error err = {0};

    if (device != NULL) {
        *largest = 0x7f812345;
        then.largest = largest;
        cr_assert(ds_largest(&first, ds_device_stream(device), &err) == 0, "%s", err.text);
        cr_assert(ds_fp8_cast(&then, ds_device_stream(device), &err) == 0, "%s", err.text);
        ds_device_close(device);
    }
    free(largest);
}

static void check_largest(size_t n, enum ds_dtype act, size_t at, double value, unsigned threads)
{
    struct ds_device *device = open_cpu(NULL, threads, 0);
    struct nums x = nums_random(act, n + 1, 2.0, 0.0); /* and not aligned */
    uint32_t *largest = malloc(sizeof(*largest)), want = 0;
    const struct ds_largest_args args = {
        .n = n, .act = act, .x = x.data + ds_dtype_bytes(act), .largest = largest};

    if (n > 0)
        nums_set(&x, 1 + at, value);
    for (size_t i = 1; i <= n; i++) {
        uint32_t bits = ds_fp8_bits((float)x.d[i]) & 0x7fffffffu;

        want = bits > want ? bits : want;
    }
    *largest = UINT32_MAX;
    cr_assert(ds_largest(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(n > 0 && isnan(value) ? *largest > DS_FP8_INFINITE && *largest < 1u << 31
                                    : *largest == want,
              "%zu elements, %g at %zu: %08x for %08x", n, value, at, *largest, want);
    free(largest);
    nums_free(&x);
    ds_device_close(device);
}

Test(fp8, largest_elements)
{
    static const size_t sizes[] = {0, 1, 7, 8, 9, 255, 2049, 70001};
    static const double values[] = {0.0, -777.0, 1e-30, (double)INFINITY, (double)NAN};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (size_t k = 0; k < sizeof(values) / sizeof(values[0]); k++) {
            static const enum ds_dtype acts[] = {DS_F32, DS_BF16, DS_F16};
            size_t at = sizes[i] > 0 ? (k * 3001 + 5) % sizes[i] : 0;

            check_largest(sizes[i], acts[(i + k) % 3], at, values[k], (unsigned)k % 3 + 1);
        }
}

/* ways: 1 as it lies, 2 turned, 3 both. */
static void check_cast(size_t rows, size_t cols, enum ds_dtype act, enum ds_fp8 type, unsigned ways,
                       double size)
{
    static const char *const isas[] = {"v4", "v3", "base"};
    struct nums x = nums_random(act, rows * cols, size, 0.0);
    uint8_t *codes = bytes_new(rows * cols), *turned = bytes_new(rows * cols);
    float scale;
    const struct ds_fp8_cast_args args = {.rows = rows,
                                          .cols = cols,
                                          .act = act,
                                          .type = type,
                                          .x = x.data,
                                          .codes = ways & 1 ? codes : NULL,
                                          .turned = ways & 2 ? turned : NULL,
                                          .scale = &scale};
    char what[96];

    for (unsigned threads = 1; threads <= TRIALS; threads += TRIALS_STEP) {
        for (size_t i = 0; i < 3; i++) {
            struct ds_device *there = open_cpu(isas[i], 1, 4096);

            if (there == NULL)
                continue;
            ds_device_close(there);
            snprintf(what, sizeof(what), "%zux%zu of %s, type %d, ways %u, isa %s, %u threads",
                     rows, cols, ds_dtype_name(act), (int)type, ways, isas[i], threads);
            scale = 0.0f;
            cast(isas[i], threads, &args);
            check_codes(&x, rows, cols, type, args.codes, args.turned, scale, what);
            memset(codes, 0xee, rows * cols);
            memset(turned, 0xee, rows * cols);
        }
    }
    bytes_free(codes, rows * cols);
    bytes_free(turned, rows * cols);
    nums_free(&x);
}

static const struct {
    size_t rows, cols;
} shapes[] = {{16, 16}, {16, 80}, {112, 16}, {64, 64}, {80, 144}, {208, 48}};

Test(fp8, casts)
{
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        for (size_t t = 0; t < 2; t++) {
            for (unsigned ways = 1; ways <= 3; ways++)
                check_cast(shapes[s].rows, shapes[s].cols, DS_BF16, types[t], ways, 3.0);
            check_cast(shapes[s].rows, shapes[s].cols, DS_F32, types[t], 3, 1e-9);
            check_cast(shapes[s].rows, shapes[s].cols, DS_F16, types[t], 3, 100.0);
        }
    }
}

/* Elements that need not be aligned: those of a tensor that lies behind another. */
Test(fp8, cast_of_what_is_not_aligned)
{
    struct nums x = nums_random(DS_BF16, 32 * 48 + 1, 1.0, 0.0), y = x;
    uint8_t *codes = bytes_new(32 * 48);
    float scale;
    const struct ds_fp8_cast_args args = {
        .rows = 32, .cols = 48, .act = DS_BF16, .x = x.data + 2, .codes = codes, .scale = &scale};

    cast(NULL, 2, &args);
    y.d++;
    check_codes(&y, 32, 48, DS_E4M3, codes, NULL, scale, "not aligned");
    bytes_free(codes, 32 * 48);
    nums_free(&x);
}

/* One element of many, wherever it is, is seen; zeros and what is next to nothing are no trouble. */
Test(fp8, cast_of_what_is_not_finite)
{
    static const double odd[] = {(double)INFINITY, -(double)INFINITY, (double)NAN};
    struct nums x = nums_random(DS_BF16, 144 * 80, 1.0, 0.0);
    uint8_t *codes = bytes_new(144 * 80);
    float scale;
    const struct ds_fp8_cast_args args = {.rows = 144,
                                          .cols = 80,
                                          .act = DS_BF16,
                                          .type = DS_E5M2,
                                          .x = x.data,
                                          .codes = codes,
                                          .scale = &scale};

    for (size_t i = 0; i < 3; i++) {
        for (size_t at = i; at < 144 * 80; at += 1709) {
            double was = x.d[at];

            nums_set(&x, at, odd[i]);
            cast(NULL, 2, &args);
            cr_assert(isnan(scale), "%g at %zu: scale %g", odd[i], at, (double)scale);
            nums_set(&x, at, was);
        }
    }
    cast(NULL, 2, &args);
    cr_assert(!isnan(scale));
    for (size_t i = 0; i < 144 * 80; i++)
        nums_set(&x, i, i % 2 ? 0.0 : -0.0);
    cast(NULL, 2, &args);
    check_codes(&x, 144, 80, DS_E5M2, codes, NULL, scale, "zeros");
    cr_assert(scale == 1.0f);
    nums_set(&x, 100, 0x1p-133); /* the least of BF16 */
    cast(NULL, 2, &args);
    cr_assert(scale == 0x1p-126f && codes[100] == nearest(DS_E5M2, 0x1p-7));
    bytes_free(codes, 144 * 80);
    nums_free(&x);
}

/* --- products ----------------------------------------------------------------------------------*/

enum added { NOTHING, ITSELF, OTHER };

struct product {
    struct ds_matmul_args args;
    uint8_t *a, *b;
    _Alignas(DS_FP8_UNIT) float a_scale;
    _Alignas(DS_FP8_UNIT) float b_scale;
    struct nums c, bias;
    double *want;
};

static uint8_t *codes_random(enum ds_fp8 type, size_t n)
{
    struct nums x = nums_random(DS_F32, n, type == DS_E4M3 ? 40.0 : 4000.0, 0.0);
    uint8_t *codes = bytes_new(n);

    for (size_t i = 0; i < n; i++)
        codes[i] = ds_fp8_from_f32(type, (float)x.d[i]);
    nums_free(&x);
    return codes;
}

static double product_at(const struct product *p, size_t i, size_t j)
{
    const struct ds_matmul_args *a = &p->args;
    double sum = 0.0;

    for (size_t k = 0; k < a->k; k++)
        sum += value_of(a->fp8.a_type, p->a[i * a->k + k]) *
               value_of(a->fp8.b_type, p->b[j * a->k + k]);
    return sum * (double)p->a_scale * (double)p->b_scale;
}

static int run(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct product *p = ctx;
    struct ds_matmul_args args = p->args;

    args.fp8.a_scale = &p->a_scale;
    args.fp8.b_scale = &p->b_scale;
    args.d = out[0];
    if (args.c != NULL && args.c != p->c.data)
        args.c = out[0];
    return ds_matmul(&args, stream, err);
}

static struct product make(size_t m, size_t n, size_t k, enum ds_fp8 a_type, enum ds_fp8 b_type,
                           enum ds_dtype out, enum added added, bool bias)
{
    struct product p = {
        .args = {.m = m,
                 .n = n,
                 .k = k,
                 .trans_b = true,
                 .in_type = DS_U8,
                 .out_type = out,
                 .fp8 = {.a_type = a_type, .b_type = b_type, .fast = added == OTHER},
                 .lda = k,
                 .ldb = k,
                 .ldc = n,
                 .ldd = n},
        .a = codes_random(a_type, m * k),
        .b = codes_random(b_type, n * k),
        .a_scale = a_type == DS_E4M3 ? 0x1p-5f : 0x1p-12f,
        .b_scale = b_type == DS_E4M3 ? 0x1p-6f : 0x1p-11f,
        .c = nums_random(out, m * n, 3.0, 0.0),
        .bias = nums_random(DS_BF16, n, 5.0, 0.0),
        .want = calloc(m * n, sizeof(double))};

    p.args.a = p.a;
    p.args.b = p.b;
    p.args.bias = bias ? p.bias.data : NULL;
    p.args.c = added == OTHER ? (void *)p.c.data : added == ITSELF ? (void *)&p : NULL;
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++)
            p.want[i * n + j] = product_at(&p, i, j) + (bias ? p.bias.d[j] : 0.0) +
                                (added == NOTHING ? 0.0 : p.c.d[i * n + j]);
    }
    return p;
}

static void drop(struct product *p)
{
    bytes_free(p->a, p->args.m * p->args.k);
    bytes_free(p->b, p->args.n * p->args.k);
    nums_free(&p->c);
    nums_free(&p->bias);
    free(p->want);
}

/* Beside the order of sums nothing is rounded but D, once: the tolerances are those of that.  Matrix
 * units of Ada and Hopper are not as exact: they keep some 13 bits of a sum's fraction, which are
 * added up in F32 at intervals where `fast` is false (DeepSeek-V3 Technical Report, 2024, 3.3.2). */
#ifdef DS_TESTS_GPU_ON_DEVICE_H
enum { SUMS_ARE_EXACT = 0 };
#else
enum { SUMS_ARE_EXACT = 1 };
#endif

static void check(size_t m, size_t n, size_t k, enum ds_fp8 a_type, enum ds_fp8 b_type,
                  enum ds_dtype out, enum added added, bool bias)
{
    struct product p = make(m, n, k, a_type, b_type, out, added, bias);
    char what[128];
    struct trial t = {.what = what,
                      .out = {{out, m * n, p.want, added == ITSELF ? &p.c : NULL}},
                      .outs = 1,
                      .run = run,
                      .ctx = &p,
                      .query = {.act = DS_BF16, .fp8_elems = (m + n) * k},
                      .f32 = SUMS_ARE_EXACT ? 1e-6 : 2e-3,
                      .bf16 = SUMS_ARE_EXACT ? 2e-3 : 4e-3,
                      .bits_vary = true};

    snprintf(what, sizeof(what), "%zux%zux%zu types %d %d to %s add %d bias %d", m, n, k,
             (int)a_type, (int)b_type, ds_dtype_name(out), (int)added, (int)bias);
    try_all(&t);
    drop(&p);
}

static const struct {
    size_t m, n, k;
} products[] = {{16, 16, 16}, {48, 16, 80}, {16, 112, 64}, {80, 96, 208}};

Test(fp8, products)
{
    for (size_t s = 0; s < sizeof(products) / sizeof(products[0]); s++) {
        size_t m = products[s].m, n = products[s].n, k = products[s].k;

        for (int added = NOTHING; added <= OTHER; added++) {
            for (int bias = 0; bias < 2; bias++)
                check(m, n, k, DS_E4M3, DS_E4M3, DS_BF16, (enum added)added, bias);
            check(m, n, k, DS_E5M2, DS_E4M3, DS_BF16, (enum added)added, false);
            check(m, n, k, DS_E4M3, DS_E5M2, DS_F32, (enum added)added, false);
            check(m, n, k, DS_E5M2, DS_E4M3, DS_F32, (enum added)added, false);
        }
    }
}

/* A scale that is not a number leaves no number, and a code of NaN none in its row. */
Test(fp8, products_of_what_is_not_finite)
{
    struct product p = make(32, 48, 64, DS_E4M3, DS_E5M2, DS_F32, NOTHING, false);
    struct ds_scratch_query query = {
        .act = DS_BF16, .threads = 2, .fp8_elems = (p.args.m + p.args.n) * p.args.k};
    struct ds_device *device = open_cpu(NULL, 2, ds_scratch_bytes(&query));
    struct ds_stream *stream = ds_device_stream(device);
    float *d = aligned_alloc(16, 32 * 48 * sizeof(float));
    void *out[] = {d};

    p.a_scale = NAN;
    cr_assert(run(&p, out, stream, NULL) == 0);
    for (size_t i = 0; i < 32 * 48; i++)
        cr_assert(isnan(d[i]), "element %zu is %g", i, (double)d[i]);
    p.a_scale = 1.0f;
    p.a[5 * 64 + 7] = 0x7f;
    cr_assert(run(&p, out, stream, NULL) == 0);
    for (size_t i = 0; i < 32 * 48; i++)
        cr_assert(!isnan(d[i]) == (i / 48 != 5), "element %zu is %g", i, (double)d[i]);
    free(d);
    ds_device_close(device);
    drop(&p);
}

Test(fp8, what_it_refuses)
{
    static _Alignas(16) uint8_t codes[4096];
    static _Alignas(16) float f[1024], scale;
    static uint32_t largest;
    const struct ds_largest_args largest_args = {.n = 3, .x = f, .largest = &largest};
    const struct ds_fp8_cast_args cast_args = {
        .rows = 16, .cols = 32, .x = f, .codes = codes, .largest = &largest, .scale = &scale};
    const struct ds_matmul_args args = {.m = 16,
                                        .n = 16,
                                        .k = 32,
                                        .trans_b = true,
                                        .in_type = DS_U8,
                                        .out_type = DS_F32,
                                        .fp8 = {.a_scale = &scale, .b_scale = &scale},
                                        .a = codes,
                                        .b = codes,
                                        .lda = 32,
                                        .ldb = 32,
                                        .d = f,
                                        .ldd = 16};
    struct ds_device *device = open_cpu(NULL, 1, 0);
    struct ds_stream *stream = ds_device_stream(device);

    REFUSES(largest, largest_args, a.act = DS_U8);
    REFUSES(largest, largest_args, a.x = NULL);
    REFUSES(largest, largest_args, a.largest = NULL);
    REFUSES(fp8_cast, cast_args, a.rows = 0);
    REFUSES(fp8_cast, cast_args, a.rows = 8);
    REFUSES(fp8_cast, cast_args, a.cols = 40);
    REFUSES(fp8_cast, cast_args, a.rows = SIZE_MAX / 16 * 16);
    REFUSES(fp8_cast, cast_args, a.act = DS_U8);
    REFUSES(fp8_cast, cast_args, a.type = (enum ds_fp8)7);
    REFUSES(fp8_cast, cast_args, a.x = NULL);
    REFUSES(fp8_cast, cast_args, a.largest = NULL);
    REFUSES(fp8_cast, cast_args, a.scale = NULL);
    REFUSES(fp8_cast, cast_args, a.codes = NULL);
    REFUSES(fp8_cast, cast_args, a.codes = codes + 8);
    REFUSES(fp8_cast, cast_args, a.turned = codes + 1);
    REFUSES(matmul, args, a.m = 17);
    REFUSES(matmul, args, (a.n = 8, a.ldd = 16));
    REFUSES(matmul, args, (a.k = 8, a.lda = a.ldb = 8));
    REFUSES(matmul, args, a.trans_a = true);
    REFUSES(matmul, args, a.trans_b = false);
    REFUSES(matmul, args, a.lda = 48);
    REFUSES(matmul, args, a.ldb = 48);
    REFUSES(matmul, args, (a.fp8.a_type = DS_E5M2, a.fp8.b_type = DS_E5M2));
    REFUSES(matmul, args, a.fp8.a_type = (enum ds_fp8)2);
    REFUSES(matmul, args, a.out_type = DS_F16);
    REFUSES(matmul, args, a.out_type = DS_U8);
    REFUSES(matmul, args, a.bias = f);
    REFUSES(matmul, args, a.fp8.a_scale = NULL);
    REFUSES(matmul, args, a.fp8.b_scale = NULL);
    REFUSES(matmul, args, a.fp8.a_scale = f + 1);
    REFUSES(matmul, args, a.fp8.b_scale = f + 2);
    REFUSES(matmul, args, a.d = NULL);
    REFUSES(matmul, args, a.b = codes + 4);
    ds_device_close(device);
}
