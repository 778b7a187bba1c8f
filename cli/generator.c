/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * generator.c - the contract is in generator.h.
 */
#include "cli/generator.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "base/wire.h"
#include "cli/cli.h"

/* A pair of sockets is its input, so that one that has gone is an error here and no signal. */
static int open_lines(int to[2], int from[2], struct ds_error *err)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, to) != 0)
        return ds_fail(err, errno, "cannot make a socket: %s", strerror(errno));
    if (pipe2(from, O_CLOEXEC) == 0)
        return 0;
    (void)close(to[0]);
    (void)close(to[1]);
    return ds_fail(err, errno, "cannot make a pipe: %s", strerror(errno));
}

static int spawn(pid_t *pid, const char *path, int in, int out, struct ds_error *err)
{
    const char *argv[] = {"dsrun-worker", "generate", NULL};
    posix_spawn_file_actions_t files;
    int rc;

    (void)posix_spawn_file_actions_init(&files);
    rc = posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawn(pid, path, &files, NULL, (char **)(uintptr_t)argv, environ);
    (void)posix_spawn_file_actions_destroy(&files);
    if (rc == 0)
        return 0;
    return ds_fail(err, rc, "cannot start '%s': %s%s", path, strerror(rc),
                   rc == ENOENT ? ", install all of dsrun or name its folder of programs in "
                                  "DSRUN_LIBEXEC"
                                : "");
}

static int send_all(int fd, const void *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t sent = send(fd, (const char *)bytes + at, len - at, MSG_NOSIGNAL);

        if (sent < 0 && errno != EINTR)
            return -errno;
        at += sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

/* One that ends before it has read all says why. */
static int ask(const struct ds_generator *generator, const struct ds_generate_request *request,
               struct ds_error *err)
{
    unsigned char head[4];
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, DS_MAX_REQUEST_BYTES);
    rc = ds_generate_request_write(request, &text, err);
    ds_put_u32(head, (uint32_t)text.len);
    if (rc == 0 && send_all(generator->to, head, sizeof(head)) == 0)
        (void)send_all(generator->to, text.data, text.len);
    ds_buf_release(&text);
    return rc;
}

int ds_generator_start(struct ds_generator *generator, const struct ds_generate_request *request,
                       struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int to[2], from[2], rc = ds_cli_libexec(path, "dsrun-worker", err);

    if (rc == 0)
        rc = open_lines(to, from, err);
    if (rc != 0)
        return rc;
    *generator = (struct ds_generator){.to = to[0], .from = from[0]};
    rc = spawn(&generator->pid, path, to[1], from[1], err);
    (void)close(to[1]);
    (void)close(from[1]);
    if (rc != 0) {
        (void)close(to[0]);
        (void)close(from[0]);
        return rc;
    }
    rc = ask(generator, request, err);
    if (rc != 0)
        (void)ds_generator_end(generator);
    return rc;
}

int ds_generator_next(struct ds_generator *generator, struct ds_generate_event *event, bool *there,
                      struct ds_error *err)
{
    unsigned char bytes[DS_GENERATE_EVENT_BYTES];
    size_t at = 0;

    *there = false;
    while (at < sizeof(bytes)) {
        ssize_t got = read(generator->from, bytes + at, sizeof(bytes) - at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0; /* its end tells more */
        at += (size_t)got;
    }
    *there = true;
    return ds_generate_event_read(event, bytes, err);
}

void ds_generator_tell(struct ds_generator *generator, uint32_t number)
{
    unsigned char bytes[4];

    ds_put_u32(bytes, number);
    (void)send_all(generator->to, bytes, sizeof(bytes));
}

int ds_generator_end(struct ds_generator *generator)
{
    int status = 0;

    (void)close(generator->to);
    (void)close(generator->from);
    while (waitpid(generator->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    ds_log(DS_LOG_ERROR, "the worker that generates was killed by signal %d (%s)%s",
           WTERMSIG(status), strsignal(WTERMSIG(status)),
           WTERMSIG(status) == SIGKILL ? ", perhaps for want of memory" : "");
    return 128 + WTERMSIG(status);
}
