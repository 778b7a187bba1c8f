/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_update.c - one update of the engine with every optimizer and groups, against its formula.
 *
 * From zero state the first update is a closed form of p and g.  What a group does to a tensor is
 * worked out here from its name, not by the plan.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/engine/fixture.h"

struct setting {
    enum ds_optim_kind kind;
    double momentum;
    bool nesterov;
};

static const struct setting settings[] = {
    {DS_OPTIM_ADAMW, 0, false},   {DS_OPTIM_ADAM, 0, false}, {DS_OPTIM_SGD, 0, false},
    {DS_OPTIM_SGD, 0.9, false},   {DS_OPTIM_SGD, 0.9, true}, {DS_OPTIM_LION, 0, false},
    {DS_OPTIM_ADAGRAD, 0, false}, {DS_OPTIM_LAMB, 0, false}, {DS_OPTIM_MUON, 0.9, true},
    {DS_OPTIM_MUON, 0.9, false},
};

/* The first of these that a name matches counts. */
static struct ds_optim_group groups[] = {
    {"*.bias", 2.0, (double)NAN},
    {"transformer.h.0.*", 1.0, 0.5},
    {"transformer.wte.weight", 0.0, (double)NAN},
    {"transformer.h.?.ln_[12].weight", 1.0, 0.25},
};

static void group_by_hand(const char *name, bool matrix, double *lr, double *decay)
{
    if (!matrix)
        *decay = 0.0;
    if (strstr(name, ".bias") != NULL)
        *lr *= 2.0;
    else if (strncmp(name, "transformer.h.0.", 16) == 0)
        *decay = 0.5;
    else if (strcmp(name, "transformer.wte.weight") == 0)
        *lr = 0.0;
    else if (strstr(name, ".ln_1.weight") != NULL || strstr(name, ".ln_2.weight") != NULL)
        *decay = 0.25;
}

static double first_update(const struct ds_job *job, double p, double g, double lr, double decay)
{
    double eps = job->optim.eps;

    switch (job->optim.kind) {
    case DS_OPTIM_ADAMW: return p - lr * decay * p - lr * g / (fabs(g) + eps);
    case DS_OPTIM_ADAM: g += decay * p; return p - lr * g / (fabs(g) + eps);
    case DS_OPTIM_SGD:
        g += decay * p;
        return p - lr * (job->optim.nesterov ? (1.0 + job->optim.momentum) * g : g);
    case DS_OPTIM_LION: return p - lr * decay * p - lr * ((g > 0) - (g < 0));
    case DS_OPTIM_ADAGRAD: g += decay * p; return p - lr * g / (fabs(g) + eps);
    case DS_OPTIM_LAMB: return p - lr * (g / (fabs(g) + eps) + decay * p);
    case DS_OPTIM_MUON: return p - lr * decay * p - lr * g / (fabs(g) + eps); /* no matrix */
    }
    return (double)NAN;
}

/* |p| / |u| of a tensor from its first update at learning rate 1. */
static double trust_ratio(const struct test_run *before, const struct test_run *after,
                          const struct ds_plan_param *param, double scale, double decay)
{
    double squares_p = 0.0, squares_u = 0.0;

    if (before->job.optim.kind != DS_OPTIM_LAMB)
        return 1.0;
    for (uint64_t k = param->offset; k < param->offset + param->param.elems; k++) {
        double p = (double)before->params[k], g = (double)after->first_grads[k] * scale;
        double u = p - first_update(&before->job, p, g, 1.0, decay);

        squares_p += p * p;
        squares_u += u * u;
    }
    return squares_p > 0.0 && squares_u > 0.0 ? sqrt(squares_p / squares_u) : 1.0;
}

/* x[rows, cols] becomes (a + b A + c A A) x with A = x x', written out; `t`, `next` are room. */
static void iterate(double *x, uint64_t rows, uint64_t cols, double *t, double *next)
{
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < rows; j++) {
            t[i * rows + j] = 0.0;
            for (uint64_t k = 0; k < cols; k++)
                t[i * rows + j] += x[i * cols + k] * x[j * cols + k];
        }
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < rows; j++) {
            double square = 0.0;

            for (uint64_t k = 0; k < rows; k++)
                square += t[i * rows + k] * t[k * rows + j];
            t[(rows + i) * rows + j] = -4.775 * t[i * rows + j] + 2.0315 * square;
        }
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t k = 0; k < cols; k++) {
            next[i * cols + k] = 3.4445 * x[i * cols + k];
            for (uint64_t j = 0; j < rows; j++)
                next[i * cols + k] += t[(rows + i) * rows + j] * x[j * cols + k];
        }
    memcpy(x, next, rows * cols * sizeof(*x));
}

/* Muon's first update of a matrix in double: its direction is a multiple of the gradient, which the
 * division by its norm takes away. */
static void matrix_error(const struct test_run *before, const struct test_run *after,
                         const struct ds_plan_param *param, double lr, double decay, double scale,
                         double *error, double *norm)
{
    uint64_t rows = param->param.shape[0], cols = param->param.shape[1], n = rows * cols;
    double *x = calloc(2 * n + 2 * rows * rows, sizeof(*x)), squares = 0.0;
    double momentum = before->job.optim.momentum;
    double part = (1.0 - momentum) * (before->job.optim.nesterov ? 1.0 + momentum : 1.0) * scale;

    cr_assert_not_null(x);
    for (uint64_t k = 0; k < n; k++) {
        x[k] = (double)after->first_grads[param->offset + k] * part;
        squares += x[k] * x[k];
    }
    for (uint64_t k = 0; k < n; k++)
        x[k] /= sqrt(squares) + 1e-7;
    for (unsigned i = 0; i < 5; i++)
        iterate(x, rows, cols, x + 2 * n, x + n);
    for (uint64_t k = 0; k < n; k++) {
        double p = (double)before->params[param->offset + k];
        double want = -lr * decay * p - lr * sqrt(fmax(1.0, (double)cols / (double)rows)) * x[k];
        double is = (double)after->params[param->offset + k] - p;

        *error += (is - want) * (is - want);
        *norm += want * want;
    }
    free(x);
}

static void check(const struct setting *setting, unsigned world)
{
    struct test_run before = test_reference_run(0, world, 8 / world), after;
    struct ds_job *job = &before.job;
    double scale, error = 0.0, norm = 0.0;

    job->optim.kind = setting->kind;
    job->optim.momentum = setting->momentum;
    job->optim.nesterov = setting->nesterov;
    job->optim.eps = 1e-8;
    job->optim.clip = 0.5;
    job->optim.groups = (struct ds_rows){4, groups};
    after = before;
    before.steps = 0;
    after.steps = 1;
    test_run_ok(&before);
    test_run_ok(&after);
    scale = ds_clip_scale(after.result[0].grad_norm, 0.5);
    cr_assert_lt(scale, 1.0);
    for (size_t i = 0; i < after.plan.params; i++) {
        const struct ds_plan_param *param = &after.plan.param[i];
        double lr = ds_optim_lr(job, 0), decay = job->optim.weight_decay;

        group_by_hand(param->param.name, param->param.ndim > 1, &lr, &decay);
        lr *= trust_ratio(&before, &after, param, scale, decay);
        if (ds_optim_by_matrix(job, &param->param)) {
            matrix_error(&before, &after, param, lr, decay, scale, &error, &norm);
            continue;
        }
        for (uint64_t k = param->offset; k < param->offset + param->param.elems; k++) {
            double p = (double)before.params[k], g = (double)after.first_grads[k] * scale;
            double want = first_update(job, p, g, lr, decay) - p;
            double is = (double)after.params[k] - p;

            error += (is - want) * (is - want);
            norm += want * want;
        }
    }
    cr_assert_lt(sqrt(error / norm), 2e-4, "%s, world %u: %g", ds_optim_name(setting->kind), world,
                 sqrt(error / norm));
    test_run_release(&before);
    test_run_release(&after);
}

/* Every name that a job may give, so that a new one is tested like the others. */
Test(update, no_optimizer_is_without_a_row)
{
    for (unsigned kind = 0; kind < ds_optim_kinds(); kind++) {
        size_t i = 0;

        while (i < sizeof(settings) / sizeof(settings[0]) && (unsigned)settings[i].kind != kind)
            i++;
        cr_assert_lt(i, sizeof(settings) / sizeof(settings[0]), "%s",
                     ds_optim_name((enum ds_optim_kind)kind));
    }
}

Test(update, the_first_step_is_each_formula_with_its_groups)
{
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        check(&settings[i], 1);
        check(&settings[i], 2);
    }
}

/* With one state line, with none, and with two, six steps bring the loss down. */
Test(update, every_optimizer_learns)
{
    static const double rates[] = {
        [DS_OPTIM_ADAMW] = 3e-3, [DS_OPTIM_ADAM] = 3e-3,    [DS_OPTIM_SGD] = 0.3,
        [DS_OPTIM_LION] = 1e-3,  [DS_OPTIM_ADAGRAD] = 2e-3, [DS_OPTIM_LAMB] = 1e-2,
        [DS_OPTIM_MUON] = 5e-3};

    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        struct test_run run = test_reference_run(1, 2, 4);

        run.job.optim.kind = settings[i].kind;
        run.job.optim.momentum = settings[i].momentum;
        run.job.optim.nesterov = settings[i].nesterov;
        run.job.optim.lr = run.job.optim.adamw_lr = rates[settings[i].kind];
        test_run_ok(&run);
        cr_assert(settings[i].kind == DS_OPTIM_MUON ||
                  run.plan.arena_bytes[DS_ARENA_MOMENTS] ==
                      ds_optim_states(&run.job) * run.plan.padded_elems * sizeof(float));
        cr_assert_lt(run.eval, run.result[0].loss, "%s: %g after %g",
                     ds_optim_name(settings[i].kind), run.eval, run.result[0].loss);
        test_run_release(&run);
    }
}

static void check_bits(const struct setting *setting, enum ds_compute compute)
{
    struct test_run run[4];

    for (unsigned stage = 0; stage < 4; stage++) {
        struct ds_job *job = &run[stage].job;

        run[stage] = test_reference_run(0, 4, 2);
        job->zero.stage = stage;
        job->precision.compute = compute;
        job->optim.kind = setting->kind;
        job->optim.momentum = setting->momentum;
        job->optim.nesterov = setting->nesterov;
        job->optim.lr = 1e-3;
        job->optim.groups = (struct ds_rows){4, groups};
        run[stage].loss_scale = compute == DS_COMPUTE_FP16 ? 512.0 : 0.0;
        run[stage].steps = 3;
        test_run_ok(&run[stage]);
        cr_assert_eq(run[stage].elems, run[0].elems);
        cr_assert_eq(memcmp(run[stage].params, run[0].params, run[0].elems * sizeof(float)), 0,
                     "%s, stage %u", ds_optim_name(setting->kind), stage);
        for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++)
            cr_assert_eq(run[stage].traffic[op].calls, 3 * run[stage].plan.traffic[op].calls,
                         "%s, stage %u: %llu calls of %s", ds_optim_name(setting->kind), stage,
                         (unsigned long long)run[stage].traffic[op].calls, ds_comm_op_name(op));
    }
    for (unsigned stage = 0; stage < 4; stage++)
        test_run_release(&run[stage]);
}

/* Every stage of four ranks, in every type: the same bits from every optimizer, with groups whose
 * borders no shard respects; and as many calls between ranks as the plan says. */
Test(update, every_optimizer_has_the_same_bits_at_every_stage)
{
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        check_bits(&settings[i], (enum ds_compute)(i % 3));
}

/* Its norms of tensors are sums over elements that ranks hold differently at each stage. */
Test(update, lamb_has_the_same_bits_at_every_stage_in_every_type)
{
    static const struct setting lamb = {DS_OPTIM_LAMB, 0, false};

    check_bits(&lamb, DS_COMPUTE_FP32);
    check_bits(&lamb, DS_COMPUTE_BF16);
    check_bits(&lamb, DS_COMPUTE_FP16);
}

/* So do whole matrices, which one rank updates. */
Test(update, muon_has_the_same_bits_at_every_stage_in_every_type)
{
    static const struct setting muon = {DS_OPTIM_MUON, 0.95, true};

    check_bits(&muon, DS_COMPUTE_FP32);
    check_bits(&muon, DS_COMPUTE_BF16);
    check_bits(&muon, DS_COMPUTE_FP16);
}
