/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_scarce.c - no memory, and a disk that is full, under what the command does before and beside
 * a job: each call fails once.
 *
 * A failure is told with a reason; what was recorded before stays, line by line.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/env.h"
#include "cli/fold.h"
#include "cli/metrics.h"
#include "cli/opt.h"
#include "cli/place.h"
#include "cli/ranklogs.h"
#include "cli/rundir.h"
#include "cli/watch.h"
#include "runtime/job.h"
#include "runtime/job_table.h"
#include "tests/faults.h"
#include "tests/job/small.h"
#include "tests/tempdir.h"

static char job_path[DS_MAX_PATH], env_path[DS_MAX_PATH], run_dir[DS_MAX_PATH];

/* No job here starts from a folder. */
int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
{
    (void)shape;
    return ds_fail(err, ENOENT, "'%s' is not expected", dir);
}

static void make_files(void)
{
    tempdir_make();
    (void)snprintf(job_path, sizeof(job_path), "%s",
                   tempdir_write("job.yaml", SMALL, sizeof(SMALL) - 1));
    (void)snprintf(env_path, sizeof(env_path), "%s", tempdir_write("env", "A=1\nB='x y'\n", 12));
    (void)snprintf(run_dir, sizeof(run_dir), "%s", tempdir_path("run"));
    (void)setenv("SCARCE_ONE", "1", 1);
    (void)setenv("SCARCE_TWO", "2", 1);
}

TestSuite(scarce, .init = make_files, .fini = tempdir_remove, .timeout = 60);

/* --- the command line --------------------------------------------------------------------------- */

static int options(struct ds_error *err)
{
    static char w[][24] = {"dsrun",
                           "exec",
                           "--env",
                           "A=b",
                           "--env=HOME",
                           "--env-file",
                           "x",
                           "--include",
                           "node[1-3]",
                           "--json",
                           "--start-timeout",
                           "90",
                           "--heartbeat=5",
                           "--",
                           "true",
                           "-x"};
    char *argv[sizeof(w) / sizeof(w[0]) + 1] = {0};
    const struct ds_command *command;
    struct ds_arena arena;
    struct ds_cli cli;
    int rc;

    for (size_t i = 0; i < sizeof(w) / sizeof(w[0]); i++)
        argv[i] = w[i];
    ds_arena_init(&arena);
    rc = ds_opt_parse((int)(sizeof(w) / sizeof(w[0])), argv, &arena, &cli, &command, err);
    if (rc == 0)
        cr_assert(cli.envs == 2 && cli.args == 2 && cli.json);
    ds_arena_release(&arena);
    return rc;
}

static int environment(struct ds_error *err)
{
    static const char *job[] = {"JOB=1"}, *names[] = {"SCARCE_*", "X=y"};
    const char *files[] = {env_path};
    const struct ds_cli cli = {.env = names, .envs = 2, .env_file = files, .env_files = 1};
    struct ds_env env = {0};
    struct ds_arena arena;
    int rc;

    ds_arena_init(&arena);
    rc = ds_cli_env(&cli, job, 1, &arena, &env, err);
    if (rc == 0)
        cr_assert_eq(env.count, 6, "%zu", env.count);
    ds_arena_release(&arena);
    return rc;
}

static int job(struct ds_error *err)
{
    const char *words[] = {job_path, "train.steps=7"};
    const struct ds_cli cli = {.arg = words,
                               .args = 2,
                               .slots = 2,
                               .restarts = 3,
                               .grace_s = -1,
                               .heartbeat_s = 7,
                               .start_timeout_s = -1,
                               .restart_backoff_s = -1,
                               .run_dir = run_dir};
    struct ds_buf record;
    struct ds_job loaded;
    int rc;

    ds_job_init(&loaded);
    ds_buf_init(&record, DS_MAX_YAML_BYTES);
    rc = ds_cli_load_job(&cli, &loaded, err);
    if (rc == 0)
        rc = ds_cli_job_record(&loaded, &record, err);
    ds_buf_release(&record);
    ds_job_release(&loaded);
    return rc;
}

/* Every text of help; what a buffer cannot take it says. */
static int help(struct ds_error *err)
{
    struct ds_buf out;
    int rc;

    (void)err;
    ds_buf_init(&out, 1 << 20);
    ds_help_print(NULL, NULL, &out);
    ds_help_print(NULL, "ckpt", &out);
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++)
        ds_help_print(&ds_commands[i], NULL, &out);
    ds_version_print(&out);
    rc = out.failed ? ds_fail(err, ENOMEM, "no memory for the help") : 0;
    ds_buf_release(&out);
    return rc;
}

static int place(struct ds_error *err)
{
    const struct ds_cli cli = {.grace_s = -1, .heartbeat_s = -1};
    struct ds_cli_place found = {0};
    struct ds_buf out;
    int rc = ds_cli_place_hosts(&cli, 2, &found, err);

    ds_buf_init(&out, 1 << 16);
    if (rc == 0) {
        ds_cli_place_print(&found, &out);
        rc = ds_cli_place_list(&found, true, &out, err);
    }
    if (rc == 0 && out.failed)
        rc = ds_fail(err, ENOMEM, "no memory for a table");
    ds_buf_release(&out);
    ds_cli_place_release(&found);
    return rc;
}

/* --- what is recorded --------------------------------------------------------------------------- */

/* What is in a file of the run directory: whole lines. */
static size_t whole_lines(const char *name)
{
    char path[2 * DS_MAX_PATH];
    struct ds_buf text;
    size_t lines = 0;
    int fd, rc;

    (void)snprintf(path, sizeof(path), "%s/%s", run_dir, name);
    ds_buf_init(&text, 1 << 20);
    if (ds_append_open(path, &fd, NULL) == 0) { /* cuts a torn one, as a resumed run does */
        (void)close(fd);
        rc = ds_fs_read(path, 1 << 20, &text, NULL);
        cr_assert(rc == 0 && (text.len == 0 || text.data[text.len - 1] == '\n'));
        for (size_t i = 0; i < text.len; i++)
            lines += text.data[i] == '\n';
    }
    ds_buf_release(&text);
    return lines;
}

static int record_twice(struct ds_rundir *dir, struct ds_metrics *metrics, struct ds_error *err)
{
    static const char metric[] = "{\"step\":0,\"loss\":1.5}";
    json_t *object = json_loads(metric, 0, NULL);
    int rc = 0;

    for (int i = 0; rc == 0 && i < 2; i++) {
        rc = ds_rundir_event(dir, metric, sizeof(metric) - 1, err);
        if (rc == 0)
            rc = ds_rundir_log(dir, (uint32_t)i * DS_LOGS_OPEN, "line\n", 5, err);
        if (rc == 0)
            rc = ds_metrics_add(metrics, metric, sizeof(metric) - 1, object, err);
    }
    if (rc == 0)
        rc = ds_rundir_flush(dir, err);
    if (rc == 0)
        rc = ds_metrics_flush(metrics, err);
    if (rc == 0)
        rc = ds_metrics_resume(metrics, 0, err);
    json_decref(object);
    return rc;
}

static int record(struct ds_error *err)
{
    struct ds_metrics metrics = {0};
    struct ds_rundir dir;
    int rc = ds_rundir_open(&dir, run_dir, err);

    if (rc == 0)
        rc = ds_metrics_open(&metrics, run_dir, DS_SINK_JSONL | DS_SINK_CSV | DS_SINK_TENSORBOARD,
                             err);
    if (rc == 0)
        rc = record_twice(&dir, &metrics, err);
    faults_left = 0;
    ds_metrics_close(&metrics);
    if (rc == 0)
        cr_assert(whole_lines("events.jsonl") == 2 && whole_lines("metrics.jsonl") == 0 &&
                  whole_lines("metrics.csv") == 1);
    else
        cr_assert(whole_lines("events.jsonl") <= 2 && whole_lines("metrics.jsonl") <= 2);
    ds_rundir_close(&dir);
    cr_assert(ds_fs_remove_tree(run_dir, NULL) == 0);
    return rc;
}

static void count_line(void *user, uint32_t rank, const char *text)
{
    (void)rank;
    *(size_t *)user += strcmp(text, "line") == 0;
}

/* Logs of two ranks, looked at while nothing but the look may fail. */
static int logs(struct ds_error *err)
{
    unsigned left = faults_left;
    struct ds_ranklogs_args args = {.rank = -1, .lines = 1, .line = count_line};
    struct ds_ranklogs found = {0};
    struct ds_rundir dir;
    size_t lines = 0;
    int rc;

    faults_left = 0;
    cr_assert_eq(ds_rundir_open(&dir, run_dir, NULL), 0);
    for (uint32_t rank = 0; rank < 2; rank++)
        cr_assert_eq(ds_rundir_log(&dir, rank, "a\nline\n", 7, NULL), 0);
    args.run_dir_fd = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert(args.run_dir_fd >= 0);
    args.user = &lines;
    faults_left = left;
    rc = ds_ranklogs_init(&found, &args, err);
    if (rc == 0)
        rc = ds_ranklogs_look(&found, true, err);
    if (rc == 0)
        rc = ds_ranklogs_tail(&found, 1, 1, count_line, err);
    faults_left = 0;
    cr_assert(rc != 0 || lines == 3, "%zu", lines);
    ds_ranklogs_release(&found);
    ds_rundir_close(&dir);
    (void)close(args.run_dir_fd);
    cr_assert_eq(ds_fs_remove_tree(run_dir, NULL), 0);
    return rc;
}

static int fold(struct ds_error *err)
{
    struct ds_fold texts = {0};
    int rc = ds_fold_init(&texts, 3, err);

    for (uint32_t host = 0; rc == 0 && host < 3; host++) {
        rc = ds_fold_put(&texts, host, host == 1 ? "b" : "a", 1);
        if (rc != 0)
            rc = ds_fail(err, -rc, "no memory for the text of a host");
        ds_fold_close(&texts, host);
    }
    if (rc == 0) {
        ds_fold_seal(&texts);
        cr_assert(ds_fold_leads(&texts, 0) && ds_fold_leads(&texts, 1) &&
                  ds_fold_after(&texts, 0) == 2);
    }
    ds_fold_release(&texts);
    return rc;
}

static const struct {
    const char *name;
    int (*work)(struct ds_error *err);
    bool files;  /* it opens some */
    bool shrugs; /* some of it is of no account: closing what was flushed; cores beside a place */
} rows[] = {
    {"options", options, false, false}, {"--env", environment, true, false},
    {"a job", job, true, false},        {"--help", help, false, false},
    {"a place", place, false, true},    {"a run directory", record, true, true},
    {"logs", logs, true, false},        {"fold", fold, false, false},
};

static void sweep(unsigned kinds, int code)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct faults_round r = {0};

        faults_kinds = kinds;
        while (faults_round(&r, code, rows[i].work)) {
            cr_expect(r.hit ? r.rc < 0 || (rows[i].shrugs && r.rc == 0) : r.rc == 0,
                      "%s, call %u, %s: %d %s", rows[i].name, r.n, strerror(code), r.rc,
                      r.err.text);
            cr_expect(r.rc == 0 || r.err.text[0] != '\0', "%s, call %u: no reason", rows[i].name,
                      r.n);
        }
        cr_expect(r.hits > 0 || (kinds == FAULT_IO && !rows[i].files),
                  "%s: there is something to fail", rows[i].name);
    }
}

Test(scarce, no_memory)
{
    sweep(FAULT_MEMORY, ENOMEM);
}

Test(scarce, a_full_disk)
{
    sweep(FAULT_IO, ENOSPC);
}
