/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_boot.c - the script that turns a constant command into an agent, run by the shells there are,
 * against the state machine that answers it.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher/remote/boot.h"
#include "tests/tempdir.h"

static void setup(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    tempdir_make();
    cr_assert_eq(setenv("HOME", tempdir, 1), 0);
    (void)unsetenv("XDG_CACHE_HOME");
}

TestSuite(boot, .init = setup, .fini = tempdir_remove, .timeout = 60);

/* A program that says where it is and who it is, as the agent of a test. */
static void write_program(const char *where, const char *name, const char *says)
{
    char path[DS_MAX_PATH], text[128];

    (void)snprintf(path, sizeof(path), "%s/%s", tempdir_path(where), name);
    (void)snprintf(text, sizeof(text), "#!/bin/sh\necho %s; umask; cat\n", says);
    cr_assert_eq(ds_fs_replace(path, text, strlen(text), NULL), 0);
    cr_assert_eq(chmod(path, 0755), 0);
}

static void make_folder(const char *name)
{
    cr_assert_eq(ds_fs_mkdirs(tempdir_path(name), NULL), 0);
}

struct outcome {
    int rc;
    bool pushed;
    char said[512]; /* by the agent, or why there is none */
};

/* Run the command by `shell` on the host's side and the machine on the launcher's.  When it is
 * `held`, nothing may have been written to the host until it is let go. */
static struct outcome start_held(const char *shell, const struct ds_boot_plan *plan, bool held)
{
    struct outcome outcome = {0};
    struct ds_error err = {0};
    struct ds_boot boot;
    size_t used = 0, have = 0;
    char bytes[512];
    ssize_t n = 1;
    int fd[2];
    pid_t pid;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    pid = fork();
    if (pid == 0) {
        (void)dup2(fd[1], 0);
        (void)dup2(fd[1], 1);
        (void)close(fd[0]);
        (void)close(fd[1]);
        (void)umask(022);
        (void)dprintf(1, "Welcome!\nDSRUN 0000 go\n");
        (void)execlp(shell, shell, "-c", ds_boot_command, (char *)NULL);
        _exit(99);
    }
    (void)close(fd[1]);
    cr_assert_eq(ds_boot_init(&boot, plan, held, NULL), 0);
    while (outcome.rc == 0 && n > 0) {
        if (boot.out_bytes > 0) {
            n = send(fd[0], boot.out, boot.out_bytes, 0);
            cr_assert_gt(n, 0);
            ds_boot_sent(&boot, (size_t)n);
            continue;
        }
        if (boot.held && boot.here) {
            cr_expect_eq(recv(fd[0], bytes, sizeof(bytes), MSG_DONTWAIT), -1, "it waits");
            cr_expect_neq(access(tempdir_path(".cache"), F_OK), 0, "nothing is written so far");
            ds_boot_go(&boot);
            continue;
        }
        n = recv(fd[0], bytes, sizeof(bytes), 0);
        if (n > 0)
            outcome.rc = ds_boot_feed(&boot, bytes, (size_t)n, &used, &err);
    }
    outcome.pushed = boot.pushed;
    if (outcome.rc == 1) { /* what the agent says, and then its echo of what it is sent */
        have = (size_t)n - used;
        memcpy(outcome.said, bytes + used, have);
        cr_assert_eq(send(fd[0], "frames", 6, 0), 6);
        (void)shutdown(fd[0], SHUT_WR);
        while ((n = recv(fd[0], outcome.said + have, sizeof(outcome.said) - 1 - have, 0)) > 0)
            have += (size_t)n;
    } else {
        (void)snprintf(outcome.said, sizeof(outcome.said), "%.*s", (int)sizeof(outcome.said) - 1,
                       err.text);
    }
    (void)close(fd[0]);
    (void)waitpid(pid, NULL, 0);
    ds_boot_release(&boot);
    return outcome;
}

static struct outcome start(const char *shell, const struct ds_boot_plan *plan)
{
    return start_held(shell, plan, false);
}

static struct ds_boot_plan plan_of(const char *where, bool push, bool worker)
{
    struct ds_boot_plan plan;

    cr_assert_eq(ds_boot_plan_open(&plan, tempdir_path(where), "1.0-test", push, worker, NULL), 0);
    return plan;
}

static const char *const shells[] = {"sh", "bash", "dash"};

Test(boot, programs_are_pushed_once_and_kept_for_the_user_alone)
{
    struct ds_boot_plan plan;
    struct outcome outcome;
    struct stat info;

    make_folder("here");
    write_program("here", "dsrun-agent", "pushed");
    write_program("here", "dsrun-worker", "worker");
    plan = plan_of("here", true, true);
    plan.folder = "/nonexistent $(touch x) '"; /* on the host there is nothing */
    for (size_t i = 0; i < sizeof(shells) / sizeof(shells[0]); i++) {
        outcome = start(shells[i], &plan);
        cr_assert_eq(outcome.rc, 1, "%s: %s", shells[i], outcome.said);
        cr_expect_eq(outcome.pushed, i == 0, "%s", shells[i]);
        cr_expect_str_eq(outcome.said, "pushed\n0022\nframes", "%s", shells[i]);
    }
    cr_assert_eq(stat(tempdir_path(".cache/dsrun/1.0-test"), &info), 0);
    cr_expect_eq(info.st_mode & 07777, 0700);
    ds_boot_plan_release(&plan);
}

Test(boot, a_host_that_is_held_waits_and_then_goes_on)
{
    struct ds_boot_plan plan;
    struct outcome outcome;

    make_folder("here");
    write_program("here", "dsrun-agent", "pushed");
    plan = plan_of("here", true, false);
    plan.folder = "/nonexistent";
    outcome = start_held("sh", &plan, true);
    cr_assert_eq(outcome.rc, 1, "%s", outcome.said);
    cr_expect(outcome.pushed);
    cr_expect_str_eq(outcome.said, "pushed\n0022\nframes");
    ds_boot_plan_release(&plan);
}

/* A file in the cache, last written so long ago. */
static const char *leave(const char *name, time_t seconds)
{
    const struct timespec when[2] = {{.tv_sec = time(NULL) - seconds},
                                     {.tv_sec = time(NULL) - seconds}};
    char path[128];

    (void)snprintf(path, sizeof(path), ".cache/dsrun/1.0-test/%s", name);
    cr_assert_eq(ds_fs_replace(tempdir_path(path), "x", 1, NULL), 0);
    cr_assert_eq(utimensat(AT_FDCWD, tempdir_path(path), when, 0), 0);
    return tempdir_path(path);
}

Test(boot, what_broken_copies_left_is_swept_up_when_it_is_old)
{
    char *old, *young, *other;
    struct ds_boot_plan plan;

    make_folder("here");
    make_folder(".cache/dsrun/1.0-test");
    write_program("here", "dsrun-agent", "pushed");
    old = strdup(leave(".dsrun-agent.0011", 3 * 3600));
    young = strdup(leave(".dsrun-agent.0022", 60));
    other = strdup(leave("dsrun-old", 3 * 3600));
    plan = plan_of("here", true, false);
    plan.folder = "";
    cr_assert_eq(start("sh", &plan).rc, 1);
    cr_expect_neq(access(old, F_OK), 0, "an old one goes");
    cr_expect_eq(access(young, F_OK), 0, "one that may be in use stays");
    cr_expect_eq(access(other, F_OK), 0, "what is none stays");
    ds_boot_plan_release(&plan);
    free(old);
    free(young);
    free(other);
}

Test(boot, what_is_installed_with_the_same_bytes_runs_where_it_is)
{
    struct ds_boot_plan plan;
    struct outcome outcome;

    make_folder("here");
    write_program("here", "dsrun-agent", "installed");
    plan = plan_of("here", true, false);
    outcome = start("sh", &plan);
    cr_assert_eq(outcome.rc, 1, "%s", outcome.said);
    cr_expect_not(outcome.pushed);
    cr_expect_str_eq(outcome.said, "installed\n0022\nframes");
    ds_boot_plan_release(&plan);
}

Test(boot, another_build_or_a_damaged_copy_does_not_run)
{
    struct ds_boot_plan plan;
    struct outcome outcome;

    make_folder("here");
    make_folder("there");
    make_folder(".cache/dsrun/1.0-test");
    write_program("here", "dsrun-agent", "right");
    write_program("there", "dsrun-agent", "other");
    write_program(".cache/dsrun/1.0-test", "dsrun-agent", "damaged");
    plan = plan_of("here", true, false);
    plan.folder = "/nonexistent";
    outcome = start("sh", &plan);
    cr_assert_eq(outcome.rc, 1, "%s", outcome.said);
    cr_expect(outcome.pushed);
    cr_expect_str_eq(outcome.said, "right\n0022\nframes");
    ds_boot_plan_release(&plan);
}

Test(boot, never_means_what_is_installed)
{
    struct ds_boot_plan plan;
    struct outcome outcome;

    make_folder("there");
    write_program("there", "dsrun-agent", "installed");
    plan = plan_of("there", false, true);
    outcome = start("sh", &plan);
    cr_assert_eq(outcome.rc, 1, "%s", outcome.said);
    ds_boot_plan_release(&plan);
    plan = plan_of("nowhere", false, true);
    outcome = start("sh", &plan);
    cr_expect_eq(outcome.rc, -EHOSTUNREACH);
    cr_expect_not_null(strstr(outcome.said, "is not installed and may not be pushed"), "%s",
                       outcome.said);
    ds_boot_plan_release(&plan);
}

Test(boot, a_cache_that_others_could_change_is_refused)
{
    struct ds_boot_plan plan;
    struct outcome outcome;

    make_folder("here");
    make_folder("elsewhere");
    make_folder(".cache");
    write_program("here", "dsrun-agent", "right");
    cr_assert_eq(symlink(tempdir_path("elsewhere"), tempdir_path(".cache/dsrun")), 0);
    plan = plan_of("here", true, false);
    plan.folder = "";
    outcome = start("sh", &plan);
    cr_expect_eq(outcome.rc, -EHOSTUNREACH);
    cr_expect_not_null(strstr(outcome.said, "symbolic link"), "%s", outcome.said);
    ds_boot_plan_release(&plan);
}

Test(boot, a_host_that_talks_nonsense_is_dropped)
{
    struct ds_boot_plan plan = {.folder = "x", .build = "y", .hash = {"-", "-"}};
    struct ds_error err = {0};
    struct ds_boot boot;
    char line[128], noise[4096];
    size_t used;
    int rc = 0;

    cr_assert_eq(ds_boot_init(&boot, &plan, false, NULL), 0);
    (void)snprintf(line, sizeof(line), "DSRUN %s put dsrun-agent\n", boot.nonce);
    cr_expect_eq(ds_boot_feed(&boot, line, strlen(line), &used, &err), -EPROTO, "not offered");
    ds_boot_release(&boot);
    cr_assert_eq(ds_boot_init(&boot, &plan, false, NULL), 0);
    (void)snprintf(line, sizeof(line), "DSRUN %s sing\n", boot.nonce);
    cr_expect_eq(ds_boot_feed(&boot, line, strlen(line), &used, &err), -EPROTO);
    ds_boot_release(&boot);
    cr_assert_eq(ds_boot_init(&boot, &plan, true, NULL), 0);
    (void)snprintf(line, sizeof(line), "DSRUN %s go\n", boot.nonce);
    cr_expect_eq(ds_boot_feed(&boot, line, strlen(line), &used, &err), -EPROTO, "not told to");
    ds_boot_release(&boot);
    cr_assert_eq(ds_boot_init(&boot, &plan, true, NULL), 0);
    (void)snprintf(line, sizeof(line), "DSRUN %s here\n", boot.nonce);
    cr_expect_eq(ds_boot_feed(&boot, line, strlen(line), &used, &err), -EPROTO, "not asked yet");
    cr_expect_not(boot.here);
    ds_boot_release(&boot);
    cr_assert_eq(ds_boot_init(&boot, &plan, false, NULL), 0);
    (void)snprintf(line, sizeof(line), "DSRUN %s no \n", boot.nonce);
    cr_expect_eq(ds_boot_feed(&boot, line, strlen(line), &used, &err), -EHOSTUNREACH);
    cr_expect_str_eq(err.text, "the host does not say why");
    ds_boot_release(&boot);
    cr_assert_eq(ds_boot_init(&boot, &plan, false, NULL), 0);
    memset(noise, 'x', sizeof(noise));
    for (int i = 0; rc == 0 && i < 100; i++)
        rc = ds_boot_feed(&boot, noise, sizeof(noise), &used, &err);
    cr_expect_eq(rc, -EPROTO, "endless noise");
    ds_boot_release(&boot);
}
