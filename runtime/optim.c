/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * optim.c - the contract is in optim.h.
 *
 * After the warm-up most kinds are a curve over x, the share of the remaining schedule that has
 * passed, from lr at 0 to min_lr at 1; past its end the rate stays there.  one_cycle, inverse_sqrt
 * and the two kinds that have DeepSpeed's names follow their own formulas, written beside them.
 */
#include "runtime/optim.h"

#include <fnmatch.h>
#include <math.h>

#include "runtime/model/family.h"

static double half_cosine(double x)
{
    return 0.5 * (1.0 + cos(acos(-1.0) * x));
}

static double share(uint64_t part, uint64_t whole)
{
    return (double)part / (double)whole;
}

static bool is_deepspeed(const struct ds_job *job)
{
    return job->schedule.kind == DS_SCHEDULE_WARMUP_LR ||
           job->schedule.kind == DS_SCHEDULE_WARMUP_DECAY_LR;
}

/* Updates of warm-up; DeepSpeed's kinds have two at least. */
static uint64_t warmup_of(const struct ds_job *job)
{
    return is_deepspeed(job) && job->schedule.warmup < 2 ? 2 : job->schedule.warmup;
}

/* How much of the way from start_lr to lr the warm-up has come at `step` < warmup. */
static double warmed(const struct ds_job *job, uint64_t step)
{
    uint64_t warmup = warmup_of(job);

    if (job->schedule.warmup_kind == DS_WARMUP_LINEAR)
        return share(step + 1, warmup);
    return fmin(1.0, log((double)step + 2.0) / log((double)(warmup < 2 ? 2 : warmup)));
}

/* Warm-up, stable, decay: the share of lr - min_lr that is left, in the last `decay` steps. */
static double stable_share(uint64_t left, uint64_t decay)
{
    return left < decay ? share(left, decay) : 1.0;
}

/* PyTorch's OneCycleLR in two phases: up over warmup - 1 steps, then down until the last step. */
static double one_cycle(const struct ds_job *job, uint64_t step)
{
    uint64_t peak = job->schedule.warmup > 0 ? job->schedule.warmup - 1 : 0;
    uint64_t last = job->schedule.steps > 0 ? job->schedule.steps - 1 : 0;
    double from = job->optim.lr, to = job->schedule.min_lr, x = 1.0;

    if (step < peak) {
        from = job->schedule.start_lr;
        to = job->optim.lr;
        x = share(step, peak);
    } else if (step < last) {
        x = share(step - peak, last - peak);
    } else if (last <= peak) { /* the cycle ends at its peak */
        x = 0.0;
    }
    if (job->schedule.anneal == DS_ANNEAL_LINEAR)
        return from + (to - from) * x;
    return to + (from - to) * half_cosine(x);
}

/* DeepSpeed's WarmupDecayLR after the warm-up: max(0, (T - i) / max(1, T - W)), updates from 1. */
static double decay_share(const struct ds_job *job, uint64_t step)
{
    double end = (double)job->schedule.steps, warmup = (double)warmup_of(job);

    return fmax(0.0, (end - ((double)step + 1.0)) / fmax(1.0, end - warmup));
}

/* transformers' get_inverse_sqrt_schedule() after the warm-up; min_lr is Megatron-LM's floor. */
static double inverse_sqrt(const struct ds_job *job, uint64_t step)
{
    double scale = (double)job->schedule.timescale;
    double passed = (double)(step - job->schedule.warmup) + scale;

    return fmax(job->schedule.min_lr, job->optim.lr / sqrt(passed / scale));
}

/* The share of lr - min_lr that is left at `step` >= warmup. */
static double left(const struct ds_job *job, uint64_t step)
{
    uint64_t warmup = job->schedule.warmup, steps = job->schedule.steps;
    double x = step < steps ? share(step - warmup, steps - warmup) : 1.0;

    switch (job->schedule.kind) {
    case DS_SCHEDULE_LINEAR: return 1.0 - x;
    case DS_SCHEDULE_COSINE: return half_cosine(x);
    case DS_SCHEDULE_WSD: return stable_share(step < steps ? steps - step : 0, job->schedule.decay);
    case DS_SCHEDULE_WARMUP_DECAY_LR: return decay_share(job, step);
    case DS_SCHEDULE_POLYNOMIAL: return pow(1.0 - x, job->schedule.power);
    case DS_SCHEDULE_INVERSE_SQRT:
    case DS_SCHEDULE_CONSTANT:
    case DS_SCHEDULE_ONE_CYCLE:
    case DS_SCHEDULE_WARMUP_LR: break;
    }
    return 1.0;
}

double ds_optim_lr(const struct ds_job *job, uint64_t step)
{
    double lr = job->optim.lr, start = job->schedule.start_lr, end = job->schedule.min_lr;

    if (job->schedule.kind == DS_SCHEDULE_ONE_CYCLE)
        return one_cycle(job, step);
    if (step + is_deepspeed(job) < warmup_of(job)) /* DeepSpeed: i < W, updates from 1 */
        return start + (lr - start) * warmed(job, step);
    if (job->schedule.kind == DS_SCHEDULE_CONSTANT || job->schedule.kind == DS_SCHEDULE_WARMUP_LR)
        return lr;
    if (job->schedule.kind == DS_SCHEDULE_INVERSE_SQRT)
        return inverse_sqrt(job, step);
    return end + (lr - end) * left(job, step);
}

/* Names as PyTorch's optimizers have them. */
static const struct {
    const char *name, *state[DS_OPTIM_STATES];
} optims[] = {
    [DS_OPTIM_ADAMW] = {"adamw", {"exp_avg", "exp_avg_sq"}},
    [DS_OPTIM_ADAM] = {"adam", {"exp_avg", "exp_avg_sq"}},
    [DS_OPTIM_SGD] = {"sgd", {"momentum_buffer", NULL}},
    [DS_OPTIM_LION] = {"lion", {"exp_avg", NULL}},
    [DS_OPTIM_ADAGRAD] = {"adagrad", {"sum", NULL}},
    [DS_OPTIM_LAMB] = {"lamb", {"exp_avg", "exp_avg_sq"}},
    [DS_OPTIM_MUON] = {"muon", {"exp_avg", "exp_avg_sq"}}, /* of what AdamW updates */
};

unsigned ds_optim_states(const struct ds_job *job)
{
    unsigned states = 0;

    if (job->optim.kind == DS_OPTIM_SGD && job->optim.momentum == 0.0)
        return 0;
    while (states < DS_OPTIM_STATES && optims[job->optim.kind].state[states] != NULL)
        states++;
    return states;
}

const char *ds_optim_state_name(const struct ds_job *job, const struct ds_param *param,
                                unsigned state)
{
    if (ds_optim_by_matrix(job, param))
        return state == 0 ? "momentum_buffer" : NULL;
    return optims[job->optim.kind].state[state];
}

bool ds_optim_by_tensor(const struct ds_job *job)
{
    return job->optim.kind == DS_OPTIM_LAMB;
}

bool ds_optim_wants_matrices(const struct ds_job *job)
{
    return job->optim.kind == DS_OPTIM_MUON;
}

bool ds_optim_by_matrix(const struct ds_job *job, const struct ds_param *param)
{
    return ds_optim_wants_matrices(job) && param->ndim == 2 && param->role != DS_ROLE_WTE &&
           param->role != DS_ROLE_WPE && param->role != DS_ROLE_HEAD_W;
}

double ds_optim_matrix_scale(const struct ds_job *job, const struct ds_param *param)
{
    bool out_first = ds_family_of(job->model.shape.arch)->weight_out;
    double out = (double)param->shape[out_first ? 0 : 1];
    double in = (double)param->shape[out_first ? 1 : 0];

    if (job->optim.muon_scale == DS_MUON_SCALE_ADAMW)
        return 0.2 * sqrt(fmax(out, in));
    return sqrt(fmax(1.0, out / in));
}

uint64_t ds_optim_matrix_room(uint64_t rows, uint64_t cols)
{
    uint64_t side = rows < cols ? rows : cols;

    return 2 * rows * cols + 2 * side * side + 2 * sizeof(double) / sizeof(float);
}

double ds_optim_loose_lr_mult(const struct ds_job *job)
{
    return ds_optim_wants_matrices(job) && job->optim.lr > 0.0 ? job->optim.adamw_lr / job->optim.lr
                                                               : 1.0;
}

const char *ds_optim_name(enum ds_optim_kind kind)
{
    return optims[kind].name;
}

unsigned ds_optim_kinds(void)
{
    return sizeof(optims) / sizeof(optims[0]);
}

bool ds_optim_globbed(const struct ds_strings *globs, const struct ds_param *param)
{
    for (size_t i = 0; i < globs->count && !ds_model_is_adapter(param); i++)
        if (fnmatch(globs->item[i], param->name, FNM_NOESCAPE) == 0)
            return true;
    return false;
}

bool ds_optim_trains(const struct ds_job *job, const struct ds_param *param)
{
    if (job->model.shape.lora.rank > 0)
        return ds_model_is_adapter(param) || ds_optim_globbed(&job->lora.whole, param);
    return !ds_optim_globbed(&job->train.freeze, param);
}

bool ds_optim_freezes(const struct ds_job *job)
{
    return job->model.shape.lora.rank > 0 || job->train.freeze.count > 0;
}

const struct ds_optim_group *ds_optim_group_of(const struct ds_job *job, const char *tensor)
{
    const struct ds_optim_group *group = job->optim.groups.row;

    for (size_t i = 0; i < job->optim.groups.count; i++)
        if (fnmatch(group[i].match, tensor, FNM_NOESCAPE) == 0)
            return &group[i];
    return NULL;
}
