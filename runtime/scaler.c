/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * scaler.c - the contract is in scaler.h.
 */
#include "runtime/scaler.h"

#include <errno.h>
#include <math.h>

void ds_scaler_init(struct ds_scaler *scaler, const struct ds_job *job)
{
    *scaler = (struct ds_scaler){
        .on = job->precision.compute == DS_COMPUTE_FP16,
        .scale = 1.0,
        .hysteresis = job->precision.scaler.hysteresis,
        .last_overflow = -1,
    };
    if (!scaler->on)
        return;
    scaler->fixed = job->precision.loss_scale != 0;
    scaler->scale = scaler->fixed ? (double)job->precision.loss_scale
                                  : exp2((double)job->precision.scaler.init_power);
}

static int overflowed(struct ds_scaler *scaler, const struct ds_job *job, struct ds_error *err)
{
    double least = (double)job->precision.scaler.min;

    scaler->last_overflow = (int64_t)scaler->iteration;
    if (scaler->hysteresis > 1) {
        scaler->hysteresis--;
        return 0;
    }
    if (scaler->scale <= least)
        return ds_fail(err, EDOM,
                       "gradients overflow in fp16 although the loss scale is %g, the least of "
                       "'precision.scaler.min'; lower 'optim.lr' or compute in bf16",
                       scaler->scale);
    scaler->scale = fmax(scaler->scale / 2.0, least);
    return 0;
}

int ds_scaler_update(struct ds_scaler *scaler, const struct ds_job *job, bool overflow,
                     struct ds_error *err)
{
    int64_t calm = (int64_t)scaler->iteration - scaler->last_overflow - 1;
    int rc = 0;

    if (scaler->on && !scaler->fixed && overflow) {
        rc = overflowed(scaler, job, err);
    } else if (scaler->on && !scaler->fixed && calm > 0 &&
               (uint64_t)calm % job->precision.scaler.window == 0) {
        scaler->scale *= 2.0;
        scaler->hysteresis = job->precision.scaler.hysteresis;
    }
    scaler->iteration++;
    return rc;
}
