/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * update.c - the contract is in update.h.
 */
#include "runtime/update.h"

#include <errno.h>
#include <math.h>

#include "runtime/muon.h"

/* The members that all optimizers' arguments have. */
#define SHARED(u)                                                                                  \
    .n = (u)->n, .p = (u)->p, .grad_type = DS_F32, .grad = (u)->grad, .low_type = (u)->low_type,   \
    .p_low = (u)->low, .lr = (u)->lr, .weight_decay = (u)->weight_decay,                           \
    .grad_scale = (u)->grad_scale, .verdict = (u)->verdict

double ds_update_bias(double beta, uint64_t t)
{
    return 1.0 - pow(beta, (double)(t > 0 ? t : 1));
}

#define BIASES(job, u)                                                                             \
    .bias1 = ds_update_bias((job)->optim.beta1, (u)->update),                                      \
    .bias2 = ds_update_bias((job)->optim.beta2, (u)->update),                                      \
    .behind_bias1 = ds_update_bias((job)->optim.beta1, (u)->update - 1),                           \
    .behind_bias2 = ds_update_bias((job)->optim.beta2, (u)->update - 1)

static int adam(const struct ds_job *job, const struct ds_update *u, struct ds_stream *stream,
                struct ds_error *err)
{
    const struct ds_adamw_args args = {
        SHARED(u),
        .m = u->state[0],
        .v = u->state[1],
        .beta1 = job->optim.beta1,
        .beta2 = job->optim.beta2,
        .eps = job->optim.eps,
        .l2 = job->optim.kind == DS_OPTIM_ADAM,
        BIASES(job, u),
    };

    return ds_adamw(&args, stream, err);
}

static int sgd(const struct ds_job *job, const struct ds_update *u, struct ds_stream *stream,
               struct ds_error *err)
{
    const struct ds_sgd_args args = {
        SHARED(u),
        .m = u->state[0],
        .momentum = job->optim.momentum,
        .nesterov = job->optim.nesterov,
    };

    return ds_sgd(&args, stream, err);
}

static int lion(const struct ds_job *job, const struct ds_update *u, struct ds_stream *stream,
                struct ds_error *err)
{
    const struct ds_lion_args args = {
        SHARED(u),
        .m = u->state[0],
        .beta1 = job->optim.beta1,
        .beta2 = job->optim.beta2,
    };

    return ds_lion(&args, stream, err);
}

static int adagrad(const struct ds_job *job, const struct ds_update *u, struct ds_stream *stream,
                   struct ds_error *err)
{
    const struct ds_adagrad_args args = {SHARED(u), .v = u->state[0], .eps = job->optim.eps};

    return ds_adagrad(&args, stream, err);
}

/* The second pass; the states are of this update (trust.h). */
static int lamb(const struct ds_job *job, const struct ds_update *u, struct ds_stream *stream,
                struct ds_error *err)
{
    const struct ds_lamb_args args = {
        .n = u->n,
        .p = u->p,
        .m = u->state[0],
        .v = u->state[1],
        .low_type = u->low_type,
        .p_low = u->low,
        .lr = u->lr,
        .eps = job->optim.eps,
        .weight_decay = u->weight_decay,
        .p_sumsq = &u->norms[0],
        .u_sumsq = &u->norms[1],
        .verdict = u->verdict,
        BIASES(job, u),
    };

    return ds_lamb(&args, stream, err);
}

int ds_update(const struct ds_job *job, const struct ds_update *update, struct ds_stream *stream,
              struct ds_error *err)
{
    switch (job->optim.kind) {
    case DS_OPTIM_ADAMW:
    case DS_OPTIM_ADAM: return adam(job, update, stream, err);
    case DS_OPTIM_SGD: return sgd(job, update, stream, err);
    case DS_OPTIM_LION: return lion(job, update, stream, err);
    case DS_OPTIM_ADAGRAD: return adagrad(job, update, stream, err);
    case DS_OPTIM_LAMB: return lamb(job, update, stream, err);
    case DS_OPTIM_MUON:
        return update->rows > 0 ? ds_muon_update(job, update, stream, err)
                                : adam(job, update, stream, err);
    }
    return ds_fail(err, EINVAL, "optimizer %d is unknown", (int)job->optim.kind);
}
