/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * report.c - the contract is in report.h.
 */
#include "cli/report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "cli/story.h"
#include "launcher/fleet/cause.h"
#include "runtime/job.h"

enum { EVENT_BYTES = 1024 * 1024 };

/* --- events of dsrun itself ------------------------------------------------------------------- */

struct event {
    struct ds_buf text;
    struct ds_json json;
};

static void event_begin(struct event *event, const char *name)
{
    ds_buf_init(&event->text, EVENT_BYTES);
    ds_json_init(&event->json, &event->text);
    ds_json_object(&event->json, NULL);
    ds_json_string(&event->json, "event", name);
    ds_json_f64(&event->json, "time", ds_clock_wall_s(), 16);
}

static int event_end(struct ds_report *report, struct event *event, struct ds_error *err)
{
    int rc;

    ds_json_end_object(&event->json);
    rc = event->text.failed ? ds_fail(err, ENOMEM, "no memory for an event")
                            : ds_rundir_event(&report->dir, event->text.data, event->text.len, err);
    if (rc != 0 && report->broken) {
        ds_error_clear(err); /* what could not be written was told already */
        rc = 0;
    }
    if (rc == 0 && report->console.args.json)
        ds_console_event(&report->console, NULL, event->text.data, event->text.len);
    ds_buf_release(&event->text);
    return rc;
}

/* --- what the fleet reports ------------------------------------------------------------------- */

static const char *host_of(const struct ds_report *report, uint32_t rank)
{
    for (uint32_t i = 0; i < report->placement->places; i++) {
        const struct ds_place *place = &report->placement->place[i];

        if (rank - place->first_rank < place->ranks)
            return place->host;
    }
    return "?";
}

/* A line of a program as an object of its own. */
static void json_line(struct ds_report *report, uint32_t rank, enum ds_log_stream stream,
                      const char *text)
{
    struct ds_json json;
    struct ds_buf line;

    ds_buf_init(&line, EVENT_BYTES);
    ds_json_init(&json, &line);
    ds_json_object(&json, NULL);
    ds_json_u64(&json, "rank", rank);
    ds_json_string(&json, "host", host_of(report, rank));
    ds_json_string(&json, stream == DS_LOG_STDERR ? "stderr" : "stdout", text);
    ds_json_end_object(&json);
    (void)ds_buf_puts(&line, "\n");
    ds_console_put(&report->console, false, &line);
    ds_buf_release(&line);
}

static void on_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    struct ds_report *report = user;

    if (report->program && report->console.args.json)
        json_line(report, rank, stream, text);
    else if (rank == 0 || report->program)
        ds_console_rank(&report->console, host_of(report, rank), rank, stream == DS_LOG_STDERR,
                        text, false);
}

static void on_tail_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    struct ds_report *report = user;

    (void)stream;
    ds_console_rank(&report->console, host_of(report, rank), rank, true, text, true);
}

static int on_output(void *user, uint32_t rank, enum ds_log_stream stream, const char *bytes,
                     size_t len, struct ds_error *err)
{
    struct ds_report *report = user;
    int rc = ds_rundir_log(&report->dir, rank, bytes, len, err);

    if (rank == 0 || report->program ||
        stream == DS_LOG_STDERR) /* the others' stdout is for the log alone */
        ds_logmux_feed(&report->mux, rank, stream, bytes, len);
    return rc;
}

static int on_rank_ended(void *user, const struct ds_super_event *exit, struct ds_error *err)
{
    struct ds_report *report = user;

    (void)err;
    ds_logmux_end(&report->mux, exit->rank);
    return 0;
}

/* The JSON object that a rank sent; one line, or the files would not be what they say. */
static json_t *parse_line(uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    json_t *object = ds_story_parse(json, len, err);

    if (object == NULL)
        (void)ds_error_context(err, -EPROTO, "rank %u", rank);
    return object;
}

static int on_metric(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    struct ds_report *report = user;
    json_t *object = parse_line(rank, json, len, err);
    int rc;

    if (object == NULL)
        return -EPROTO;
    rc = ds_metrics_add(&report->metrics, json, len, object, err);
    if (rc == 0) {
        report->last_metric = ds_story_step(object);
        ds_console_metric(&report->console, object, json, len);
    }
    json_decref(object);
    return rc;
}

/* Events that mean something here: the start of a resumed run, a new checkpoint. */
static int heed(struct ds_report *report, uint32_t rank, const json_t *object, struct ds_error *err)
{
    const char *name = json_string_value(json_object_get(object, "event"));
    int64_t step = ds_story_step(object);

    if (name == NULL || step < 0)
        return 0;
    if (strcmp(name, "where") == 0)
        ds_story_where(&report->console, object, rank, host_of(report, rank));
    if (strcmp(name, "checkpoint") == 0) {
        report->checkpoint = step;
        report->saved = true;
    }
    if (strcmp(name, "resumed") != 0)
        return 0;
    if (step > 0)
        report->checkpoint = step;
    return ds_metrics_resume(&report->metrics, (uint64_t)step, err);
}

static int on_event(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    struct ds_report *report = user;
    json_t *object = parse_line(rank, json, len, err);
    int rc;

    if (object == NULL)
        return -EPROTO;
    rc = heed(report, rank, object, err);
    if (rc == 0)
        rc = ds_rundir_event(&report->dir, json, len, err);
    if (rc == 0)
        ds_console_event(&report->console, object, json, len);
    json_decref(object);
    return rc;
}

static int on_flush(void *user, struct ds_error *err)
{
    struct ds_report *report = user;
    int rc = ds_metrics_flush(&report->metrics, err);

    return rc == 0 ? ds_rundir_flush(&report->dir, err) : rc;
}

/* The fsync of job.yaml costs milliseconds that ranks use to load their libraries. */
static int write_job(struct ds_report *report, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int rc = ds_path_join(path, report->dir.path, "job.yaml", err);

    if (rc == 0)
        rc = ds_fs_replace(path, report->job_text->data, report->job_text->len, err);
    report->job_written = rc == 0;
    return rc;
}

static int on_note(void *user, enum ds_fleet_note note, struct ds_error *err)
{
    static const char *const names[] = {[DS_NOTE_STARTED] = "started",
                                        [DS_NOTE_STOP] = "stop",
                                        [DS_NOTE_FAILED] = "failing",
                                        [DS_NOTE_KILL] = "kill"};
    static const char *const states[] = {[DS_NOTE_STARTED] = "running",
                                         [DS_NOTE_STOP] = "stopping",
                                         [DS_NOTE_FAILED] = "failing",
                                         [DS_NOTE_KILL] = "ending"};
    struct ds_report *report = user;
    struct event event;
    int rc;

    ds_job_record_state(&report->record, states[note]);
    if (note == DS_NOTE_STOP)
        ds_story_stop(&report->console, report->program, report->saves);
    event_begin(&event, names[note]);
    if (note == DS_NOTE_STOP && !report->program)
        ds_json_bool(&event.json, "saves", report->saves);
    rc = event_end(report, &event, err);
    if (rc == 0 && note == DS_NOTE_STARTED && !report->job_written && !report->program)
        rc = write_job(report, err);
    return rc;
}

static void on_step(void *user, uint64_t step)
{
    struct ds_report *report = user;

    ds_job_record_step(&report->record, step);
}

const struct ds_fleet_ops ds_report_ops = {
    .step = on_step,
    .output = on_output,
    .metric = on_metric,
    .event = on_event,
    .flush = on_flush,
    .ended = on_rank_ended,
    .note = on_note,
};

/* --- what dsrun itself tells ------------------------------------------------------------------ */

int ds_report_launch(struct ds_report *report, unsigned attempt, struct ds_error *err)
{
    const struct ds_placement *placement = report->placement;
    struct event event;
    int rc;

    ds_logmux_release(&report->mux);
    rc = ds_logmux_init(&report->mux, placement->world, on_line, report, err);
    if (rc != 0)
        return rc;
    report->last_metric = -1;
    event_begin(&event, "launch");
    ds_json_u64(&event.json, "attempt", attempt);
    ds_json_u64(&event.json, "pid", (uint64_t)getpid());
    ds_json_u64(&event.json, "ranks", placement->world);
    ds_json_array(&event.json, "hosts");
    for (uint32_t i = 0; i < placement->places; i++)
        ds_json_string(&event.json, NULL, placement->place[i].host);
    ds_json_end_array(&event.json);
    ds_json_array(&event.json, "local"); /* ranks of each of them */
    for (uint32_t i = 0; i < placement->places; i++)
        ds_json_u64(&event.json, NULL, placement->place[i].ranks);
    ds_json_end_array(&event.json);
    ds_json_bool(&event.json, "program", report->program);
    if (!report->program)
        ds_json_u64(&event.json, "steps", report->console.args.steps);
    if (report->header != NULL)
        ds_json_string(&event.json, "header", report->header);
    report->header = NULL;
    return event_end(report, &event, err);
}

/* Say what failed: the rank's last lines, then the one sentence. */
int ds_report_failure(struct ds_report *report, const struct ds_fleet_result *result,
                      struct ds_error *err)
{
    const struct ds_failure *first = &result->first;
    bool seen = (first->rank == 0 || report->program) && !report->console.args.quiet &&
                !report->console.args.json;
    unsigned victims = first->kind == DS_FAILURE_RANK ? result->victims : 0;
    struct event event;

    if (first->kind == DS_FAILURE_NONE)
        return 0;
    ds_console_settle(&report->console);
    report->broken = first->kind == DS_FAILURE_LAUNCHER;
    if (first->kind == DS_FAILURE_RANK && !seen)
        ds_logmux_tail(&report->mux, first->rank, on_tail_line, report);
    ds_story_failure(&report->console, result->cause, victims);
    event_begin(&event, "failure");
    ds_json_string(&event.json, "cause", result->cause);
    ds_json_string(&event.json, "class", ds_cause_name(ds_cause_class(first)));
    if (first->kind == DS_FAILURE_RANK) {
        ds_json_u64(&event.json, "rank", first->rank);
        ds_json_u64(&event.json, first->signal != 0 ? "signal" : "code",
                    (uint64_t)(first->signal != 0 ? first->signal : first->code));
    }
    ds_json_u64(&event.json, "victims", result->victims);
    return event_end(report, &event, err);
}

int ds_report_restart(struct ds_report *report, unsigned attempt, unsigned delay_ms,
                      const char *lack, struct ds_error *err)
{
    const struct ds_placement *placement = report->placement;
    struct ds_story_restart restart = {.attempt = attempt, .delay_ms = delay_ms, .lack = lack};
    struct event event;

    if (placement->places != report->record.hosts || placement->world != report->record.ranks) {
        report->record.hosts = restart.hosts = placement->places;
        report->record.ranks = restart.ranks = placement->world;
    }
    ds_job_record_state(&report->record, "restarting");
    ds_story_restart(&report->console, &restart);
    event_begin(&event, "restart");
    ds_json_u64(&event.json, "attempt", attempt);
    ds_json_u64(&event.json, "delay_ms", delay_ms);
    if (restart.hosts > 0) {
        ds_json_u64(&event.json, "hosts", restart.hosts);
        ds_json_u64(&event.json, "ranks", restart.ranks);
    }
    if (lack != NULL)
        ds_json_string(&event.json, "lack", lack);
    return event_end(report, &event, err);
}

static int end_event(struct ds_report *report, int code, struct ds_error *err)
{
    struct event event;

    event_begin(&event, "exit");
    ds_json_u64(&event.json, "code", (uint64_t)code);
    return event_end(report, &event, err);
}

int ds_report_exit(struct ds_report *report, int code, struct ds_error *err)
{
    ds_story_exit(&report->console, report->program, code,
                  report->dir.path[0] != '\0' ? report->run_dir : NULL);
    return end_event(report, code, err);
}

void ds_report_refused(struct ds_report *report, int code)
{
    (void)!end_event(report, code, NULL); /* why it did not start is what is told */
}

/* --- files ----------------------------------------------------------------------------------- */

int ds_report_open(struct ds_report *report, const char *path, unsigned sinks, struct ds_error *err)
{
    int rc = ds_rundir_open(&report->dir, path, err);

    report->checkpoint = report->last_metric = -1;
    if (rc == 0)
        rc = ds_metrics_open(&report->metrics, path, sinks, err);
    return rc;
}

int ds_report_open_program(struct ds_report *report, const char *path, struct ds_error *err)
{
    report->program = true;
    report->checkpoint = report->last_metric = -1;
    report->dir.lock_fd = report->dir.events_fd = -1;
    return path != NULL ? ds_rundir_open(&report->dir, path, err) : 0;
}

void ds_report_close(struct ds_report *report)
{
    ds_job_record_close(&report->record);
    ds_logmux_release(&report->mux);
    ds_metrics_close(&report->metrics);
    ds_rundir_close(&report->dir);
}
