/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_matmul.c - matrix products against double: shapes, layouts, types, what is added.
 */
#include "tests/kernels/harness.h"

#include "kernels/cpu/gemm.h"

enum added { NOTHING, ITSELF, OTHER };

struct product {
    struct ds_matmul_args args;
    struct nums a, b, c, bias;
    double *want;
};

static double product_at(const struct product *p, size_t i, size_t j)
{
    const struct ds_matmul_args *a = &p->args;
    double sum = 0.0;

    for (size_t k = 0; k < a->k; k++)
        sum += p->a.d[a->trans_a ? k * a->lda + i : i * a->lda + k] *
               p->b.d[a->trans_b ? j * a->ldb + k : k * a->ldb + j];
    return sum;
}

static int run(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct product *p = ctx;
    struct ds_matmul_args args = p->args;

    args.d = out[0];
    if (args.c != NULL && args.c != p->c.data)
        args.c = out[0];
    return ds_matmul(&args, stream, err);
}

static struct product make(size_t m, size_t n, size_t k, unsigned layout, enum ds_dtype in,
                           enum ds_dtype out, enum added added, bool bias, size_t pad)
{
    struct product p = {.args = {.m = m, .n = n, .k = k, .in_type = in, .out_type = out}};
    struct ds_matmul_args *a = &p.args;

    a->trans_a = (layout & 1) != 0;
    a->trans_b = (layout & 2) != 0;
    a->lda = (a->trans_a ? m : k) + pad;
    a->ldb = (a->trans_b ? k : n) + 2 * pad;
    a->ldd = n;
    a->ldc = added == OTHER ? n + pad : n;
    p.a = nums_random(in, a->lda * (a->trans_a ? k : m), 1.0, 0.1);
    p.b = nums_random(in, a->ldb * (a->trans_b ? n : k), 1.0, 0.0);
    p.c = nums_random(out, a->ldc * m, 3.0, 0.0);
    p.bias = nums_random(in, n, 5.0, 0.0);
    a->a = p.a.data;
    a->b = p.b.data;
    a->bias = bias ? p.bias.data : NULL;
    a->c = added == OTHER ? (void *)p.c.data : added == ITSELF ? (void *)&p : NULL;
    p.want = calloc(m * n, sizeof(double));
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++)
            p.want[i * n + j] = product_at(&p, i, j) + (bias ? p.bias.d[j] : 0.0) +
                                (added == NOTHING ? 0.0 : p.c.d[i * a->ldc + j]);
    }
    return p;
}

static void drop(struct product *p)
{
    nums_free(&p->a);
    nums_free(&p->b);
    nums_free(&p->c);
    nums_free(&p->bias);
    free(p->want);
}

static void check(size_t m, size_t n, size_t k, unsigned layout, enum ds_dtype in,
                  enum ds_dtype out, enum added added, bool bias, size_t pad)
{
    struct product p = make(m, n, k, layout, in, out, added, bias, pad);
    char what[128];
    struct trial t = {.what = what,
                      .out = {{out, m * n, p.want, added == ITSELF ? &p.c : NULL}},
                      .outs = 1,
                      .run = run,
                      .ctx = &p,
                      .query = {.act = in},
                      .bits_vary = true,
                      .low = in != DS_F32};

    snprintf(what, sizeof(what), "%zux%zux%zu layout %u %s to %s add %d bias %d", m, n, k, layout,
             ds_dtype_name(in), ds_dtype_name(out), (int)added, (int)bias);
    try_all(&t);
    drop(&p);
}

static const struct {
    size_t m, n, k;
} shapes[] = {{1, 1, 1}, {3, 5, 7}, {17, 33, 48}, {64, 97, 113}, {100, 16, 257}, {5, 130, 64}};

Test(matmul, layouts_and_sums)
{
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        for (unsigned layout = 0; layout < 4; layout++) {
            for (int added = NOTHING; added <= OTHER; added++) {
                for (int bias = 0; bias < 2; bias++)
                    check(shapes[s].m, shapes[s].n, shapes[s].k, layout, DS_F32, DS_F32,
                          (enum added)added, bias, (size_t)(layout + s) % 3);
            }
        }
    }
}

Test(matmul, bf16)
{
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        for (unsigned layout = 0; layout < 4; layout++) {
            for (int added = NOTHING; added <= OTHER; added++) {
                check(shapes[s].m, shapes[s].n, shapes[s].k, layout, DS_BF16, DS_BF16,
                      (enum added)added, layout & 1, 1);
                check(shapes[s].m, shapes[s].n, shapes[s].k, layout, DS_BF16, DS_F32,
                      (enum added)added, !(layout & 1), 0);
            }
        }
    }
}

/* Larger than a tile of the widened product in each direction. */
Test(matmul, bf16_tiles)
{
    for (unsigned layout = 0; layout < 4; layout++) {
        check(400, 37, 1030, layout, DS_BF16, DS_BF16, OTHER, true, 3);
        check(400, 37, 1030, layout, DS_F16, DS_F16, OTHER, true, 3);
        check(33, 1100, 70, layout, DS_BF16, DS_F32, ITSELF, false, 0);
        check(33, 1100, 70, layout, DS_F16, DS_F32, ITSELF, false, 0);
        check(800, 520, 40, layout, DS_BF16, DS_F32, NOTHING, true, 0);
        check(800, 520, 40, layout, DS_F16, DS_F32, NOTHING, true, 0);
    }
}

Test(matmul, training_shapes)
{
    check(384, 128, 512, 1, DS_F32, DS_F32, ITSELF, false, 0);
    check(128, 512, 600, 1, DS_F32, DS_F32, NOTHING, false, 0);
    check(256, 500, 128, 2, DS_F32, DS_F32, NOTHING, false, 12);
}

/* --- epilogues --------------------------------------------------------------------------------- */

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
            {64, 96, 65}, {5, 136, 64}, {33, 1032, 9}};

Test(matmul, gelu)
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

Test(matmul, gradients_of_a_bias)
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

Test(matmul, an_epilogue_has_the_bits_of_two_calls)
{
    for (unsigned i = 0; i < sizeof(act_types) / sizeof(act_types[0]); i++)
        bits_of_two_calls(act_types[i]);
}

/* The primitives that multiply BF16 where the processor can, here with F32 and, when they exist,
 * BF16: strides, transposes, bias and sum are the same. */
static void check_primitive(size_t m, size_t n, size_t k, unsigned layout, enum ds_dtype in,
                            enum added added, bool bias)
{
    struct product p = make(m, n, k, layout, in, DS_F32, added, bias, 3);
    struct ds_matmul_args *a = &p.args;
    struct ds_gemm_shape shape = {.m = m,
                                  .n = n,
                                  .k = k,
                                  .lda = a->lda,
                                  .ldb = a->ldb,
                                  .ldd = n,
                                  .in_type = in,
                                  .out_type = DS_F32,
                                  .trans_a = a->trans_a,
                                  .trans_b = a->trans_b,
                                  .add = added != NOTHING,
                                  .bias = bias};
    struct ds_gemm *gemm = NULL;
    struct ds_error err = {0};

    cr_assert(ds__gemm_open(&gemm, 2, &err) == 0, "%s", err.text);
    for (unsigned pass = 0; pass < 3; pass++) { /* the second use of a thread finds it made */
        struct nums d = nums_blank(DS_F32, m * n);
        int rc;

        if (added != NOTHING)
            memcpy(d.data, p.c.data, m * n * sizeof(float));
        rc = ds__gemm_run(gemm, pass % 2, &shape, p.a.data, p.b.data, bias ? p.bias.data : NULL,
                          d.data);
        if (rc == -ENOTSUP && in == DS_BF16) {
            nums_free(&d);
            break;
        }
        cr_assert(rc == 0, "error %d", rc);
        cr_assert(relative_l2(&d, p.want) < 1e-5, "layout %u add %d bias %d: %g", layout,
                  (int)added, (int)bias, relative_l2(&d, p.want));
        nums_free(&d);
    }
    ds__gemm_close(gemm);
    drop(&p);
}

Test(matmul, primitives)
{
    for (unsigned layout = 0; layout < 4; layout++) {
        for (int added = NOTHING; added <= ITSELF; added++) {
            for (int bias = 0; bias < 2; bias++) {
                check_primitive(33, 48, 65, layout, DS_F32, (enum added)added, bias);
                check_primitive(33, 48, 65, layout, DS_BF16, (enum added)added, bias);
            }
        }
    }
}

/* More shapes than the table of primitives holds. */
Test(matmul, primitive_table_overflows)
{
    struct ds_gemm *gemm = NULL;
    float a[600] = {1.0f}, b[600] = {2.0f}, d[1];

    cr_assert(ds__gemm_open(&gemm, 1, NULL) == 0);
    for (size_t k = 1; k < 600; k++) {
        struct ds_gemm_shape shape = {.m = 1,
                                      .n = 1,
                                      .k = k,
                                      .lda = k,
                                      .ldb = 1,
                                      .ldd = 1,
                                      .in_type = DS_F32,
                                      .out_type = DS_F32};

        cr_assert(ds__gemm_run(gemm, 0, &shape, a, b, NULL, d) == 0);
        cr_assert(d[0] == 2.0f);
    }
    ds__gemm_close(gemm);
}
#endif
