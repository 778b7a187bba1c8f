/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rundir.c - the contract is in rundir.h.
 */
#include "cli/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fsio.h"

enum { LOCK_PATIENCE_MS = 5000, LOCK_POLL_MS = 10 };

/* --- the lock --------------------------------------------------------------------------------- */

/* Does `pid` run?  A process that has ended and was not collected does not. */
static bool runs(pid_t pid)
{
    char path[64], text[512], *state;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno != ENOENT && kill(pid, 0) == 0;
    n = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    text[n < 0 ? 0 : n] = '\0';
    state = strrchr(text, ')');
    return state != NULL && strlen(state) > 2 && state[2] != 'Z' && state[2] != 'X';
}

static pid_t holder(int fd)
{
    char text[32] = "";

    if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
        return 0;
    return (pid_t)strtol(text, NULL, 10);
}

/* A live holder is an error at once; what a dead one left behind is about to end. */
static int wait_for_lock(int fd, struct ds_error *err)
{
    const struct timespec pause = {.tv_nsec = LOCK_POLL_MS * 1000000L};

    for (int waited_ms = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; waited_ms += LOCK_POLL_MS) {
        pid_t pid = holder(fd);

        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK)
            return ds_fail(err, errno, "cannot lock: %s", strerror(errno));
        if (pid > 0 && runs(pid))
            return ds_fail(err, EBUSY,
                           "in use by process %d; wait for it or choose another run_dir", (int)pid);
        if (waited_ms >= LOCK_PATIENCE_MS)
            return ds_fail(err, EBUSY, "in use by processes that dsrun (process %d) left behind",
                           (int)pid);
        (void)nanosleep(&pause, NULL);
    }
    return 0;
}

static int take_lock(struct ds_rundir *dir, struct ds_error *err)
{
    char path[DS_MAX_PATH], text[32];
    int rc = ds_path_join(path, dir->path, ".lock", err);

    if (rc != 0)
        return rc;
    dir->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (dir->lock_fd < 0)
        return ds_fail(err, errno, "'%s': %s", path, strerror(errno));
    rc = wait_for_lock(dir->lock_fd, err);
    if (rc != 0)
        return rc;
    (void)snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(dir->lock_fd, 0) != 0)
        return ds_fail(err, errno, "'%s': %s", path, strerror(errno));
    rc = ds_fs_pwrite_all(dir->lock_fd, text, strlen(text), 0, err);
    return ds_error_context(err, rc, "'%s'", path);
}

/* --- files that grow -------------------------------------------------------------------------- */

/* Cut what follows the last line end. */
static int drop_torn_line(int fd, struct ds_error *err)
{
    char bytes[4096];
    off_t end = lseek(fd, 0, SEEK_END), keep = 0;

    for (off_t at = end; at > 0 && keep == 0;) {
        size_t n = at < (off_t)sizeof(bytes) ? (size_t)at : sizeof(bytes);
        const char *last;
        int rc = ds_fs_pread_all(fd, bytes, n, (uint64_t)at - n, err);

        if (rc != 0)
            return rc;
        last = memrchr(bytes, '\n', n);
        if (last != NULL)
            keep = at - (off_t)n + (last - bytes) + 1;
        at -= (off_t)n;
    }
    if (keep < end && ftruncate(fd, keep) != 0)
        return ds_fail(err, errno, "cannot cut a torn line: %s", strerror(errno));
    return 0;
}

int ds_append_open(const char *path, int *fd, struct ds_error *err)
{
    int rc;

    *fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (*fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", path, strerror(errno));
    rc = drop_torn_line(*fd, err);
    if (rc != 0) {
        (void)close(*fd);
        *fd = -1;
    }
    return ds_error_context(err, rc, "'%s'", path);
}

static int open_log(struct ds_rundir *dir, uint32_t rank, int *fd, struct ds_error *err)
{
    char name[64], path[DS_MAX_PATH];
    int rc;

    (void)snprintf(name, sizeof(name), "logs/rank-%05u.log", rank);
    rc = ds_path_join(path, dir->path, name, err);
    if (rc != 0)
        return rc;
    *fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (*fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", path, strerror(errno));
    return 0;
}

int ds_rundir_log(struct ds_rundir *dir, uint32_t rank, const char *bytes, size_t len,
                  struct ds_error *err)
{
    unsigned slot = rank % DS_LOGS_OPEN;
    int fd = dir->log[slot].fd;
    int rc = 0;

    if (dir->path[0] == '\0')
        return 0;
    if (fd != 0 && dir->log[slot].rank != rank) {
        (void)close(fd);
        dir->log[slot].fd = fd = 0;
    }
    if (fd == 0) {
        rc = open_log(dir, rank, &fd, err);
        if (rc != 0)
            return rc;
        dir->log[slot].fd = fd;
        dir->log[slot].rank = rank;
    }
    rc = ds_fs_write_all(fd, bytes, len, err);
    return ds_error_context(err, rc, "'%s/logs/rank-%05u.log'", dir->path, rank);
}

int ds_rundir_event(struct ds_rundir *dir, const char *json, size_t len, struct ds_error *err)
{
    int rc;

    if (dir->path[0] == '\0')
        return 0;
    rc = ds_fs_write_all(dir->events_fd, json, len, err);
    if (rc == 0)
        rc = ds_fs_write_all(dir->events_fd, "\n", 1, err);
    return ds_error_context(err, rc, "'%s/events.jsonl'", dir->path);
}

int ds_rundir_flush(struct ds_rundir *dir, struct ds_error *err)
{
    if (dir->path[0] != '\0' && fdatasync(dir->events_fd) != 0)
        return ds_fail(err, errno, "cannot write '%s/events.jsonl': %s", dir->path,
                       strerror(errno));
    return 0;
}

int ds_rundir_open(struct ds_rundir *dir, const char *path, struct ds_error *err)
{
    char name[DS_MAX_PATH];
    int rc;

    *dir = (struct ds_rundir){.lock_fd = -1, .events_fd = -1};
    if ((size_t)snprintf(dir->path, sizeof(dir->path), "%s", path) >= sizeof(dir->path))
        return ds_fail(err, ENAMETOOLONG, "the path of the run directory is too long");
    rc = ds_path_join(name, path, "logs", err);
    if (rc == 0)
        rc = ds_fs_mkdirs(name, err);
    if (rc == 0)
        rc = take_lock(dir, err);
    if (rc == 0)
        rc = ds_path_join(name, path, "events.jsonl", err);
    if (rc == 0)
        rc = ds_append_open(name, &dir->events_fd, err);
    if (rc != 0)
        ds_rundir_close(dir);
    return ds_error_context(err, rc, "run directory '%s'", path);
}

void ds_rundir_close(struct ds_rundir *dir)
{
    if (dir->path[0] == '\0')
        return;
    for (unsigned i = 0; i < DS_LOGS_OPEN; i++)
        if (dir->log[i].fd != 0)
            (void)close(dir->log[i].fd);
    if (dir->events_fd >= 0)
        (void)close(dir->events_fd);
    if (dir->lock_fd >= 0)
        (void)close(dir->lock_fd);
    *dir = (struct ds_rundir){.lock_fd = -1, .events_fd = -1};
}
