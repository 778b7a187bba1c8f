/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_launch.c - dsrun launch: any program as ranks, supervised as training is.
 *
 * Ranks have no link to their agent; they are told of each other as torchrun tells them (gather.h).
 * What each writes is shown line by line with its host and rank, and with --run-dir kept in a log
 * of its own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/env.h"
#include "cli/gpus.h"
#include "cli/place.h"
#include "cli/report.h"
#include "launcher/fleet/cause.h"
#include "launcher/fleet/fleet.h"
#include "launcher/fleet/restart.h"
#include "launcher/gpulock.h"

enum { GRACE_S = 30, START_TIMEOUT_S = 60, HEARTBEAT_S = 15, BACKOFF_S = 1, OWN_VARS = 4 };

struct launch {
    const struct ds_cli *cli;
    struct ds_arena arena;
    struct ds_cli_place place;
    struct ds_spares spares;
    struct ds_report report;
    struct ds_fleet fleet;
    unsigned attempt;
    char cwd[DS_MAX_PATH], run_dir[DS_MAX_PATH], libexec[DS_MAX_PATH];
};

/* --- before anything starts ------------------------------------------------------------------- */

/* Where ranks run, and where their logs go. */
static int find_paths(struct launch *launch, struct ds_error *err)
{
    const struct ds_cli *cli = launch->cli;
    char here[DS_MAX_PATH];
    int rc;

    if (getcwd(here, sizeof(here)) == NULL)
        return ds_fail(err, errno, "the working directory: %s", strerror(errno));
    rc = ds_path_join(launch->cwd, here, cli->cwd != NULL ? cli->cwd : ".", err);
    if (cli->cwd == NULL || strcmp(cli->cwd, "~") == 0)
        rc = ds_path_join(launch->cwd, cli->cwd == NULL ? here : "~", "", err);
    if (rc == 0 && cli->run_dir != NULL)
        rc = ds_path_join(launch->run_dir, here, cli->run_dir, err);
    return rc == 0 ? ds_cli_libexec(launch->libexec, "", err) : rc;
}

static int prepare(struct launch *launch, struct ds_error *err)
{
    const struct ds_cli *cli = launch->cli;
    struct ds_env env;
    int rc = ds_cli_env(cli, NULL, 0, &launch->arena, &env, err);

    if (rc == 0)
        rc = ds_cli_place_hosts(cli, 0, &launch->place, err);
    if (rc != 0)
        return rc;
    launch->place.env = env;
    rc = ds_cli_place_devices(&launch->place, err);
    return rc == 0 ? find_paths(launch, err) : rc;
}

/* The program and its arguments as they will be given to it, none split or expanded. */
static void print_words(const struct ds_cli *cli, struct ds_json *json, const char *key)
{
    ds_json_array(json, key);
    for (size_t i = 0; i < cli->args; i++)
        ds_json_string(json, NULL, cli->arg[i]);
    ds_json_end_array(json);
}

static void dry_text(const void *user, struct ds_buf *text)
{
    const struct launch *launch = user;
    const struct ds_placement *placement = &launch->place.placement;

    struct ds_json json;

    ds_json_init(&json, text);
    (void)ds_buf_puts(text, "program  ");
    print_words(launch->cli, &json, NULL);
    (void)ds_buf_puts(text, "\n");
    ds_cli_place_print(&launch->place, text);
    for (uint32_t i = 0; i < placement->places; i++)
        if (launch->place.devices[i] != NULL)
            (void)ds_buf_printf(text, "host %s  devices %s\n", placement->place[i].host,
                                launch->place.devices[i]);
    ds_cli_env_names(&launch->place.env, text);
}

static void dry_json(const void *user, struct ds_json *json)
{
    const struct launch *launch = user;
    const struct ds_placement *placement = &launch->place.placement;

    print_words(launch->cli, json, "program");
    ds_cli_place_json(&launch->place, "placement", json);
    ds_json_object(json, "devices");
    for (uint32_t i = 0; i < placement->places; i++)
        if (launch->place.devices[i] != NULL)
            ds_json_string(json, placement->place[i].host, launch->place.devices[i]);
    ds_json_end_object(json);
    ds_cli_env_json(&launch->place.env, json);
}

/* --- attempts --------------------------------------------------------------------------------- */

/* What torchrun tells all ranks alike, then what the user gives. */
static int attempt_env(struct launch *launch, struct ds_env *all, struct ds_error *err)
{
    const struct ds_env *given = &launch->place.env;
    int64_t restarts = launch->cli->restarts > 0 ? launch->cli->restarts : 0;

    *all = (struct ds_env){
        .item = ds_arena_alloc(&launch->arena, given->count + OWN_VARS, sizeof(*all->item))};
    if (all->item == NULL)
        return ds_fail(err, ENOMEM, "no memory for the environment");
    all->item[all->count++] = "ROLE_NAME=default";
    all->item[all->count++] =
        ds_arena_printf(&launch->arena, "TORCHELASTIC_RUN_ID=dsrun-%d", (int)getpid());
    all->item[all->count++] =
        ds_arena_printf(&launch->arena, "TORCHELASTIC_RESTART_COUNT=%u", launch->attempt);
    all->item[all->count++] =
        ds_arena_printf(&launch->arena, "TORCHELASTIC_MAX_RESTARTS=%lld", (long long)restarts);
    for (size_t i = 0; i < OWN_VARS; i++)
        if (all->item[i] == NULL)
            return ds_fail(err, ENOMEM, "no memory for the environment");
    for (size_t i = 0; i < given->count; i++)
        all->item[all->count++] = given->item[i];
    return 0;
}

static int run_attempt(struct launch *launch, struct ds_fleet_result *result, struct ds_error *err)
{
    const struct ds_cli *cli = launch->cli;
    const struct ds_placement *placement = &launch->place.placement;
    struct ds_spec spec = {.world = placement->world,
                           .gather = true,
                           .cwd = launch->cwd,
                           .argc = cli->args,
                           .argv = cli->arg};
    struct ds_fleet_args args = {
        .place = placement->place,
        .places = placement->places,
        .world = placement->world,
        .transport = launch->place.transport,
        .transport_args = {.libexec = launch->libexec,
                           .lease_fd = launch->report.dir.lock_fd,
                           .join = &launch->place.join,
                           .srun = launch->place.srun,
                           .push = (enum ds_push)cli->push},
        .spec = &spec,
        .devices = launch->place.devices,
        .grace_s = cli->grace_s < 0 ? GRACE_S : cli->grace_s,
        .start_timeout_s = cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s,
        .heartbeat_s = cli->heartbeat_s < 0 ? HEARTBEAT_S : cli->heartbeat_s,
        .yields = cli->least_nodes < cli->nodes && launch->attempt < cli->restarts,
        .ops = &ds_report_ops,
        .user = &launch->report};
    char job[DS_GPULOCK_JOB];
    struct ds_env env;
    int rc = attempt_env(launch, &env, err);

    ds_gpulock_job(job, launch->report.record.name, launch->run_dir);
    spec.job = job;
    if (rc == 0)
        rc = ds_report_launch(&launch->report, launch->attempt, err);
    if (rc != 0)
        return rc;
    spec.env = env.item;
    spec.envc = env.count;
    spec.grace_ms = (uint32_t)(args.grace_s * 1000);
    spec.lease_ms = (uint32_t)(args.heartbeat_s * 1000);
    return ds_fleet_run(&launch->fleet, &args, result, err);
}

/* Is there to be another attempt?  Waits for its time. */
static bool again(struct launch *launch, struct ds_restart *restart, struct ds_fleet_result *result,
                  struct ds_error *err)
{
    const struct ds_cli *cli = launch->cli;
    struct ds_restart_facts facts = {
        .limit = cli->restarts > 0 ? (unsigned)cli->restarts : 0,
        .on = cli->restart_on != 0 ? cli->restart_on : DS_CAUSES_DEFAULT,
        .first_ms =
            (unsigned)((cli->restart_backoff_s < 0 ? BACKOFF_S : cli->restart_backoff_s) * 1000),
        .cause = ds_cause_class(&result->first),
        .code = result->code,
        .stopped = result->stop_signal != 0,
        .held = result->first.held,
        .step =
            restart->restarts, /* nobody knows how far a program came: each attempt is another */
        .checkpoint = -1};
    struct ds_spares_change change;
    char lack[DS_MAX_ERROR_TEXT] = "";
    const char *why;
    unsigned delay_ms;
    int stop;

    ds_spares_replace(&launch->spares, result->lost, &result->first, &change);
    facts.replaced = change.first;
    if (ds_cli_place_again(&launch->place, &change, 0, err) != 0)
        return false;
    if (!ds_restart_next(restart, &facts, &delay_ms, &why)) {
        if (why != NULL)
            ds_console_error(&launch->report.console, "%s", why);
        return false;
    }
    launch->attempt = restart->restarts;
    if (change.too_few)
        ds_spares_too_few(&launch->spares, &change, lack);
    if (ds_report_restart(&launch->report, launch->attempt, delay_ms, lack[0] != '\0' ? lack : NULL,
                          err) != 0)
        return false;
    stop = ds_fleet_wait(&launch->fleet, delay_ms);
    if (stop != 0)
        result->code = 128 + stop;
    return stop == 0;
}

static int run_program(struct launch *launch, struct ds_error *err)
{
    struct ds_restart restart = {0};
    struct ds_fleet_result result = {0};
    int rc = ds_cli_place_spares(&launch->place, launch->cli, NULL, &launch->spares, err);

    if (rc != 0)
        return ds_exit_from_errno(rc);
    do {
        rc = run_attempt(launch, &result, err);
        if (rc != 0) {
            int code = rc == -EMSGSIZE ? DS_EXIT_USAGE : ds_exit_from_errno(rc);

            ds_report_refused(&launch->report, code);
            return code;
        }
        rc = ds_report_failure(&launch->report, &result, err);
    } while (rc == 0 && again(launch, &restart, &result, err));
    if (rc == 0)
        rc = ds_report_exit(&launch->report, result.code, err);
    return rc == 0 ? result.code : result.code != 0 ? result.code : DS_EXIT_FAILURE;
}

/* --- the command ------------------------------------------------------------------------------ */

static void open_console(struct launch *launch)
{
    const struct ds_console_args args = {
        .out_fd = STDOUT_FILENO,
        .err_fd = STDERR_FILENO,
        .interrupt_fd = ds_fleet_signal_fd(&launch->fleet),
        .waiting = ds_fleet_stall,
        .user = &launch->fleet,
        .color = ds_cli_color(launch->cli, STDOUT_FILENO),
        .quiet = launch->cli->quiet,
        .json = launch->cli->json,
    };

    ds_console_init(&launch->report.console, &args);
}

/* For dsrun ps.  A program that cannot be listed runs all the same. */
static void open_record(struct launch *launch)
{
    const char *program = launch->cli->arg[0], *slash = strrchr(program, '/');
    struct ds_error err = {0};
    int rc;

    launch->report.record =
        (struct ds_job_record){.name = slash != NULL ? slash + 1 : program,
                               .run_dir = launch->run_dir[0] != '\0' ? launch->run_dir : "-",
                               .hosts = launch->place.placement.places,
                               .ranks = launch->place.placement.world};
    rc = ds_job_record_open(&launch->report.record, &err);
    if (rc != 0)
        ds_console_warn(&launch->report.console, "dsrun ps will not list this job: %s",
                        ds_error_text(&err, rc));
}

static int launch_all(struct launch *launch, struct ds_error *err)
{
    int rc = prepare(launch, err), code;

    if (rc == 0 && launch->cli->dry_run)
        return ds_cli_place_dry(&launch->place, launch->cli->json ? NULL : dry_text,
                                launch->cli->json ? dry_json : NULL, launch);
    if (rc == 0)
        rc = ds_report_open_program(&launch->report,
                                    launch->run_dir[0] != '\0' ? launch->run_dir : NULL, err);
    if (rc == 0)
        rc = ds_fleet_init(&launch->fleet, err);
    if (rc == 0)
        rc = ds_fleet_forward(&launch->fleet, err);
    if (rc != 0)
        return ds_exit_from_errno(rc);
    launch->report.placement = &launch->place.placement;
    launch->report.run_dir = launch->cli->run_dir;
    open_console(launch);
    open_record(launch);
    code = run_program(launch, err);
    return code == DS_EXIT_OK && ds_console_lost(&launch->report.console) ? DS_EXIT_FAILURE : code;
}

int ds_cmd_launch(const struct ds_cli *cli)
{
    struct launch launch = {.cli = cli};
    struct ds_error err = {0};
    int code;

    ds_arena_init(&launch.arena);
    code = launch_all(&launch, &err);
    ds_console_release(&launch.report.console);
    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    ds_report_close(&launch.report);
    ds_fleet_release(&launch.fleet);
    ds_cli_place_release(&launch.place);
    ds_arena_release(&launch.arena);
    return code;
}
