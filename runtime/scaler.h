/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * scaler.h - the loss scale of fp16: doubled while all goes well, halved when gradients overflow.
 *
 * Gradients in fp16 below 2^-24 are lost, so the loss is multiplied by a scale before the backward
 * pass and gradients are divided by it where they are applied, in fp32.  An update whose gradients
 * are not finite is skipped.  With iterations counted from 0 and the last overflow before them:
 *
 *   overflow   hysteresis 1: scale = max(scale / 2, min), else hysteresis - 1; when the scale is
 *              `min` already the run has no future and ends
 *   else       k = iteration - last overflow - 1; k > 0 and k a multiple of `window`:
 *              scale = 2 scale, hysteresis as at first
 *
 * Source  DeepSpeed's DynamicLossScaler; Micikevicius et al., "Mixed Precision Training", 2018.
 * Tests   tests/plan/test_scaler.c
 */
#ifndef DS_RUNTIME_SCALER_H
#define DS_RUNTIME_SCALER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/verdict.h"
#include "runtime/job.h"

struct ds_scaler {       /* plain data; a checkpoint keeps all but the first two */
    bool on;             /* the job computes in fp16 */
    bool fixed;          /* the job gives the scale */
    struct ds_scale now; /* factor 1 when not on */
};

/* How it goes on: what a device decides by, too. */
struct ds_scale_rule ds_scaler_rule(const struct ds_scaler *scaler, const struct ds_job *job);

void ds_scaler_init(struct ds_scaler *scaler, const struct ds_job *job);

/* After a step.  -ERANGE when gradients overflow and the scale cannot fall any further. */
int ds_scaler_update(struct ds_scaler *scaler, const struct ds_job *job, bool overflow,
                     struct ds_error *err) DS_NODISCARD;

#endif
