/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_types.c - optimizers on every type of gradient and of low copy.
 *
 * Arithmetic is in F32 whatever the types: gradients that are the same numbers give the same bits, and
 * the low copy is the new parameter, rounded as one element is.  On every instruction set, for whole
 * vectors and the rest of one.  That F32 is right is shown by test_update.c, test_lamb.c, test_muon.c.
 */
#include "tests/kernels/harness.h"

enum { N = 3 * 16 + 5, ARRAYS = 3 };

/* An update's arrays: parameters (or Muon's direction) and two lines of state. */
struct arrays {
    float at[ARRAYS][N];
    uint16_t low[N];
};

struct types {
    enum ds_dtype grad, low; /* low DS_F32: none */
};

typedef int update_fn(struct types types, const void *grad, struct arrays *w,
                      struct ds_stream *stream, struct ds_error *err);

#define SHARED                                                                                     \
    .n = N, .p = w->at[0], .grad_type = types.grad, .grad = grad, .low_type = types.low,           \
    .p_low = types.low == DS_F32 ? NULL : w->low, .lr = 0.1, .grad_scale = 0.5

static int adam_like(struct types types, const void *grad, struct arrays *w, bool l2,
                     struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_adamw_args args = {
        SHARED,      .m = w->at[1], .v = w->at[2],       .beta1 = 0.9, .beta2 = 0.95,
        .eps = 1e-3, .l2 = l2,      .weight_decay = 0.1, .bias1 = 0.1, .bias2 = 0.05};

    return ds_adamw(&args, stream, err);
}

static int adamw(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
                 struct ds_error *err)
{
    return adam_like(types, grad, w, false, stream, err);
}

static int adam(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
                struct ds_error *err)
{
    return adam_like(types, grad, w, true, stream, err);
}

static int sgd_like(struct types types, const void *grad, struct arrays *w, struct ds_sgd_args with,
                    struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_sgd_args args = {SHARED, .m = with.m, .momentum = 0.9,
                                     .weight_decay = with.weight_decay, .nesterov = with.nesterov};

    return ds_sgd(&args, stream, err);
}

static int sgd(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
               struct ds_error *err)
{
    return sgd_like(types, grad, w, (struct ds_sgd_args){0}, stream, err);
}

static int sgd_l2(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
                  struct ds_error *err)
{
    return sgd_like(types, grad, w, (struct ds_sgd_args){.weight_decay = 0.2}, stream, err);
}

static int momentum(struct types types, const void *grad, struct arrays *w,
                    struct ds_stream *stream, struct ds_error *err)
{
    return sgd_like(types, grad, w, (struct ds_sgd_args){.m = w->at[1]}, stream, err);
}

static int momentum_l2(struct types types, const void *grad, struct arrays *w,
                       struct ds_stream *stream, struct ds_error *err)
{
    return sgd_like(types, grad, w, (struct ds_sgd_args){.m = w->at[1], .weight_decay = 0.2},
                    stream, err);
}

static int nesterov(struct types types, const void *grad, struct arrays *w,
                    struct ds_stream *stream, struct ds_error *err)
{
    return sgd_like(types, grad, w, (struct ds_sgd_args){.m = w->at[1], .nesterov = true}, stream,
                    err);
}

static int nesterov_l2(struct types types, const void *grad, struct arrays *w,
                       struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_sgd_args with = {.m = w->at[1], .nesterov = true, .weight_decay = 0.2};

    return sgd_like(types, grad, w, with, stream, err);
}

static int lion(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
                struct ds_error *err)
{
    const struct ds_lion_args args = {SHARED, .m = w->at[1], .beta1 = 0.9, .beta2 = 0.99,
                                      .weight_decay = 0.1};

    return ds_lion(&args, stream, err);
}

static int adagrad(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
                   struct ds_error *err)
{
    const struct ds_adagrad_args args = {SHARED, .v = w->at[2], .eps = 1e-3};

    return ds_adagrad(&args, stream, err);
}

static int adagrad_l2(struct types types, const void *grad, struct arrays *w,
                      struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_adagrad_args args = {SHARED, .v = w->at[2], .eps = 1e-3, .weight_decay = 0.2};

    return ds_adagrad(&args, stream, err);
}
#undef SHARED

static int lamb(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
                struct ds_error *err)
{
    double p_sumsq, u_sumsq;
    const struct ds_lamb_moments_args moments = {.n = N,
                                                 .p = w->at[0],
                                                 .m = w->at[1],
                                                 .v = w->at[2],
                                                 .grad = grad,
                                                 .beta1 = 0.9,
                                                 .beta2 = 0.95,
                                                 .eps = 1e-3,
                                                 .bias1 = 0.1,
                                                 .bias2 = 0.05,
                                                 .weight_decay = 0.1,
                                                 .grad_type = types.grad,
                                                 .grad_scale = 0.5,
                                                 .p_sumsq = &p_sumsq,
                                                 .u_sumsq = &u_sumsq};
    const struct ds_lamb_args args = {.n = N,
                                      .p = w->at[0],
                                      .m = w->at[1],
                                      .v = w->at[2],
                                      .eps = 1e-3,
                                      .bias1 = 0.1,
                                      .weight_decay = 0.1,
                                      .bias2 = 0.05,
                                      .low_type = types.low,
                                      .p_low = types.low == DS_F32 ? NULL : w->low,
                                      .lr = 0.1,
                                      .p_sumsq = &p_sumsq,
                                      .u_sumsq = &u_sumsq};
    int rc = ds_lamb_moments(&moments, stream, err);

    return rc != 0 ? rc : ds_lamb(&args, stream, err);
}

static int muon_like(struct types types, const void *grad, struct arrays *w, bool ahead,
                     struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_muon_moments_args moments = {.n = N,
                                                 .m = w->at[1],
                                                 .u = w->at[2],
                                                 .grad_type = types.grad,
                                                 .grad = grad,
                                                 .momentum = 0.9,
                                                 .grad_scale = 0.5,
                                                 .nesterov = ahead};
    const struct ds_muon_args args = {.n = N,
                                      .p = w->at[0],
                                      .x = w->at[2],
                                      .lr = 0.1,
                                      .weight_decay = 0.1,
                                      .low_type = types.low,
                                      .step = 0.2,
                                      .p_low = types.low == DS_F32 ? NULL : w->low};
    int rc = ds_muon_moments(&moments, stream, err);

    return rc != 0 ? rc : ds_muon(&args, stream, err);
}

static int muon(struct types types, const void *grad, struct arrays *w, struct ds_stream *stream,
                struct ds_error *err)
{
    return muon_like(types, grad, w, false, stream, err);
}

static int muon_ahead(struct types types, const void *grad, struct arrays *w,
                      struct ds_stream *stream, struct ds_error *err)
{
    return muon_like(types, grad, w, true, stream, err);
}

static const struct {
    const char *name;
    update_fn *update;
} rows[] = {
    {"adamw", adamw},
    {"adam", adam},
    {"sgd", sgd},
    {"sgd, l2", sgd_l2},
    {"momentum", momentum},
    {"momentum, l2", momentum_l2},
    {"nesterov", nesterov},
    {"nesterov, l2", nesterov_l2},
    {"lion", lion},
    {"adagrad", adagrad},
    {"adagrad, l2", adagrad_l2},
    {"lamb", lamb},
    {"muon", muon},
    {"muon, nesterov", muon_ahead},
};

/* --- the same numbers in every type ------------------------------------------------------------- */

/* Numbers that every type holds: few bits, small exponents. */
static float number(size_t i, size_t array)
{
    return (float)(int)((i * 37 + array * 11) % 63 + 1) * (array < 2 && i % 3 == 0 ? -1 : 1) /
           32.0f;
}

static void start(struct arrays *w)
{
    memset(w, 0, sizeof(*w));
    for (size_t k = 0; k < ARRAYS; k++)
        for (size_t i = 0; i < N; i++)
            w->at[k][i] = number(i, k);
}

static uint16_t rounded(enum ds_dtype type, float x)
{
    return type == DS_BF16 ? ds_bf16_from_f32(x) : ds_f16_from_f32(x);
}

static void compare_types(const char *name, const char *isa, update_fn *update,
                          struct ds_stream *stream, struct nums *grad)
{
    struct arrays want, got;

    start(&want);
    cr_assert(update((struct types){DS_F32, DS_F32}, grad[0].data, &want, stream, NULL) == 0);
    for (size_t i = 0; i < 9; i++) {
        struct types types = {act_types[i / 3], act_types[i % 3]};

        start(&got);
        cr_assert(update(types, grad[i / 3].data, &got, stream, NULL) == 0);
        cr_assert(memcmp(got.at, want.at, sizeof(got.at)) == 0, "%s on %s: %s gradients, %s copy",
                  name, isa, ds_dtype_name(types.grad), ds_dtype_name(types.low));
        for (size_t j = 0; j < N; j++)
            cr_assert(got.low[j] == (types.low == DS_F32 ? 0 : rounded(types.low, got.at[0][j])),
                      "%s on %s: copy of %s", name, isa, ds_dtype_name(types.low));
    }
}

Test(types, gradients_and_low_copies)
{
    static const char *const isas[] = {"v4", "v3", "base"};
    struct nums grad[3];
    size_t tried = 0;

    for (size_t type = 0; type < 3; type++) {
        grad[type] = nums_blank(act_types[type], N);
        for (size_t i = 0; i < N; i++) {
            nums_set(&grad[type], i, (double)number(i, ARRAYS));
            cr_assert(grad[type].d[i] == (double)number(i, ARRAYS));
        }
    }
    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        struct ds_device *device =
            open_cpu(isas[i], 1, ds_scratch_bytes(&(struct ds_scratch_query){0}));

        for (size_t r = 0; device != NULL && r < sizeof(rows) / sizeof(rows[0]); r++)
            compare_types(rows[r].name, isas[i], rows[r].update, ds_device_stream(device), grad);
        tried += device != NULL;
        ds_device_close(device);
    }
    cr_assert(tried > 0);
    for (size_t type = 0; type < 3; type++)
        nums_free(&grad[type]);
}
