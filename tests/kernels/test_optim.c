/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_optim.c - AdamW and the sum of squares against double.
 */
#include "tests/kernels/harness.h"

static const size_t sizes[] = {1, 7, 97, 113, 16384, 16385, 50001};

struct adamw {
    struct ds_adamw_args args;
    bool low;
    struct nums grad;
};

static int run_adamw(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct adamw *c = ctx;
    struct ds_adamw_args args = c->args;

    args.p = out[0];
    args.m = out[1];
    args.v = out[2];
    args.p_low = c->low ? out[3] : NULL;
    args.low_type = DS_BF16;
    args.grad = (float *)(void *)c->grad.data;
    return ds_adamw(&args, stream, err);
}

static void check_adamw(size_t n, unsigned step, bool low)
{
    struct adamw c = {.args = {.n = n,
                               .lr = 3e-2,
                               .beta1 = 0.9,
                               .beta2 = 0.95,
                               .eps = 1e-8,
                               .weight_decay = 0.1,
                               .grad_scale = 0.5},
                      .low = low};
    struct ds_adamw_args *a = &c.args;
    struct nums p = nums_random(DS_F32, n, 1.0, 0.0), m = nums_random(DS_F32, n, 0.1, 0.0);
    struct nums v = nums_random(DS_F32, n, 0.1, 1.0);
    double *want[4];
    struct trial t = {.what = "adamw",
                      .outs = low ? 4 : 3,
                      .run = run_adamw,
                      .ctx = &c,
                      .f32 = 1e-6,
                      .bf16 = 4e-3};

    a->bias1 = 1.0 - pow(a->beta1, step);
    a->bias2 = 1.0 - pow(a->beta2, step);
    c.grad = nums_random(DS_F32, n, 1.0, 0.0);
    for (size_t i = 0; i < 4; i++)
        want[i] = calloc(n, sizeof(double));
    for (size_t i = 0; i < n; i++) {
        double g = c.grad.d[i] * a->grad_scale;

        nums_set(&v, i, fabs(v.d[i]));
        want[1][i] = a->beta1 * m.d[i] + (1.0 - a->beta1) * g;
        want[2][i] = a->beta2 * v.d[i] + (1.0 - a->beta2) * g * g;
        want[0][i] = p.d[i] - a->lr * a->weight_decay * p.d[i] -
                     a->lr * (want[1][i] / a->bias1) / (sqrt(want[2][i] / a->bias2) + a->eps);
        want[3][i] = want[0][i];
    }
    t.out[0] = (struct out){DS_F32, n, want[0], &p};
    t.out[1] = (struct out){DS_F32, n, want[1], &m};
    t.out[2] = (struct out){DS_F32, n, want[2], &v};
    t.out[3] = (struct out){DS_BF16, n, want[3], NULL};
    try_all(&t);
    for (size_t i = 0; i < 4; i++)
        free(want[i]);
    nums_free(&p);
    nums_free(&m);
    nums_free(&v);
    nums_free(&c.grad);
}

Test(adamw, sizes_and_steps)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        check_adamw(sizes[i], 1, false);
        check_adamw(sizes[i], 1 + (unsigned)i * 10, true);
    }
}

Test(sumsq, sum_and_nonfinite)
{
    static const char *const isas[] = {"v4", "v3", "base"};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct nums x = nums_random(DS_F32, sizes[i], 3.0, 0.0);
        double want = 0.0, first = 0.0;
        uint64_t bad = 0;

        for (size_t j = 0; j < sizes[i]; j += 1001, bad++)
            nums_set(&x, j, (double)(bad % 3 == 0 ? NAN : bad % 3 == 1 ? INFINITY : -INFINITY));
        for (size_t j = 0; j < sizes[i]; j++)
            want += isfinite(x.d[j]) ? x.d[j] * x.d[j] : 0.0;
        for (unsigned run = 0; run < 9; run++) {
            struct ds_device *device = open_cpu(isas[run / 3], run % 3 + 1,
                                                ds_scratch_bytes(&(struct ds_scratch_query){0}));
            double sum = -1.0;
            uint64_t nonfinite = 99, place = 98;
            struct ds_sumsq_args args = {.n = sizes[i],
                                         .x = (float *)(void *)x.data,
                                         .sum = &sum,
                                         .nonfinite = &nonfinite,
                                         .place = run % 2 == 0 ? &place : NULL,
                                         .base = 1000};

            if (device == NULL)
                continue;
            cr_assert(ds_sumsq(&args, ds_device_stream(device), NULL) == 0);
            cr_assert(nonfinite == bad, "%zu of %zu", (size_t)nonfinite, (size_t)bad);
            cr_assert(place == (run % 2 == 0 ? 1000 : 98), "at %zu", (size_t)place);
            cr_assert(fabs(sum - want) <= 1e-12 * want, "%.17g for %.17g", sum, want);
            if (run % 3 == 0)
                first = sum;
            cr_assert(memcmp(&first, &sum, sizeof(sum)) == 0, "bits vary with threads");
            ds_device_close(device);
        }
        nums_free(&x);
    }
}

/* The place of the first that is not finite, wherever it and others behind it are. */
Test(sumsq, tells_the_first_place)
{
    static const size_t n = 50001, at[] = {0,     1,     255,   1024,  16383, 16384,
                                           16385, 20000, 32767, 49999, 50000, 50001};
    struct nums x = nums_random(DS_F32, n, 1.0, 0.0);
    struct {
        double sum;
        uint64_t nonfinite, place;
    } *out = calloc(1, sizeof(*out));

    cr_assert_not_null(out);
    for (size_t i = sizeof(at) / sizeof(at[0]); i-- > 0;) { /* the last one first */
        struct ds_device *device =
            open_cpu(NULL, (unsigned)i % 3 + 1, ds_scratch_bytes(&(struct ds_scratch_query){0}));
        const struct ds_sumsq_args args = {.n = n,
                                           .x = (float *)(void *)x.data,
                                           .sum = &out->sum,
                                           .nonfinite = &out->nonfinite,
                                           .place = &out->place,
                                           .base = UINT64_C(1) << 44};

        if (at[i] < n)
            nums_set(&x, at[i], (double)INFINITY);
        cr_assert(ds_sumsq(&args, ds_device_stream(device), NULL) == 0);
        cr_assert(out->place == (at[i] < n ? args.base + at[i] : DS_NOWHERE), "%zu: %zu", at[i],
                  (size_t)out->place);
        ds_device_close(device);
    }
    nums_free(&x);
    free(out);
}

/* One element further the array is not aligned to a word, and its sum is the same. */
Test(sumsq, of_an_array_anywhere)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct nums x = nums_random(DS_F32, sizes[i] + 1, 3.0, 0.0);
        struct ds_device *device =
            open_cpu(NULL, 1, ds_scratch_bytes(&(struct ds_scratch_query){0}));
        double sum[2];
        uint64_t nonfinite;
        struct ds_sumsq_args args = {.n = sizes[i],
                                     .x = (float *)(void *)x.data + 1,
                                     .sum = &sum[0],
                                     .nonfinite = &nonfinite};

        cr_assert(ds_sumsq(&args, ds_device_stream(device), NULL) == 0);
        memmove(x.data, x.data + sizeof(float), sizes[i] * sizeof(float));
        args.x = (float *)(void *)x.data;
        args.sum = &sum[1];
        cr_assert(ds_sumsq(&args, ds_device_stream(device), NULL) == 0);
        cr_assert(memcmp(&sum[0], &sum[1], sizeof(sum[0])) == 0, "%.17g, not %.17g", sum[0],
                  sum[1]);
        ds_device_close(device);
        nums_free(&x);
    }
}

Test(sum, goes_on_from_where_it_was)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct nums x = nums_random(DS_F32, sizes[i], 3.0, 1.0);
        struct ds_device *device = open_cpu(NULL, 1, 0);
        double want = 0.0, sum = 5.0;
        struct ds_sum_args args = {.n = sizes[i], .x = (float *)(void *)x.data, .sum = &sum};

        for (size_t j = 0; j < sizes[i]; j++)
            want += x.d[j];
        cr_assert(ds_sum(&args, ds_device_stream(device), NULL) == 0);
        cr_assert(fabs(sum - want) <= 1e-11 * (double)sizes[i], "%.17g for %.17g", sum, want);
        args.accumulate = true;
        cr_assert(ds_sum(&args, ds_device_stream(device), NULL) == 0);
        cr_assert(fabs(sum - 2.0 * want) <= 2e-11 * (double)sizes[i], "%.17g", sum);
        ds_device_close(device);
        nums_free(&x);
    }
}

Test(add, element_by_element)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct nums x = nums_random(DS_F32, sizes[i], 3.0, 1.0);
        struct nums y = nums_random(DS_F32, sizes[i], 1.0, 0.0);
        struct ds_device *device = open_cpu(NULL, 1, 0);
        struct ds_add_args args = {
            .n = sizes[i], .x = (float *)(void *)x.data, .y = (float *)(void *)y.data};

        cr_assert(ds_add(&args, ds_device_stream(device), NULL) == 0);
        for (size_t j = 0; j < sizes[i]; j++)
            cr_assert(args.y[j] == (float)y.d[j] + (float)x.d[j], "element %zu", j);
        cr_assert((unsigned char)y.data[sizes[i] * sizeof(float)] == 0xa5);
        ds_device_close(device);
        nums_free(&x);
        nums_free(&y);
    }
}

#ifndef DS_TESTS_FEW

Test(sumsq, many_groups_of_chunks)
{
    size_t n = (size_t)DS_SUMSQ_CHUNK * 1030 + 5;
    struct ds_device *device = open_cpu(NULL, 2, ds_scratch_bytes(&(struct ds_scratch_query){0}));
    double sum = 0.0;
    uint64_t nonfinite = 1;
    void *x = NULL;
    struct ds_sumsq_args args = {.n = n, .sum = &sum, .nonfinite = &nonfinite};

    cr_assert(ds_device_alloc(device, n * sizeof(float), &x, NULL) == 0);
    for (size_t i = 0; i < n; i++)
        ((float *)x)[i] = 2.0f;
    args.x = x;
    cr_assert(ds_sumsq(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(sum == 4.0 * (double)n && nonfinite == 0, "%g", sum);
    ds_device_free(device, x, n * sizeof(float));
    ds_device_close(device);
}
#endif
