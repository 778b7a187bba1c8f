/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_run.c - dsrun run: a job becomes ranks, and what they report becomes files and a console.
 *
 *     job ─► placement ─► plan, data: every mistake is found before anything starts
 *         ─► run directory ─► fleet, attempt after attempt ─► exit code
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/device.h"
#include "cli/env.h"
#include "cli/fit.h"
#include "cli/machine.h"
#include "cli/place.h"
#include "cli/report.h"
#include "cli/sets.h"
#include "cli/tokenize.h"
#include "launcher/fleet/cause.h"
#include "launcher/fleet/fleet.h"
#include "launcher/fleet/restart.h"
#include "launcher/gpulock.h"
#include "runtime/cost/depth.h"
#include "runtime/cost/predict.h"
#include "runtime/job.h"
#include "runtime/plan/plan.h"
#include "runtime/spec.h"

enum { GRACE_S = 30, START_TIMEOUT_S = 60, TEXT_BYTES = 1024 * 1024 };

struct run {
    const struct ds_cli *cli;
    struct ds_job given; /* owns what `job` has */
    struct ds_job job;   /* as these ranks have it */
    struct ds_cli_place place;
    struct ds_plan plan;
    struct ds_report report;
    struct ds_fleet fleet;
    struct ds_run_spec facts; /* for the workers */
    struct ds_spares spares;
    struct ds_buf job_text, job_record; /* for ranks, and for job.yaml */
    struct ds_buf header;
    struct ds_cli_memory memory;
    struct ds_cli_sets sets;
    struct ds_buf changes; /* since the last run in this run directory */
    char libexec[DS_MAX_PATH];
};

/* --- before anything starts ------------------------------------------------------------------- */

/* A plan that does not fit is refused before anything starts, with the table of where it goes.
 * A GPU of another host is asked by the rank that opens it. */
static int check_memory(const struct run *run, struct ds_error *err)
{
    struct ds_buf table;
    int rc;

    rc = ds_cli_memory_holds(&run->memory, &run->plan, err);
    if (rc != -ENOMEM)
        return rc;
    ds_buf_init(&table, TEXT_BYTES);
    ds_plan_print_memory(&run->plan, &table);
    (void)fputs(ds_buf_text(&table), stderr);
    ds_buf_release(&table);
    return rc;
}

/* What memory decides.  Rates that cannot be read are no reason not to train, and are told. */
static int settle(struct run *run, const struct ds_plan_args *plan, struct ds_error *err)
{
    struct ds_depth_args args = {
        .plan = *plan, .ranks = run->memory.ranks, .available_bytes = run->memory.bytes};
    struct ds_cluster cluster;
    struct ds_depth depth;
    bool rates = false;
    int rc = ds_plan_settle(&run->job, plan, args.ranks, args.available_bytes, err);

    if (rc != 0)
        return rc;
    ds_cluster_init(&cluster);
    if (ds_plan_gathers_ahead(plan) && run->job.zero.prefetch == 0 && !run->memory.apart) {
        rc = ds_cli_machine(&cluster, &run->job, &run->place.placement, &rates, err);
        if (rc != 0) {
            ds_log(DS_LOG_WARNING, "zero.prefetch auto goes by sizes: %s", ds_error_text(err, rc));
            ds_error_clear(err);
        }
        if (rc == 0 && rates)
            args.cluster = &cluster;
    }
    rc = ds_depth_settle(&run->job, &args, &depth, err);
    ds_cluster_release(&cluster);
    return rc;
}

/* The job and its plan for the ranks that there are. */
static int lay_out(struct run *run, struct ds_error *err)
{
    struct ds_plan_args args = {.job = &run->job};
    int rc;

    run->job = run->given;
    rc = ds_cli_fit_settle(&run->place.placement, &run->job, err);
    if (rc == 0)
        rc = ds_cli_memory(&run->job, &run->place, &run->memory, err);
    if (rc == 0) {
        args.common = run->job.launch.device != DS_DEVICE_CUDA;
        args.world = run->place.placement.world;
        args.threads = run->place.threads;
        args.local_world = run->place.placement.place[0].ranks;
        args.apart = run->memory.apart;
        rc = settle(run, &args, err);
    }
    if (rc == 0)
        rc = ds_plan_build(&run->plan, &args, err);
    return rc == 0 ? check_memory(run, err) : rc;
}

static int prepare(struct run *run, struct ds_error *err)
{
    int rc = ds_cli_load_job(run->cli, &run->given, err);

    run->job = run->given;
    if (rc == 0)
        rc = ds_cli_place(run->cli, &run->job, !run->cli->dry_run, &run->place, err);
    ds_cli_place_warn(&run->place);
    if (rc == 0)
        rc = ds_job_check_world(&run->given, run->place.placement.world, err);
    if (rc == 0)
        rc = ds_cli_sets_settle(run->cli, &run->given, run->cli->dry_run, err);
    if (rc == 0)
        rc = lay_out(run, err);
    return rc == 0 ? ds_cli_sets_check(&run->job, &run->sets, err) : rc;
}

/* run_dir as an absolute path, and where relative data paths start. */
static int find_paths(struct run *run, struct ds_error *err)
{
    if (getcwd(run->facts.cwd, sizeof(run->facts.cwd)) == NULL)
        return ds_fail(err, errno, "the working directory: %s", strerror(errno));
    return ds_path_join(run->facts.run_dir, run->facts.cwd, run->job.run_dir, err);
}

/* Is there a checkpoint of an earlier run to go on from? */
static bool goes_on(const struct run *run)
{
    char latest[DS_MAX_PATH];

    return strcmp(run->job.checkpoint.resume, "auto") == 0 &&
           ds_path_join(latest, run->facts.run_dir, "checkpoints/latest", NULL) == 0 &&
           access(latest, F_OK) == 0;
}

/* The job as ranks read it: with ids in the place of text. */
static int write_job(struct run *run, struct ds_error *err)
{
    struct ds_job ranks;
    int rc = ds_cli_tokenize_job(run->cli, &run->job, &ranks, err);
    bool made = strcmp(run->job.data.tokenizer, ranks.data.tokenizer) != 0;

    run->given.arena = run->job.arena; /* the names of its files are there now */
    if (rc == 0 && made)
        rc = ds_cli_sets_check(&ranks, &run->sets, err);
    return rc == 0 ? ds_job_write(&ranks, &run->job_text, err) : rc;
}

static int open_run(struct run *run, struct ds_error *err)
{
    int rc = ds_cli_libexec(run->libexec, "", err);

    if (rc == 0)
        rc = find_paths(run, err);
    if (rc == 0)
        rc = write_job(run, err);
    if (rc == 0)
        rc = ds_cli_job_record(&run->job, &run->job_record, err);
    if (rc == 0 && goes_on(run))
        ds_cli_job_changes(&run->job, run->facts.run_dir, &run->changes);
    if (rc == 0)
        rc = ds_report_open(&run->report, run->facts.run_dir, run->job.log.sinks, err);
    if (rc == 0)
        rc = ds_cli_keep_base_tokenizer(&run->job, err);
    run->facts.job_text = ds_buf_text(&run->job_text);
    run->facts.job_bytes = run->job_text.len;
    return rc;
}

/* For dsrun ps.  A job that cannot be listed runs all the same. */
static void open_record(struct run *run)
{
    struct ds_error err = {0};
    int rc;

    run->report.record = (struct ds_job_record){.name = run->job.name,
                                                .run_dir = run->facts.run_dir,
                                                .hosts = run->place.placement.places,
                                                .ranks = run->place.placement.world,
                                                .steps = run->job.train.steps};
    rc = ds_job_record_open(&run->report.record, &err);
    if (rc != 0)
        ds_console_warn(&run->report.console, "dsrun ps will not list this job: %s",
                        ds_error_text(&err, rc));
}

static void write_header(struct run *run)
{
    ds_plan_describe(&run->plan, &run->job, &run->header);
    ds_cli_sets_print(&run->job, &run->sets, &run->header);
    run->report.header = ds_buf_text(&run->header);
}

static void open_console(struct run *run)
{
    const struct ds_console_args args = {
        .out_fd = STDOUT_FILENO,
        .err_fd = STDERR_FILENO,
        .interrupt_fd = ds_fleet_signal_fd(&run->fleet),
        .waiting = ds_fleet_stall,
        .user = &run->fleet,
        .color = ds_cli_color(run->cli, STDOUT_FILENO),
        .quiet = run->cli->quiet || (run->job.log.sinks & DS_SINK_CONSOLE) == 0,
        .json = run->cli->json,
        .steps = run->job.train.steps,
    };

    ds_console_init(&run->report.console, &args);
    write_header(run);
    ds_console_text(&run->report.console, run->report.header);
    if (run->place.crowded > 0)
        ds_console_warn(&run->report.console,
                        "'launch.threads' %u on a host with %u cores: threads wait for each other, "
                        "auto would take no more than there are",
                        run->place.threads, run->place.crowded);
    if (run->changes.len > 0)
        ds_console_note(&run->report.console, "changed since the last run here: %s",
                        ds_buf_text(&run->changes));
}

/* --- attempts --------------------------------------------------------------------------------- */

static int run_attempt(struct run *run, struct ds_fleet_result *result, struct ds_error *err)
{
    static const char *argv[] = {"dsrun-worker", NULL};
    const struct ds_cli *cli = run->cli;
    const struct ds_placement *placement = &run->place.placement;
    struct ds_spec spec = {.world = placement->world,
                           .threads = run->place.cores,
                           .link = true,
                           .no_gpus = run->place.no_gpus,
                           .cwd = run->facts.cwd,
                           .argc = 1,
                           .argv = argv,
                           .envc = run->place.env.count,
                           .env = run->place.env.item};
    struct ds_fleet_args args = {
        .place = placement->place,
        .places = placement->places,
        .world = placement->world,
        .transport = run->place.transport,
        .transport_args = {.libexec = run->libexec,
                           .lease_fd = run->report.dir.lock_fd,
                           .join = &run->place.join,
                           .srun = run->place.srun,
                           .push = (enum ds_push)cli->push,
                           .worker = true},
        .spec = &spec,
        .devices = run->place.devices,
        .grace_s = cli->grace_s < 0 ? GRACE_S : cli->grace_s,
        .start_timeout_s = cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s,
        .heartbeat_s = run->job.launch.heartbeat,
        .hang_s = run->job.launch.hang,
        .yields = cli->least_nodes < cli->nodes && run->facts.attempt < run->job.launch.restarts,
        .ops = &ds_report_ops,
        .user = &run->report};
    char job[DS_GPULOCK_JOB];
    struct ds_buf blob;
    int rc;

    ds_gpulock_job(job, run->job.name, run->facts.run_dir);
    spec.job = job;
    spec.grace_ms = (uint32_t)(args.grace_s * 1000);
    spec.lease_ms = (uint32_t)(args.heartbeat_s * 1000);
    ds_buf_init(&blob, DS_MAX_FRAME_BYTES);
    rc = ds_run_spec_write(&run->facts, &blob, err);
    if (rc == 0)
        rc = ds_report_launch(&run->report, run->facts.attempt, err);
    if (rc == 0) {
        spec.blob = blob.data;
        spec.blob_bytes = blob.len;
        rc = ds_fleet_run(&run->fleet, &args, result, err);
    }
    ds_buf_release(&blob);
    return rc;
}

/* The placement may have other hosts now, and where some were left out other ranks: the same job,
 * laid out for these. */
static int move(struct run *run, const struct ds_spares_change *change, struct ds_error *err)
{
    int rc = ds_cli_place_again(&run->place, change, (unsigned)run->given.launch.threads, err);

    if (rc != 0 || change->out == 0)
        return rc;
    ds_plan_release(&run->plan);
    ds_buf_reset(&run->job_text);
    ds_buf_reset(&run->job_record);
    ds_buf_reset(&run->header);
    rc = lay_out(run, err);
    if (rc == 0)
        rc = write_job(run, err);
    if (rc == 0)
        rc = ds_cli_job_record(&run->job, &run->job_record, err);
    run->facts.job_text = ds_buf_text(&run->job_text);
    run->facts.job_bytes = run->job_text.len;
    run->report.job_written = false;
    if (rc == 0)
        write_header(run);
    return rc;
}

/* Is there to be another attempt?  Waits for its time. */
static bool again(struct run *run, struct ds_restart *restart, struct ds_fleet_result *result,
                  struct ds_error *err)
{
    struct ds_restart_facts facts = {.limit = (unsigned)run->job.launch.restarts,
                                     .on = run->job.launch.restart_on,
                                     .first_ms = (unsigned)(run->job.launch.restart_backoff * 1000),
                                     .cause = ds_cause_class(&result->first),
                                     .code = result->code,
                                     .stopped = result->stop_signal != 0,
                                     .held = result->first.held,
                                     .checkpoint = run->report.checkpoint,
                                     .step = result->last_step > run->report.last_metric
                                                 ? result->last_step
                                                 : run->report.last_metric};
    struct ds_spares_change change;
    char lack[DS_MAX_ERROR_TEXT] = "";
    const char *why;
    unsigned delay_ms;
    int stop;

    ds_spares_replace(&run->spares, result->lost, &result->first, &change);
    facts.replaced = change.first;
    if (!ds_restart_next(restart, &facts, &delay_ms, &why)) {
        if (why != NULL)
            ds_console_error(&run->report.console, "%s", why);
        return false;
    }
    run->facts.attempt = restart->restarts;
    run->facts.saved = run->report.saved;
    if (change.too_few)
        ds_spares_too_few(&run->spares, &change, lack);
    if (move(run, &change, err) != 0)
        return false;
    if (ds_report_restart(&run->report, run->facts.attempt, delay_ms, lack[0] != '\0' ? lack : NULL,
                          err) != 0)
        return false;
    if (change.out > 0)
        ds_console_text(&run->report.console, run->report.header);
    stop = ds_fleet_wait(&run->fleet, delay_ms);
    if (stop != 0)
        result->code = 128 + stop;
    return stop == 0;
}

static int run_job(struct run *run, struct ds_error *err)
{
    struct ds_restart restart = {0};
    struct ds_fleet_result result = {0};
    int rc = ds_cli_place_spares(&run->place, run->cli, &run->given, &run->spares, err);

    if (rc != 0)
        return ds_exit_from_errno(rc);
    do {
        rc = run_attempt(run, &result, err);
        if (rc != 0) {
            ds_report_refused(&run->report, ds_exit_from_errno(rc));
            return ds_exit_from_errno(rc);
        }
        rc = ds_report_failure(&run->report, &result, err);
    } while (rc == 0 && again(run, &restart, &result, err));
    if (rc == 0)
        rc = ds_report_exit(&run->report, result.code, err);
    return rc == 0 ? result.code : result.code != 0 ? result.code : DS_EXIT_FAILURE;
}

/* --- the command ------------------------------------------------------------------------------ */

/* Where the rates of this machine are known, what `print` or `json` says of the step. */
static void dry_predict(const struct run *run, struct ds_buf *text, struct ds_json *json)
{
    struct ds_prediction prediction = {0};
    struct ds_cluster cluster;
    struct ds_error err = {0};
    bool rates = false;
    int rc;

    ds_cluster_init(&cluster);
    rc = ds_cli_machine(&cluster, &run->job, &run->place.placement, &rates, &err);
    if (rc == 0 && rates)
        rc = ds_predict(&prediction, &cluster, &run->plan, &err);
    if (rc != 0)
        ds_log(DS_LOG_WARNING, "the step is not predicted: %s", ds_error_text(&err, rc));
    else if (rates && json != NULL)
        ds_prediction_print_json(&prediction, json);
    else if (rates)
        ds_prediction_print(&prediction, &cluster, text);
    ds_prediction_release(&prediction);
    ds_cluster_release(&cluster);
}

static void dry_text(const void *user, struct ds_buf *text)
{
    const struct run *run = user;

    ds_plan_describe(&run->plan, &run->job, text);
    ds_cli_sets_print(&run->job, &run->sets, text);
    dry_predict(run, text, NULL);
    ds_cli_place_print(&run->place, text);
    ds_cli_env_names(&run->place.env, text);
}

/* As dsrun plan has it. */
static void dry_json(const void *user, struct ds_json *json)
{
    const struct run *run = user;

    ds_plan_print_json(&run->plan, false, json);
    ds_cli_sets_json(&run->job, &run->sets, json);
    ds_cli_place_json(&run->place, "placement", json);
    dry_predict(run, NULL, json);
    ds_cli_env_json(&run->place.env, json);
}

static int run_all(struct run *run, struct ds_error *err)
{
    int rc = prepare(run, err);
    int code;

    if (rc == 0 && run->cli->dry_run)
        return ds_cli_place_dry(&run->place, run->cli->json ? NULL : dry_text,
                                run->cli->json ? dry_json : NULL, run);
    if (rc == 0)
        rc = open_run(run, err);
    if (rc == 0)
        rc = ds_fleet_init(&run->fleet, err);
    if (rc == -ECANCELED && ds_cli_tokenizing_signal() != 0)
        return 128 + ds_cli_tokenizing_signal();
    if (rc != 0)
        return ds_exit_from_errno(rc);
    run->report.placement = &run->place.placement;
    run->report.run_dir = run->job.run_dir;
    run->report.saves = run->job.checkpoint.every > 0;
    run->report.job_text = &run->job_record;
    open_console(run);
    open_record(run);
    code = run_job(run, err);
    ds_console_release(&run->report.console);
    return code;
}

int ds_cmd_run(const struct ds_cli *cli)
{
    struct run run = {.cli = cli};
    struct ds_error err = {0};
    int code;

    ds_job_init(&run.given);
    ds_buf_init(&run.job_text, DS_MAX_FRAME_BYTES / 2);
    ds_buf_init(&run.job_record, DS_MAX_FRAME_BYTES / 2);
    ds_buf_init(&run.header, TEXT_BYTES);
    ds_buf_init(&run.changes, TEXT_BYTES);
    code = run_all(&run, &err);
    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    ds_report_close(&run.report);
    ds_fleet_release(&run.fleet);
    ds_plan_release(&run.plan);
    ds_cli_place_release(&run.place);
    ds_buf_release(&run.job_text);
    ds_buf_release(&run.job_record);
    ds_buf_release(&run.header);
    ds_buf_release(&run.changes);
    ds_job_release(&run.given);
    return code;
}
