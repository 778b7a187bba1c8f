/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * depth.c - the contract is in depth.h.
 */
#include "runtime/cost/depth.h"

#include <stdio.h>

#include "runtime/cost/predict.h"

static const double GAIN = 1e-3; /* share of a step that one bucket more has to save */

static const char *const reasons[] = {
    [DS_DEPTH_NONE] = "nothing is gathered ahead",
    [DS_DEPTH_ONCE] = "the ranks that share hold the parameters once",
    [DS_DEPTH_GIVEN] = "as zero.prefetch says",
    [DS_DEPTH_MOST] = "there is no deeper one",
    [DS_DEPTH_MEMORY] = "deeper does not fit in memory",
    [DS_DEPTH_TIME] = "deeper is not predicted to be faster",
    [DS_DEPTH_SIZE] = "by the sizes of buckets, for the rates of this machine are not known",
};

struct look { /* at one depth */
    bool fits;
    unsigned buckets; /* of the plan; where the job leaves it open, what sizes suggest */
};

static int look_at(struct ds_job *job, const struct ds_depth_args *args, unsigned buckets,
                   struct ds_depth *depth, struct look *look, struct ds_error *err)
{
    struct ds_plan_args plan_args = args->plan;
    struct ds_prediction prediction;
    struct ds_plan plan;
    int rc;

    job->zero.prefetch = buckets;
    plan_args.job = job;
    rc = ds_plan_build(&plan, &plan_args, err);
    if (rc != 0)
        return rc;
    look->buckets = plan.prefetch;
    look->fits = ds_plan_check_fit(&plan, args->ranks, args->available_bytes, NULL) == 0;
    depth->bytes[plan.prefetch] = ds_plan_total_bytes(&plan);
    if (args->cluster != NULL) {
        rc = ds_predict(&prediction, args->cluster, &plan, err);
        if (rc == 0) {
            depth->step_s[plan.prefetch] = prediction.step_s;
            ds_prediction_release(&prediction);
        }
    }
    ds_plan_release(&plan);
    return rc;
}

/* From what sizes suggest down to what fits. */
static int by_size(struct ds_job *job, const struct ds_depth_args *args, struct ds_depth *depth,
                   struct ds_error *err)
{
    struct look look = {.buckets = 0};
    int rc = look_at(job, args, 0, depth, &look, err);

    depth->reason = DS_DEPTH_SIZE;
    while (rc == 0 && !look.fits && look.buckets > 1) {
        depth->reason = DS_DEPTH_MEMORY;
        rc = look_at(job, args, look.buckets - 1, depth, &look, err);
    }
    depth->buckets = look.buckets;
    return rc;
}

/* The deepest that fits is the bound; up to it one is taken that saves enough against the last one
 * taken, were there others between that do not: a large bucket may need two more. */
static int by_time(struct ds_job *job, const struct ds_depth_args *args, struct ds_depth *depth,
                   struct ds_error *err)
{
    unsigned most = 0;
    int rc = 0;

    for (unsigned i = 1; rc == 0 && i <= DS_MAX_PREFETCH; i++) {
        struct look look = {.buckets = 0};

        rc = look_at(job, args, i, depth, &look, err);
        if (rc == 0 && i > 1 && !look.fits)
            break;
        most = i;
    }
    if (rc != 0)
        return rc;
    depth->buckets = 1;
    for (unsigned i = 2; i <= most; i++) {
        double best = depth->step_s[depth->buckets];

        if (depth->step_s[i] < best * (1.0 - GAIN * (i - depth->buckets)))
            depth->buckets = i;
    }
    depth->reason = depth->buckets < most     ? DS_DEPTH_TIME
                    : most == DS_MAX_PREFETCH ? DS_DEPTH_MOST
                                              : DS_DEPTH_MEMORY;
    return 0;
}

int ds_depth_settle(struct ds_job *job, const struct ds_depth_args *args, struct ds_depth *depth,
                    struct ds_error *err)
{
    struct ds_job copy = *job; /* its arena is not ours */
    struct ds_plan_args plan = args->plan;
    int rc;

    plan.job = job;
    *depth = (struct ds_depth){.reason = DS_DEPTH_NONE};
    if (job->zero.stage < 3 || (args->plan.world < 2 && job->offload.params == DS_OFFLOAD_NONE))
        return 0;
    if (!ds_plan_gathers_ahead(&plan)) { /* one rank a host would be a group of one */
        depth->reason = plan.local_world == 1 ? DS_DEPTH_NONE : DS_DEPTH_ONCE;
        return 0;
    }
    if (job->zero.prefetch > 0) {
        depth->buckets = (unsigned)job->zero.prefetch;
        depth->reason = DS_DEPTH_GIVEN;
        return 0;
    }
    rc =
        args->cluster == NULL ? by_size(&copy, args, depth, err) : by_time(&copy, args, depth, err);
    if (rc == 0)
        job->zero.prefetch = depth->buckets;
    return rc;
}

void ds_depth_print(const struct ds_depth *depth, struct ds_buf *out)
{
    if (depth->reason == DS_DEPTH_NONE)
        return;
    (void)ds_buf_printf(out, "prefetch %u bucket%s ahead: %s\n", depth->buckets,
                        depth->buckets == 1 ? "" : "s", reasons[depth->reason]);
    for (unsigned i = 1; i <= DS_MAX_PREFETCH; i++) {
        if (depth->bytes[i] == 0)
            continue;
        (void)ds_buf_printf(out, "  %u ahead %10.2f MiB a rank", i,
                            (double)depth->bytes[i] / (1 << 20));
        if (depth->step_s[i] > 0.0)
            (void)ds_buf_printf(out, " %12.3f ms a step", depth->step_s[i] * 1e3);
        (void)ds_buf_puts(out, "\n");
    }
}

void ds_depth_print_json(const struct ds_depth *depth, struct ds_json *json)
{
    if (depth->reason == DS_DEPTH_NONE)
        return;
    ds_json_object(json, "prefetch_chosen");
    ds_json_u64(json, "buckets", depth->buckets);
    ds_json_string(json, "why", reasons[depth->reason]);
    ds_json_array(json, "tried");
    for (unsigned i = 1; i <= DS_MAX_PREFETCH; i++) {
        if (depth->bytes[i] == 0)
            continue;
        ds_json_object(json, NULL);
        ds_json_u64(json, "buckets", i);
        ds_json_u64(json, "bytes", depth->bytes[i]);
        if (depth->step_s[i] > 0.0)
            ds_json_f64(json, "step_ms", depth->step_s[i] * 1e3, 6);
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
    ds_json_end_object(json);
}
