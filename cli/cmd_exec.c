/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_exec.c - dsrun exec: a program once on every host; what hosts say alike is shown once.
 *
 * Hosts have nothing to do with each other here: each runs to its own end.  Output is kept and
 * shown when all have ended, stdout to stdout and stderr to stderr; a host that writes more than is
 * kept (fold.h) goes on line by line, as all do with --live.
 *
 *     node[01-15]:              the hosts of what follows
 *     Linux 6.1.0
 *     dsrun: error: node16: ended with code 3
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/env.h"
#include "cli/fold.h"
#include "cli/place.h"
#include "launcher/fleet/fleet.h"

enum {
    GRACE_S = 30,
    START_TIMEOUT_S = 60,
    HEARTBEAT_S = 15,
    LINE_BYTES = 4 * DS_MAX_LINE_BYTES + 1, /* "\\x1b" for every byte */
    PAGE_BYTES = 64 * 1024,
    TEXT_BYTES = 16 * 1024 * 1024, /* any list of hosts; six bytes of JSON for each byte kept */
};

enum { HOW = DS_LOG_STREAMS, FOLDS }; /* beside stdout and stderr: how it ended, as a sentence */

struct exec_host {
    int code; /* as dsrun's own: 128 + N for signal N, UNAVAILABLE for a lost host */
    int signal;
    bool live[DS_LOG_STREAMS]; /* its lines are shown as they come */
    bool lost;
};

struct exec {
    const struct ds_cli *cli;
    struct ds_arena arena;
    struct ds_cli_place place;
    struct ds_env env;
    struct ds_fleet fleet;
    struct ds_console console;
    struct ds_logmux mux;
    struct ds_fold fold[FOLDS];
    struct exec_host *host;
    const char **name; /* of the hosts */
    char libexec[DS_MAX_PATH];
};

/* --- what the fleet tells --------------------------------------------------------------------- */

static void on_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    struct exec *exec = user;

    ds_console_host(&exec->console, exec->place.placement.place[rank].host, stream == DS_LOG_STDERR,
                    text);
}

/* No more of this host is kept: what is, and what comes, is shown line by line. */
static void go_live(struct exec *exec, uint32_t rank, enum ds_log_stream stream)
{
    const struct ds_buf *kept = ds_fold_text(&exec->fold[stream], rank);

    exec->host[rank].live[stream] = true;
    ds_logmux_feed(&exec->mux, rank, stream, ds_buf_text(kept), kept->len);
    ds_fold_drop(&exec->fold[stream], rank);
}

static int on_output(void *user, uint32_t rank, enum ds_log_stream stream, const char *bytes,
                     size_t len, struct ds_error *err)
{
    struct exec *exec = user;
    struct exec_host *host = &exec->host[rank];

    if (!host->live[stream] && ds_fold_put(&exec->fold[stream], rank, bytes, len) != 0) {
        if (exec->cli->json)
            return ds_fail(err, ENOBUFS, "the output of host '%s' does not fit in memory",
                           exec->place.placement.place[rank].host);
        go_live(exec, rank, stream);
    }
    if (host->live[stream])
        ds_logmux_feed(&exec->mux, rank, stream, bytes, len);
    return 0;
}

/* Nothing more will come from this host; `how` it ended. */
static void close_host(struct exec *exec, uint32_t rank, const char *how)
{
    ds_logmux_end(&exec->mux, rank);
    (void)ds_fold_put(&exec->fold[HOW], rank, how, strlen(how));
    for (int i = 0; i < FOLDS; i++)
        ds_fold_close(&exec->fold[i], rank);
}

static int on_ended(void *user, const struct ds_super_event *exit, struct ds_error *err)
{
    struct exec *exec = user;
    struct exec_host *host = &exec->host[exit->rank];
    char how[128] = "";

    (void)err;
    host->signal = exit->signal;
    host->code = exit->signal != 0 ? 128 + exit->signal : exit->code;
    if (exit->signal != 0)
        (void)snprintf(how, sizeof(how), "killed by signal %d (%s)%s", exit->signal,
                       strsignal(exit->signal), exit->oom ? ": the host ran out of memory" : "");
    else if (exit->code != 0)
        (void)snprintf(how, sizeof(how), "ended with code %d", exit->code);
    close_host(exec, exit->rank, how);
    return 0;
}

static void on_lost(void *user, uint32_t host, const char *reason)
{
    struct exec *exec = user;

    exec->host[host].lost = true;
    exec->host[host].code = DS_EXIT_UNAVAILABLE;
    close_host(exec, host, reason);
}

static int on_text(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    (void)user;
    (void)rank;
    (void)json;
    (void)len;
    return ds_fail(err, EPROTO, "a program without a link sent a record");
}

static int on_note(void *user, enum ds_fleet_note note, struct ds_error *err)
{
    struct exec *exec = user;

    (void)err;
    if (note == DS_NOTE_STOP)
        ds_console_warn(&exec->console, "stopping on every host; once more to kill");
    return 0;
}

static const struct ds_fleet_ops ops = {.output = on_output,
                                        .metric = on_text,
                                        .event = on_text,
                                        .ended = on_ended,
                                        .lost = on_lost,
                                        .note = on_note};

/* --- what is shown ---------------------------------------------------------------------------- */

/* Whole lines, each made harmless; `page` is a buffer to fill and to show. */
static void show_text(struct exec *exec, bool is_err, const struct ds_buf *text,
                      struct ds_buf *page)
{
    for (size_t at = 0; at < text->len;) {
        const char *from = text->data + at, *end = memchr(from, '\n', text->len - at);
        size_t len = end != NULL ? (size_t)(end - from) : text->len - at;
        size_t take = len < DS_MAX_LINE_BYTES ? len : DS_MAX_LINE_BYTES;
        char *line = ds_buf_reserve(page, LINE_BYTES);

        if (line == NULL)
            return;
        ds_buf_commit(page,
                      ds_escape_control(line, LINE_BYTES, from,
                                        take > 0 && from[take - 1] == '\r' ? take - 1 : take));
        (void)ds_buf_puts(page, "\n");
        at += take + (take == len);
        if (page->len > PAGE_BYTES) {
            ds_console_put(&exec->console, is_err, page);
            ds_buf_reset(page);
        }
    }
    ds_console_put(&exec->console, is_err, page);
}

static void show_stream(struct exec *exec, enum ds_log_stream stream)
{
    const struct ds_fold *fold = &exec->fold[stream];

    for (uint32_t i = 0; i < fold->hosts; i++) {
        struct ds_buf hosts, page;

        if (!ds_fold_leads(fold, i))
            continue;
        ds_buf_init(&hosts, TEXT_BYTES);
        ds_buf_init(&page, TEXT_BYTES);
        ds_fold_list(fold, i, exec->name, &hosts);
        ds_console_head(&exec->console, ds_buf_text(&hosts), &page);
        show_text(exec, stream == DS_LOG_STDERR, ds_fold_text(fold, i), &page);
        ds_buf_release(&hosts);
        ds_buf_release(&page);
    }
}

static void show_ends(struct exec *exec)
{
    const struct ds_fold *fold = &exec->fold[HOW];

    for (uint32_t i = 0; i < fold->hosts; i++) {
        struct ds_buf text;

        if (!ds_fold_leads(fold, i))
            continue;
        ds_buf_init(&text, TEXT_BYTES);
        ds_fold_list(fold, i, exec->name, &text);
        ds_console_error(&exec->console, "%s: %s", ds_buf_text(&text),
                         ds_buf_text(ds_fold_text(fold, i)));
        ds_buf_release(&text);
    }
}

/* One object a host and line. */
static void show_json(struct exec *exec, uint32_t index)
{
    const struct exec_host *host = &exec->host[index];
    const struct ds_buf *how = ds_fold_text(&exec->fold[HOW], index);
    struct ds_json json;
    struct ds_buf text;

    ds_buf_init(&text, TEXT_BYTES);
    ds_json_init(&json, &text);
    ds_json_object(&json, NULL);
    ds_json_string(&json, "host", exec->place.placement.place[index].host);
    if (host->lost)
        ds_json_null(&json, "code");
    else
        ds_json_u64(&json, "code", (uint64_t)host->code);
    if (host->signal != 0)
        ds_json_u64(&json, "signal", (uint64_t)host->signal);
    if (how->len > 0)
        ds_json_string(&json, "error", how->data);
    for (int i = 0; i < DS_LOG_STREAMS; i++) {
        const struct ds_buf *bytes = ds_fold_text(&exec->fold[i], index);

        ds_json_bytes(&json, i == DS_LOG_STDOUT ? "stdout" : "stderr", ds_buf_text(bytes),
                      bytes->len);
    }
    ds_json_end_object(&json);
    (void)ds_buf_puts(&text, "\n");
    ds_console_put(&exec->console, false, &text);
    ds_buf_release(&text);
}

static void show(struct exec *exec)
{
    for (int i = 0; i < FOLDS; i++)
        ds_fold_seal(&exec->fold[i]);
    if (exec->cli->json) {
        for (uint32_t i = 0; i < exec->place.placement.places; i++)
            show_json(exec, i);
        return;
    }
    show_stream(exec, DS_LOG_STDOUT);
    show_stream(exec, DS_LOG_STDERR);
    show_ends(exec);
}

/* The highest code of any host. */
static int code_of(const struct exec *exec, const struct ds_fleet_result *result)
{
    int code = DS_EXIT_OK;

    if (result->first.kind == DS_FAILURE_LAUNCHER)
        return result->code;
    if (result->stop_signal != 0)
        return 128 + result->stop_signal;
    for (uint32_t i = 0; i < exec->place.placement.places; i++)
        if (exec->host[i].code > code)
            code = exec->host[i].code;
    return code;
}

/* --- the command ------------------------------------------------------------------------------ */

static int init(struct exec *exec, struct ds_error *err)
{
    const struct ds_console_args console = {
        .out_fd = STDOUT_FILENO,
        .err_fd = STDERR_FILENO,
        .interrupt_fd = ds_fleet_signal_fd(&exec->fleet),
        .waiting = ds_fleet_stall,
        .user = &exec->fleet,
        .color = ds_cli_color(exec->cli, STDOUT_FILENO),
        .quiet = exec->cli->quiet,
    };
    uint32_t hosts = exec->place.placement.places;
    int rc = ds_logmux_init(&exec->mux, hosts, on_line, exec, err);

    for (int i = 0; rc == 0 && i < FOLDS; i++)
        rc = ds_fold_init(&exec->fold[i], hosts, err);
    if (rc != 0)
        return rc;
    exec->host = calloc(hosts, sizeof(*exec->host));
    exec->name = calloc(hosts, sizeof(*exec->name));
    if (exec->host == NULL || exec->name == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u hosts", hosts);
    for (uint32_t i = 0; i < hosts; i++)
        exec->name[i] = exec->place.placement.place[i].host;
    for (uint32_t i = 0; exec->cli->live && i < hosts; i++)
        exec->host[i].live[DS_LOG_STDOUT] = exec->host[i].live[DS_LOG_STDERR] = true;
    ds_console_init(&exec->console, &console);
    return 0;
}

static int run(struct exec *exec, struct ds_fleet_result *result, struct ds_error *err)
{
    const struct ds_cli *cli = exec->cli;
    const struct ds_placement *placement = &exec->place.placement;
    struct ds_spec spec = {.world = placement->world,
                           .cwd = cli->cwd != NULL ? cli->cwd : "~",
                           .argc = cli->args,
                           .argv = cli->arg,
                           .envc = exec->env.count,
                           .env = exec->env.item};
    struct ds_fleet_args args = {
        .place = placement->place,
        .places = placement->places,
        .world = placement->world,
        .transport = exec->place.transport,
        .transport_args = {.libexec = exec->libexec,
                           .lease_fd = -1,
                           .join = &exec->place.join,
                           .srun = exec->place.srun,
                           .push = (enum ds_push)cli->push},
        .spec = &spec,
        .grace_s = cli->grace_s < 0 ? GRACE_S : cli->grace_s,
        .start_timeout_s = cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s,
        .heartbeat_s = cli->heartbeat_s < 0 ? HEARTBEAT_S : cli->heartbeat_s,
        .apart = true,
        .verify = true,
        .ops = &ops,
        .user = exec};

    spec.grace_ms = (uint32_t)(args.grace_s * 1000);
    spec.lease_ms = (uint32_t)(args.heartbeat_s * 1000);
    return ds_fleet_run(&exec->fleet, &args, result, err);
}

static int dry_run(const struct exec *exec)
{
    struct ds_error err = {0};
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, TEXT_BYTES);
    rc = ds_cli_place_list(&exec->place, exec->cli->json, &text, &err);
    if (rc == 0)
        rc = ds_fs_write_all(STDOUT_FILENO, ds_buf_text(&text), text.len, &err);
    ds_buf_release(&text);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}

static int prepare(struct exec *exec, struct ds_error *err)
{
    const struct ds_cli *cli = exec->cli;
    struct ds_cli once = *cli;
    int rc;

    once.slots = 1;
    if (cli->live && cli->json)
        return ds_fail(err, EDOM, "'--live' and '--json' exclude each other; keep one");
    if (cli->cwd != NULL && cli->cwd[0] != '/' && strcmp(cli->cwd, "~") != 0)
        return ds_fail(err, EDOM, "'--cwd' must start with '/', or be '~', not '%s'", cli->cwd);
    rc = ds_cli_env(cli, NULL, 0, &exec->arena, &exec->env, err);
    if (rc == 0)
        rc = ds_cli_place_hosts(&once, 1, &exec->place, err);
    return rc == 0 ? ds_cli_libexec(exec->libexec, "", err) : rc;
}

static int exec_all(struct exec *exec, struct ds_error *err)
{
    struct ds_fleet_result result = {0};
    int rc = prepare(exec, err);

    if (rc == 0 && exec->cli->dry_run)
        return dry_run(exec);
    if (rc == 0)
        rc = ds_fleet_init(&exec->fleet, err);
    if (rc == 0)
        rc = init(exec, err);
    if (rc == 0)
        rc = run(exec, &result, err);
    if (rc != 0)
        return rc == -EMSGSIZE ? DS_EXIT_USAGE : ds_exit_from_errno(rc);
    show(exec);
    if (result.first.kind == DS_FAILURE_LAUNCHER)
        ds_console_error(&exec->console, "%s", result.cause);
    rc = code_of(exec, &result);
    return rc == DS_EXIT_OK && ds_console_lost(&exec->console) ? DS_EXIT_FAILURE : rc;
}

int ds_cmd_exec(const struct ds_cli *cli)
{
    struct exec exec = {.cli = cli};
    struct ds_error err = {0};
    int code;

    ds_arena_init(&exec.arena);
    code = exec_all(&exec, &err);
    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    ds_console_release(&exec.console);
    ds_logmux_release(&exec.mux);
    for (int i = 0; i < FOLDS; i++)
        ds_fold_release(&exec.fold[i]);
    free(exec.host);
    free(exec.name);
    ds_fleet_release(&exec.fleet);
    ds_cli_place_release(&exec.place);
    ds_arena_release(&exec.arena);
    return code;
}
