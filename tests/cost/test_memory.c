/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_memory.c - every allocation of planning, predicting and searching fails once.
 *
 * A row is some work that fails with -ENOMEM when an allocation does, and else not at all.
 */
#include <criterion/criterion.h>

#include "runtime/cost/depth.h"
#include "runtime/cost/search.h"
#include "tests/faults.h"
#include "tests/plan/fixture.h"

static struct ds_cluster cluster_of(void)
{
    struct ds_cluster cluster;

    ds_cluster_init(&cluster);
    cluster.hosts = 1;
    cluster.ranks = 4;
    cluster.device.flops.fp32 = cluster.device.attention.fp32 = cluster.device.peak.fp32 = 1e12;
    cluster.device.bandwidth = cluster.device.update = 1e12;
    cluster.device.pointwise = (struct ds_rate){1e12, 1e12};
    cluster.pcie.bandwidth = 1e11;
    cluster.main.update = 1e11;
    cluster.host = (struct ds_link_rate){.bandwidth = 1e11, .latency_us = 5};
    cluster.overlap = 1.0;
    return cluster;
}

/* Small, of two layers and several buckets. */
static struct ds_job job_of(unsigned stage)
{
    struct ds_job job = test_job(test_llama(2, 64, 4, 2, 96, 113, 32), 8, 1, 32);

    job.zero.stage = stage;
    job.zero.bucket_mb = 1;
    job.activation.recompute = DS_RECOMPUTE_SELECTIVE;
    return job;
}

static struct ds_plan_args plan_args(const struct ds_job *job, unsigned local)
{
    return (struct ds_plan_args){
        .job = job, .world = 4, .rank = 1, .threads = 1, .local_world = local, .common = true};
}

static int build(unsigned stage, unsigned local, enum ds_optim_kind optim, struct ds_error *err)
{
    struct ds_job job = job_of(stage);
    const struct ds_plan_args args = plan_args(&job, local);
    struct ds_plan plan;
    int rc;

    job.optim.kind = optim;
    job.zero.shard_group = local < 4 ? DS_SHARD_NODE : DS_SHARD_ALL;
    rc = ds_plan_build(&plan, &args, err);
    ds_plan_release(&plan);
    return rc;
}

static int whole(struct ds_error *err)
{
    return build(0, 4, DS_OPTIM_LAMB, err);
}

static int sharded(struct ds_error *err)
{
    return build(2, 4, DS_OPTIM_MUON, err);
}

static int gathered(struct ds_error *err)
{
    return build(3, 2, DS_OPTIM_ADAMW, err);
}

static int settled(struct ds_error *err)
{
    struct ds_job job = job_of(1);
    const struct ds_plan_args args = plan_args(&job, 4);

    job.activation.recompute = DS_RECOMPUTE_AUTO;
    return ds_plan_settle(&job, &args, 4, 1 << 20, err);
}

static int described(struct ds_error *err)
{
    struct ds_job job = job_of(3);
    const struct ds_plan_args args = plan_args(&job, 4);
    struct ds_json json;
    struct ds_plan plan;
    struct ds_buf out;
    int rc = ds_plan_build(&plan, &args, err);

    ds_buf_init(&out, 1 << 20);
    ds_json_init(&json, &out);
    if (rc == 0) {
        ds_plan_describe(&plan, &job, &out);
        ds_plan_print(&plan, &out);
        ds_plan_print_schedule(&plan, &out);
        ds_json_object(&json, NULL);
        ds_plan_print_json(&plan, true, &json);
        ds_json_end_object(&json);
        rc = out.failed ? -ENOMEM : 0;
    }
    ds_buf_release(&out);
    ds_plan_release(&plan);
    return rc;
}

static int does_not_fit(struct ds_error *err)
{
    struct ds_job job = job_of(1);
    const struct ds_plan_args args = plan_args(&job, 4);
    struct ds_plan plan;
    int rc = ds_plan_build(&plan, &args, err);

    if (rc == 0 && ds_plan_check_fit(&plan, 4, 1 << 20, err) != -ENOMEM)
        rc = -EIO;
    ds_plan_release(&plan);
    return rc;
}

static int predicted(struct ds_error *err)
{
    struct ds_cluster cluster = cluster_of();
    struct ds_job job = job_of(2);
    const struct ds_plan_args args = plan_args(&job, 4);
    struct ds_prediction found = {0};
    struct ds_plan plan;
    struct ds_buf out;
    int rc = ds_plan_build(&plan, &args, err);

    ds_buf_init(&out, 1 << 20);
    if (rc == 0)
        rc = ds_predict(&found, &cluster, &plan, err);
    if (rc == 0) {
        ds_prediction_print(&found, &cluster, &out);
        rc = out.failed ? -ENOMEM : 0;
    }
    ds_prediction_release(&found);
    ds_buf_release(&out);
    ds_plan_release(&plan);
    ds_cluster_release(&cluster);
    return rc;
}

static int deepened(struct ds_error *err)
{
    struct ds_cluster cluster = cluster_of();
    struct ds_job job = job_of(3);
    const struct ds_depth_args args = {
        .plan = plan_args(&job, 4), .ranks = 4, .available_bytes = UINT64_MAX, .cluster = &cluster};
    struct ds_depth depth;
    int rc;

    job.zero.once_per_host = false;
    rc = ds_depth_settle(&job, &args, &depth, err);
    ds_cluster_release(&cluster);
    return rc;
}

static int searched(struct ds_error *err)
{
    struct ds_cluster cluster = cluster_of();
    struct ds_job job = test_job(test_gpt2(1, 16, 2, 40, 8), 4, 1, 8);
    struct ds_candidate *candidate = NULL;
    size_t count = 0;
    struct ds_arena arena;
    const struct ds_search_args args = {
        .job = &job, .cluster = &cluster, .threads = 1, .arena = &arena};
    int rc;

    ds_arena_init(&arena);
    rc = ds_search(&args, &candidate, &count, err);
    ds_arena_release(&arena);
    ds_cluster_release(&cluster);
    return rc;
}

static int described_cluster(struct ds_error *err)
{
    static const char text[] = "hosts: 2\nranks: 8\n"
                               "device: {name: H200, flops: {bf16: 790e12}, bandwidth: 4.3e12}\n"
                               "link: {host: {bandwidth: 370e9}, network: {bandwidth: 48e9}}\n";
    struct ds_cluster cluster;
    struct ds_buf out;
    int rc;

    ds_cluster_init(&cluster);
    ds_buf_init(&out, 1 << 16);
    rc = ds_cluster_parse(&cluster, "c.yaml", text, sizeof(text) - 1, err);
    if (rc == 0)
        rc = ds_cluster_write(&cluster, &out, err);
    ds_buf_release(&out);
    ds_cluster_release(&cluster);
    return rc;
}

static const struct {
    const char *name;
    int (*work)(struct ds_error *err);
} rows[] = {
    {"a plan, everything held whole", whole},
    {"a plan, sharded by matrix", sharded},
    {"a plan, gathered, two hosts", gathered},
    {"activation.recompute auto", settled},
    {"a plan, printed", described},
    {"a plan that does not fit", does_not_fit},
    {"a prediction", predicted},
    {"zero.prefetch auto", deepened},
    {"a search", searched},
    {"a cluster file", described_cluster},
};

Test(memory, running_out_is_an_error_and_loses_nothing)
{
    faults_kinds = FAULT_MEMORY;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct faults_round r = {0};

        while (faults_round(&r, ENOMEM, rows[i].work)) {
            cr_expect(r.rc == (r.hit ? -ENOMEM : 0), "%s, round %u: %d %s", rows[i].name, r.n, r.rc,
                      r.err.text);
        }
        cr_expect(r.hits > 0, "%s: there is something to fail", rows[i].name);
    }
}
