/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * scaler.c - the contract is in scaler.h; the rule itself is in kernels/verdict.h.
 */
#include "runtime/scaler.h"

#include <errno.h>
#include <math.h>

void ds_scaler_init(struct ds_scaler *scaler, const struct ds_job *job)
{
    *scaler = (struct ds_scaler){
        .on = job->precision.compute == DS_COMPUTE_FP16,
        .now = {.factor = 1.0, .hysteresis = job->precision.scaler.hysteresis, .last_overflow = -1},
    };
    if (!scaler->on)
        return;
    scaler->fixed = job->precision.loss_scale != 0;
    scaler->now.factor = scaler->fixed ? (double)job->precision.loss_scale
                                       : exp2((double)job->precision.scaler.init_power);
}

struct ds_scale_rule ds_scaler_rule(const struct ds_scaler *scaler, const struct ds_job *job)
{
    return (struct ds_scale_rule){
        .dynamic = scaler->on && !scaler->fixed,
        .least = (double)job->precision.scaler.min,
        .window = job->precision.scaler.window,
        .hysteresis = job->precision.scaler.hysteresis,
    };
}

int ds_scaler_update(struct ds_scaler *scaler, const struct ds_job *job, bool overflow,
                     struct ds_error *err)
{
    const struct ds_scale_rule rule = ds_scaler_rule(scaler, job);

    if (ds_scale_next(&scaler->now, &rule, overflow))
        return 0;
    return ds_fail(err, ERANGE,
                   "gradients overflow in fp16 although the loss scale is %g, the least of "
                   "'precision.scaler.min'; lower 'optim.lr' or compute in bf16",
                   scaler->now.factor);
}
