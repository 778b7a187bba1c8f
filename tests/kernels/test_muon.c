/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_muon.c - Muon's passes over elements against their formulas in double; the iteration between
 * them is tested as a whole in tests/engine/test_muon.c.
 */
#include "tests/kernels/harness.h"

enum { UPDATES = 3 };

static const double momentum = 0.95, grad_scale = 0.5, lr = 2e-2, decay = 0.1, step = 3e-2;

struct run {
    size_t n;
    bool nesterov, low;
    struct nums grad[UPDATES];
};

/* out: m, u, p, p_low.  The direction of the last update is what the parameters are moved by. */
static int run_updates(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    const struct run *run = ctx;
    struct ds_muon_moments_args moments = {.n = run->n,
                                           .m = out[0],
                                           .u = out[1],
                                           .momentum = momentum,
                                           .grad_scale = grad_scale,
                                           .nesterov = run->nesterov};
    const struct ds_muon_args args = {.n = run->n,
                                      .p = out[2],
                                      .x = out[1],
                                      .low_type = DS_BF16,
                                      .p_low = run->low ? out[3] : NULL,
                                      .lr = lr,
                                      .weight_decay = decay,
                                      .step = step};
    int rc = 0;

    for (unsigned t = 0; rc == 0 && t < UPDATES; t++) {
        moments.grad_type = run->grad[t].type;
        moments.grad = run->grad[t].data;
        rc = ds_muon_moments(&moments, stream, err);
    }
    return rc != 0 ? rc : ds_muon(&args, stream, err);
}

static void check(size_t n, enum ds_dtype type, bool nesterov, bool low)
{
    struct run run = {.n = n, .nesterov = nesterov, .low = low};
    struct nums p = nums_random(DS_F32, n, 1.0, 0.0), zero = nums_random(DS_F32, n, 0.0, 0.0);
    double *want[3];
    struct trial t = {.what = nesterov ? "muon, nesterov" : "muon",
                      .outs = low ? 4 : 3,
                      .run = run_updates,
                      .ctx = &run,
                      .f32 = 1e-6,
                      .bf16 = 4e-3};

    for (size_t i = 0; i < 3; i++)
        want[i] = calloc(n, sizeof(double));
    for (unsigned u = 0; u < UPDATES; u++) {
        run.grad[u] = nums_random(type, n, 1.0, 0.1);
        for (size_t i = 0; i < n; i++) {
            double g = run.grad[u].d[i] * grad_scale;

            want[0][i] = momentum * want[0][i] + (1 - momentum) * g;
            want[1][i] = nesterov ? (1 - momentum) * g + momentum * want[0][i] : want[0][i];
        }
    }
    for (size_t i = 0; i < n; i++)
        want[2][i] = p.d[i] - lr * decay * p.d[i] - step * want[1][i];
    t.out[0] = (struct out){DS_F32, n, want[0], &zero};
    t.out[1] = (struct out){DS_F32, n, want[1], NULL};
    t.out[2] = (struct out){DS_F32, n, want[2], &p};
    t.out[3] = (struct out){DS_BF16, n, want[2], NULL};
    try_all(&t);
    for (size_t i = 0; i < 3; i++)
        free(want[i]);
    for (unsigned u = 0; u < UPDATES; u++)
        nums_free(&run.grad[u]);
    nums_free(&p);
    nums_free(&zero);
}

Test(muon, passes_follow_their_formulas)
{
    static const size_t sizes[] = {1, 7, 97, 3 * 5 * 211, 16385};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (size_t k = 0; k < 3; k++)
            for (int nesterov = 0; nesterov < 2; nesterov++)
                check(sizes[i], act_types[k], nesterov, (i + k) % 2 == 0);
}

static const struct {
    size_t rows, cols;
    double alpha, beta, squares; /* 0: none */
} affines[] = {
    {1, 1, 2.0, -1.0, 0.0},    {3, 3, 0.5, 0.0, 0.0},     {17, 17, -4.775, 3.4445, 0.0},
    {5, 40, 2.0, 100.0, 0.0},  {40, 5, 2.0, -100.0, 0.0}, {130, 259, 1e-3, 1.0, 0.0},
    {130, 259, 1.0, 0.0, 3e4}, {40, 5, 2.0, -1.0, 1e-9},
};

struct affine {
    struct ds_affine_args args;
    const struct nums *x;
    bool in_place;
};

static int run_affine(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct affine *a = ctx;

    a->args.y = out[0];
    a->args.x = a->in_place ? out[0] : (const float *)(void *)a->x->data;
    return ds_affine(&a->args, stream, err);
}

Test(muon, multiples_of_a_matrix_and_of_the_diagonal)
{
    for (size_t i = 0; i < 2 * sizeof(affines) / sizeof(affines[0]); i++) {
        size_t rows = affines[i / 2].rows, cols = affines[i / 2].cols, n = rows * cols;
        double alpha = affines[i / 2].alpha, beta = affines[i / 2].beta;
        double sum = affines[i / 2].squares, *squares = sum > 0.0 ? &sum : NULL;
        struct nums x = nums_random(DS_F32, n, 1.0, 0.0);
        double *want = calloc(n, sizeof(*want));
        struct affine a = {.args = {.rows = rows,
                                    .cols = cols,
                                    .alpha = alpha,
                                    .beta = beta,
                                    .squares = squares,
                                    .eps = 1e-5},
                           .x = &x,
                           .in_place = i % 2 == 1};
        struct trial t = {.what = "affine",
                          .outs = 1,
                          .out = {{DS_F32, n, want, i % 2 == 1 ? &x : NULL}},
                          .run = run_affine,
                          .ctx = &a,
                          .f32 = 1e-6};

        for (size_t k = 0; k < n; k++)
            want[k] = (squares != NULL ? alpha / (sqrt(*squares) + 1e-5) : alpha) * x.d[k] +
                      (k / cols == k % cols ? beta : 0.0);
        try_all(&t);
        free(want);
        nums_free(&x);
    }
}
