/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * depth.h - zero.prefetch auto: how many buckets stage 3 gathers ahead of their use.
 *
 * A deeper prefetch hides more of a gather and takes room for one bucket more.  Where the rates of
 * the ranks are known, it is the deepest that fits in memory and that the prediction says helps:
 * each bucket more has to make the step shorter by a thousandth.  Where they are not known nobody
 * can say what helps, and it is what the sizes of buckets suggest (plan/sequence.c), less where
 * that does not fit.  Bits do not depend on it.  Where the ranks that share hold parameters once,
 * nothing is gathered ahead, whatever the job says.
 *
 * Tests   tests/cost/test_depth.c
 */
#ifndef DS_RUNTIME_COST_DEPTH_H
#define DS_RUNTIME_COST_DEPTH_H

#include "base/buf.h"
#include "base/json.h"
#include "runtime/cost/cluster.h"
#include "runtime/plan/plan.h"

enum ds_depth_reason {                  /* why not one more */
                       DS_DEPTH_NONE,   /* nothing is gathered ahead: below stage 3, or one rank */
                       DS_DEPTH_ONCE,   /* nor here: parameters are held once */
                       DS_DEPTH_GIVEN,  /* the job says so */
                       DS_DEPTH_MOST,   /* there is no deeper one */
                       DS_DEPTH_MEMORY, /* it does not fit */
                       DS_DEPTH_TIME,   /* it would not be faster */
                       DS_DEPTH_SIZE,   /* by sizes alone: no rates */
};

struct ds_depth {
    unsigned buckets;
    enum ds_depth_reason reason;
    uint64_t bytes[DS_MAX_PREFETCH + 1]; /* of a rank at each depth; 0: not looked at */
    double step_s[DS_MAX_PREFETCH + 1];  /* predicted; 0: not */
};

struct ds_depth_args {
    struct ds_plan_args plan; /* its job is replaced by the one that is settled */
    unsigned ranks;           /* that share available_bytes; UINT64_MAX: enough */
    uint64_t available_bytes;
    const struct ds_cluster *cluster; /* NULL: no rates */
};

/* Settle `job`, whose recompute is settled.  Errors of ds_plan_build() and ds_predict(). */
int ds_depth_settle(struct ds_job *job, const struct ds_depth_args *args, struct ds_depth *depth,
                    struct ds_error *err) DS_NODISCARD;

void ds_depth_print(const struct ds_depth *depth, struct ds_buf *out);
/* As the member "prefetch_chosen" of an open object. */
void ds_depth_print_json(const struct ds_depth *depth, struct ds_json *json);

#endif
