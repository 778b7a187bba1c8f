/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_run.c - dsrun run: a job becomes ranks, and what they report becomes files and a console.
 *
 *     job ─► placement ─► plan, data: every mistake is found before anything starts
 *         ─► run directory ─► fleet, attempt after attempt ─► exit code
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/json_read.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/metrics.h"
#include "cli/place.h"
#include "cli/rundir.h"
#include "launcher/fleet/fleet.h"
#include "launcher/fleet/logmux.h"
#include "launcher/fleet/restart.h"
#include "runtime/data/data.h"
#include "runtime/job.h"
#include "runtime/plan/plan.h"
#include "runtime/spec.h"

enum { GRACE_S = 30, START_TIMEOUT_S = 60, TEXT_BYTES = 1024 * 1024 };

struct run {
    const struct ds_cli *cli;
    struct ds_job job;
    struct ds_cli_place place;
    struct ds_plan plan;
    struct ds_rundir dir;
    struct ds_metrics metrics;
    struct ds_console console;
    struct ds_logmux mux;
    struct ds_fleet fleet;
    struct ds_run_spec facts;  /* for the workers */
    struct ds_buf job_text;
    char libexec[DS_MAX_PATH];
    int64_t checkpoint;        /* newest heard of, -1: none */
    int64_t last_metric;       /* last step recorded, -1: none */
};

/* --- events of dsrun itself ------------------------------------------------------------------- */

struct event {
    struct ds_buf text;
    struct ds_json json;
};

static void event_begin(struct event *event, const char *name)
{
    ds_buf_init(&event->text, TEXT_BYTES);
    ds_json_init(&event->json, &event->text);
    ds_json_object(&event->json, NULL);
    ds_json_string(&event->json, "event", name);
    ds_json_f64(&event->json, "time", ds_clock_wall_s(), 16);
}

static int event_end(struct run *run, struct event *event, struct ds_error *err)
{
    int rc;

    ds_json_end_object(&event->json);
    rc = event->text.failed ? ds_fail(err, ENOMEM, "no memory for an event")
                            : ds_rundir_event(&run->dir, event->text.data, event->text.len, err);
    if (rc == 0 && run->cli->json)
        ds_console_event(&run->console, NULL, event->text.data, event->text.len);
    ds_buf_release(&event->text);
    return rc;
}

/* --- what the fleet reports ------------------------------------------------------------------- */

static const char *host_of(const struct run *run, uint32_t rank)
{
    for (uint32_t i = 0; i < run->place.placement.places; i++) {
        const struct ds_place *place = &run->place.placement.place[i];

        if (rank - place->first_rank < place->ranks)
            return place->host;
    }
    return "?";
}

static void on_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    struct run *run = user;

    if (rank == 0)
        ds_console_rank(&run->console, host_of(run, rank), rank, stream == DS_LOG_STDERR, text,
                        false);
}

static void on_tail_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    struct run *run = user;

    (void)stream;
    ds_console_rank(&run->console, host_of(run, rank), rank, true, text, true);
}

static int on_output(void *user, uint32_t rank, enum ds_log_stream stream, const char *bytes,
                     size_t len, struct ds_error *err)
{
    struct run *run = user;
    int rc = ds_rundir_log(&run->dir, rank, bytes, len, err);

    if (rank == 0 || stream == DS_LOG_STDERR) /* the others' stdout is for the log alone */
        ds_logmux_feed(&run->mux, rank, stream, bytes, len);
    return rc;
}

static int on_rank_ended(void *user, uint32_t rank, struct ds_error *err)
{
    struct run *run = user;

    (void)err;
    ds_logmux_end(&run->mux, rank);
    return 0;
}

/* The JSON object that a rank sent; one line, or the files would not be what they say. */
static json_t *parse_line(uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    json_t *object = NULL;
    int rc = 0;

    for (size_t i = 0; i < len && rc == 0; i++)
        if ((unsigned char)json[i] < 0x20)
            rc = ds_fail(err, EPROTO, "a control character in a record");
    if (rc == 0)
        object = ds_json_parse(json, len, err);
    if (object != NULL && !json_is_object(object)) {
        json_decref(object);
        object = NULL;
        (void)ds_fail(err, EPROTO, "a record that is not an object");
    }
    if (object == NULL)
        (void)ds_error_context(err, -EPROTO, "rank %u", rank);
    return object;
}

static int64_t step_of(const json_t *object)
{
    const json_t *step = json_object_get(object, "step");

    return json_is_integer(step) ? (int64_t)json_integer_value(step) : -1;
}

static int on_metric(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    struct run *run = user;
    json_t *object = parse_line(rank, json, len, err);
    int rc;

    if (object == NULL)
        return -EPROTO;
    rc = ds_metrics_add(&run->metrics, json, len, object, err);
    if (rc == 0) {
        run->last_metric = step_of(object);
        ds_console_metric(&run->console, object, json, len);
    }
    json_decref(object);
    return rc;
}

/* Events that mean something here: the start of a resumed run, a new checkpoint. */
static int heed(struct run *run, const json_t *object, struct ds_error *err)
{
    const char *name = json_string_value(json_object_get(object, "event"));
    int64_t step = step_of(object);

    if (name == NULL || step < 0)
        return 0;
    if (strcmp(name, "checkpoint") == 0)
        run->checkpoint = step;
    if (strcmp(name, "resumed") != 0)
        return 0;
    if (step > 0)
        run->checkpoint = step;
    return ds_metrics_resume(&run->metrics, (uint64_t)step, err);
}

static int on_event(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    struct run *run = user;
    json_t *object = parse_line(rank, json, len, err);
    int rc;

    if (object == NULL)
        return -EPROTO;
    rc = heed(run, object, err);
    if (rc == 0)
        rc = ds_rundir_event(&run->dir, json, len, err);
    if (rc == 0)
        ds_console_event(&run->console, object, json, len);
    json_decref(object);
    return rc;
}

static int on_flush(void *user, struct ds_error *err)
{
    struct run *run = user;
    int rc = ds_metrics_flush(&run->metrics, err);

    return rc == 0 ? ds_rundir_flush(&run->dir, err) : rc;
}

static int on_note(void *user, enum ds_fleet_note note, struct ds_error *err)
{
    static const char *const names[] = {[DS_NOTE_STARTED] = "started", [DS_NOTE_STOP] = "stop",
                                        [DS_NOTE_FAILED] = "failing", [DS_NOTE_KILL] = "kill"};
    struct run *run = user;
    struct event event;

    if (note == DS_NOTE_STOP)
        ds_console_note(&run->console, "stopping: every rank saves at the same step; "
                        "once more to kill");
    event_begin(&event, names[note]);
    return event_end(run, &event, err);
}

static const struct ds_fleet_ops fleet_ops = {
    .output = on_output, .metric = on_metric, .event = on_event,
    .flush = on_flush,   .ended = on_rank_ended, .note = on_note,
};

/* --- before anything starts ------------------------------------------------------------------- */

static int check_data(const struct ds_job *job, const struct ds_strings *paths, const char *what,
                      struct ds_error *err)
{
    const struct ds_data_args args = {.what = what, .paths = paths, .format = job->data.format,
                                      .order = job->data.order, .sequence = job->train.sequence,
                                      .vocab = job->model.shape.vocab, .seed = job->seed};
    struct ds_data *data = NULL;
    int rc = paths->count == 0 ? 0 : ds_data_open(&data, &args, err);

    ds_data_close(data);
    return rc;
}

static int prepare(struct run *run, struct ds_error *err)
{
    struct ds_plan_args args = {.job = &run->job};
    int rc = ds_cli_load_job(run->cli, &run->job, err);

    if (rc == 0)
        rc = ds_cli_place(run->cli, &run->job, &run->place, err);
    if (rc == 0)
        rc = ds_job_check_world(&run->job, run->place.placement.world, err);
    if (rc == 0) {
        args.world = run->place.placement.world;
        args.threads = run->place.threads;
        rc = ds_plan_build(&run->plan, &args, err);
    }
    if (rc == 0)
        rc = ds_plan_check_fit(&run->plan, run->place.placement.place[0].ranks, ds_mem_available(),
                               err);
    if (rc == 0)
        rc = check_data(&run->job, &run->job.data.train, "data.train", err);
    if (rc == 0)
        rc = check_data(&run->job, &run->job.data.valid, "data.valid", err);
    return rc;
}

static int find_libexec(char *out, struct ds_error *err)
{
    const char *given = getenv("DSRUN_LIBEXEC");
    char dir[DS_MAX_PATH];
    int rc;

    if (given != NULL && given[0] != '\0')
        return ds_path_join(out, given, "", err);
    rc = ds_path_self_dir(dir, err);
    return rc == 0 ? ds_path_join(out, dir, "../libexec/dsrun", err) : rc;
}

/* run_dir as an absolute path, and where relative data paths start. */
static int find_paths(struct run *run, struct ds_error *err)
{
    if (getcwd(run->facts.cwd, sizeof(run->facts.cwd)) == NULL)
        return ds_fail(err, errno, "the working directory: %s", strerror(errno));
    return ds_path_join(run->facts.run_dir, run->facts.cwd, run->job.run_dir, err);
}

static int open_run(struct run *run, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int rc = find_libexec(run->libexec, err);

    if (rc == 0)
        rc = find_paths(run, err);
    if (rc == 0)
        rc = ds_job_write(&run->job, &run->job_text, err);
    if (rc == 0)
        rc = ds_rundir_open(&run->dir, run->facts.run_dir, err);
    if (rc == 0)
        rc = ds_path_join(path, run->facts.run_dir, "job.yaml", err);
    if (rc == 0)
        rc = ds_fs_replace(path, run->job_text.data, run->job_text.len, err);
    if (rc == 0)
        rc = ds_metrics_open(&run->metrics, run->facts.run_dir,
                             (run->job.log.sinks & DS_SINK_JSONL) != 0,
                             (run->job.log.sinks & DS_SINK_CSV) != 0, err);
    if (rc == 0)
        rc = ds_logmux_init(&run->mux, run->place.placement.world, on_line, run, err);
    run->facts.job_text = ds_buf_text(&run->job_text);
    run->facts.job_bytes = run->job_text.len;
    return rc;
}

static void open_console(struct run *run)
{
    const struct ds_console_args args = {
        .out_fd = STDOUT_FILENO,
        .err_fd = STDERR_FILENO,
        .interrupt_fd = ds_fleet_signal_fd(&run->fleet),
        .color = ds_cli_color(run->cli, STDOUT_FILENO),
        .quiet = run->cli->quiet || (run->job.log.sinks & DS_SINK_CONSOLE) == 0,
        .json = run->cli->json,
        .steps = run->job.train.steps,
    };
    struct ds_buf text;

    ds_console_init(&run->console, &args);
    ds_buf_init(&text, TEXT_BYTES);
    ds_plan_describe(&run->plan, &run->job, &text);
    ds_console_text(&run->console, ds_buf_text(&text));
    ds_buf_release(&text);
}

/* --- attempts --------------------------------------------------------------------------------- */

struct env { /* of the ranks; entries borrowed or in the job's arena */
    const char **item;
    size_t count;
};

/* launch.env of the job, then --env; NAME alone takes the value it has here. */
static int collect_env(struct run *run, struct env *env, struct ds_error *err)
{
    const struct ds_strings *job = &run->job.launch.env;
    const struct ds_cli *cli = run->cli;

    env->count = 0;
    env->item = ds_arena_alloc(&run->job.arena, job->count + cli->envs + 1, sizeof(*env->item));
    if (env->item == NULL)
        return ds_fail(err, ENOMEM, "no memory for the environment");
    for (size_t i = 0; i < job->count; i++)
        env->item[env->count++] = job->item[i];
    for (size_t i = 0; i < cli->envs; i++) {
        const char *entry = cli->env[i];

        if (strchr(entry, '=') == NULL) {
            if (getenv(entry) == NULL)
                return ds_fail(err, EINVAL, "'--env %s': no such variable; use --env %s=VALUE",
                               entry, entry);
            entry = ds_arena_printf(&run->job.arena, "%s=%s", entry, getenv(entry));
        }
        if (entry == NULL)
            return ds_fail(err, ENOMEM, "no memory for the environment");
        env->item[env->count++] = entry;
    }
    return 0;
}

static int tell_start(struct run *run, struct ds_error *err)
{
    const struct ds_placement *placement = &run->place.placement;
    struct event event;

    event_begin(&event, "launch");
    ds_json_u64(&event.json, "attempt", run->facts.attempt);
    ds_json_u64(&event.json, "pid", (uint64_t)getpid());
    ds_json_u64(&event.json, "ranks", placement->world);
    ds_json_array(&event.json, "hosts");
    for (uint32_t i = 0; i < placement->places; i++)
        ds_json_string(&event.json, NULL, placement->place[i].host);
    ds_json_end_array(&event.json);
    return event_end(run, &event, err);
}

static int run_attempt(struct run *run, const struct env *env, struct ds_fleet_result *result,
                       struct ds_error *err)
{
    static const char *argv[] = {"dsrun-worker", NULL};
    const struct ds_cli *cli = run->cli;
    const struct ds_placement *placement = &run->place.placement;
    struct ds_spec spec = {.world = placement->world, .threads = (uint32_t)run->job.launch.threads,
                           .link = true, .cwd = run->facts.cwd, .argc = 1, .argv = argv,
                           .envc = env->count, .env = env->item};
    struct ds_fleet_args args = {
        .place = placement->place, .places = placement->places, .world = placement->world,
        .transport = &ds_transport_local,
        .transport_args = {.libexec = run->libexec, .lease_fd = run->dir.lock_fd},
        .spec = &spec, .grace_s = cli->grace_s < 0 ? GRACE_S : cli->grace_s,
        .start_timeout_s = cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s,
        .ops = &fleet_ops, .user = run};
    struct ds_buf blob;
    int rc;

    spec.grace_ms = (uint32_t)(args.grace_s * 1000);
    ds_buf_init(&blob, DS_MAX_FRAME_BYTES);
    rc = ds_run_spec_write(&run->facts, &blob, err);
    if (rc == 0)
        rc = tell_start(run, err);
    if (rc == 0) {
        spec.blob = blob.data;
        spec.blob_bytes = blob.len;
        rc = ds_fleet_run(&run->fleet, &args, result, err);
    }
    ds_buf_release(&blob);
    return rc;
}

/* Say what failed: the rank's last lines, then the one sentence. */
static int tell_failure(struct run *run, const struct ds_fleet_result *result, struct ds_error *err)
{
    const struct ds_failure *first = &result->first;
    bool seen = first->rank == 0 && !run->cli->quiet && !run->cli->json;
    char victims[64] = "";
    struct event event;

    if (first->kind == DS_FAILURE_NONE)
        return 0;
    if (first->kind == DS_FAILURE_RANK && !seen)
        ds_logmux_tail(&run->mux, first->rank, on_tail_line, run);
    if (result->victims > 0)
        (void)snprintf(victims, sizeof(victims), "; %u other rank%s ended because of it",
                       result->victims, result->victims == 1 ? "" : "s");
    ds_console_error(&run->console, "%s%s", result->cause, victims);
    event_begin(&event, "failure");
    ds_json_string(&event.json, "cause", result->cause);
    if (first->kind == DS_FAILURE_RANK) {
        ds_json_u64(&event.json, "rank", first->rank);
        ds_json_u64(&event.json, first->signal != 0 ? "signal" : "code",
                    (uint64_t)(first->signal != 0 ? first->signal : first->code));
    }
    ds_json_u64(&event.json, "victims", result->victims);
    return event_end(run, &event, err);
}

static int tell_restart(struct run *run, unsigned delay_ms, struct ds_error *err)
{
    struct event event;

    ds_console_warn(&run->console, "starting again in %g s (restart %u)", delay_ms / 1000.0,
                    run->facts.attempt);
    event_begin(&event, "restart");
    ds_json_u64(&event.json, "attempt", run->facts.attempt);
    ds_json_u64(&event.json, "delay_ms", delay_ms);
    return event_end(run, &event, err);
}

static int tell_end(struct run *run, int code, struct ds_error *err)
{
    struct event event;

    if (code == DS_EXIT_OK)
        ds_console_note(&run->console, "done; the record is in %s", run->job.run_dir);
    else if (code == DS_EXIT_STOPPED)
        ds_console_note(&run->console, "stopped after a checkpoint; run again to go on");
    else if (code == DS_EXIT_INTERRUPT || code == DS_EXIT_TERMINATED)
        ds_console_note(&run->console, "stopped without a checkpoint");
    event_begin(&event, "exit");
    ds_json_u64(&event.json, "code", (uint64_t)code);
    return event_end(run, &event, err);
}

/* Is there to be another attempt?  Waits for its time. */
static bool again(struct run *run, struct ds_restart *restart, struct ds_fleet_result *result,
                  struct ds_error *err)
{
    const struct ds_restart_facts facts = {
        .limit = (unsigned)run->job.launch.restarts, .code = result->code,
        .stopped = result->stop_signal != 0, .checkpoint = run->checkpoint,
        .step = result->last_step > run->last_metric ? result->last_step : run->last_metric};
    const char *why;
    unsigned delay_ms;
    int stop;

    if (!ds_restart_next(restart, &facts, &delay_ms, &why)) {
        if (why != NULL)
            ds_console_error(&run->console, "%s", why);
        return false;
    }
    run->facts.attempt = restart->restarts;
    run->last_metric = -1;
    if (tell_restart(run, delay_ms, err) != 0)
        return false;
    stop = ds_fleet_wait(&run->fleet, delay_ms);
    if (stop != 0)
        result->code = 128 + stop;
    return stop == 0;
}

static int run_job(struct run *run, struct ds_error *err)
{
    struct ds_restart restart = {0};
    struct ds_fleet_result result = {0};
    struct env env;
    int rc = collect_env(run, &env, err);

    if (rc != 0)
        return DS_EXIT_USAGE;
    do {
        ds_logmux_release(&run->mux);
        rc = ds_logmux_init(&run->mux, run->place.placement.world, on_line, run, err);
        if (rc == 0)
            rc = run_attempt(run, &env, &result, err);
        if (rc != 0)
            return DS_EXIT_UNAVAILABLE;
        rc = tell_failure(run, &result, err);
    } while (rc == 0 && again(run, &restart, &result, err));
    if (rc == 0)
        rc = tell_end(run, result.code, err);
    return rc == 0 ? result.code : result.code != 0 ? result.code : DS_EXIT_FAILURE;
}

/* --- the command ------------------------------------------------------------------------------ */

static int dry_run(const struct run *run)
{
    struct ds_buf text;
    struct ds_error err = {0};
    int rc;

    ds_buf_init(&text, TEXT_BYTES * 16);
    ds_plan_describe(&run->plan, &run->job, &text);
    ds_cli_place_print(&run->place, &text);
    rc = ds_fs_write_all(STDOUT_FILENO, ds_buf_text(&text), text.len, &err);
    ds_buf_release(&text);
    return rc == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}

static int code_of(const struct ds_cli *cli, int rc)
{
    return rc == -ENOTSUP && cli->via != DS_VIA_AUTO ? DS_EXIT_USAGE : ds_exit_from_errno(rc);
}

static int run_all(struct run *run, struct ds_error *err)
{
    int rc = prepare(run, err);
    int code;

    if (rc != 0)
        return code_of(run->cli, rc);
    if (run->cli->dry_run)
        return dry_run(run);
    rc = open_run(run, err);
    if (rc == 0)
        rc = ds_fleet_init(&run->fleet, err);
    if (rc != 0)
        return ds_exit_from_errno(rc);
    open_console(run);
    code = run_job(run, err);
    ds_console_release(&run->console);
    return code;
}

int ds_cmd_run(const struct ds_cli *cli)
{
    struct run run = {.cli = cli, .checkpoint = -1, .last_metric = -1};
    struct ds_error err = {0};
    int code;

    ds_job_init(&run.job);
    ds_buf_init(&run.job_text, DS_MAX_FRAME_BYTES / 2);
    code = run_all(&run, &err);
    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    ds_logmux_release(&run.mux);
    ds_metrics_close(&run.metrics);
    ds_rundir_close(&run.dir);
    ds_fleet_release(&run.fleet);
    ds_plan_release(&run.plan);
    ds_cli_place_release(&run.place);
    ds_buf_release(&run.job_text);
    ds_job_release(&run.job);
    return code;
}
