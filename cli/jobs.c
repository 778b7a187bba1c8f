/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * jobs.c - the contract is in jobs.h.
 *
 * Everything is done through the folder's descriptor, which was checked to be a folder of this
 * user that nobody else may enter; no name in it is followed.
 */
#include "cli/jobs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/json_read.h"

enum { RECORD_BYTES = 16 * 1024, EVERY_MS = 500, TRIES = 100 };

/* --- the folder ------------------------------------------------------------------------------- */

static const char *absolute(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] == '/' ? value : NULL;
}

static int folder_path(char out[DS_MAX_PATH], struct ds_error *err)
{
    const char *base = absolute("XDG_RUNTIME_DIR"), *home = absolute("HOME");
    const char *below = "dsrun/jobs";

    if (base == NULL)
        base = absolute("XDG_STATE_HOME");
    if (base == NULL) {
        base = home;
        below = ".local/state/dsrun/jobs";
    }
    if (base == NULL)
        return ds_fail(err, EINVAL,
                       "none of XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME is set to a path");
    return ds_path_join(out, base, below, err);
}

/* -ENOENT: it is not there, and was not to be created. */
static int open_folder(int *fd, bool create, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    struct stat stat;
    mode_t mask;
    int rc = folder_path(path, err);

    *fd = -1;
    if (rc == 0 && create) {
        mask = umask(077);
        rc = ds_fs_mkdirs(path, err);
        (void)umask(mask);
    }
    if (rc != 0)
        return rc;
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(*fd, &stat) == 0 && stat.st_uid == geteuid() && (stat.st_mode & 077) == 0)
        return 0;
    (void)close(*fd);
    *fd = -1;
    return ds_fail(err, EPERM, "'%s' must belong to this user and be closed to others", path);
}

/* --- a record --------------------------------------------------------------------------------- */

static bool is_open(const struct ds_job_record *record)
{
    return record->name != NULL && record->fd >= 0; /* a zeroed one is closed */
}

static void write_record(struct ds_job_record *record)
{
    struct ds_json json;
    struct ds_buf text;

    if (!is_open(record))
        return;
    ds_buf_init(&text, RECORD_BYTES);
    ds_json_init(&json, &text);
    ds_json_object(&json, NULL);
    ds_json_u64(&json, "pid", (uint64_t)getpid());
    ds_json_string(&json, "name", record->name);
    ds_json_string(&json, "state", record->state);
    ds_json_u64(&json, "hosts", record->hosts);
    ds_json_u64(&json, "ranks", record->ranks);
    ds_json_u64(&json, "step", record->step);
    ds_json_u64(&json, "steps", record->steps);
    ds_json_f64(&json, "started", record->started, 14);
    ds_json_string(&json, "run_dir", record->run_dir);
    ds_json_end_object(&json);
    (void)ds_buf_put(&text, "\n", 1);
    if (!text.failed) /* what does not get there is only seen later */
        (void)!pwrite(record->fd, text.data, text.len, 0);
    ds_buf_release(&text);
    record->written_ns = ds_clock_mono_ns();
}

static void record_name(char out[24], pid_t pid)
{
    (void)snprintf(out, 24, "%d", (int)pid);
}

/* A file of our own, locked while it still has its name: who finds a free lock removes it. */
static int create(struct ds_job_record *record, const char *name)
{
    struct stat stat;

    (void)unlinkat(record->dir_fd, name, 0); /* of a process that had our number */
    record->fd =
        openat(record->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (record->fd < 0)
        return errno == EEXIST ? -EAGAIN : -errno;
    if (flock(record->fd, LOCK_EX) == 0 && fstat(record->fd, &stat) == 0 && stat.st_nlink > 0)
        return 0;
    (void)close(record->fd);
    record->fd = -1;
    return -EAGAIN;
}

int ds_job_record_open(struct ds_job_record *record, struct ds_error *err)
{
    char name[24];
    int rc;

    record->fd = record->dir_fd = -1;
    record->state = "launching";
    record->started = ds_clock_wall_s();
    rc = open_folder(&record->dir_fd, true, err);
    if (rc != 0)
        return rc;
    record_name(name, getpid());
    rc = -EAGAIN;
    for (int i = 0; rc == -EAGAIN && i < TRIES; i++)
        rc = create(record, name);
    if (rc != 0) {
        (void)close(record->dir_fd);
        record->dir_fd = -1;
        return ds_fail(err, -rc, "%s", strerror(-rc));
    }
    write_record(record);
    return 0;
}

void ds_job_record_state(struct ds_job_record *record, const char *state)
{
    record->state = state;
    write_record(record);
}

void ds_job_record_step(struct ds_job_record *record, uint64_t step)
{
    record->step = step;
    if (ds_clock_mono_ns() - record->written_ns > EVERY_MS * UINT64_C(1000000))
        write_record(record);
}

void ds_job_record_close(struct ds_job_record *record)
{
    char name[24];

    if (!is_open(record))
        return;
    record_name(name, getpid());
    (void)unlinkat(record->dir_fd, name, 0);
    (void)close(record->fd);
    (void)close(record->dir_fd);
    record->fd = record->dir_fd = -1;
}

/* --- those of others -------------------------------------------------------------------------- */

/* The file of a job that lives, or -1.  One that was left over is removed. */
static int open_live(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_SH | LOCK_NB) != 0)
        return fd;
    (void)unlinkat(dir_fd, name, 0); /* below the lock: its owner would see that it is gone */
    (void)close(fd);
    return -1;
}

static pid_t number_of(const char *name)
{
    char *end;
    long pid = strtol(name, &end, 10);

    return name[0] >= '1' && name[0] <= '9' && *end == '\0' && pid <= INT32_MAX ? (pid_t)pid : 0;
}

int ds_jobs_each(int (*each)(void *user, pid_t pid, const char *json, size_t len), void *user,
                 struct ds_error *err)
{
    static char text[RECORD_BYTES];
    struct dirent *entry;
    int dir_fd, rc = open_folder(&dir_fd, false, err);
    DIR *dir;

    if (rc == -ENOENT) { /* no job has ever run */
        *err = (struct ds_error){0};
        return 0;
    }
    if (rc != 0)
        return rc;
    dir = fdopendir(dir_fd);
    if (dir == NULL) {
        (void)close(dir_fd);
        return ds_fail(err, errno, "cannot list the jobs: %s", strerror(errno));
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        pid_t pid = number_of(entry->d_name);
        int fd = pid > 0 ? open_live(dir_fd, entry->d_name) : -1;
        ssize_t n = fd >= 0 ? pread(fd, text, sizeof(text), 0) : 0;
        const char *end = n > 0 ? memchr(text, '\n', (size_t)n) : NULL;

        if (end != NULL)
            rc = each(user, pid, text, (size_t)(end - text));
        if (fd >= 0)
            (void)close(fd);
    }
    (void)closedir(dir);
    return rc;
}

struct search {
    const char *word, *run_dir; /* one of the two */
    struct ds_job_found *found;
    unsigned count;
};

static bool is_named(const struct search *search, pid_t pid, const json_t *job)
{
    const char *name = json_string_value(json_object_get(job, "name"));
    char number[24];

    record_name(number, pid);
    return strcmp(search->word, number) == 0 || (name != NULL && strcmp(search->word, name) == 0);
}

static bool is_in(const struct search *search, const char *run_dir)
{
    char real[PATH_MAX];

    return realpath(run_dir, real) != NULL && strcmp(real, search->run_dir) == 0;
}

static int match(void *user, pid_t pid, const char *json, size_t len)
{
    struct search *search = user;
    json_t *job = ds_json_parse(json, len, NULL);
    const char *dir = json_string_value(json_object_get(job, "run_dir"));

    if (dir == NULL || dir[0] != '/')
        dir = "";
    if (search->word != NULL ? is_named(search, pid, job) : is_in(search, dir)) {
        search->count++;
        search->found->pid = pid;
        (void)snprintf(search->found->run_dir, sizeof(search->found->run_dir), "%s", dir);
    }
    json_decref(job);
    return 0;
}

int ds_jobs_find(const char *word, struct ds_job_found *found, struct ds_error *err)
{
    struct search search = {.word = word, .found = found};
    int rc = ds_jobs_each(match, &search, err);

    if (rc == 0 && search.count == 0)
        return ds_fail(err, ENOENT, "no job '%s' of this user runs on this machine: see dsrun ps",
                       word);
    if (rc == 0 && search.count > 1)
        return ds_fail(err, EINVAL, "%u jobs are named '%s': give the number that dsrun ps shows",
                       search.count, word);
    return rc;
}

int ds_jobs_find_run(const char *run_dir, struct ds_job_found *found, struct ds_error *err)
{
    struct search search = {.run_dir = run_dir, .found = found};
    int rc = ds_jobs_each(match, &search, err);

    return rc == 0 && search.count == 0 ? -ENOENT : rc;
}

int ds_jobs_watch(pid_t pid, int *fd, struct ds_error *err)
{
    char name[24];
    int dir_fd, rc = open_folder(&dir_fd, false, err);

    if (rc != 0)
        return rc;
    record_name(name, pid);
    *fd = open_live(dir_fd, name);
    (void)close(dir_fd);
    return *fd >= 0 ? 0 : ds_fail(err, ESRCH, "job %d has ended", (int)pid);
}

bool ds_jobs_ended(int fd)
{
    if (flock(fd, LOCK_SH | LOCK_NB) != 0)
        return false;
    (void)flock(fd, LOCK_UN); /* the next job may want it */
    return true;
}

int ds_jobs_signal(pid_t pid, int number, struct ds_error *err)
{
    char name[24];
    int dir_fd, fd, pid_fd, rc = open_folder(&dir_fd, false, err);

    if (rc != 0)
        return rc;
    record_name(name, pid);
    pid_fd = pidfd_open(pid, 0); /* first: the lock is then that of this very process */
    fd = open_live(dir_fd, name);
    if (fd < 0 || pid_fd < 0)
        rc = ds_fail(err, ESRCH, "job %d has ended", (int)pid);
    else if (pidfd_send_signal(pid_fd, number, NULL, 0) != 0)
        rc = ds_fail(err, errno, "job %d: %s", (int)pid, strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    if (pid_fd >= 0)
        (void)close(pid_fd);
    (void)close(dir_fd);
    return rc;
}
