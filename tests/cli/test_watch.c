/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_watch.c - run directories from outside: which job is meant, who runs where, logs of ranks.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/jobs.h"
#include "cli/ranklogs.h"
#include "cli/watch.h"
#include "tests/tempdir.h"

static void setup(void)
{
    tempdir_make();
    cr_assert_eq(setenv("XDG_RUNTIME_DIR", tempdir_path(""), 1), 0);
    cr_assert_eq(mkdir(tempdir_path("run"), 0700), 0);
    cr_assert_eq(mkdir(tempdir_path("run/logs"), 0700), 0);
}

TestSuite(watch, .init = setup, .fini = tempdir_remove);

static void write_text(const char *name, const char *text)
{
    (void)tempdir_write(name, text, strlen(text));
}

static void open_watch(struct ds_watched *watch, const char *word)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_watch_open(watch, word, &err), 0, "%s", err.text);
}

static void expect_host(const struct ds_watched *watch, uint32_t rank, const char *want)
{
    char out[DS_HOST_LABEL_BYTES];

    cr_expect_str_eq(ds_watch_host(watch, rank, out), want, "rank %u", rank);
}

Test(watch, the_job_that_ran_last_in_a_directory)
{
    struct ds_watched watch;

    write_text(
        "run/events.jsonl",
        "{\"event\":\"launch\",\"attempt\":0,\"pid\":1,\"ranks\":1,\"hosts\":[\"old\"]}\n"
        "{\"event\":\"resumed\",\"step\":7}\n"
        "{\"event\":\"launch\",\"attempt\":0,\"pid\":2,\"ranks\":5,\"hosts\":[\"a\",\"b\"],"
        "\"local\":[2,3]}\n"
        "no record\n{\"event\":\"resumed\",\"step\":3}\n"
        "{\"event\":\"launch\",\"attempt\":1,\"pid\":2,\"ranks\":5,\"hosts\":[\"a\",\"\\u001b["
        "1m\"],\"local\":[2,3]}\n"
        "{\"event\":\"resumed\",\"step\":5}\n");
    open_watch(&watch, tempdir_path("run"));
    cr_expect(ds_watch_ended(&watch), "without a lock nothing runs");
    cr_expect_eq(watch.pid, 0);
    cr_expect_eq(watch.first_step, 3);
    cr_expect_eq(watch.begin, 94);
    cr_expect_eq(ds_watch_world(&watch), 5);
    expect_host(&watch, 0, "a");
    expect_host(&watch, 1, "a");
    expect_host(&watch, 2, "\\x1b[1m");
    expect_host(&watch, 4, "\\x1b[1m");
    expect_host(&watch, 5, "?");
    expect_host(&watch, UINT32_MAX, "?");
    ds_watch_close(&watch);
}

/* Whatever stands in the file. */
Test(watch, launches_that_make_no_sense)
{
    static const char *const lines[] = {
        "{\"event\":\"launch\"}",
        "{\"event\":\"launch\",\"hosts\":{},\"local\":7,\"ranks\":-1}",
        ("{\"event\":\"launch\",\"hosts\":[1,null],\"local\":[9223372036854775807,"
         "9223372036854775807],\"ranks\":9223372036854775807}"),
        "{\"event\":\"launch\",\"hosts\":[\"a\",\"b\"],\"local\":[-9223372036854775807,\"x\"]}",
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct ds_watched watch;

        write_text("run/events.jsonl", lines[i]);
        {
            FILE *file = fopen(tempdir_path("run/events.jsonl"), "a");

            cr_assert(file != NULL && fputc('\n', file) == '\n' && fclose(file) == 0);
        }
        open_watch(&watch, tempdir_path("run"));
        cr_expect_eq(ds_watch_world(&watch), 0);
        expect_host(&watch, 0, "?");
        ds_watch_close(&watch);
    }
}

Test(watch, a_lock_tells_the_end)
{
    struct ds_watched watch;
    FILE *lock = fopen(tempdir_path("run/.lock"), "w");

    cr_assert(lock != NULL && flock(fileno(lock), LOCK_EX) == 0);
    write_text("run/events.jsonl", "");
    open_watch(&watch, tempdir_path("run"));
    cr_expect(!ds_watch_ended(&watch));
    cr_assert_eq(fclose(lock), 0);
    cr_expect(ds_watch_ended(&watch));
    lock = fopen(tempdir_path("run/.lock"), "r+");
    cr_expect(lock != NULL && flock(fileno(lock), LOCK_EX | LOCK_NB) == 0,
              "who has looked does not hold it");
    (void)fclose(lock);
    ds_watch_close(&watch);
}

Test(watch, jobs_by_name_number_and_directory)
{
    struct ds_job_record record = {.name = "tiny", .run_dir = tempdir_path("run"), .ranks = 2};
    struct ds_job_record other = {.name = "a.out", .run_dir = "-"};
    struct ds_error err = {0};
    struct ds_watched watch;
    char number[24];

    write_text("run/events.jsonl", "");
    (void)snprintf(number, sizeof(number), "%d", (int)getpid());
    cr_assert_eq(ds_job_record_open(&record, &err), 0, "%s", err.text);
    for (int i = 0; i < 3; i++) {
        const char *const words[] = {"tiny", number, tempdir_path("run/../run/")};

        open_watch(&watch, words[i]);
        cr_expect_eq(watch.pid, getpid(), "%s", words[i]);
        cr_expect(!ds_watch_ended(&watch));
        ds_watch_close(&watch);
    }
    open_watch(&watch, "tiny");
    ds_job_record_close(&record);
    cr_expect(ds_watch_ended(&watch));
    ds_watch_close(&watch);
    cr_expect_eq(ds_watch_open(&watch, "tiny", &err), -ENOENT);
    cr_expect_not_null(strstr(err.text, "no job 'tiny' of this user runs on this machine"));
    cr_assert_eq(ds_job_record_open(&other, &err), 0, "%s", err.text);
    cr_expect_eq(ds_watch_open(&watch, "a.out", &err), -ENODATA);
    cr_expect_not_null(strstr(err.text, "without --run-dir"));
    ds_job_record_close(&other);
}

Test(watch, what_is_no_run_directory)
{
    struct ds_error err = {0};
    struct ds_watched watch;

    cr_expect_eq(ds_watch_open(&watch, tempdir_path("run"), &err), -EINVAL);
    cr_expect_not_null(strstr(err.text, "has no events.jsonl"), "%s", err.text);
    cr_expect_eq(ds_watch_open(&watch, tempdir_path("none"), &err), -ENOENT);
    cr_assert_eq(symlink("/etc/passwd", tempdir_path("run/events.jsonl")), 0);
    cr_expect_eq(ds_watch_open(&watch, tempdir_path("run"), &err), -ELOOP);
}

/* --- logs ------------------------------------------------------------------------------------- */

static char shown[4096];

static void show(void *user, uint32_t rank, const char *text)
{
    size_t used = strlen(shown);

    (void)user;
    (void)snprintf(shown + used, sizeof(shown) - used, "%u:%s|", rank, text);
}

static void look(struct ds_ranklogs *logs, bool last, const char *want)
{
    struct ds_error err = {0};

    shown[0] = '\0';
    cr_assert_eq(ds_ranklogs_look(logs, last, &err), 0, "%s", err.text);
    cr_expect_str_eq(shown, want);
}

static void add(const char *name, const char *text)
{
    FILE *file = fopen(tempdir_path(name), "ab");

    cr_assert(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void open_logs(struct ds_ranklogs *logs, struct ds_watched *watch, int64_t rank)
{
    struct ds_ranklogs_args args = {.rank = rank, .lines = 2, .line = show};

    write_text("run/events.jsonl", "");
    open_watch(watch, tempdir_path("run"));
    args.run_dir_fd = watch->dir_fd;
    cr_assert_eq(ds_ranklogs_init(logs, &args, NULL), 0);
}

Test(watch, logs_of_ranks)
{
    struct ds_ranklogs logs;
    struct ds_watched watch;

    add("run/logs/rank-00000.log", "1\n2\n3\n");
    add("run/logs/rank-00002.log", "a\n\x1b[2Jb\r\nhal");
    add("run/logs/rank-2.log", "no log\n");
    add("run/logs/rank-99999.log", "no rank\n");
    add("run/logs/rank-00001.log~", "no log\n");
    open_logs(&logs, &watch, -1);
    look(&logs, false, "0:2|0:3|2:\\x1b[2Jb|");
    look(&logs, false, "");
    add("run/logs/rank-00002.log", "f\n");
    look(&logs, false, "2:half|");
    add("run/logs/rank-00001.log", "all\nof\nit\nto");
    logs.listed_ns = 0; /* a second later */
    look(&logs, false, "1:all|1:of|1:it|");
    look(&logs, true, "1:to|");
    cr_assert_eq(unlink(tempdir_path("run/logs/rank-00000.log")), 0);
    look(&logs, true, "");
    ds_ranklogs_release(&logs);
    ds_watch_close(&watch);
}

Test(watch, logs_of_one_rank)
{
    struct ds_error err = {0};
    struct ds_ranklogs logs;
    struct ds_watched watch;

    add("run/logs/rank-00000.log", "1\n");
    add("run/logs/rank-00003.log", "a\nb\nc\n");
    open_logs(&logs, &watch, 3);
    look(&logs, true, "3:b|3:c|");
    shown[0] = '\0';
    cr_expect_eq(ds_ranklogs_tail(&logs, 0, 5, show, &err), 0, "%s", err.text);
    cr_expect_str_eq(shown, "0:1|");
    cr_expect_eq(ds_ranklogs_tail(&logs, 1, 5, show, &err), -ENOENT);
    cr_assert_eq(unlink(tempdir_path("run/logs/rank-00003.log")), 0);
    cr_assert_eq(symlink("/etc/passwd", tempdir_path("run/logs/rank-00003.log")), 0);
    cr_expect_eq(ds_ranklogs_look(&logs, true, &err), -ELOOP, "a link is not followed");
    ds_ranklogs_release(&logs);
    ds_watch_close(&watch);
}
