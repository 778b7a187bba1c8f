/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_attach.c - dsrun attach: the console of a job, made again out of its records.
 *
 *     events.jsonl  ─► header, checkpoints, failures, the end    in the order of their times,
 *     metrics.jsonl ─► steps, evaluations                        looked at every DS_WATCH_MS
 *     logs/         ─► lines of rank 0, or of all ranks of a program
 *
 * The job does not know of it.  When the job goes on from a checkpoint its metrics are cut and the
 * file is another one, before the event "resumed" is written (metrics.h): what stands there of
 * steps before that one has been shown.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/ranklogs.h"
#include "cli/story.h"
#include "cli/watch.h"

struct attach {
    const struct ds_cli *cli;
    struct ds_watched watch;
    struct ds_records metrics;
    struct ds_ranklogs logs;
    struct ds_console console;
    json_t *step;  /* of a terminal: the newest one, not drawn yet */
    int64_t kept;  /* metrics below this step are another run's, or were shown */
    int signal_fd; /* -1: not yet */
    int stop;      /* the signal that came, 0: none */
    int code;      /* of the job; -1: it has not told */
    bool program;
    bool live; /* what was there before is shown */
};

static uint64_t lines_of(const struct ds_cli *cli)
{
    return cli->lines < 0 ? DS_TAIL_LINES : (uint64_t)cli->lines;
}

static bool interrupted(struct attach *attach, int timeout_ms)
{
    struct pollfd wait = {.fd = attach->signal_fd, .events = POLLIN};
    struct signalfd_siginfo info;

    if (attach->stop == 0 && poll(&wait, 1, timeout_ms) > 0 &&
        read(attach->signal_fd, &info, sizeof(info)) == sizeof(info))
        attach->stop = (int)info.ssi_signo;
    return attach->stop != 0;
}

/* --- output of ranks -------------------------------------------------------------------------- */

static void on_line(void *user, uint32_t rank, const char *text)
{
    struct attach *attach = user;
    char host[DS_HOST_LABEL_BYTES];

    ds_console_rank(&attach->console, ds_watch_host(&attach->watch, rank, host), rank, false, text,
                    false);
}

static void on_last_line(void *user, uint32_t rank, const char *text)
{
    struct attach *attach = user;
    char host[DS_HOST_LABEL_BYTES];

    ds_console_rank(&attach->console, ds_watch_host(&attach->watch, rank, host), rank, true, text,
                    true);
}

/* Once it is known what the ranks are. */
static int open_logs(struct attach *attach, struct ds_error *err)
{
    const struct ds_ranklogs_args args = {.run_dir_fd = attach->watch.dir_fd,
                                          .rank = attach->program ? -1 : 0,
                                          .lines = attach->program ? lines_of(attach->cli) : 0,
                                          .line = on_line,
                                          .user = attach};

    return attach->logs.log != NULL ? 0 : ds_ranklogs_init(&attach->logs, &args, err);
}

static int look_at_logs(struct attach *attach, bool last, struct ds_error *err)
{
    return attach->logs.log != NULL ? ds_ranklogs_look(&attach->logs, last, err) : 0;
}

/* --- metrics ---------------------------------------------------------------------------------- */

/* A terminal has one line for steps: of those that have come only the newest is drawn. */
static void draw_step(struct attach *attach)
{
    if (attach->step != NULL)
        ds_console_metric(&attach->console, attach->step, "", 0);
    json_decref(attach->step);
    attach->step = NULL;
}

static void show_metric(struct attach *attach)
{
    struct ds_records *metrics = &attach->metrics;
    int64_t step = ds_story_step(metrics->object);
    bool valid = json_object_get(metrics->object, "valid_loss") != NULL;

    if (attach->kept > 0 && (valid ? step <= attach->kept : step < attach->kept)) {
        ds_records_pass(metrics);
        return;
    }
    if (attach->console.tty && !valid) {
        json_decref(attach->step);
        attach->step = json_incref(metrics->object);
    } else {
        draw_step(attach);
        ds_console_metric(&attach->console, metrics->object, metrics->text, metrics->len);
    }
    ds_records_pass(metrics);
}

static bool has_metrics(const struct attach *attach)
{
    return attach->metrics.tail.held.max != 0;
}

static int fill_metrics(struct attach *attach, bool last, struct ds_error *err)
{
    return has_metrics(attach) ? ds_records_fill(&attach->metrics, last, err) : 0;
}

/* A job may keep none. */
static int open_metrics(struct attach *attach, struct ds_error *err)
{
    int rc = ds_tail_open(&attach->metrics.tail, attach->watch.dir_fd, "metrics.jsonl",
                          DS_RECORD_BYTES, err);

    if (rc == -ENOENT) {
        ds_error_clear(err);
        return 0;
    }
    return rc;
}

/* The job goes on after `step` updates.  Where that has made another file of its metrics, show what
 * is left of the one at hand first. */
static int follow_resume(struct attach *attach, int64_t step, struct ds_error *err)
{
    struct stat held, named;
    int rc;

    if (fstatat(attach->watch.dir_fd, "metrics.jsonl", &named, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    if (has_metrics(attach) && fstat(attach->metrics.tail.fd, &held) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev)
        return 0;
    while ((rc = fill_metrics(attach, true, err)) > 0)
        show_metric(attach);
    if (rc < 0)
        return rc;
    ds_records_close(&attach->metrics);
    attach->kept = step;
    return open_metrics(attach, err);
}

/* --- events ----------------------------------------------------------------------------------- */

static int64_t whole(const json_t *event, const char *key, int64_t max)
{
    const json_t *value = json_object_get(event, key);
    int64_t number = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;

    return number <= max ? number : -1;
}

static int on_launch(struct attach *attach, const json_t *event, struct ds_error *err)
{
    const char *text = json_string_value(json_object_get(event, "header"));
    int64_t steps = whole(event, "steps", DS_MAX_STEPS);

    ds_watch_heed(&attach->watch, event);
    attach->program = json_is_true(json_object_get(event, "program"));
    if (steps >= 0)
        attach->console.args.steps = (uint64_t)steps;
    for (size_t len; text != NULL && *text != '\0'; text += len + (text[len] == '\n')) {
        len = strcspn(text, "\n");
        ds_console_note(&attach->console, "%.*s", (int)len, text);
    }
    return open_logs(attach, err);
}

static int on_resumed(struct attach *attach, const json_t *event, struct ds_error *err)
{
    int64_t step = ds_story_step(event);

    return step >= 0 ? follow_resume(attach, step, err) : 0;
}

static int on_stop(struct attach *attach, const json_t *event, struct ds_error *err)
{
    const json_t *saves = json_object_get(event, "saves");

    (void)err;
    if (json_is_boolean(saves)) /* a worker has an event of this name, too */
        ds_story_stop(&attach->console, attach->program, json_is_true(saves));
    return 0;
}

static int on_where(struct attach *attach, const json_t *event, struct ds_error *err)
{
    int64_t rank = whole(event, "rank", DS_MAX_RANKS - 1);
    char host[DS_HOST_LABEL_BYTES];

    (void)err;
    if (rank >= 0)
        ds_story_where(&attach->console, event, (uint32_t)rank,
                       ds_watch_host(&attach->watch, (uint32_t)rank, host));
    return 0;
}

/* The last lines of its rank first, unless they were shown.  What was written before an earlier
 * failure is not told apart in the log. */
static int on_failure(struct attach *attach, const json_t *event, struct ds_error *err)
{
    const char *cause = json_string_value(json_object_get(event, "cause"));
    int64_t rank = whole(event, "rank", DS_MAX_RANKS - 1);
    int64_t victims = rank < 0 ? 0 : whole(event, "victims", DS_MAX_RANKS);
    bool shown = (attach->program || rank == 0) && !attach->cli->quiet && !attach->cli->json;
    int rc = attach->live ? look_at_logs(attach, false, err) : 0;

    ds_console_settle(&attach->console);
    if (rc == 0 && attach->live && rank >= 0 && !shown && attach->logs.log != NULL) {
        rc = ds_ranklogs_tail(&attach->logs, (uint32_t)rank, DS_TAIL_LINES, on_last_line, err);
        if (rc == -ENOENT) { /* it has written nothing */
            ds_error_clear(err);
            rc = 0;
        }
    }
    ds_story_failure(&attach->console, cause != NULL ? cause : "?",
                     victims > 0 ? (unsigned)victims : 0);
    return rc;
}

static int on_restart(struct attach *attach, const json_t *event, struct ds_error *err)
{
    int64_t attempt = whole(event, "attempt", INT32_MAX);
    int64_t delay_ms = whole(event, "delay_ms", INT32_MAX);
    int64_t hosts = whole(event, "hosts", DS_MAX_HOSTS);
    int64_t ranks = whole(event, "ranks", DS_MAX_RANKS);
    const struct ds_story_restart restart = {.attempt = (unsigned)attempt,
                                             .delay_ms = (unsigned)delay_ms,
                                             .hosts = hosts > 0 && ranks > 0 ? (unsigned)hosts : 0,
                                             .ranks = ranks > 0 ? (unsigned)ranks : 0,
                                             .lack =
                                                 json_string_value(json_object_get(event, "lack"))};

    (void)err;
    if (attempt >= 0 && delay_ms >= 0)
        ds_story_restart(&attach->console, &restart);
    return 0;
}

static int on_exit_event(struct attach *attach, const json_t *event, struct ds_error *err)
{
    (void)err;
    attach->code = (int)whole(event, "code", 255);
    ds_story_exit(&attach->console, attach->program, attach->code, attach->watch.run_dir);
    return 0;
}

/* Events of dsrun itself, and of ranks those whose host is told. */
static const struct {
    const char *name;
    int (*tell)(struct attach *, const json_t *, struct ds_error *);
} stories[] = {
    {"launch", on_launch},   {"resumed", on_resumed}, {"stop", on_stop},       {"where", on_where},
    {"failure", on_failure}, {"restart", on_restart}, {"exit", on_exit_event},
};

static int show_event(struct attach *attach, struct ds_error *err)
{
    struct ds_records *events = &attach->watch.events;
    const char *name = json_string_value(json_object_get(events->object, "event"));
    int rc = 0;

    draw_step(attach);
    attach->code = -1; /* a job that has ended tells nothing more */
    for (size_t i = 0; name != NULL && rc == 0 && i < sizeof(stories) / sizeof(stories[0]); i++)
        if (strcmp(name, stories[i].name) == 0)
            rc = stories[i].tell(attach, events->object, err);
    ds_console_event(&attach->console, events->object, events->text, events->len);
    ds_records_pass(events);
    return rc;
}

/* --- both in turn ----------------------------------------------------------------------------- */

/* Is a person told of this event? */
static bool is_shown(const json_t *event)
{
    static const char *const names[] = {"resumed", "checkpoint", "comm",    "trace",   "warning",
                                        "where",   "stop",       "failure", "restart", "exit"};
    const char *name = json_string_value(json_object_get(event, "event"));

    for (size_t i = 0; name != NULL && i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Was this step made before that event?  Events stand in the order in which they came here, which
 * need not be that of their times: one that is not shown keeps no other waiting. */
static bool comes_first(const json_t *metric, const json_t *event)
{
    const json_t *made = json_object_get(metric, "time"), *told = json_object_get(event, "time");

    if (!is_shown(event))
        return false;
    return !json_is_number(made) || !json_is_number(told) ||
           json_number_value(made) <= json_number_value(told);
}

/* Events are read first: what was measured before the one at hand is then there, too. */
static int show_records(struct attach *attach, bool last, struct ds_error *err)
{
    while (!interrupted(attach, 0)) {
        int event = ds_records_fill(&attach->watch.events, last, err);
        int metric = event < 0 ? 0 : fill_metrics(attach, last, err);
        int rc = 0;

        if (event < 0 || metric < 0)
            return event < 0 ? event : metric;
        if (metric > 0 &&
            (event == 0 || comes_first(attach->metrics.object, attach->watch.events.object)))
            show_metric(attach);
        else if (event > 0)
            rc = show_event(attach, err);
        else
            break;
        if (rc != 0)
            return rc;
    }
    draw_step(attach);
    return 0;
}

/* --- how it came to be ------------------------------------------------------------------------ */

/* Of a job that is to be shown without what has been: its end is, for it has no other. */
static int pass_all_but_exit(struct ds_records *events, struct ds_error *err)
{
    int rc = ds_records_fill(events, false, err);
    const char *name;

    if (rc <= 0)
        return rc;
    name = json_string_value(json_object_get(events->object, "event"));
    if (name == NULL || strcmp(name, "exit") != 0)
        ds_records_pass(events);
    return 0;
}

/* How the job began, then its last events are to be shown. */
static int rewind_events(struct attach *attach, struct ds_error *err)
{
    struct ds_watched *watch = &attach->watch;
    struct ds_tail *tail = &watch->events.tail;
    json_t *newest = json_incref(watch->launch);
    uint64_t last, lines = lines_of(attach->cli);
    int rc = ds_tail_back(tail, lines > 0 ? lines : 1, err);

    last = tail->at;
    ds_tail_seek(tail, watch->begin);
    if (rc == 0)
        rc = ds_records_fill(&watch->events, false, err);
    if (rc > 0)
        rc = show_event(attach, err);
    if (rc == 0 && last > tail->at)
        ds_tail_seek(tail, last);
    if (rc == 0 && lines == 0)
        rc = pass_all_but_exit(&watch->events, err);
    if (newest != NULL)
        ds_watch_heed(watch, newest);
    json_decref(newest);
    return rc;
}

/* The last steps.  Before the job has said where it goes on there are none of its own. */
static int rewind_metrics(struct attach *attach, struct ds_error *err)
{
    int rc;

    attach->kept = attach->watch.first_step;
    if (attach->kept < 0)
        return 0;
    rc = open_metrics(attach, err);
    return rc == 0 && has_metrics(attach)
               ? ds_tail_back(&attach->metrics.tail, lines_of(attach->cli), err)
               : rc;
}

static int catch_signals(struct attach *attach, struct ds_error *err)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL) == 0)
        attach->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return attach->signal_fd >= 0
               ? 0
               : ds_fail(err, errno, "cannot listen for signals: %s", strerror(errno));
}

static int begin(struct attach *attach, struct ds_error *err)
{
    const struct ds_cli *cli = attach->cli;
    struct ds_console_args console = {.out_fd = STDOUT_FILENO,
                                      .err_fd = STDERR_FILENO,
                                      .color = ds_cli_color(cli, STDOUT_FILENO),
                                      .quiet = cli->quiet,
                                      .json = cli->json};
    int rc = catch_signals(attach, err);

    console.interrupt_fd = attach->signal_fd;
    ds_console_init(&attach->console, &console);
    if (rc == 0)
        rc = rewind_events(attach, err);
    return rc == 0 ? rewind_metrics(attach, err) : rc;
}

/* --- the command ------------------------------------------------------------------------------ */

static int follow(struct attach *attach, bool *ended, struct ds_error *err)
{
    int rc = 0;

    do {
        *ended = ds_watch_ended(&attach->watch);
        rc = look_at_logs(attach, *ended, err);
        if (rc == 0)
            rc = show_records(attach, *ended, err);
        attach->live = true;
    } while (rc == 0 && !*ended && !interrupted(attach, DS_WATCH_MS));
    return rc;
}

static int detach(struct attach *attach)
{
    ds_console_settle(&attach->console);
    if (attach->watch.pid > 0)
        ds_console_note(&attach->console, "detached; the job goes on, 'dsrun kill %d' stops it",
                        (int)attach->watch.pid);
    else
        ds_console_note(&attach->console, "detached; the job goes on, 'dsrun kill' where it was "
                                          "started stops it");
    return 128 + attach->stop;
}

static int watch_job(struct attach *attach, struct ds_error *err)
{
    bool ended = false;
    int rc = begin(attach, err);

    if (rc == 0)
        rc = follow(attach, &ended, err);
    if (rc != 0)
        return DS_EXIT_FAILURE;
    if (attach->stop != 0 && !ended)
        return detach(attach);
    if (attach->stop != 0 && attach->code < 0)
        return 128 + attach->stop; /* in the middle of what there was to show */
    ds_console_settle(&attach->console);
    if (attach->code < 0) {
        (void)ds_fail(err, EPROTO,
                      "the job has ended without saying how: its dsrun was killed, or its machine "
                      "went down");
        return DS_EXIT_SOFTWARE;
    }
    return attach->code == DS_EXIT_OK && ds_console_lost(&attach->console) ? DS_EXIT_FAILURE
                                                                           : attach->code;
}

int ds_cmd_attach(const struct ds_cli *cli)
{
    struct attach attach = {.cli = cli, .signal_fd = -1, .code = -1};
    struct ds_error err = {0};
    int rc = ds_watch_open(&attach.watch, cli->arg[0], &err), code = DS_EXIT_USAGE;

    if (rc == 0)
        code = watch_job(&attach, &err);
    ds_console_release(&attach.console);
    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    json_decref(attach.step);
    ds_ranklogs_release(&attach.logs);
    ds_records_close(&attach.metrics);
    ds_watch_close(&attach.watch);
    if (attach.signal_fd >= 0)
        (void)close(attach.signal_fd);
    return code;
}
