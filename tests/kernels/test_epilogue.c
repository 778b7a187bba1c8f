/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_epilogue.c - matrix products with GELU, its derivative and the gradient of a bias, in double.
 */
#include "tests/kernels/product.h"

static int run_gelu(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct product *p = ctx;
    struct ds_matmul_args args = p->args;

    args.d = out[0];
    args.epilogue = DS_EPILOGUE_GELU;
    args.gelu_x = out[1];
    return ds_matmul(&args, stream, err);
}

static int run_gelu_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct product *p = ctx;
    struct ds_matmul_args args = p->args;

    args.d = out[0];
    args.epilogue = DS_EPILOGUE_GELU_BWD;
    args.gelu_x = p->c.data; /* any numbers of D's type */
    return ds_matmul(&args, stream, err);
}

static int run_dbias(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct product *p = ctx;
    struct ds_matmul_args args = p->args;

    args.d = out[0];
    args.dbias = (float *)out[1];
    args.accumulate_dbias = args.c != NULL;
    args.c = args.c != NULL ? out[0] : NULL;
    return ds_matmul(&args, stream, err);
}

static void check_gelu(size_t m, size_t n, size_t k, unsigned layout, enum ds_dtype in,
                       enum ds_dtype out, bool bias)
{
    struct product p = make(m, n, k, layout, in, out, NOTHING, bias, layout);
    double *act = calloc(m * n, sizeof(double));
    char what[128];
    struct trial t = {.what = what,
                      .out = {{out, m * n, act, NULL}, {out, m * n, p.want, NULL}},
                      .outs = 2,
                      .run = run_gelu,
                      .ctx = &p,
                      .query = {.act = in},
                      .bits_vary = true,
                      .low = in != DS_F32};

    snprintf(what, sizeof(what), "gelu of %zux%zux%zu layout %u %s to %s bias %d", m, n, k, layout,
             ds_dtype_name(in), ds_dtype_name(out), (int)bias);
    for (size_t i = 0; i < m * n; i++)
        act[i] = gelu(p.want[i]);
    try_all(&t);
    free(act);
    drop(&p);
}

static void check_gelu_bwd(size_t m, size_t n, size_t k, unsigned layout, enum ds_dtype in,
                           enum ds_dtype out)
{
    struct product p = make(m, n, k, layout, in, out, NOTHING, false, layout);
    char what[128];
    struct trial t = {.what = what,
                      .out = {{out, m * n, p.want, NULL}},
                      .outs = 1,
                      .run = run_gelu_bwd,
                      .ctx = &p,
                      .query = {.act = in},
                      .bits_vary = true,
                      .low = in != DS_F32};

    snprintf(what, sizeof(what), "gelu backward of %zux%zux%zu layout %u %s to %s", m, n, k, layout,
             ds_dtype_name(in), ds_dtype_name(out));
    for (size_t i = 0; i < m * n; i++)
        p.want[i] *= gelu_slope(p.c.d[i]);
    try_all(&t);
    drop(&p);
}

/* The gradients of a weight and of its bias: sums over k tokens. */
static void check_dbias(size_t m, size_t n, size_t k, unsigned layout, enum ds_dtype in, bool add)
{
    struct product p = make(m, n, k, layout, in, DS_F32, add ? ITSELF : NOTHING, false, 0);
    struct nums before = nums_random(DS_F32, n, 2.0, 0.0);
    double *dbias = calloc(n, sizeof(double));
    char what[128];
    struct trial t = {
        .what = what,
        .out = {{DS_F32, m * n, p.want, add ? &p.c : NULL},
                {DS_F32, n, dbias, add ? &before : NULL}},
        .outs = 2,
        .run = run_dbias,
        .ctx = &p,
        .query = {.act = in, .rows = k, .hidden = n},
        .bits_vary = true,
        .low = in != DS_F32,
    };

    snprintf(what, sizeof(what), "gradients of a bias, %zux%zux%zu layout %u %s add %d", m, n, k,
             layout, ds_dtype_name(in), (int)add);
    for (size_t j = 0; j < n; j++) {
        dbias[j] = add ? before.d[j] : 0.0;
        for (size_t i = 0; i < k; i++)
            dbias[j] += p.b.d[i * n + j];
    }
    try_all(&t);
    nums_free(&before);
    free(dbias);
    drop(&p);
}

static const struct {
    size_t m, n, k;
} wide[] = {{1, 1, 1},    {3, 5, 7},    {16, 64, 40}, {17, 33, 48},
            {64, 96, 65}, {5, 136, 64}, {9, 264, 33}};

Test(epilogue, gelu)
{
    for (size_t s = 0; s < sizeof(wide) / sizeof(wide[0]); s++) {
        size_t m = wide[s].m, n = wide[s].n, k = wide[s].k;

        for (unsigned layout = 0; layout < 4; layout++) {
            check_gelu(m, n, k, layout, DS_F32, DS_F32, layout % 2);
            check_gelu(m, n, k, layout, DS_BF16, DS_BF16, s % 3 != 0);
            check_gelu(m, n, k, layout, DS_BF16, DS_F32, s % 2);
            check_gelu_bwd(m, n, k, layout, DS_F32, DS_F32);
            check_gelu_bwd(m, n, k, layout, DS_BF16, DS_BF16);
            check_gelu_bwd(m, n, k, layout, DS_BF16, DS_F32);
        }
        check_gelu(m, n, k, 0, DS_F16, DS_F16, true);
        check_gelu_bwd(m, n, k, 2, DS_F16, DS_F16);
    }
}

Test(epilogue, gradients_of_a_bias)
{
    for (size_t s = 0; s < sizeof(wide) / sizeof(wide[0]); s++) {
        for (unsigned i = 0; i < sizeof(act_types) / sizeof(act_types[0]); i++) {
            check_dbias(wide[s].m, wide[s].n, wide[s].k, 1, act_types[i], false);
            check_dbias(wide[s].m, wide[s].n, wide[s].k, 1, act_types[i], true);
        }
        check_dbias(wide[s].k, wide[s].n, wide[s].m, 0, DS_BF16, s % 2);
    }
}

#ifndef DS_TESTS_EMULATED

static void bits_of_two_calls(enum ds_dtype type)
{
    enum { M = 33, N = 72, K = 50 };
    struct product p = make(M, N, K, 2, type, type, NOTHING, true, 0);
    struct ds_device *device =
        open_cpu(NULL, 2, ds_scratch_bytes(&(struct ds_scratch_query){.threads = 2, .act = type}));
    struct ds_stream *stream = ds_device_stream(device);
    struct nums one = nums_blank(type, M * N), x = nums_blank(type, M * N);
    struct nums two = nums_blank(type, M * N);
    struct ds_matmul_args args = p.args;
    const struct ds_gelu_fwd_args gelu = {.n = M * N, .act = type, .x = p.c.data, .y = two.data};
    const struct ds_gelu_bwd_args back = {
        .n = M * N, .act = type, .x = p.c.data, .dy = two.data, .dx = two.data};
    size_t bytes = M * N * ds_dtype_bytes(type);
    void *out[] = {one.data, x.data};

    cr_assert(run_gelu(&p, out, stream, NULL) == 0);
    args.d = p.c.data;
    cr_assert(ds_matmul(&args, stream, NULL) == 0 && ds_gelu_fwd(&gelu, stream, NULL) == 0);
    cr_assert(memcmp(x.data, p.c.data, bytes) == 0 && memcmp(one.data, two.data, bytes) == 0);
    p.args.bias = args.bias = NULL;
    cr_assert(run_gelu_bwd(&p, out, stream, NULL) == 0);
    args.d = two.data;
    cr_assert(ds_matmul(&args, stream, NULL) == 0 && ds_gelu_bwd(&back, stream, NULL) == 0);
    cr_assert(memcmp(one.data, two.data, bytes) == 0);
    ds_device_close(device);
    nums_free(&one);
    nums_free(&two);
    nums_free(&x);
    drop(&p);
}

Test(epilogue, bits_of_two_calls)
{
    for (unsigned i = 0; i < sizeof(act_types) / sizeof(act_types[0]); i++)
        bits_of_two_calls(act_types[i]);
}
#endif
