/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_plan.c - dsrun plan: what a run would take, without starting anything.
 *
 * The plan is for the hosts of the job, or with --cluster for hardware that a file describes; then,
 * and where `dsrun bench machine` has left this machine's rates, the step's time is predicted too.
 * The plan is printed whether or not it fits in memory; that it does not is said, with exit code
 * 65, after it.
 *
 * Tests   tests/e2e/plan.py
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/device.h"
#include "cli/machine.h"
#include "cli/place.h"
#include "cli/sets.h"
#include "runtime/cost/depth.h"
#include "runtime/cost/predict.h"
#include "runtime/plan/plan.h"

enum { TEXT_BYTES = 1 << 30 }; /* of a schedule; grows as needed */

struct request {
    const struct ds_cli *cli;
    struct ds_job job;
    struct ds_cli_place place; /* places 0: planned for a described cluster */
    struct ds_cluster cluster;
    bool rates;                  /* cluster says how fast things are */
    struct ds_cli_memory memory; /* of this job's hosts */
    struct ds_cli_sets sets;
    struct ds_plan plan;
    struct ds_depth depth;
    struct ds_prediction prediction;
};

static void print(const struct request *r, struct ds_buf *out)
{
    ds_plan_describe(&r->plan, &r->job, out);
    ds_cli_sets_print(&r->job, &r->sets, out);
    (void)ds_buf_puts(out, "\n");
    if (r->place.placement.places > 0) {
        ds_cli_place_print(&r->place, out);
        (void)ds_buf_puts(out, "\n");
    }
    ds_plan_print(&r->plan, out);
    if (r->depth.reason != DS_DEPTH_NONE)
        (void)ds_buf_puts(out, "\n");
    ds_depth_print(&r->depth, out);
    if (r->rates) {
        (void)ds_buf_puts(out, "\n");
        ds_prediction_print(&r->prediction, &r->cluster, out);
    }
    if (r->cli->schedule) {
        (void)ds_buf_puts(out, "\n");
        ds_plan_print_schedule(&r->plan, out);
    }
}

static void print_json(const struct request *r, struct ds_buf *out)
{
    struct ds_json json;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_plan_print_json(&r->plan, r->cli->schedule, &json);
    ds_cli_sets_json(&r->job, &r->sets, &json);
    ds_depth_print_json(&r->depth, &json);
    if (r->place.placement.places > 0)
        ds_cli_place_json(&r->place, "placement", &json);
    if (r->rates)
        ds_prediction_print_json(&r->prediction, &json);
    ds_json_end_object(&json);
    (void)ds_buf_puts(out, "\n");
}

/* --- what the plan is for --------------------------------------------------------------------- */

/* This job's hosts at the rates of this machine. */
static int plan_for_hosts(struct request *r, struct ds_plan_args *args, struct ds_error *err)
{
    int rc = ds_cli_place(r->cli, &r->job, false, &r->place, err);

    ds_cli_place_warn(&r->place);
    if (rc == 0)
        rc = ds_cli_machine(&r->cluster, &r->job, &r->place.placement, &r->rates, err);
    if (rc == 0)
        rc = ds_cli_memory(&r->job, &r->place, &r->memory, err);
    if (rc != 0)
        return rc;
    args->apart = r->memory.apart;
    args->world = r->place.placement.world;
    args->threads = r->place.threads;
    args->local_world = r->place.placement.place[0].ranks;
    args->common = r->job.launch.device != DS_DEVICE_CUDA;
    if (!r->rates && r->cli->timeline != NULL)
        return ds_fail(err, EINVAL,
                       "'--timeline' needs the rates of a machine: give '--cluster FILE', or keep "
                       "what 'dsrun bench machine' prints in ~/.config/dsrun/machine.yaml");
    return 0;
}

static int plan_for_cluster(struct request *r, struct ds_plan_args *args, struct ds_error *err)
{
    int rc = ds_cluster_load(&r->cluster, r->cli->cluster, err);

    if (rc != 0)
        return rc;
    if (r->cluster.hosts * r->cluster.ranks > DS_MAX_RANKS)
        return ds_fail(err, EINVAL, "%s: more than %d ranks", r->cli->cluster, DS_MAX_RANKS);
    r->rates = true;
    args->world = (unsigned)(r->cluster.hosts * r->cluster.ranks);
    args->local_world = (unsigned)r->cluster.ranks;
    args->apart = r->cluster.pcie.bandwidth > 0.0;
    args->threads = 1;
    return 0;
}

static int write_timeline(const struct request *r, struct ds_error *err)
{
    struct ds_buf out;
    int fd, rc;

    ds_buf_init(&out, TEXT_BYTES);
    ds_timeline_write(
        &(struct ds_timeline){.plan = &r->plan, .time = r->prediction.time, .what = "predicted"},
        &out);
    if (out.failed) {
        ds_buf_release(&out);
        return ds_fail(err, ENOMEM, "the timeline is too long to write");
    }
    fd = open(r->cli->timeline, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    rc = fd < 0 ? ds_fail(err, errno, "cannot write '%s': %s", r->cli->timeline, strerror(errno))
                : ds_fs_write_all(fd, out.data, out.len, err);
    if (fd >= 0 && close(fd) != 0 && rc == 0)
        rc = ds_fail(err, errno, "cannot write '%s': %s", r->cli->timeline, strerror(errno));
    ds_buf_release(&out);
    return rc;
}

static int show(struct request *r, struct ds_error *err)
{
    struct ds_buf out;
    int rc = 0;

    ds_buf_init(&out, TEXT_BYTES);
    if (r->cli->json)
        print_json(r, &out);
    else
        print(r, &out);
    if (out.failed)
        rc = ds_fail(err, ENOMEM, "the plan is too long to print");
    if (rc == 0)
        rc = ds_fs_write_all(STDOUT_FILENO, out.data, out.len, err);
    ds_buf_release(&out);
    return rc;
}

/* How many ranks share how much memory; a cluster that does not say has enough. */
static uint64_t memory_of(const struct request *r, unsigned *ranks)
{
    bool own = r->place.placement.places > 0;
    double memory = r->cluster.device.memory;

    *ranks = own ? r->memory.ranks : 1;
    if (own)
        return r->memory.bytes;
    return memory > 0.0 ? (uint64_t)memory : UINT64_MAX;
}

static int settle(struct request *r, const struct ds_plan_args *args, struct ds_error *err)
{
    struct ds_depth_args depth = {.plan = *args, .cluster = r->rates ? &r->cluster : NULL};
    int rc;

    depth.available_bytes = memory_of(r, &depth.ranks);
    rc = ds_plan_settle(&r->job, args, depth.ranks, depth.available_bytes, err);
    return rc == 0 ? ds_depth_settle(&r->job, &depth, &r->depth, err) : rc;
}

static int check_fit(const struct request *r, struct ds_error *err)
{
    struct ds_cli_memory memory = r->memory;
    int rc;

    memory.bytes = memory_of(r, &memory.ranks);
    rc = ds_cli_memory_holds(&memory, &r->plan, err);

    return rc == 0 ? ds_cluster_holds(&r->cluster, &r->plan, err) : rc;
}

/* Whose plan it is: parts of a pipeline differ. */
static int take_rank(const struct request *r, struct ds_plan_args *args, struct ds_error *err)
{
    if (r->cli->rank >= (int64_t)args->world)
        return ds_fail(err, EINVAL, "'--rank' %lld: there %s %u rank%s, from 0 on",
                       (long long)r->cli->rank, args->world == 1 ? "is" : "are", args->world,
                       args->world == 1 ? "" : "s");
    args->rank = r->cli->rank > 0 ? (unsigned)r->cli->rank : 0;
    return 0;
}

static int plan(struct request *r, struct ds_error *err)
{
    struct ds_plan_args args = {.job = &r->job};
    int rc =
        r->cli->cluster != NULL ? plan_for_cluster(r, &args, err) : plan_for_hosts(r, &args, err);

    if (rc == 0)
        rc = ds_job_check_world(&r->job, args.world, err);
    if (rc == 0)
        rc = ds_cli_sets_settle(r->cli, &r->job, true, err);
    if (rc == 0)
        rc = take_rank(r, &args, err);
    if (rc == 0)
        rc = settle(r, &args, err);
    if (rc == 0)
        rc = ds_plan_build(&r->plan, &args, err);
    if (rc == 0 && r->rates)
        rc = ds_predict(&r->prediction, &r->cluster, &r->plan, err);
    if (rc == 0 && ds_cli_sets_check(&r->job, &r->sets, NULL) != 0) /* the data may be elsewhere */
        rc = ds_cli_sets_count(&r->job, &r->sets, err);
    if (rc == 0)
        rc = show(r, err);
    if (rc == 0 && r->cli->timeline != NULL)
        rc = write_timeline(r, err);
    return rc == 0 ? check_fit(r, err) : rc;
}

int ds_cmd_plan(const struct ds_cli *cli)
{
    struct request request = {.cli = cli};
    struct ds_error err = {0};
    int rc;

    ds_cluster_init(&request.cluster);
    rc = ds_cli_load_job(cli, &request.job, &err);
    if (rc == 0)
        rc = plan(&request, &err);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    ds_prediction_release(&request.prediction);
    ds_plan_release(&request.plan);
    ds_cluster_release(&request.cluster);
    ds_cli_place_release(&request.place);
    ds_job_release(&request.job);
    return ds_exit_from_errno(rc);
}
