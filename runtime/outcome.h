/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * outcome.h - NORM: what a step came to on all ranks, and what becomes of it.
 *
 * Where a plan is `late` (plan.h) the device decides: each rank's numbers are gathered by the
 * ranks' devices, every device adds them up in the order of the hosts, and updates read the verdict
 * where it lies.  The host is told later: it may queue one step more before it asks what this one
 * came to, and so never waits for what the device has not done long ago.  Else the host waits, the
 * hosts add up, and what a step came to is known when it returns.
 *
 * Tests   tests/engine/test_late.c, tests/engine/test_stages.c, tests/e2e/cuda.py
 */
#ifndef DS_RUNTIME_OUTCOME_H
#define DS_RUNTIME_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/device.h"
#include "runtime/comm/comm.h"
#include "runtime/engine.h"
#include "runtime/tally.h"
#include "runtime/updater.h"

enum { DS_OUTCOME_EVENTS = 2 }; /* steps whose verdicts are kept: this one and the one before */

struct ds_outcome {
    const struct ds_plan *plan;
    const struct ds_job *job;
    struct ds_device *device;
    struct ds_stream *stream;
    struct ds_comm *comm;
    struct ds_comm *part; /* who has the same layers, or parts of them; NULL: nobody else */
    struct ds_tally tally;
    struct ds_step_size size; /* its targets are those of what is read now */
    uint64_t made, told;      /* steps */
    struct ds_verdict last;   /* of the step that is told, or is to be */
    size_t bad;               /* its first tensor that is not finite */
    double *norms;            /* of tensors, the device's (trust.h); NULL where none are needed */
    /* Late: of the device, and where they come down to. */
    struct ds_entry *entry;                        /* [world] */
    struct ds_verdict *verdict[DS_OUTCOME_EVENTS]; /* of step n: n % DS_OUTCOME_EVENTS */
    float *loss_factor;                            /* [DS_LOSS_FACTORS] */
    struct ds_verdict *host; /* [DS_OUTCOME_EVENTS], and what the first step begins with */
    uint32_t event; /* the first of DS_OUTCOME_EVENTS of the device that are the outcome's */
};

int ds_outcome_open(struct ds_outcome *outcome, const struct ds_engine_args *args, uint32_t event,
                    struct ds_error *err) DS_NODISCARD;
void ds_outcome_close(struct ds_outcome *outcome);

/* What all ranks are about to read, told by the masks, which every rank has: so the factor of the
 * losses is known before the first pass. */
int ds_outcome_expect(struct ds_outcome *outcome, const struct ds_data *data, uint64_t position,
                      struct ds_error *err) DS_NODISCARD;

/* A step begins: sums are 0, and where no outcome is pending the loss scale is that of `step`. */
int ds_outcome_begin(struct ds_outcome *outcome, const struct ds_step_args *step,
                     struct ds_error *err) DS_NODISCARD;

/* What the step's losses are multiplied by; 0 where the device finds it itself, at loss_factor. */
float ds_outcome_loss_factor(const struct ds_outcome *outcome, const struct ds_step_args *step,
                             enum ds_loss_factor which);

/* Its gradients are in `lines`, and the updater is told what to do with them. */
int ds_outcome_norm(struct ds_outcome *outcome, const struct ds_step_args *step,
                    const struct ds_engine_lines *lines, struct ds_updater *updater,
                    struct ds_error *err) DS_NODISCARD;

/* Of the oldest step that was made and not told.  Errors of ds_engine_result(). */
int ds_outcome_tell(struct ds_outcome *outcome, struct ds_step_result *result, struct ds_error *err)
    DS_NODISCARD;

/* Of an evaluation whose losses are summed up, on every rank. */
int ds_outcome_eval(struct ds_outcome *outcome, struct ds_eval_result *result, struct ds_error *err)
    DS_NODISCARD;

#endif
