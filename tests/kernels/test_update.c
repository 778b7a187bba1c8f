/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_update.c - every optimizer over several updates against its formula in double.
 *
 * A row of the table is an optimizer with its constants.  The reference is a plain function per
 * element, with names and order of the sources (PyTorch's documentation, the Lion paper).
 */
#include "tests/kernels/harness.h"

enum { UPDATES = 5, STATES = 2 };

enum family { ADAMW, ADAM, SGD, LION, ADAGRAD };

struct setting {
    const char *name;
    enum family family;
    unsigned states;
    double lr, beta1, beta2, eps, decay, momentum;
    bool nesterov;
};

/* clang-format off */
static const struct setting settings[] = {
    {"adamw",             ADAMW,   2, 3e-2, 0.9,  0.95,  1e-8,  0.1,  0,    false},
    {"adamw, torch",      ADAMW,   2, 1e-3, 0.9,  0.999, 1e-8,  0.01, 0,    false},
    {"adamw, no decay",   ADAMW,   2, 3e-2, 0.8,  0.99,  1e-3,  0,    0,    false},
    {"adam, l2",          ADAM,    2, 3e-2, 0.9,  0.999, 1e-8,  0.3,  0,    false},
    {"adam",              ADAM,    2, 3e-2, 0.9,  0.999, 1e-8,  0,    0,    false},
    {"sgd",               SGD,     0, 0.1,  0,    0,     0,     0,    0,    false},
    {"sgd, l2",           SGD,     0, 0.1,  0,    0,     0,     0.2,  0,    false},
    {"sgd, momentum",     SGD,     1, 0.1,  0,    0,     0,     0.01, 0.9,  false},
    {"sgd, nesterov",     SGD,     1, 0.1,  0,    0,     0,     0.01, 0.9,  true},
    {"lion",              LION,    1, 1e-2, 0.9,  0.99,  0,     0.1,  0,    false},
    {"lion, no decay",    LION,    1, 1e-2, 0.95, 0.98,  0,     0,    0,    false},
    {"adagrad",           ADAGRAD, 1, 0.1,  0,    0,     1e-10, 0,    0,    false},
    {"adagrad, l2",       ADAGRAD, 1, 0.1,  0,    0,     1e-6,  0.1,  0,    false},
};
/* clang-format on */

/* --- the formulas ----------------------------------------------------------------------------- */

struct element {
    double theta, s[STATES];
};

static double sign_of(double x)
{
    return (x > 0) - (x < 0);
}

static void reference(const struct setting *h, struct element *e, double g, unsigned t)
{
    double m_hat, v_hat, c;

    switch (h->family) {
    case ADAM:
    case ADAMW:
        if (h->family == ADAM)
            g = g + h->decay * e->theta;
        else
            e->theta = e->theta - h->lr * h->decay * e->theta;
        e->s[0] = h->beta1 * e->s[0] + (1 - h->beta1) * g;
        e->s[1] = h->beta2 * e->s[1] + (1 - h->beta2) * g * g;
        m_hat = e->s[0] / (1 - pow(h->beta1, t));
        v_hat = e->s[1] / (1 - pow(h->beta2, t));
        e->theta = e->theta - h->lr * m_hat / (sqrt(v_hat) + h->eps);
        break;
    case SGD:
        g = g + h->decay * e->theta;
        if (h->states > 0) {
            e->s[0] = t > 1 ? h->momentum * e->s[0] + g : g;
            g = h->nesterov ? g + h->momentum * e->s[0] : e->s[0];
        }
        e->theta = e->theta - h->lr * g;
        break;
    case LION:
        c = h->beta1 * e->s[0] + (1 - h->beta1) * g;
        e->theta = e->theta - h->lr * (sign_of(c) + h->decay * e->theta);
        e->s[0] = h->beta2 * e->s[0] + (1 - h->beta2) * g;
        break;
    case ADAGRAD:
        g = g + h->decay * e->theta;
        e->s[0] = e->s[0] + g * g;
        e->theta = e->theta - h->lr * g / (sqrt(e->s[0]) + h->eps);
        break;
    }
}

/* --- ours --------------------------------------------------------------------------------------*/

struct run {
    const struct setting *h;
    size_t n;
    struct nums grad[UPDATES];
    bool low;
    size_t cut; /* > 0: in pieces of that many elements */
};

static const double grad_scale = 0.5;

/* What kernels of a job with such gradients read. */
static enum ds_dtype low_type_of(enum ds_dtype grad_type)
{
    return grad_type == DS_F16 ? DS_F16 : DS_BF16;
}

/* The `t`-th update of elements [at, at + n). */
static int update(const struct run *run, void **out, size_t at, size_t n, unsigned t,
                  struct ds_stream *stream, struct ds_error *err)
{
    const struct setting *h = run->h;
    const struct nums *grad = &run->grad[t - 1];
    const void *g = grad->data + at * ds_dtype_bytes(grad->type);
    float *p = (float *)out[0] + at, *s0 = (float *)out[1] + at, *s1 = (float *)out[2] + at;
    void *low = run->low ? (ds_bf16 *)out[3] + at : NULL;

#define SHARED                                                                                     \
    .n = n, .p = p, .grad_type = grad->type, .grad = g, .p_low = low,                              \
    .low_type = low_type_of(grad->type), .lr = h->lr, .weight_decay = h->decay,                    \
    .grad_scale = grad_scale
    const struct ds_adamw_args adam = {SHARED,
                                       .m = s0,
                                       .v = s1,
                                       .beta1 = h->beta1,
                                       .beta2 = h->beta2,
                                       .eps = h->eps,
                                       .l2 = h->family == ADAM,
                                       .bias1 = 1 - pow(h->beta1, t),
                                       .bias2 = 1 - pow(h->beta2, t)};
    const struct ds_sgd_args sgd = {SHARED, .m = h->states > 0 ? s0 : NULL, .momentum = h->momentum,
                                    .nesterov = h->nesterov};
    const struct ds_lion_args lion = {SHARED, .m = s0, .beta1 = h->beta1, .beta2 = h->beta2};
    const struct ds_adagrad_args adagrad = {SHARED, .v = s0, .eps = h->eps};
#undef SHARED

    switch (h->family) {
    case ADAMW:
    case ADAM: return ds_adamw(&adam, stream, err);
    case SGD: return ds_sgd(&sgd, stream, err);
    case LION: return ds_lion(&lion, stream, err);
    case ADAGRAD: break;
    }
    return ds_adagrad(&adagrad, stream, err);
}

static int run_updates(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    const struct run *run = ctx;
    size_t piece = run->cut > 0 ? run->cut : run->n;
    int rc = 0;

    for (unsigned t = 1; t <= UPDATES; t++)
        for (size_t at = 0; rc == 0 && at < run->n; at += piece)
            rc = update(run, out, at, run->n - at < piece ? run->n - at : piece, t, stream, err);
    return rc;
}

/* A sign that rounding could turn is no test: pull such an element out of the way. */
static void take_sides(struct run *run, const struct element *e, size_t i, unsigned t)
{
    const struct setting *h = run->h;
    double g = run->grad[t - 1].d[i] * grad_scale;

    if (h->family == LION && fabs(h->beta1 * e->s[0] + (1 - h->beta1) * g) < 1e-6)
        nums_set(&run->grad[t - 1], i, 1.0);
}

/* The wanted p, states and low p after all updates. */
static void work_out(struct run *run, const struct nums *p, double *want[4])
{
    for (size_t i = 0; i < run->n; i++) {
        struct element e = {.theta = p->d[i]};

        for (unsigned t = 1; t <= UPDATES; t++) {
            take_sides(run, &e, i, t);
            reference(run->h, &e, run->grad[t - 1].d[i] * grad_scale, t);
        }
        want[0][i] = want[3][i] = e.theta;
        want[1][i] = e.s[0];
        want[2][i] = e.s[1];
    }
}

static void check(const struct setting *h, size_t n, enum ds_dtype grad_type, bool low)
{
    struct run run = {.h = h, .n = n, .low = low};
    struct nums p = nums_random(DS_F32, n, 1.0, 0.0), zero = nums_random(DS_F32, n, 0.0, 0.0);
    double *want[4];
    struct trial t = {.what = h->name,
                      .outs = low ? 4 : 3,
                      .run = run_updates,
                      .ctx = &run,
                      .f32 = 2e-6,
                      .bf16 = 4e-3};

    for (unsigned u = 0; u < UPDATES; u++)
        run.grad[u] = nums_random(grad_type, n, 1.0, 0.1);
    for (size_t i = 0; i < 4; i++)
        want[i] = calloc(n, sizeof(double));
    work_out(&run, &p, want);
    t.out[0] = (struct out){DS_F32, n, want[0], &p};
    t.out[1] = (struct out){DS_F32, n, want[1], &zero};
    t.out[2] = (struct out){DS_F32, n, want[2], &zero};
    t.out[3] = (struct out){low_type_of(grad_type), n, want[3], NULL};
    try_all(&t);
    for (size_t i = 0; i < 4; i++)
        free(want[i]);
    for (unsigned u = 0; u < UPDATES; u++)
        nums_free(&run.grad[u]);
    nums_free(&p);
    nums_free(&zero);
}

Test(update, follows_its_formula)
{
    static const size_t sizes[] = {1, 7, 97, 16385};

    for (size_t h = 0; h < sizeof(settings) / sizeof(settings[0]); h++)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            check(&settings[h], sizes[i], DS_F32, i % 2 == 0);
            check(&settings[h], sizes[i], DS_BF16, i % 2 != 0);
            check(&settings[h], sizes[i], DS_F16, i % 2 != 0);
        }
}

/* p, both states, low p after run_updates(). */
static void bits_of(const struct run *run, const struct nums *p, void *out[4])
{
    struct ds_device *device = open_cpu(NULL, 2, ds_scratch_bytes(&(struct ds_scratch_query){0}));

    for (size_t i = 0; i < 4; i++)
        out[i] = calloc(run->n, sizeof(float));
    memcpy(out[0], p->data, run->n * sizeof(float));
    cr_assert(run_updates((void *)(uintptr_t)run, out, ds_device_stream(device), NULL) == 0);
    ds_device_close(device);
}

/* A shard may start and end anywhere. */
Test(update, a_range_in_pieces_has_the_same_bits)
{
    static const size_t cuts[] = {1, 13, 16, 17, 1000};
    enum { N = 3001 };

    for (size_t h = 0; h < sizeof(settings) / sizeof(settings[0]); h++) {
        struct run run = {.h = &settings[h], .n = N, .low = true};
        struct nums p = nums_random(DS_F32, N, 1.0, 0.0);
        void *whole[4], *cut[4];

        for (unsigned u = 0; u < UPDATES; u++)
            run.grad[u] = nums_random(u % 2 == 0 ? DS_F32 : DS_BF16, N, 1.0, 0.0);
        bits_of(&run, &p, whole);
        for (size_t c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++) {
            run.cut = cuts[c];
            bits_of(&run, &p, cut);
            for (size_t i = 0; i < 4; i++) {
                cr_assert(memcmp(whole[i], cut[i], N * (i < 3 ? sizeof(float) : sizeof(ds_bf16))) ==
                              0,
                          "%s: output %zu in pieces of %zu", settings[h].name, i, cuts[c]);
                free(cut[i]);
            }
        }
        for (size_t i = 0; i < 4; i++)
            free(whole[i]);
        for (unsigned u = 0; u < UPDATES; u++)
            nums_free(&run.grad[u]);
        nums_free(&p);
    }
}

Test(update, lion_stands_still_where_nothing_pulls)
{
    struct ds_device *device = open_cpu(NULL, 1, ds_scratch_bytes(&(struct ds_scratch_query){0}));
    float p[3] = {1, 2, 3}, m[3] = {0, 0, -1}, g[3] = {0, 4, 0};
    const struct ds_lion_args args = {.n = 3,
                                      .p = p,
                                      .m = m,
                                      .grad_type = DS_F32,
                                      .grad = g,
                                      .lr = 0.5,
                                      .beta1 = 0.9,
                                      .beta2 = 0.75,
                                      .grad_scale = 1.0};

    cr_assert(ds_lion(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(p[0] == 1.0f && p[1] == 1.5f && p[2] == 3.5f, "%g %g %g", (double)p[0], (double)p[1],
              (double)p[2]);
    cr_assert(m[0] == 0.0f && m[1] == 1.0f && m[2] == -0.75f);
    ds_device_close(device);
}
