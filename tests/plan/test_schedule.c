/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_schedule.c - every kind of schedule against its published formula, written out on its own.
 *
 * The references are put together the way their sources do it (phases and multipliers of PyTorch,
 * gammas of DeepSpeed), not the way runtime/optim.c does.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "runtime/optim.h"

struct curve { /* one row: what a job may say */
    uint64_t warmup, steps, decay;
    double lr, start, min;
};

static const struct curve curves[] = {
    {0, 1, 1, 1e-3, 0, 0},           {0, 10, 3, 1e-3, 0, 1e-4},       {1, 10, 2, 3e-4, 0, 3e-5},
    {2, 10, 8, 3e-4, 1e-5, 3e-5},    {3, 10, 1, 0.5, 0.02, 2e-6},     {10, 10, 1, 1e-3, 0, 1e-4},
    {300, 1000, 100, 6e-4, 0, 6e-5}, {100, 1000, 900, 1, 0.04, 4e-6}, {9, 11, 2, 1e-3, 1e-3, 1e-3},
};

/* --- the references --------------------------------------------------------------------------- */

/* PyTorch LinearLR / CosineAnnealingLR after a linear warm-up (SequentialLR of two). */
static double ref_after_warmup(const struct curve *c, double t, double (*shape)(double))
{
    double w = (double)c->warmup, n = (double)c->steps;

    if (t < w)
        return c->start * (1 - (t + 1) / w) + c->lr * ((t + 1) / w);
    return c->min + (c->lr - c->min) * shape(t >= n ? 1 : (t - w) / (n - w));
}

static double falling_line(double x)
{
    return 1 - x;
}

static double falling_cosine(double x)
{
    return (1 + cos(3.14159265358979323846 * x)) / 2;
}

static double ref_linear(const struct curve *c, double t)
{
    return ref_after_warmup(c, t, falling_line);
}

static double ref_cosine(const struct curve *c, double t)
{
    return ref_after_warmup(c, t, falling_cosine);
}

static double flat(double x)
{
    (void)x;
    return 1;
}

static double ref_constant(const struct curve *c, double t)
{
    return ref_after_warmup(c, t, flat);
}

/* Hu et al., "MiniCPM", section 4: warm-up, stable, decay; here with a linear decay to min. */
static double ref_wsd(const struct curve *c, double t)
{
    double decay_from = (double)c->steps - (double)c->decay;

    if (t < (double)c->warmup || t <= decay_from)
        return ref_constant(c, t);
    if (t >= (double)c->steps)
        return c->min;
    return c->lr + (c->min - c->lr) * (t - decay_from) / (double)c->decay;
}

/* torch.optim.lr_scheduler.OneCycleLR: a table of phases, annealed between their ends. */
static double ref_one_cycle(const struct curve *c, double t, bool cosine)
{
    const struct {
        double end, from, to;
    } phases[] = {
        {c->warmup > 0 ? (double)c->warmup - 1 : 0, c->start, c->lr},
        {(double)c->steps - 1, c->lr, c->min},
    };
    double begin = 0;

    for (int i = 0; i < 2; i++) {
        if (t <= phases[i].end || i == 1) {
            double length = phases[i].end - begin;
            double pct = length > 0 ? fmin(1, (t - begin) / length) : i == 0 ? 1 : 0;
            double out = 1 + cos(3.14159265358979323846 * pct);

            if (cosine)
                return phases[i].to + (phases[i].from - phases[i].to) / 2 * out;
            return (phases[i].to - phases[i].from) * pct + phases[i].from;
        }
        begin = phases[i].end;
    }
    return 0;
}

static double ref_one_cycle_cosine(const struct curve *c, double t)
{
    return ref_one_cycle(c, t, true);
}

static double ref_one_cycle_linear(const struct curve *c, double t)
{
    return ref_one_cycle(c, t, false);
}

/* deepspeed/runtime/lr_schedules.py WarmupLR._get_gamma, i counted from 1 */
static double gamma_of(const struct curve *c, double i, bool logarithm)
{
    double w = fmax(2, (double)c->warmup);

    if (i < w)
        return logarithm ? 1.0 / log(w) * log(i + 1) : i / w;
    return 1;
}

static double ref_warmup_lr(const struct curve *c, double t, bool logarithm)
{
    return c->min + (c->lr - c->min) * gamma_of(c, t + 1, logarithm);
}

static double ref_warmup_lr_log(const struct curve *c, double t)
{
    return ref_warmup_lr(c, t, true);
}

static double ref_warmup_lr_linear(const struct curve *c, double t)
{
    return ref_warmup_lr(c, t, false);
}

/* WarmupDecayLR._get_gamma */
static double ref_decay_lr(const struct curve *c, double t, bool logarithm)
{
    double i = t + 1, w = fmax(2, (double)c->warmup), total = (double)c->steps;
    double gamma = i < w ? gamma_of(c, i, logarithm) : fmax(0, (total - i) / fmax(1, total - w));

    return c->min + (c->lr - c->min) * gamma;
}

static double ref_decay_lr_log(const struct curve *c, double t)
{
    return ref_decay_lr(c, t, true);
}

static double ref_decay_lr_linear(const struct curve *c, double t)
{
    return ref_decay_lr(c, t, false);
}

/* The multipliers of transformers' optimization.py, with the warm-up of the other kinds. */
enum { TIMESCALE = 50 };
#define POWER 1.7

static double ref_polynomial(const struct curve *c, double t)
{
    double w = (double)c->warmup, n = (double)c->steps, remaining;

    if (t < w)
        return ref_constant(c, t);
    if (t > n || n <= w)
        return c->min / c->lr * c->lr;
    remaining = 1 - (t - w) / (n - w);
    return ((c->lr - c->min) * pow(remaining, POWER) + c->min) / c->lr * c->lr;
}

static double ref_inverse_sqrt(const struct curve *c, double t)
{
    double shift = TIMESCALE - (double)c->warmup;

    if (t < (double)c->warmup)
        return ref_constant(c, t);
    return fmax(c->min, c->lr * (1.0 / sqrt((t + shift) / TIMESCALE)));
}

/* --- the comparison --------------------------------------------------------------------------- */

/* clang-format off */
static const struct kind {
    const char *name;
    enum ds_schedule_kind kind;
    enum ds_warmup warmup;
    enum ds_anneal anneal;
    double (*reference)(const struct curve *, double step);
} kinds[] = {
    {"constant",          DS_SCHEDULE_CONSTANT, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE, ref_constant},
    {"linear",            DS_SCHEDULE_LINEAR, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE, ref_linear},
    {"cosine",            DS_SCHEDULE_COSINE, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE, ref_cosine},
    {"wsd",               DS_SCHEDULE_WSD, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE, ref_wsd},
    {"one_cycle, cosine", DS_SCHEDULE_ONE_CYCLE, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE,
     ref_one_cycle_cosine},
    {"one_cycle, linear", DS_SCHEDULE_ONE_CYCLE, DS_WARMUP_LINEAR, DS_ANNEAL_LINEAR,
     ref_one_cycle_linear},
    {"warmup_lr, log",    DS_SCHEDULE_WARMUP_LR, DS_WARMUP_LOG, DS_ANNEAL_COSINE,
     ref_warmup_lr_log},
    {"warmup_lr, linear", DS_SCHEDULE_WARMUP_LR, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE,
     ref_warmup_lr_linear},
    {"warmup_decay_lr, log", DS_SCHEDULE_WARMUP_DECAY_LR, DS_WARMUP_LOG, DS_ANNEAL_COSINE,
     ref_decay_lr_log},
    {"warmup_decay_lr, linear", DS_SCHEDULE_WARMUP_DECAY_LR, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE,
     ref_decay_lr_linear},
    {"polynomial", DS_SCHEDULE_POLYNOMIAL, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE, ref_polynomial},
    {"inverse_sqrt", DS_SCHEDULE_INVERSE_SQRT, DS_WARMUP_LINEAR, DS_ANNEAL_COSINE, ref_inverse_sqrt},
};
/* clang-format on */

static void compare(const struct kind *kind, const struct curve *c)
{
    bool named = kind->kind == DS_SCHEDULE_WARMUP_LR || kind->kind == DS_SCHEDULE_WARMUP_DECAY_LR;
    struct ds_job job = {
        .optim = {.lr = c->lr},
        .schedule = {.kind = kind->kind,
                     .warmup_kind = kind->warmup,
                     .anneal = kind->anneal,
                     .warmup = c->warmup,
                     .steps = c->steps,
                     .decay = c->decay,
                     .power = POWER,
                     .timescale = TIMESCALE,
                     .start_lr = named ? c->min : c->start,
                     .min_lr = c->min},
    };

    for (uint64_t step = 0; step < c->steps + 3; step++) {
        double want = kind->reference(c, (double)step), is = ds_optim_lr(&job, step);

        cr_assert(fabs(is - want) <= 1e-14 * c->lr,
                  "%s, warm-up %zu of %zu, step %zu: %.17g for %.17g", kind->name,
                  (size_t)c->warmup, (size_t)c->steps, (size_t)step, is, want);
        cr_assert(is >= 0 && is <= c->lr * (1 + 1e-15));
    }
}

Test(schedule, kinds_follow_their_formulas)
{
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
        for (size_t i = 0; i < sizeof(curves) / sizeof(curves[0]); i++)
            compare(&kinds[k], &curves[i]);
}

/* Values that are known without any formula of ours. */
Test(schedule, known_points)
{
    struct ds_job job = {.optim = {.lr = 1.0},
                         .schedule = {.kind = DS_SCHEDULE_WARMUP_LR,
                                      .warmup_kind = DS_WARMUP_LOG,
                                      .warmup = 1024,
                                      .steps = 2000}};

    cr_assert(fabs(ds_optim_lr(&job, 0) - 0.1) < 1e-15);  /* ln 2 / ln 1024 */
    cr_assert(fabs(ds_optim_lr(&job, 30) - 0.5) < 1e-15); /* ln 32 / ln 1024 */
    cr_assert(ds_optim_lr(&job, 1024) == 1.0 && ds_optim_lr(&job, 1u << 30) == 1.0);
    job.schedule.kind = DS_SCHEDULE_ONE_CYCLE;
    job.schedule.warmup = 31;
    job.schedule.steps = 101;
    job.schedule.start_lr = 0.04;
    job.schedule.min_lr = 4e-6;
    cr_assert(fabs(ds_optim_lr(&job, 0) - 0.04) < 1e-15 && ds_optim_lr(&job, 30) == 1.0);
    cr_assert(fabs(ds_optim_lr(&job, 15) - 0.52) < 1e-15);
    cr_assert(fabs(ds_optim_lr(&job, 65) - 0.500002) < 1e-15);
    cr_assert(ds_optim_lr(&job, 100) == 4e-6 && ds_optim_lr(&job, 5000) == 4e-6);
    job.schedule.kind = DS_SCHEDULE_INVERSE_SQRT;
    job.schedule.warmup = 100;
    job.schedule.timescale = 100;
    cr_assert(ds_optim_lr(&job, 100) == 1.0 && ds_optim_lr(&job, 400) == 0.5);
    cr_assert(ds_optim_lr(&job, 10000) == 0.1);
    job.schedule.kind = DS_SCHEDULE_POLYNOMIAL;
    job.schedule.power = 2.0;
    job.schedule.steps = 200;
    job.schedule.min_lr = 0.0;
    cr_assert(ds_optim_lr(&job, 150) == 0.25 && ds_optim_lr(&job, 200) == 0.0);
}

Test(schedule, log_warm_up_serves_every_kind)
{
    struct ds_job job = {
        .optim = {.lr = 1.0},
        .schedule = {
            .kind = DS_SCHEDULE_COSINE, .warmup_kind = DS_WARMUP_LOG, .warmup = 1, .steps = 50}};

    cr_assert(ds_optim_lr(&job, 0) == 1.0);
    job.schedule.warmup = 16;
    cr_assert(fabs(ds_optim_lr(&job, 2) - 0.5) < 1e-15);
    cr_assert(ds_optim_lr(&job, 15) == 1.0 && ds_optim_lr(&job, 16) == 1.0);
}
