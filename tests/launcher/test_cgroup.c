/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_cgroup.c - where a group would be, what is cleared away and what never, counters of memory;
 * and where this machine lets us have a group, a real one.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsio.h"
#include "launcher/cgroup.h"
#include "launcher/oom.h"
#include "tests/tempdir.h"

TestSuite(cgroup, .init = tempdir_make, .fini = tempdir_remove, .timeout = 60);

Test(cgroup, its_folder_is_read_from_proc)
{
    static const struct {
        const char *text, *want; /* NULL: there is none */
    } table[] = {
        {"0::/user.slice/user-7.slice/session-1.scope\n",
         "/m/user.slice/user-7.slice/session-1.scope"},
        {"0::/\n", "/m"},
        {"4:memory:/a\n1:cpu:/b\n0::/x y:z\n", "/m/x y:z"},
        {"0::/a..b/..c/d..\n", "/m/a..b/..c/d.."},
        {"", NULL},
        {"4:memory:/a\n", NULL},
        {"10::/a\n", NULL},
        {"4:memory:/0::/a\n", NULL},
        {"0::relative\n", NULL},
        {"0::/../sibling\n", NULL},
        {"0::/a/../b\n", NULL},
        {"0::/a/..\n", NULL},
        {"0::/gone (deleted)\n", NULL},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_error err = {0};
        char out[DS_MAX_PATH] = "";
        int rc = ds_cgroup_folder(table[i].text, "/m", out, &err);

        if (table[i].want == NULL)
            cr_expect(rc == -ENOTSUP && err.text[0] != '\0', "%s: %s", table[i].text, out);
        else
            cr_expect(rc == 0 && strcmp(out, table[i].want) == 0, "%s: %s", table[i].text, out);
    }
}

Test(cgroup, a_path_that_is_too_long_is_an_error)
{
    static char text[2 * DS_MAX_PATH];
    char out[DS_MAX_PATH];

    memset(text, 'x', sizeof(text) - 1);
    memcpy(text, "0::/", 4);
    cr_expect_eq(ds_cgroup_folder(text, "/m", out, NULL), -ENAMETOOLONG);
}

static void make_folder(const char *name)
{
    cr_assert_eq(ds_fs_mkdirs(tempdir_path(name), NULL), 0);
}

static void write_file(const char *name, const char *text)
{
    cr_assert_eq(ds_fs_replace(tempdir_path(name), text, strlen(text), NULL), 0);
}

static bool is_there(const char *name)
{
    struct stat info;

    return lstat(tempdir_path(name), &info) == 0;
}

/* A pid that nobody has. */
static long dead_pid(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    cr_assert_gt(pid, 0);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    return pid;
}

/* A folder that looks like a group, and is none: nothing of ours stays in it. */
Test(cgroup, what_is_no_group_gets_none)
{
    struct ds_cgroup cgroup;
    struct ds_error err = {0};
    char own[64];

    (void)snprintf(own, sizeof(own), "dsrun-%ld", (long)getpid());
    cr_expect_eq(ds_cgroup_make(&cgroup, tempdir_path("missing"), &err), -ENOENT);
    cr_expect_eq(ds_cgroup_make(&cgroup, tempdir, &err), -ENOENT, "%s", err.text);
    cr_expect_str_eq(cgroup.path, "");
    write_file("cgroup.procs", "");
    cr_expect_eq(ds_cgroup_make(&cgroup, tempdir, &err), -ENOTSUP, "%s", err.text);
    cr_expect_not_null(strstr(err.text, "cannot hold processes: no type"), "%s", err.text);
    cr_expect_not(is_there(own));
    cr_expect_str_eq(cgroup.path, "");
    cr_expect_eq(cgroup.procs_fd, -1);
    ds_cgroup_kill(&cgroup); /* fine on none */
    ds_cgroup_remove(&cgroup);
}

Test(cgroup, only_what_dead_agents_left_is_removed)
{
    static const char *const strangers[] = {
        "dsrun-",   "dsrun-0",   "dsrun-01", "dsrun-12x",
        "dsrun--1", "xdsrun-12", "dsrun",    "dsrun-99999999999999999999"};
    char dead[64], full[64], inside[96], link[64], file[64], live[64], own[64];
    struct ds_cgroup cgroup;

    (void)snprintf(dead, sizeof(dead), "dsrun-%ld", dead_pid());
    (void)snprintf(full, sizeof(full), "dsrun-%ld", dead_pid());
    (void)snprintf(inside, sizeof(inside), "%s/more", full);
    (void)snprintf(link, sizeof(link), "dsrun-%ld", dead_pid());
    (void)snprintf(file, sizeof(file), "dsrun-%ld", dead_pid());
    (void)snprintf(live, sizeof(live), "dsrun-%ld", (long)getppid());
    (void)snprintf(own, sizeof(own), "dsrun-%ld", (long)getpid());
    for (size_t i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++)
        make_folder(strangers[i]);
    make_folder(dead);
    make_folder(inside);
    make_folder(live);
    make_folder(own);
    make_folder("elsewhere");
    write_file(file, "");
    cr_assert_eq(symlink("elsewhere", tempdir_path(link)), 0);
    cr_expect_lt(ds_cgroup_make(&cgroup, tempdir, NULL), 0);
    cr_expect_not(is_there(dead), "its agent is gone");
    cr_expect_not(is_there(own), "this is its agent, which has made none yet");
    cr_expect(is_there(inside), "not empty");
    cr_expect(is_there(live), "its agent lives");
    cr_expect(is_there(link) && is_there("elsewhere") && is_there(file), "no folders");
    for (size_t i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++)
        cr_expect(is_there(strangers[i]), "%s is not ours", strangers[i]);
}

Test(cgroup, kills_for_memory_are_counted)
{
    struct ds_oom oom = {.path = "/nonexistent", .seen = 7};

    ds_oom_watch(&oom, tempdir);
    cr_expect_str_eq(oom.path, "/nonexistent", "a group that counts none changes nothing");
    write_file("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n");
    ds_oom_watch(&oom, tempdir);
    cr_expect_eq(oom.seen, 2);
    cr_expect_not(ds_oom_happened(&oom));
    write_file("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 0\n");
    cr_expect(ds_oom_happened(&oom));
    cr_expect_not(ds_oom_happened(&oom), "once");
}

/* A child in the group that ignores what it can, and made a session of its own. */
static pid_t child_in(const struct ds_cgroup *cgroup)
{
    int ready[2];
    char byte;
    pid_t pid;

    cr_assert_eq(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        if (write(cgroup->procs_fd, "0", 1) != 1 || setsid() < 0)
            _exit(1);
        (void)signal(SIGTERM, SIG_IGN);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            (void)pause();
    }
    (void)close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    return pid;
}

static bool is_in(pid_t pid, const char *name)
{
    char path[64], text[4096] = "";
    FILE *file;
    size_t n;

    (void)snprintf(path, sizeof(path), "/proc/%ld/cgroup", (long)pid);
    file = fopen(path, "re");
    cr_assert_not_null(file);
    n = fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    text[n] = '\0';
    return strstr(text, name) != NULL;
}

static void make_real(struct ds_cgroup *cgroup)
{
    char folder[DS_MAX_PATH];
    struct ds_error err = {0};
    int rc = ds_cgroup_own(folder, &err);

    if (rc == 0)
        rc = ds_cgroup_make(cgroup, folder, &err);
    if (rc != 0)
        cr_skip_test("no cgroup of its own: %s", err.text);
    cr_assert_eq(access(cgroup->path, F_OK), 0);
}

Test(cgroup, a_real_one_holds_and_kills_and_goes)
{
    struct ds_cgroup cgroup;
    char path[DS_MAX_PATH];
    int status = 0;
    pid_t pid;

    make_real(&cgroup);
    (void)snprintf(path, sizeof(path), "%s", cgroup.path);
    pid = child_in(&cgroup);
    cr_expect(is_in(pid, strrchr(path, '/')));
    if (cgroup.kill_fd < 0)
        (void)kill(pid, SIGKILL);
    ds_cgroup_kill(&cgroup);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ds_cgroup_remove(&cgroup);
    cr_expect_neq(access(path, F_OK), 0);
    cr_expect_str_eq(cgroup.path, "");
}

/* An agent dies with a process in its group: whoever started it clears both away. */
Test(cgroup, that_of_an_agent_that_was_killed_is_forgotten)
{
    struct ds_cgroup cgroup;
    char path[DS_MAX_PATH];
    int up[2];
    pid_t agent;

    make_real(&cgroup);
    ds_cgroup_remove(&cgroup);
    cr_assert_eq(pipe(up), 0);
    agent = fork();
    if (agent == 0) {
        make_real(&cgroup);
        (void)child_in(&cgroup);
        if (write(up[1], cgroup.path, sizeof(cgroup.path)) != (ssize_t)sizeof(cgroup.path))
            _exit(1);
        (void)kill(getpid(), SIGKILL);
    }
    (void)close(up[1]);
    cr_assert_eq(read(up[0], path, sizeof(path)), (ssize_t)sizeof(path));
    cr_assert_eq(waitpid(agent, NULL, 0), agent);
    cr_expect_eq(access(path, F_OK), 0);
    ds_cgroup_forget(agent);
    cr_expect_neq(access(path, F_OK), 0);
    (void)close(up[0]);
}
