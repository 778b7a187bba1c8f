/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * once.c - the contract is in once.h.
 */
#include "cli/once.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/log.h"
#include "cli/env.h"
#include "launcher/gpulock.h"

enum { GRACE_S = 30, START_TIMEOUT_S = 60 };

/* --- what the workers tell -------------------------------------------------------------------- */

/* What a rank says before it gives up, or NULL: the line is another one. */
static const char *reason_in(const char *line)
{
    static const char head[] = "dsrun-worker: error: ";

    return strncmp(line, head, sizeof(head) - 1) == 0 ? line + sizeof(head) - 1 : NULL;
}

/* Of reasons the one of the rank that failed first is told, in the end. */
static void on_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    struct ds_once *once = user;

    if (stream != DS_LOG_STDERR || strcmp(once->said, text) == 0 || reason_in(text) != NULL)
        return;
    ds_log(DS_LOG_WARNING, "rank %u: %s", rank, text);
    (void)snprintf(once->said, sizeof(once->said), "%s", text);
}

static int on_output(void *user, uint32_t rank, enum ds_log_stream stream, const char *bytes,
                     size_t len, struct ds_error *err)
{
    struct ds_once *once = user;

    (void)err;
    ds_logmux_feed(&once->mux, rank, stream, bytes, len);
    return 0;
}

static int on_metric(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    struct ds_once *once = user;

    (void)rank;
    return once->metric(once->user, json, len, err);
}

static int on_event(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    struct ds_once *once = user;

    (void)rank;
    return once->event != NULL ? once->event(once->user, json, len, err) : 0;
}

static int on_ended(void *user, const struct ds_super_event *exit, struct ds_error *err)
{
    struct ds_once *once = user;

    (void)err;
    ds_logmux_end(&once->mux, exit->rank);
    return 0;
}

static const struct ds_fleet_ops ops = {
    .output = on_output, .metric = on_metric, .event = on_event, .ended = on_ended};

/* --- the fleet -------------------------------------------------------------------------------- */

static int write_blob(struct ds_once *once, struct ds_buf *blob, struct ds_error *err)
{
    struct ds_run_spec *facts = once->facts;
    struct ds_buf text;
    int rc;

    if (getcwd(facts->cwd, sizeof(facts->cwd)) == NULL)
        return ds_fail(err, errno, "the working directory: %s", strerror(errno));
    if (facts->run_dir[0] == '\0')
        memcpy(facts->run_dir, facts->cwd, sizeof(facts->run_dir));
    ds_buf_init(&text, DS_MAX_FRAME_BYTES / 2);
    rc = ds_job_write(once->job, &text, err);
    facts->job_text = ds_buf_text(&text);
    facts->job_bytes = text.len;
    if (rc == 0)
        rc = ds_run_spec_write(facts, blob, err);
    ds_buf_release(&text);
    return rc;
}

static int run_fleet(struct ds_once *once, const struct ds_spec *spec,
                     struct ds_fleet_result *result, struct ds_error *err)
{
    const struct ds_cli *cli = once->cli;
    char libexec[DS_MAX_PATH];
    const struct ds_fleet_args args = {
        .place = once->place->placement.place,
        .places = once->place->placement.places,
        .world = once->place->placement.world,
        .transport = once->place->transport,
        .transport_args = {.libexec = libexec,
                           .lease_fd = -1,
                           .join = &once->place->join,
                           .srun = once->place->srun,
                           .push = (enum ds_push)cli->push,
                           .worker = true},
        .spec = spec,
        .devices = once->place->devices,
        .grace_s = cli->grace_s < 0 ? GRACE_S : cli->grace_s,
        .start_timeout_s = cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s,
        .heartbeat_s = once->job->launch.heartbeat,
        .ops = &ops,
        .user = once};
    int rc = ds_cli_libexec(libexec, "", err);

    if (rc == 0)
        rc = ds_fleet_init(&once->fleet, err);
    if (rc == 0)
        rc = ds_logmux_init(&once->mux, args.world, on_line, once, err);
    return rc == 0 ? ds_fleet_run(&once->fleet, &args, result, err) : rc;
}

static void on_last_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    const char **reason = user, *said = stream == DS_LOG_STDERR ? reason_in(text) : NULL;

    (void)rank;
    if (said != NULL)
        *reason = said;
}

static void blame(const struct ds_once *once, const char *what,
                  const struct ds_fleet_result *result, struct ds_error *err)
{
    const char *cause = result->cause[0] != '\0' ? result->cause : "it was stopped";
    const char *reason = NULL;

    if (result->first.kind == DS_FAILURE_RANK)
        ds_logmux_tail(&once->mux, result->first.rank, on_last_line, &reason);
    (void)ds_fail(err, EIO, "%s failed: %s%s%s", what, cause, reason != NULL ? ": " : "",
                  reason != NULL ? reason : "");
}

int ds_once_run(struct ds_once *once, const char *what, struct ds_error *err)
{
    static const char *argv[] = {"dsrun-worker", NULL};
    const struct ds_cli_place *place = once->place;
    struct ds_fleet_result result = {0};
    struct ds_spec spec = {.world = place->placement.world,
                           .threads = place->cores,
                           .link = true,
                           .no_gpus = place->no_gpus,
                           .cwd = once->facts->cwd,
                           .argc = 1,
                           .argv = argv,
                           .envc = place->env.count,
                           .env = place->env.item};
    char job[DS_GPULOCK_JOB];
    struct ds_buf blob;
    int rc;

    ds_buf_init(&blob, DS_MAX_FRAME_BYTES);
    rc = write_blob(once, &blob, err);
    if (rc == 0) {
        ds_gpulock_job(job, once->job->name, "");
        spec.job = job;
        spec.blob = blob.data;
        spec.blob_bytes = blob.len;
        spec.grace_ms = GRACE_S * 1000;
        spec.lease_ms = (uint32_t)(once->job->launch.heartbeat * 1000);
        rc = run_fleet(once, &spec, &result, err);
    }
    ds_buf_release(&blob);
    if (rc != 0)
        return ds_exit_from_errno(rc);
    if (result.code != DS_EXIT_OK)
        blame(once, what, &result, err);
    return result.code;
}

void ds_once_release(struct ds_once *once)
{
    ds_logmux_release(&once->mux);
    ds_fleet_release(&once->fleet);
}
