/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_load_job.c - the job of a command line: options count for more than the file; colour.
 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/causes.h"
#include "base/log.h"
#include "cli/cli.h"
#include "runtime/job.h"
#include "tests/job/small.h"

static char path[300];

/* No job here starts from a folder. */
int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
{
    (void)shape;
    return ds_fail(err, ENOENT, "'%s' is not expected", dir);
}

static void write_job(void)
{
    const char *tmp = getenv("TMPDIR") == NULL ? "/tmp" : getenv("TMPDIR");
    FILE *file;
    int fd;

    (void)snprintf(path, sizeof(path), "%s/dsrun-job.XXXXXX", tmp);
    fd = mkstemp(path);
    cr_assert(fd >= 0);
    file = fdopen(fd, "w");
    cr_assert(file != NULL && fputs(SMALL, file) >= 0 && fclose(file) == 0);
}

static void write_job_and_redirect(void)
{
    write_job();
    cr_redirect_stderr();
}

static void remove_job(void)
{
    (void)unlink(path);
}

TestSuite(load_job, .init = write_job, .fini = remove_job);

Test(load_job, options_count_for_more)
{
    const char *words[] = {path, "train.steps=7", "launch.slots=3"};
    struct ds_cli cli = {.arg = words,
                         .args = 3,
                         .restarts = 2,
                         .slots = 4,
                         .run_dir = "else where",
                         .restart_on = DS_CAUSE_OOM,
                         .restart_backoff_s = 2};
    struct ds_error err = {0};
    struct ds_job job;

    cr_assert(ds_cli_load_job(&cli, &job, &err) == 0, "%s", err.text);
    cr_expect(job.train.steps == 7 && job.launch.slots == 4 && job.launch.restarts == 2);
    cr_expect(job.launch.restart_on == DS_CAUSE_OOM && job.launch.restart_backoff == 2);
    cr_expect_str_eq(job.run_dir, "else where");
    ds_job_release(&job);
}

Test(load_job, without_options_the_file_decides)
{
    const char *words[] = {path, "launch.slots=3", "launch.restarts=5"};
    struct ds_cli cli = {.arg = words, .args = 3, .restarts = -1, .restart_backoff_s = -1};
    struct ds_error err = {0};
    struct ds_job job;

    cr_assert(ds_cli_load_job(&cli, &job, &err) == 0, "%s", err.text);
    cr_expect(job.launch.slots == 3 && job.launch.restarts == 5);
    cr_expect(job.launch.restart_on == DS_CAUSES_DEFAULT && job.launch.restart_backoff == 1);
    cr_expect_str_eq(job.run_dir, "runs/t");
    ds_job_release(&job);
}

Test(load_job, verbose_says_where_keys_were_given, .init = write_job_and_redirect,
     .fini = remove_job)
{
    const char *words[] = {path, "train.steps=7", "launch.env={TOKEN: hush, B: hush}"};
    struct ds_cli cli = {.arg = words, .args = 3, .restarts = -1, .verbose = true};
    struct ds_error err = {0};
    char line[400], expected[400];
    bool steps = false, batch = false, names = false;
    struct ds_job job;
    FILE *said;

    ds_log_init("dsrun", DS_LOG_INFO);
    cr_assert(ds_cli_load_job(&cli, &job, &err) == 0, "%s", err.text);
    ds_job_release(&job);
    (void)fflush(stderr);
    said = cr_get_redirected_stderr();
    (void)snprintf(expected, sizeof(expected),
                   "dsrun: info: train.global_batch is 32 by %s:12:17\n", path);
    while (fgets(line, sizeof(line), said) != NULL) {
        cr_expect(strstr(line, "hush") == NULL, "%s", line);
        names =
            names || strcmp(line, "dsrun: info: launch.env is TOKEN, B by the command line\n") == 0;
        steps = steps || strcmp(line, "dsrun: info: train.steps is 7 by the command line\n") == 0;
        batch = batch || strcmp(line, expected) == 0;
    }
    cr_expect(steps && batch && names);
}

/* job.yaml is a job, the same one but for values that may be secrets. */
Test(load_job, the_record_has_no_secrets)
{
    const char *words[] = {path, "launch.env={TOKEN: hush, B: hush}"};
    struct ds_cli cli = {.arg = words, .args = 2, .restarts = -1};
    struct ds_error err = {0};
    struct ds_job job, again;
    struct ds_buf text;

    ds_buf_init(&text, 1 << 16);
    cr_assert(ds_cli_load_job(&cli, &job, &err) == 0, "%s", err.text);
    cr_assert_eq(ds_cli_job_record(&job, &text, &err), 0);
    cr_expect(strstr(ds_buf_text(&text), "hush") == NULL, "%s", ds_buf_text(&text));
    cr_expect(strncmp(ds_buf_text(&text), "# launch.env is not kept here; it had TOKEN, B\n", 47) ==
                  0,
              "%s", ds_buf_text(&text));
    ds_job_init(&again);
    cr_assert_eq(ds_job_parse(&again, "job.yaml", text.data, text.len, NULL, 0, &err), 0, "%s",
                 err.text);
    cr_expect_eq(ds_job_digest(&again), ds_job_digest(&job));
    cr_expect(again.launch.env.count == 0 && job.launch.env.count == 2);
    ds_buf_release(&text);
    ds_job_release(&job);
    ds_job_release(&again);
}

Test(load_job, wrong_ones)
{
    const char *words[] = {path, "train.steps=0"}, *missing[] = {"no/such.yaml"};
    struct ds_cli cli = {.arg = words, .args = 2, .restarts = -1};
    struct ds_error err = {0};
    struct ds_job job;

    cr_expect(ds_cli_load_job(&cli, &job, &err) == -EINVAL);
    ds_job_release(&job);
    cli.args = 1;
    cli.run_dir = "\xff";
    cr_expect(ds_cli_load_job(&cli, &job, &err) == -EINVAL);
    ds_job_release(&job);
    cli.arg = missing;
    cr_expect(ds_cli_load_job(&cli, &job, &err) == -ENOENT);
    ds_job_release(&job);
}

Test(load_job, color)
{
    struct ds_cli cli = {.color = DS_COLOR_ALWAYS};
    int pipe_fd[2];

    cr_assert(pipe(pipe_fd) == 0);
    cr_expect(ds_cli_color(&cli, pipe_fd[1]));
    cli.color = DS_COLOR_NEVER;
    cr_expect(!ds_cli_color(&cli, STDOUT_FILENO));
    cli.color = DS_COLOR_AUTO;
    cr_expect(!ds_cli_color(&cli, pipe_fd[1]), "a pipe has no colours");
}
