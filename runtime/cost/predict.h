/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * predict.h - run a plan's step on a described cluster without one: when each instruction begins
 * and ends, and what the step takes.
 *
 * One rank stands for all.  Each queue runs its instructions in list order; an instruction begins
 * when its queue is free and the events it waits for have happened, some of them in the step
 * before: the step predicted is the second one, whose parameters are gathered while it runs.
 * The disk has a clock of its own: it does one thing after the other, a piece of the optimizer's
 * states is updated when it is there and comes into a room when the one before has left it.
 * A collective begins with the wait for the slowest rank: the cluster's spread of what was computed
 * since the collective before.  Where the cluster's overlap is below 1 a collective takes that much
 * from the compute queue; at 0 there is one queue for all.
 *
 * Tests   tests/cost/test_predict.c
 */
#ifndef DS_RUNTIME_COST_PREDICT_H
#define DS_RUNTIME_COST_PREDICT_H

#include "base/json.h"
#include "runtime/cost/work.h"
#include "runtime/plan/timeline.h"

struct ds_prediction {
    struct ds_span_time *time; /* of plan->step.instr[i]; owned */
    size_t count;
    double step_s;
    double compute_s, update_s; /* FORWARD and BACKWARD; NORM and UPDATE */
    double comm_s, copy_s;      /* collectives; OFFLOAD and FETCH */
    double disk_s;              /* LOAD and STORE */
    double bubble_s;            /* of a pipeline, in which this part waits for the others */
    double host_s;              /* UPDATE by the host, beside compute; not in update_s */
    double exposed_s;           /* the part of the three that compute waited for */
    double tokens_per_s;        /* of all ranks */
    double mfu;                 /* share of the peak of all devices */
};

/* -EINVAL the plan's ranks are not the cluster's, or it needs disks that are not described;
 * -ENOMEM. */
int ds_predict(struct ds_prediction *prediction, const struct ds_cluster *cluster,
               const struct ds_plan *plan, struct ds_error *err) DS_NODISCARD;
/* Does a host of the cluster hold what its ranks keep in its memory?  -ENOMEM. */
int ds_cluster_holds(const struct ds_cluster *cluster, const struct ds_plan *plan,
                     struct ds_error *err) DS_NODISCARD;

void ds_prediction_release(struct ds_prediction *prediction);

void ds_prediction_print(const struct ds_prediction *prediction, const struct ds_cluster *cluster,
                         struct ds_buf *out);
/* As the member "predicted" of an open object. */
void ds_prediction_print_json(const struct ds_prediction *prediction, struct ds_json *json);

#endif
