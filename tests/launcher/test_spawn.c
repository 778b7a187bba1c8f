/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_spawn.c - what a rank finds when it starts, seen by /bin/sh; and what it means to fail.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/reap.h"
#include "launcher/spawn.h"

TestSuite(spawn, .timeout = 60);

/* All that comes until the end of the stream. */
static void read_all(int fd, char *out, size_t cap)
{
    size_t len = 0;
    ssize_t n = 1;

    while (n > 0 && len + 1 < cap) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};

        (void)poll(&wait, 1, 10000);
        n = read(fd, out + len, cap - len - 1);
        if (n > 0)
            len += (size_t)n;
    }
    out[len] = '\0';
    (void)close(fd);
}

static void start(struct ds_spawn *spawn, const struct ds_spec *spec, struct ds_spawned *child)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_spawn_init(spawn, spec, "/nonexistent", &err), 0, "%s", err.text);
    cr_assert_eq(ds_spawn_rank(spawn, spec->ranks - 1, child, &err), 0, "%s", err.text);
}

static void shell(const char *script, bool link, char *out, size_t cap, char *errors)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    const char *env[] = {"RANK=overridden", "NEW=1", "HOME=/h", NULL};
    struct ds_spec spec = {.world = 9,
                           .first_rank = 4,
                           .ranks = 2,
                           .node = 1,
                           .nodes = 3,
                           .threads = 1,
                           .link = link,
                           .cwd = "/",
                           .argc = 3,
                           .argv = argv,
                           .envc = 3,
                           .env = env};
    struct ds_spawned child;
    struct ds_spawn spawn;
    int status, code = 0;

    start(&spawn, &spec, &child);
    read_all(child.out_fd, out, cap);
    read_all(child.err_fd, errors, 256);
    cr_assert_eq(read(child.exec_fd, &code, sizeof(code)), 0, "exec happened");
    cr_assert_eq(waitpid(child.pid, &status, 0), child.pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 7, "%s: %s", script, errors);
    (void)close(child.exec_fd);
    if (child.link_fd >= 0)
        (void)close(child.link_fd);
    ds_spawn_release(&spawn);
}

Test(spawn, environment_and_place)
{
    char out[4096], errors[256];

    shell("echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $NODE_RANK $NEW $HOME; pwd; "
          "echo ${DSRUN_LINK_FD-none} ${DSRUN_SHM_FD-none}; echo oops >&2; exit 7",
          false, out, sizeof(out), errors);
    cr_assert_str_eq(out, "overridden 9 1 2 1 1 /h\n/\nnone none\n");
    cr_assert_str_eq(errors, "oops\n");
    shell("echo $DSRUN_LINK_FD $DSRUN_SHM_FD; exit 7", true, out, sizeof(out), errors);
    cr_assert_str_eq(out, "3 4\n");
}

Test(spawn, nothing_else_is_inherited)
{
    char out[4096], errors[256];
    int leak = open("/dev/null", O_RDONLY); /* without O_CLOEXEC, like a careless parent's */

    cr_assert_geq(leak, 0);
    shell("ls /proc/self/fd | tr '\\n' ' '; exit 7", false, out, sizeof(out), errors);
    cr_assert_str_eq(out, "0 1 2 3 ", "%s", out); /* 3 is ls reading the folder */
    shell("ls /proc/self/fd | tr '\\n' ' '; exit 7", true, out, sizeof(out), errors);
    cr_assert_str_eq(out, "0 1 2 3 4 5 ", "%s", out);
}

Test(spawn, stdin_is_empty_and_signals_are_plain)
{
    char out[4096], errors[256];
    sigset_t set;

    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigfillset(&set);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    shell("cat; grep SigBlk /proc/self/status | cut -f2; grep SigIgn /proc/self/status | cut -f2; "
          "exit 7",
          false, out, sizeof(out), errors);
    cr_assert_eq(strtoull(out, NULL, 16), 0, "blocked: %s", out);
    /* 32 and 33 belong to the C library, nobody can set them */
    cr_assert_eq(strtoull(strchr(out, '\n'), NULL, 16) & ~(3ULL << 31), 0, "ignored: %s", out);
}

Test(spawn, ranks_share_one_memory)
{
    const char *argv[] = {"/bin/sh", "-c", "echo $RANK >>/proc/self/fd/4; exit 0", NULL};
    struct ds_spec spec = {
        .world = 2, .ranks = 2, .nodes = 1, .link = true, .cwd = "", .argc = 3, .argv = argv};
    struct ds_spawn spawn;
    char text[16] = "";

    cr_assert_eq(ds_spawn_init(&spawn, &spec, "/nonexistent", NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct ds_spawned child;

        cr_assert_eq(ds_spawn_rank(&spawn, i, &child, NULL), 0);
        cr_assert_eq(waitpid(child.pid, NULL, 0), child.pid);
        (void)close(child.out_fd);
        (void)close(child.err_fd);
        (void)close(child.exec_fd);
        (void)close(child.link_fd);
    }
    cr_assert_eq(pread(spawn.shm_fd, text, sizeof(text) - 1, 0), 4);
    cr_assert_str_eq(text, "0\n1\n");
    ds_spawn_release(&spawn);
}

/* What is missing on this host is each rank's error, told before anything is started. */
Test(spawn, what_is_missing_is_told)
{
    static const struct {
        const char *program, *cwd, *said;
        int code;
    } table[] = {
        {"/nonexistent/program", "", "cannot start '/nonexistent/program': No such file", ENOENT},
        {"no-such-program", "", "cannot start 'no-such-program': no such program in PATH", ENOENT},
        {"/etc/passwd", "", "cannot start '/etc/passwd': Permission denied", ECANCELED},
        {"/bin/sh", "/nonexistent", "working directory '/nonexistent': No such file", ECANCELED},
        {"/bin/sh", "/etc/passwd", "working directory '/etc/passwd': Not a directory", ECANCELED},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const char *argv[] = {table[i].program, NULL};
        struct ds_spec spec = {
            .world = 1, .ranks = 1, .nodes = 1, .cwd = table[i].cwd, .argc = 1, .argv = argv};
        struct ds_error err = {0};
        struct ds_spawned child;
        struct ds_spawn spawn;

        cr_assert_eq(ds_spawn_init(&spawn, &spec, "/nonexistent", &err), 0, "%s", err.text);
        cr_expect_eq(ds_spawn_rank(&spawn, 0, &child, &err), -table[i].code, "row %zu", i);
        cr_expect(strstr(err.text, table[i].said) == err.text, "row %zu: %s", i, err.text);
        ds_spawn_release(&spawn);
    }
}

Test(spawn, failures_of_exec_are_told)
{
    char script[] = "/tmp/dsrun-spawn.XXXXXX";
    int fd = mkstemp(script), code, status;
    const struct {
        const char *program;
        int code, exit;
    } table[] = {
        {"dsrun-worker", ENOENT, 127}, /* beside the agent, and the agent's folder is empty */
        {script, ENOEXEC, 126},        /* no shell guesses what it is */
    };

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "echo hello\n", 11), 11);
    cr_assert_eq(fchmod(fd, 0700), 0);
    (void)close(fd);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const char *argv[] = {table[i].program, NULL};
        struct ds_spec spec = {
            .world = 1, .ranks = 1, .nodes = 1, .link = true, .cwd = "", .argc = 1, .argv = argv};
        struct ds_spawned child;
        struct ds_spawn spawn;

        start(&spawn, &spec, &child);
        cr_expect_eq(waitpid(child.pid, &status, 0), child.pid);
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == table[i].exit, "row %zu", i);
        cr_expect_eq(read(child.exec_fd, &code, sizeof(code)), (ssize_t)sizeof(code));
        cr_expect_eq(code, table[i].code, "row %zu: %s", i, strerror(code));
        (void)close(child.out_fd);
        (void)close(child.err_fd);
        (void)close(child.exec_fd);
        (void)close(child.link_fd);
        ds_spawn_release(&spawn);
    }
    (void)unlink(script);
}

Test(spawn, a_rank_leads_its_group_and_can_be_killed_with_it)
{
    const char *argv[] = {"/bin/sh", "-c", "sleep 1000 & sleep 1000", NULL};
    struct ds_spec spec = {.world = 1, .ranks = 1, .nodes = 1, .cwd = "", .argc = 3, .argv = argv};
    struct ds_spawned child;
    struct ds_spawn spawn;
    int status;

    start(&spawn, &spec, &child);
    cr_assert_eq(getpgid(child.pid), child.pid);
    cr_assert_eq(kill(-child.pid, SIGKILL), 0);
    cr_assert_eq(waitpid(child.pid, &status, 0), child.pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    (void)close(child.exec_fd);
    (void)close(child.err_fd);
    read_all(child.out_fd, (char[16]){0}, 16); /* ends: nobody holds it any longer */
    ds_spawn_release(&spawn);
}

/* The rank's own child makes a session of its own and survives the group. */
Test(spawn, daemons_are_ended_by_a_subreaper)
{
    const char *argv[] = {"/bin/sh", "-c", "setsid sleep 1000 & exit 0", NULL};
    struct ds_spec spec = {.world = 1, .ranks = 1, .nodes = 1, .cwd = "", .argc = 3, .argv = argv};
    struct ds_spawned child;
    struct ds_spawn spawn;
    char out[16];

    ds_reap_become();
    start(&spawn, &spec, &child);
    cr_assert_eq(waitpid(child.pid, NULL, 0), child.pid);
    ds_reap_all();
    read_all(child.out_fd, out, sizeof(out));
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
    cr_assert_eq(errno, ECHILD);
    (void)close(child.err_fd);
    (void)close(child.exec_fd);
    ds_spawn_release(&spawn);
}
