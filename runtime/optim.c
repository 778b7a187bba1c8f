/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * optim.c - the contract is in optim.h.
 *
 * After the warm-up every kind is a curve over x, the share of the remaining schedule that has
 * passed, from lr at 0 to min_lr at 1; past its end the rate stays there.
 */
#include "runtime/optim.h"

#include <math.h>

static double curve(enum ds_schedule_kind kind, double x)
{
    switch (kind) {
    case DS_SCHEDULE_LINEAR: return 1.0 - x;
    case DS_SCHEDULE_COSINE: return 0.5 * (1.0 + cos(acos(-1.0) * x));
    case DS_SCHEDULE_WSD:
    case DS_SCHEDULE_CONSTANT: break;
    }
    return 1.0;
}

/* Warm-up, stable, decay: the share of lr - min_lr that is left, in the last `decay` steps. */
static double stable_share(uint64_t left, uint64_t decay)
{
    return left < decay ? (double)left / (double)decay : 1.0;
}

double ds_optim_lr(const struct ds_job *job, uint64_t step)
{
    uint64_t warmup = job->schedule.warmup, steps = job->schedule.steps;
    double lr = job->optim.lr, min_lr = job->schedule.min_lr, x = 1.0;

    if (step < warmup)
        return lr * (double)(step + 1) / (double)warmup;
    if (job->schedule.kind == DS_SCHEDULE_CONSTANT)
        return lr;
    if (job->schedule.kind == DS_SCHEDULE_WSD)
        return min_lr +
               (lr - min_lr) * stable_share(step < steps ? steps - step : 0, job->schedule.decay);
    if (step < steps)
        x = (double)(step - warmup) / (double)(steps - warmup);
    return min_lr + (lr - min_lr) * curve(job->schedule.kind, x);
}

double ds_optim_clip_scale(double norm, double clip)
{
    double scale = clip / (norm + 1e-6);

    return clip > 0.0 && scale < 1.0 ? scale : 1.0;
}
