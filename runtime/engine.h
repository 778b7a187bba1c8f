/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * engine.h - walks a plan's instruction lists over memory, kernels and collectives.
 *
 * The engine knows what each instruction does and nothing about why it is where it is: no ZeRO
 * stage, only what the plan says a rank holds.  It owns the arenas of the plan, except those that
 * ranks share or hold once, which lie in the memory of the comm.  Instructions of the queues
 * between ranks and of the copies run on one thread of their own when `overlap` is set, else where
 * they stand in the list; the results are the same.  On a device apart the updates of the host have
 * that thread.  A step may end while parameters are still updated and gathered for the next one.
 * Between open and close a step allocates nothing.
 *
 * One step ends with what it came to on all ranks (outcome.h): sum of squares, non-finite count,
 * loss, stop request and plan hash, so every rank takes the same decision.  Where the device takes
 * it, one step may be queued before it is asked what the one in front of it came to.
 *
 * Tests   tests/engine/test_engine.c, tests/engine/test_late.c
 */
#ifndef DS_RUNTIME_ENGINE_H
#define DS_RUNTIME_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/device.h"
#include "kernels/probe.h"
#include "runtime/comm/comm.h"
#include "runtime/data/data.h"
#include "runtime/job.h"
#include "runtime/optim.h"
#include "runtime/plan/plan.h"
#include "runtime/scaler.h"

struct ds_engine;
struct ds_states; /* runtime/states.h */

struct ds_engine_args { /* borrowed until ds_engine_close() */
    const struct ds_plan *plan;
    const struct ds_job *job; /* optimizer, clipping, dropout */
    struct ds_device *device;
    struct ds_device *host; /* the CPU where a device apart offloads (ds_plan_uses_host()) */
    struct ds_comm *comm;   /* with room for what the plan shares and holds once, or more */
    bool overlap;
    const char *no_graphs; /* (optional) why passes are not recorded (graphs.h); "" says nothing */
};

int ds_engine_open(struct ds_engine **engine, const struct ds_engine_args *args,
                   struct ds_error *err) DS_NODISCARD;
/* After a failure call ds_comm_abort() first, or a thread may wait for a peer for ever. */
void ds_engine_close(struct ds_engine *engine);

/* The flat lines, for initial weights, checkpoints and tests; all zero after open.  What of them
 * this rank holds, and where: ds_plan_held().  Settled lines only.  They are the host's: on a
 * device with memory of its own, copies that ds_engine_fetch() brings up to date; `grads` is NULL
 * there. */
struct ds_engine_lines {
    float *params, *grads;         /* [ds_plan_line_elems()] */
    float *state[DS_OPTIM_STATES]; /* of the optimizer, plan->optim_states of them; else NULL */
    struct ds_states *states;      /* where the plan has them in a file, and state[] is NULL */
};
struct ds_engine_lines ds_engine_lines(const struct ds_engine *engine);

/* Settle, and see to it that the lines are those of the device. */
int ds_engine_fetch(struct ds_engine *engine, struct ds_error *err) DS_NODISCARD;

/* After parameters or states were written from outside, on every rank: bring the device and what
 * the kernels read up to date.  Of a line that is held whole each rank's own shard counts.
 * Collective. */
int ds_engine_publish(struct ds_engine *engine, struct ds_error *err) DS_NODISCARD;

/* Elements first .. first + count of a frozen parameter, of what this rank holds of it in the line
 * that kernels read, to their place there.  Between steps; ds_engine_publish() comes after it. */
int ds_engine_freeze(struct ds_engine *engine, size_t param, uint64_t first, uint64_t count,
                     const float *values, struct ds_error *err) DS_NODISCARD;

/* Wait for what the last step left under way.  Before anything else uses the comm or the lines. */
int ds_engine_settle(struct ds_engine *engine, struct ds_error *err) DS_NODISCARD;
/* Wait until no other thread uses the comm: for what is between hosts alone. */
int ds_engine_leave_comm(struct ds_engine *engine, struct ds_error *err) DS_NODISCARD;

/* Memory of the device that holds nothing between steps. */
void *ds_engine_work(const struct ds_engine *engine, uint64_t *bytes);

/* What this rank has sent since open. */
void ds_engine_traffic(const struct ds_engine *engine, enum ds_comm_op op,
                       struct ds_comm_stats *stats);

struct ds_step_args {
    const struct ds_data *data;
    uint64_t position; /* of the step's first sequence */
    double lr;
    double loss_scale;              /* of fp16; 0 is 1 */
    const struct ds_scaler *scaler; /* (optional) the same and how it goes on, as the steps left it
                                     * whose outcome is known */
    uint64_t update; /* of the optimizer, from 1, if no step that is pending is skipped */
    bool stop;       /* this rank was asked to stop */
    struct ds_probe
        *probe;     /* (optional) to watch the step with: its parts are instructions; nothing
                             * is recorded or played, and the step begins and ends with all done,
                             * gathers included */
    bool probe_ops; /* operations, too */
    bool writing;   /* this rank writes a checkpoint behind the step */
};
struct ds_step_result {
    double loss;        /* mean over the targets of all ranks; 0: there are none */
    double grad_norm;   /* before clipping, without the loss scale */
    double expert_load; /* of the busiest expert, of its part: mean over layers and sequences; 0:
                         * there are none */
    uint64_t nonfinite; /* > 0: nothing was updated */
    const char *bad;    /* then: the first tensor with such a gradient, or "loss" */
    bool empty;         /* no token was a target: nothing was updated, and nothing is wrong */
    bool stop;          /* some rank was asked to stop */
    bool writing;       /* some rank writes a checkpoint */
};
/* Do a step, or queue all of it on a device that decides by itself.  At most one step may be
 * pending before: made, and its outcome not known.  Whatever reads or writes lines, or evaluates,
 * comes when none is. */
int ds_engine_queue(struct ds_engine *engine, const struct ds_step_args *args, struct ds_error *err)
    DS_NODISCARD;
unsigned ds_engine_pending(const struct ds_engine *engine);
/* Of the oldest step that is pending, which there is; waits for it.  -EPROTO: the ranks' plans
 * differ; failures of the ranks' collectives and of the device. */
int ds_engine_result(struct ds_engine *engine, struct ds_step_result *result, struct ds_error *err)
    DS_NODISCARD;
/* Both, where none is pending. */
int ds_engine_step(struct ds_engine *engine, const struct ds_step_args *args,
                   struct ds_step_result *result, struct ds_error *err) DS_NODISCARD;

/* A sentence for the log that was not told yet, else NULL. */
const char *ds_engine_note(struct ds_engine *engine);

/* What the engine is at, in a few words: "instruction 17 of 40: reduce bucket 3".  From any
 * thread, while a step is under way or not. */
void ds_engine_where(const struct ds_engine *engine, char *out, size_t cap);

/* Of global_batch sequences from `position`, over all ranks. */
struct ds_eval_result {
    double loss;  /* mean over their targets; 0: there are none */
    double share; /* of targets among their tokens */
};
int ds_engine_eval(struct ds_engine *engine, const struct ds_data *data, uint64_t position,
                   struct ds_eval_result *result, struct ds_error *err) DS_NODISCARD;

#endif
