/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_matmul.c - matrix products against double: shapes, layouts, types, what is added.
 */
#include "tests/kernels/product.h"

#include "kernels/cpu/gemm.h"

static int run(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct product *p = ctx;
    struct ds_matmul_args args = p->args;

    args.d = out[0];
    if (args.c != NULL && args.c != p->c.data)
        args.c = out[0];
    return ds_matmul(&args, stream, err);
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
                      .bits_vary = m > 1 || (layout & 1) != 0, /* of one row they do not */
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

/* More than a task's columns, than a span of them, than the rows that are summed at once. */
Test(matmul, one_row)
{
    static const struct {
        size_t n, k;
    } of[] = {{1, 9}, {3, 700}, {16, 64}, {63, 65}, {520, 130}, {700, 2100}, {8200, 70}};

    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
        for (unsigned layout = 0; layout < 4; layout += 2) {
            for (size_t type = 0; type < 3; type++) {
                check(1, of[i].n, of[i].k, layout, act_types[type], act_types[type], OTHER, true,
                      i % 3);
                check(1, of[i].n, of[i].k, layout, act_types[type], DS_F32, NOTHING, i % 2, 1);
            }
            check(1, of[i].n, of[i].k, layout, DS_F32, DS_F32, ITSELF, false, 0);
        }
    }
}

Test(matmul, training_shapes)
{
    check(384, 128, 512, 1, DS_F32, DS_F32, ITSELF, false, 0);
    check(128, 512, 600, 1, DS_F32, DS_F32, NOTHING, false, 0);
    check(256, 500, 128, 2, DS_F32, DS_F32, NOTHING, false, 12);
}

#ifndef DS_TESTS_EMULATED

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
