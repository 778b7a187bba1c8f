/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_muon.c - Muon's update of a matrix over several updates against its formula in double: wide,
 * tall and square matrices, momentum of both kinds, both scales, a rounded copy of the parameters.
 *
 * The reference turns tall matrices and iterates on the shorter side, as the paper's code does.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/scratch.h"
#include "runtime/muon.h"
#include "tests/plan/fixture.h"

enum { UPDATES = 3 };

static const struct setting {
    uint64_t rows, cols;
    double momentum;
    bool nesterov;
    double decay, scale, grad_scale;
    enum ds_dtype low;
} settings[] = {
    {1, 1, 0.95, true, 0.1, 1.0, 1.0, DS_F32},     {1, 40, 0.95, true, 0.1, 1.0, 0.5, DS_F32},
    {40, 1, 0.95, false, 0.1, 2.0, 0.5, DS_BF16},  {16, 16, 0.9, true, 0.0, 1.0, 1.0, DS_F16},
    {48, 144, 0.95, true, 0.1, 1.7, 1.0, DS_BF16}, {96, 32, 0.95, false, 0.3, 0.2, 0.1, DS_F32},
    {33, 70, 0.0, false, 0.1, 1.0, 1.0, DS_F32},   {130, 67, 0.5, true, 0.0, 3.0, 1e-3, DS_F16},
};

static double noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 40) / (double)(1 << 24) - 0.5;
}

/* x[m, n] = (a + b A + c A A) x, A = x x', m the shorter side. */
static void iterate(double *x, uint64_t m, uint64_t n)
{
    double *gram = calloc(2 * m * m + m * n, sizeof(*gram)), *poly = gram + m * m;
    double *next = poly + m * m;

    cr_assert_not_null(gram);
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t j = 0; j < m; j++)
            for (uint64_t k = 0; k < n; k++)
                gram[i * m + j] += x[i * n + k] * x[j * n + k];
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t j = 0; j < m; j++) {
            poly[i * m + j] = -4.775 * gram[i * m + j];
            for (uint64_t k = 0; k < m; k++)
                poly[i * m + j] += 2.0315 * gram[i * m + k] * gram[k * m + j];
        }
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t k = 0; k < n; k++) {
            next[i * n + k] = 3.4445 * x[i * n + k];
            for (uint64_t j = 0; j < m; j++)
                next[i * n + k] += poly[i * m + j] * x[j * n + k];
        }
    memcpy(x, next, m * n * sizeof(*x));
    free(gram);
}

static void turn(double *to, const double *from, uint64_t rows, uint64_t cols)
{
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < cols; j++)
            to[j * rows + i] = from[i * cols + j];
}

/* u becomes its orthogonal neighbour. */
static void orthogonalize(double *u, uint64_t rows, uint64_t cols)
{
    double *x = calloc(rows * cols, sizeof(*x)), squares = 0.0;
    bool tall = rows > cols;

    cr_assert_not_null(x);
    for (uint64_t i = 0; i < rows * cols; i++)
        squares += u[i] * u[i];
    for (uint64_t i = 0; i < rows * cols; i++)
        u[i] /= sqrt(squares) + 1e-7;
    if (tall)
        turn(x, u, rows, cols);
    else
        memcpy(x, u, rows * cols * sizeof(*x));
    for (unsigned i = 0; i < 5; i++)
        iterate(x, tall ? cols : rows, tall ? rows : cols);
    if (tall)
        turn(u, x, cols, rows);
    else
        memcpy(u, x, rows * cols * sizeof(*x));
    free(x);
}

struct matrix { /* ours and the reference */
    float *p, *m, *grad, *work;
    uint16_t *low;
    double *want_p, *want_m, *u;
};

static void reference(const struct setting *set, struct matrix *x, double lr)
{
    uint64_t n = set->rows * set->cols;

    for (uint64_t i = 0; i < n; i++) {
        double g = (double)x->grad[i] * set->grad_scale;

        x->want_m[i] = set->momentum * x->want_m[i] + (1 - set->momentum) * g;
        x->u[i] =
            set->nesterov ? (1 - set->momentum) * g + set->momentum * x->want_m[i] : x->want_m[i];
    }
    orthogonalize(x->u, set->rows, set->cols);
    for (uint64_t i = 0; i < n; i++)
        x->want_p[i] -= lr * set->decay * x->want_p[i] + lr * set->scale * x->u[i];
}

static double distance(const float *got, const double *want, uint64_t n)
{
    double error = 0.0, norm = 0.0;

    for (uint64_t i = 0; i < n; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += want[i] * want[i];
    }
    return sqrt(error / norm);
}

static void run(const struct setting *set, struct ds_stream *stream)
{
    uint64_t n = set->rows * set->cols, state = n;
    struct ds_job job = test_job(test_gpt2(1, 8, 1, 3, 5), 1, 1, 4);
    struct matrix x = {.p = calloc(n, sizeof(float)),
                       .m = calloc(n, sizeof(float)),
                       .grad = calloc(n, sizeof(float)),
                       .low = calloc(n, sizeof(uint16_t)),
                       .work = malloc(ds_optim_matrix_room(set->rows, set->cols) * sizeof(float)),
                       .want_p = calloc(n, sizeof(double)),
                       .want_m = calloc(n, sizeof(double)),
                       .u = calloc(n, sizeof(double))};
    struct ds_update u = {.n = n,
                          .p = x.p,
                          .state = {x.m},
                          .grad = x.grad,
                          .low_type = set->low,
                          .low = set->low != DS_F32 ? x.low : NULL,
                          .lr = 0.05,
                          .weight_decay = set->decay,
                          .grad_scale = set->grad_scale,
                          .update = 1,
                          .rows = set->rows,
                          .cols = set->cols,
                          .scale = set->scale,
                          .work = x.work};
    struct ds_error err = {0};

    job.optim.kind = DS_OPTIM_MUON;
    job.optim.momentum = set->momentum;
    job.optim.nesterov = set->nesterov;
    memset(x.work, 0xff, ds_optim_matrix_room(set->rows, set->cols) * sizeof(float)); /* NaN */
    for (uint64_t i = 0; i < n; i++)
        x.want_p[i] = (double)(x.p[i] = (float)noise(&state));
    for (unsigned t = 0; t < UPDATES; t++) {
        for (uint64_t i = 0; i < n; i++)
            x.grad[i] = (float)noise(&state);
        reference(set, &x, u.lr);
        cr_assert_eq(ds_update(&job, &u, stream, &err), 0, "%s", err.text);
    }
    cr_assert_lt(distance(x.m, x.want_m, n), 1e-6, "%zu x %zu", set->rows, set->cols);
    cr_assert_lt(distance(x.p, x.want_p, n), 3e-5, "%zu x %zu: %g", set->rows, set->cols,
                 distance(x.p, x.want_p, n));
    for (uint64_t i = 0; i < n && set->low != DS_F32; i++)
        cr_assert_eq(x.low[i],
                     set->low == DS_BF16 ? ds_bf16_from_f32(x.p[i]) : ds_f16_from_f32(x.p[i]));
    free(x.p);
    free(x.m);
    free(x.grad);
    free(x.low);
    free(x.work);
    free(x.want_p);
    free(x.want_m);
    free(x.u);
}

static struct ds_device *open_device(unsigned threads)
{
    struct ds_device *device = NULL;
    const struct ds_scratch_query query = {.threads = threads};

    cr_assert_eq(ds_device_open(&device,
                                &(struct ds_device_args){.name = "cpu",
                                                         .threads = threads,
                                                         .scratch_bytes = ds_scratch_bytes(&query)},
                                NULL),
                 0);
    return device;
}

Test(muon, updates_follow_the_formula)
{
    for (unsigned threads = 1; threads <= 2; threads++) {
        struct ds_device *device = open_device(threads);

        for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
            run(&settings[i], ds_device_stream(device));
        ds_device_close(device);
    }
}

/* A matrix of zeros has no direction: nothing moves but by decay, and nothing is NaN. */
Test(muon, no_gradient_is_no_direction)
{
    struct ds_device *device = open_device(1);
    float *work = calloc(ds_optim_matrix_room(3, 4), sizeof(*work)), *out = NULL;

    cr_assert_eq(ds_muon_orthogonalize(3, 4, work, &out, ds_device_stream(device), NULL), 0);
    for (size_t i = 0; i < 12; i++)
        cr_assert_eq(out[i], 0.0f);
    free(work);
    ds_device_close(device);
}

/* Outputs over inputs, which GPT-2 stores the other way round than Llama. */
Test(muon, scales_know_outputs_from_inputs)
{
    static const struct {
        bool llama;
        enum ds_muon_scale scale;
        uint64_t shape[2];
        double want;
    } cases[] = {
        {true, DS_MUON_SCALE_SHAPE, {64, 16}, 2.0},  {true, DS_MUON_SCALE_SHAPE, {16, 64}, 1.0},
        {false, DS_MUON_SCALE_SHAPE, {64, 16}, 1.0}, {false, DS_MUON_SCALE_SHAPE, {16, 64}, 2.0},
        {true, DS_MUON_SCALE_ADAMW, {100, 25}, 2.0}, {false, DS_MUON_SCALE_ADAMW, {25, 100}, 2.0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_model_shape shape =
            cases[i].llama ? test_llama(1, 8, 2, 1, 8, 5, 4) : test_gpt2(1, 8, 1, 3, 5);
        struct ds_job job = test_job(shape, 1, 1, 4);
        struct ds_param param = {.ndim = 2, .role = DS_ROLE_DOWN_W};

        job.optim.kind = DS_OPTIM_MUON;
        job.optim.muon_scale = cases[i].scale;
        memcpy(param.shape, cases[i].shape, sizeof(param.shape));
        cr_assert_float_eq(ds_optim_matrix_scale(&job, &param), cases[i].want, 1e-12, "case %zu",
                           i);
        cr_assert(ds_optim_by_matrix(&job, &param));
        param.role = DS_ROLE_WTE;
        cr_assert(!ds_optim_by_matrix(&job, &param));
        cr_assert_str_eq(ds_optim_state_name(&job, &param, 1), "exp_avg_sq");
    }
}
