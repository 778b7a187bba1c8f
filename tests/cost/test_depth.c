/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_depth.c - zero.prefetch auto: memory bounds it, time decides, sizes where there are no rates.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "base/json_read.h"
#include "runtime/cost/depth.h"
#include "runtime/cost/predict.h"
#include "tests/plan/fixture.h"

/* Embedding and head far larger than a layer: while they are gathered, several layers compute. */
static struct ds_job job_of(void)
{
    struct ds_job job = test_job(test_gpt2(12, 256, 4, 50257, 256), 8, 1, 256);

    job.zero.stage = 3;
    job.zero.bucket_mb = 1;
    return job;
}

static struct ds_cluster cluster_of(double bandwidth)
{
    struct ds_cluster cluster;

    ds_cluster_init(&cluster);
    cluster.hosts = 1;
    cluster.ranks = 4;
    cluster.device.flops.fp32 = cluster.device.attention.fp32 = cluster.device.peak.fp32 = 1e12;
    cluster.device.bandwidth = cluster.device.update = 1e12;
    cluster.device.pointwise = (struct ds_rate){1e12, 1e12};
    cluster.host = (struct ds_link_rate){.bandwidth = bandwidth, .latency_us = 5};
    cluster.overlap = 1.0;
    return cluster;
}

static struct ds_depth_args args_of(const struct ds_job *job, const struct ds_cluster *cluster,
                                    uint64_t bytes)
{
    return (struct ds_depth_args){
        .plan = {.job = job, .world = 4, .threads = 1, .local_world = 4},
        .ranks = 4,
        .available_bytes = bytes == UINT64_MAX ? bytes : 4 * bytes,
        .cluster = cluster,
    };
}

static struct ds_depth settle(struct ds_job *job, const struct ds_cluster *cluster, uint64_t bytes)
{
    struct ds_depth_args args = args_of(job, cluster, bytes);
    struct ds_depth depth;
    struct ds_error err = {0};

    cr_assert_eq(ds_depth_settle(job, &args, &depth, &err), 0, "%s", err.text);
    return depth;
}

struct tried {             /* at a given depth */
    uint64_t bytes, owned; /* with and without pages of other ranks, which no rank adds */
    double step_s;
};

static struct tried try_depth(unsigned buckets, const struct ds_cluster *cluster)
{
    struct ds_job job = job_of();
    const struct ds_plan_args args = {.job = &job, .world = 4, .threads = 1, .local_world = 4};
    struct ds_prediction prediction;
    struct ds_plan plan;
    struct ds_error err = {0};
    struct tried tried;

    job.zero.prefetch = buckets;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
    cr_assert_eq(plan.prefetch, buckets, "the plan takes the depth that is given");
    cr_assert_eq(ds_predict(&prediction, cluster, &plan, &err), 0, "%s", err.text);
    tried = (struct tried){.bytes = ds_plan_total_bytes(&plan), .step_s = prediction.step_s};
    tried.owned = tried.bytes - plan.peer_bytes;
    cr_assert(ds_plan_check_fit(&plan, 1, tried.owned, NULL) == 0 &&
              ds_plan_check_fit(&plan, 1, tried.owned - 1, NULL) != 0);
    ds_prediction_release(&prediction);
    ds_plan_release(&plan);
    return tried;
}

/* With every link from far too slow to so fast that nothing is waited for. */
Test(depth, takes_the_deepest_that_pays)
{
    unsigned taken[DS_MAX_PREFETCH + 1] = {0}, deep = 0;

    for (double bandwidth = 1e8; bandwidth < 1e13; bandwidth *= 1.5) {
        struct ds_cluster cluster = cluster_of(bandwidth);
        struct ds_job job = job_of();
        struct ds_depth depth = settle(&job, &cluster, UINT64_MAX);
        struct tried own = try_depth(depth.buckets, &cluster);

        cr_assert_eq(job.zero.prefetch, depth.buckets);
        taken[depth.buckets]++;
        for (unsigned i = 1; i <= DS_MAX_PREFETCH; i++) {
            struct tried other = try_depth(i, &cluster);

            cr_assert_eq(depth.bytes[i], other.bytes);
            cr_assert_eq(depth.step_s[i], other.step_s);
            if (i < depth.buckets)
                cr_assert_gt(other.step_s, own.step_s, "%g: %u is no faster than %u", bandwidth,
                             depth.buckets, i);
            else
                cr_assert_gt(other.step_s, own.step_s * (1 - 4e-3), "%g: %u would have paid",
                             bandwidth, i);
        }
        cr_assert_eq(depth.reason,
                     depth.buckets == DS_MAX_PREFETCH ? DS_DEPTH_MOST : DS_DEPTH_TIME);
        ds_cluster_release(&cluster);
    }
    for (unsigned i = 2; i <= DS_MAX_PREFETCH; i++)
        deep += taken[i];
    cr_assert_gt(taken[1], 0, "one is enough for fast links");
    cr_assert_gt(deep, 0, "more than one paid for none");
}

/* The rates at which the deepest pays; then ever less memory. */
Test(depth, memory_bounds_it)
{
    struct ds_cluster cluster = cluster_of(1e10);
    unsigned best = 1, before = DS_MAX_PREFETCH;

    for (double bandwidth = 1e8; bandwidth < 1e13; bandwidth *= 1.1) {
        struct ds_job job = job_of();
        struct ds_depth depth;

        cluster.host.bandwidth = bandwidth;
        depth = settle(&job, &cluster, UINT64_MAX);
        if (depth.buckets > best) {
            best = depth.buckets;
            break;
        }
    }
    cr_assert_gt(best, 1);
    for (unsigned most = best; most >= 1; most--) {
        struct tried room = try_depth(most, &cluster);
        struct ds_job job = job_of();
        struct ds_depth depth = settle(&job, &cluster, room.owned);

        cr_assert_leq(depth.buckets, most);
        cr_assert_leq(depth.buckets, before);
        cr_assert_eq(depth.bytes[most], room.bytes);
        cr_assert(depth.buckets < most || most == DS_MAX_PREFETCH ||
                  depth.reason == DS_DEPTH_MEMORY);
        before = depth.buckets;
    }
    cr_assert_eq(before, 1, "what one takes is enough for one only");
    for (unsigned i = 0; i < 2; i++) { /* nothing fits: the least, and the plan is refused later */
        struct ds_job job = job_of();
        struct ds_depth depth = settle(&job, i == 0 ? &cluster : NULL, 4096);

        cr_assert_eq(depth.buckets, 1);
        cr_assert_eq(depth.reason, i == 0 ? DS_DEPTH_MEMORY : DS_DEPTH_SIZE);
    }
    ds_cluster_release(&cluster);
}

/* As a plan that is left open chooses, and less where that does not fit. */
Test(depth, goes_by_size_where_there_are_no_rates)
{
    struct ds_job open = test_job(test_gpt2(192, 128, 4, 256, 256), 8, 1, 256), job;
    const struct ds_plan_args args = {.job = &open, .world = 4, .threads = 1, .local_world = 4};
    struct ds_depth depth;
    struct ds_error err = {0};
    struct ds_plan plan;

    open.zero.stage = 3;
    open.zero.bucket_mb = 1;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
    cr_assert_gt(plan.prefetch, 1, "many small buckets");
    job = open;
    depth = settle(&job, NULL, UINT64_MAX);
    cr_assert(depth.reason == DS_DEPTH_SIZE && depth.buckets == plan.prefetch);
    cr_assert_eq(depth.step_s[depth.buckets], 0.0);
    job = open;
    depth = settle(&job, NULL, ds_plan_total_bytes(&plan) - plan.peer_bytes - 1);
    cr_assert(depth.reason == DS_DEPTH_MEMORY && depth.buckets < plan.prefetch, "%u of %u",
              depth.buckets, plan.prefetch);
    cr_assert_lt(depth.bytes[depth.buckets], ds_plan_total_bytes(&plan));
    cr_assert_eq(job.zero.prefetch, depth.buckets);
    ds_plan_release(&plan);
}

Test(depth, leaves_alone_what_is_given_and_what_gathers_nothing)
{
    struct ds_cluster cluster = cluster_of(1e10);
    struct ds_job job = job_of();
    struct ds_depth_args args;
    struct ds_depth depth;
    struct ds_buf out;

    job.zero.prefetch = 3;
    depth = settle(&job, &cluster, 4096);
    cr_assert(job.zero.prefetch == 3 && depth.buckets == 3 && depth.reason == DS_DEPTH_GIVEN);
    job = job_of();
    job.zero.stage = 2;
    depth = settle(&job, &cluster, 4096);
    cr_assert(job.zero.prefetch == 0 && depth.buckets == 0 && depth.reason == DS_DEPTH_NONE);
    ds_buf_init(&out, 1 << 16);
    ds_depth_print(&depth, &out);
    cr_assert_eq(out.len, 0);
    job.zero.stage = 3;
    job.zero.prefetch = 2;
    args = args_of(&job, &cluster, 4096);
    args.plan.common = true;
    cr_assert_eq(ds_depth_settle(&job, &args, &depth, NULL), 0);
    cr_assert(job.zero.prefetch == 2 && depth.buckets == 0 && depth.reason == DS_DEPTH_ONCE);
    ds_depth_print(&depth, &out);
    cr_assert_str_eq(ds_buf_text(&out),
                     "prefetch 0 buckets ahead: the ranks that share hold the parameters once\n");
    job.zero.prefetch = 0;
    job.train.global_batch = 0; /* errors come through */
    args = args_of(&job, NULL, 4096);
    cr_assert_eq(ds_depth_settle(&job, &args, &depth, NULL), -EINVAL);
    cr_assert_eq(job.zero.prefetch, 0);
    ds_buf_release(&out);
    ds_cluster_release(&cluster);
}

Test(depth, prints_what_it_looked_at_and_why)
{
    struct ds_cluster cluster = cluster_of(1e13);
    struct ds_job job = job_of();
    struct ds_depth depth = settle(&job, &cluster, UINT64_MAX);
    struct ds_buf out;
    struct ds_json json;
    const char *text;

    ds_buf_init(&out, 1 << 16);
    ds_depth_print(&depth, &out);
    text = ds_buf_text(&out);
    cr_assert_not_null(
        strstr(text, "prefetch 1 bucket ahead: deeper is not predicted to be faster"));
    cr_assert_not_null(strstr(text, "  4 ahead"));
    ds_buf_release(&out);
    ds_buf_init(&out, 1 << 16);
    ds_json_init(&json, &out);
    ds_json_object(&json, NULL);
    ds_depth_print_json(&depth, &json);
    ds_json_end_object(&json);
    cr_assert_not_null(strstr(ds_buf_text(&out), "\"prefetch_chosen\":{\"buckets\":1,\"why\":"));
    ds_buf_release(&out);
    ds_cluster_release(&cluster);
}
