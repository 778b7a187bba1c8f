/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * updater.h - UPDATE: what a step's optimizer does to a bucket, on the device or by the host.
 *
 * With offload the host may still update for one step while the next one has begun.  So what an
 * update needs to know of its step is handed over once, when the norm is known, and stays as it is
 * until the next step's norm: by then all updates before it are done.
 *
 * Tests   tests/engine/test_stages.c, tests/e2e/cuda.py
 */
#ifndef DS_RUNTIME_UPDATER_H
#define DS_RUNTIME_UPDATER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/device.h"
#include "runtime/engine.h"
#include "runtime/job.h"
#include "runtime/plan/plan.h"
#include "runtime/states.h"

struct ds_updater { /* all borrowed, but the states */
    const struct ds_plan *plan;
    const struct ds_job *job;
    struct ds_stream *stream; /* of what updates: the plan's device, or the host */
    struct ds_engine_lines lines;
    void *const *memory;      /* [DS_ARENA_COUNT] */
    struct ds_states *states; /* in a file, or NULL: lines.state */
    float *work;              /* of the stream's device, for matrices; empty between passes */
    struct ds_comm *team;     /* who has other parts of those, or NULL */
    /* Of the step: */
    double lr, grad_scale;
    uint64_t update;
    bool skip;                        /* its gradients are not finite */
    const struct ds_verdict *verdict; /* of a plan that is late: says both instead */
    const double *norms;              /* trust.h; of a plan by tensor, else NULL */
};

/* Open the file of the plan's states, where it has one; the rest is filled in.  Close may come
 * without. */
int ds_updater_open(struct ds_updater *updater, struct ds_error *err) DS_NODISCARD;
void ds_updater_close(struct ds_updater *updater);
/* Wait for what is under way between file and memory. */
int ds_updater_settle(const struct ds_updater *updater, struct ds_error *err) DS_NODISCARD;

/* UPDATE: all spans of the bucket, or of its piece, that this rank updates.  LOAD and STORE of a
 * piece.  Errors of ds_update() and of the disk. */
int ds_updater_do(const struct ds_updater *updater, const struct ds_instr *instr,
                  struct ds_error *err) DS_NODISCARD;

/* What kernels read of a bucket, made anew of this rank's parameters, to `own`; where the host's
 * are copied, the way that they have after an update, by the device's `stream`. */
int ds_updater_publish(const struct ds_updater *updater, size_t bucket, void *own,
                       struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;

#endif
