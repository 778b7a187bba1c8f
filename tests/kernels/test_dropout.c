/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_dropout.c - dropout against Philox one number at a time, and the share it keeps.
 */
#include "base/rng.h"
#include "tests/kernels/harness.h"

struct dropout {
    struct ds_dropout_args args;
    struct nums x, residual;
    bool in_place;
};

static bool kept(const struct ds_dropout_args *a, size_t i)
{
    uint64_t e = a->first + (a->row > 0 ? i / a->row * a->ld + i % a->row : i);
    const uint32_t ctr[4] = {(uint32_t)(e / 4), (uint32_t)(e / 4 >> 32), (uint32_t)a->stream,
                             (uint32_t)(a->stream >> 32)};
    const uint32_t key[2] = {(uint32_t)a->seed, (uint32_t)(a->seed >> 32)};
    uint32_t word[4];

    ds_philox(ctr, key, word);
    return (double)word[e % 4] >= floor(a->rate * 4294967296.0);
}

static int run_dropout(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct dropout *c = ctx;
    struct ds_dropout_args args = c->args;

    args.x = c->in_place ? out[0] : c->x.data;
    args.residual = c->residual.data;
    args.y = out[0];
    return ds_dropout(&args, stream, err);
}

/* In place and elsewhere, alone and added to a residual. */
static void check_dropout(const struct ds_dropout_args *args)
{
    struct dropout c = {.args = *args, .x = nums_random(args->act, args->n, 1.0, 3.0)};
    struct nums residual = nums_random(args->act, args->n, 1.0, 0.0);
    const double factor = args->factor != 0.0 ? args->factor : 1.0;
    double *want = calloc(args->n, sizeof(double));
    struct trial t = {.what = "dropout",
                      .out = {{args->act, args->n, want, NULL}},
                      .outs = 1,
                      .run = run_dropout,
                      .ctx = &c,
                      .f32 = 2e-7,
                      .bf16 = 4e-3};

    for (size_t i = 0; i < args->n; i++)
        want[i] = kept(args, i) ? factor * c.x.d[i] / (1.0 - args->rate) : 0.0;
    try_all(&t);
    c.in_place = true;
    t.out[0].before = &c.x;
    try_all(&t);
    c.residual = residual;
    for (size_t i = 0; i < args->n; i++)
        want[i] += residual.d[i];
    try_all(&t);
    nums_free(&c.x);
    nums_free(&residual);
    free(want);
}

Test(dropout, equals_one_number_at_a_time)
{
    static const size_t sizes[] = {1, 7, 255, 256, 1000, 20001};
    static const double rates[] = {0.0, 0.1, 0.5, 0.999};
    static const uint64_t firsts[] = {0, 3, 1021, (UINT64_C(1) << 34) - 5, UINT64_C(3) << 40};

    for (size_t i = 0; i < 6 * 5; i++) {
        struct ds_dropout_args args = {.n = sizes[i % 6],
                                       .act = act_types[i % 3],
                                       .rate = rates[i % 4],
                                       .seed = UINT64_C(0x123456789abcdef) * i,
                                       .stream = (UINT64_C(0x64726f70) << 32) + i,
                                       .first = firsts[i % 5]};

        check_dropout(&args);
        args.factor = i % 2 == 0 ? 0.22 : -3.0;
        check_dropout(&args);
    }
}

/* Rows are parts of longer ones, and have those's numbers. */
Test(dropout, of_parts_of_rows)
{
    static const struct {
        size_t n, row, ld;
    } rows[] = {{21, 7, 21},      {20, 1, 3},          {24, 2, 2},
                {2048, 256, 512}, {30000, 3000, 3001}, {9000, 9, 64}};

    for (size_t i = 0; i < 3 * sizeof(rows) / sizeof(rows[0]); i++) {
        struct ds_dropout_args args = {.n = rows[i / 3].n,
                                       .row = rows[i / 3].row,
                                       .ld = rows[i / 3].ld,
                                       .act = act_types[i % 3],
                                       .rate = 0.3,
                                       .seed = i,
                                       .stream = 7,
                                       .first = 5 * i};

        check_dropout(&args);
    }
}

Test(dropout, rows_are_no_longer_than_those_they_are_of)
{
    struct ds_device *device = open_cpu(NULL, 1, 0);
    float x[6] = {0.0f};
    const struct ds_dropout_args args = {.n = 6, .row = 3, .ld = 2, .rate = 0.1, .x = x, .y = x};

    cr_assert_eq(ds_dropout(&args, ds_device_stream(device), NULL), -EINVAL);
    ds_device_close(device);
}

/* The share within five standard deviations, and as many elements dropped in two streams, seeds or
 * neighbouring places at once as independent ones would be. */
Test(dropout, keeps_the_share_it_should)
{
#ifdef DS_TESTS_FEW
    enum { N = 1 << 14 };
#else
    enum { N = 1 << 20 };
#endif
    static const double rates[] = {0.0, 0.01, 0.1, 0.5, 0.9};
    static const struct {
        uint64_t seed, stream, first;
    } others[] = {{2, 0, 0}, {1, 1, 0}, {1, 0, 1}, {1, 0, N}, {UINT64_C(1) << 32, 0, 0}};
    struct ds_device *device = open_cpu(NULL, 1, 0);
    float *x = malloc(N * sizeof(*x)), *y = malloc(N * sizeof(*y)), *z = malloc(N * sizeof(*z));

    for (size_t i = 0; i < N; i++)
        x[i] = 1.0f;
    for (size_t r = 0; r < 5; r++) {
        double p = rates[r], dropped = 0.0, spread = 5.0 * sqrt(N * p * (1.0 - p));
        struct ds_dropout_args args = {.n = N, .rate = p, .seed = 1, .x = x, .y = y};

        cr_assert_eq(ds_dropout(&args, ds_device_stream(device), NULL), 0);
        for (size_t i = 0; i < N; i++)
            dropped += y[i] == 0.0f;
        cr_assert(fabs(dropped - N * p) <= spread, "rate %g: %g of %d dropped", p, dropped, N);
        for (size_t k = 0; k < sizeof(others) / sizeof(others[0]); k++) {
            double both = 0.0, q = p * p;
            struct ds_dropout_args other = args;

            other.seed = others[k].seed;
            other.stream = others[k].stream;
            other.first = others[k].first;
            other.y = z;
            cr_assert_eq(ds_dropout(&other, ds_device_stream(device), NULL), 0);
            for (size_t i = 0; i < N; i++)
                both += y[i] == 0.0f && z[i] == 0.0f;
            cr_assert(fabs(both - N * q) <= 6.0 * sqrt(N * q * (1.0 - q)) + 0.5,
                      "rate %g, other %zu: %g dropped in both", p, k, both);
        }
    }
    free(x);
    free(y);
    free(z);
    ds_device_close(device);
}
