/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_update.c - every optimizer over several updates against its formula in double.
 *
 * A row of the table is an optimizer with its constants.  The reference is a plain function per
 * element, with names and order of the sources (PyTorch's documentation, the Lion paper).
 */
#include "tests/kernels/updates.h"

enum { STATES = 2 };

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
    struct updates all;
    const struct setting *h;
};

static int update(struct updates *all, unsigned pass, void **out, struct updates_range range,
                  struct ds_stream *stream, struct ds_error *err)
{
    const struct setting *h = ((const struct run *)all)->h;
    const struct nums *grad = &all->grad[range.t - 1];
    const void *g = grad->data + range.at * ds_dtype_bytes(grad->type);
    float *p = (float *)out[0] + range.at, *s0 = (float *)out[1] + range.at;
    float *s1 = (float *)out[2] + range.at;
    void *low = all->low ? (ds_bf16 *)out[3] + range.at : NULL;

#define SHARED                                                                                     \
    .n = range.n, .p = p, .grad_type = grad->type, .grad = g, .p_low = low,                        \
    .low_type = updates_low_type(grad->type), .lr = h->lr, .weight_decay = h->decay,               \
    .grad_scale = grad_scale
    const struct ds_adamw_args adam = {SHARED,
                                       .m = s0,
                                       .v = s1,
                                       .beta1 = h->beta1,
                                       .beta2 = h->beta2,
                                       .eps = h->eps,
                                       .l2 = h->family == ADAM,
                                       .bias1 = 1 - pow(h->beta1, range.t),
                                       .bias2 = 1 - pow(h->beta2, range.t)};
    const struct ds_sgd_args sgd = {SHARED, .m = h->states > 0 ? s0 : NULL, .momentum = h->momentum,
                                    .nesterov = h->nesterov};
    const struct ds_lion_args lion = {SHARED, .m = s0, .beta1 = h->beta1, .beta2 = h->beta2};
    const struct ds_adagrad_args adagrad = {SHARED, .v = s0, .eps = h->eps};
#undef SHARED

    (void)pass;
    switch (h->family) {
    case ADAMW:
    case ADAM: return ds_adamw(&adam, stream, err);
    case SGD: return ds_sgd(&sgd, stream, err);
    case LION: return ds_lion(&lion, stream, err);
    case ADAGRAD: break;
    }
    return ds_adagrad(&adagrad, stream, err);
}

/* A sign that rounding could turn is no test: pull such an element out of the way. */
static void take_sides(struct run *run, const struct element *e, size_t i, unsigned t)
{
    const struct setting *h = run->h;
    double g = run->all.grad[t - 1].d[i] * grad_scale;

    if (h->family == LION && fabs(h->beta1 * e->s[0] + (1 - h->beta1) * g) < 1e-6)
        nums_set(&run->all.grad[t - 1], i, 1.0);
}

/* The wanted p, states and low p after all updates. */
static void work_out(struct run *run, const struct nums *p, double *want[UPDATE_OUTS])
{
    for (size_t i = 0; i < run->all.n; i++) {
        struct element e = {.theta = p->d[i]};

        for (unsigned t = 1; t <= UPDATES; t++) {
            take_sides(run, &e, i, t);
            reference(run->h, &e, run->all.grad[t - 1].d[i] * grad_scale, t);
        }
        want[0][i] = want[3][i] = e.theta;
        want[1][i] = e.s[0];
        want[2][i] = e.s[1];
    }
}

static struct run run_of(const struct setting *h, size_t n, bool low)
{
    return (struct run){.all = {.name = h->name, .pass = update, .passes = 1, .n = n, .low = low},
                        .h = h};
}

static void check(const struct setting *h, size_t n, enum ds_dtype grad_type, bool low)
{
    struct run run = run_of(h, n, low);
    struct nums p = nums_random(DS_F32, n, 1.0, 0.0);
    double *want[UPDATE_OUTS];

    updates_draw(&run.all, &grad_type, 1, 0.1);
    for (size_t i = 0; i < UPDATE_OUTS; i++)
        want[i] = calloc(n, sizeof(double));
    work_out(&run, &p, want);
    updates_try(&run.all, &p, want);
    for (size_t i = 0; i < UPDATE_OUTS; i++)
        free(want[i]);
    updates_free(&run.all);
    nums_free(&p);
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

Test(update, a_range_in_pieces_has_the_same_bits)
{
    for (size_t h = 0; h < sizeof(settings) / sizeof(settings[0]); h++) {
        struct run run = run_of(&settings[h], 3001, true);

        updates_in_pieces(&run.all);
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
