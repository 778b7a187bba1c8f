/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpulock.c - the contract is in gpulock.h.
 */
#include "launcher/gpulock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

enum { ROUNDS = 100, FILE_BYTES = 32 + DS_GPULOCK_JOB };
enum {
    SHOWN_WORD = 128,
    SHOWN_PATH = 320,
    SHOWN_JOB = 680,
    SHOWN = 768
}; /* bytes of the message, with NUL */

const char *const ds_gpulock_folders[] = {"/run/lock", "/dev/shm", NULL};

const char *ds_gpulock_folder(const char *const *folders)
{
    const mode_t must = S_ISVTX | S_IRWXU | S_IRWXG | S_IRWXO;
    struct stat info;

    for (; *folders != NULL; folders++)
        if (lstat(*folders, &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == 0 &&
            (info.st_mode & must) == must)
            return *folders;
    return NULL;
}

/* --- one file --------------------------------------------------------------------------------- */

/* Open it, or make it for everybody.  A file of another user is never opened with O_CREAT, which
 * kernels refuse in such a folder (fs.protected_regular). */
static int open_file(const char *path, struct ds_error *err)
{
    const int flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

    for (int round = 0; round < ROUNDS; round++) {
        int fd = open(path, flags);

        if (fd < 0 && errno == ENOENT) {
            fd = open(path, flags | O_CREAT | O_EXCL, 0666);
            if (fd < 0 && errno == EEXIST)
                continue; /* another was faster */
            if (fd >= 0)
                (void)fchmod(fd, 0666); /* whatever the umask */
        }
        if (fd >= 0)
            return fd;
        if (errno != ENOENT)
            break;
    }
    return ds_fail(err, errno, "'%s': %s", path, strerror(errno));
}

static int check_file(int fd, const char *path, struct ds_error *err)
{
    struct stat info;

    if (fstat(fd, &info) != 0)
        return ds_fail(err, errno, "'%s': %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_nlink > 1)
        return ds_fail(err, ENOTSUP, "'%s' is not a plain file of one name", path);
    return 0;
}

/* Is what was locked still what the path leads to? */
static bool is_current(int fd, const char *path)
{
    struct stat mine, there;

    return fstat(fd, &mine) == 0 && lstat(path, &there) == 0 && mine.st_dev == there.st_dev &&
           mine.st_ino == there.st_ino;
}

void ds_gpulock_job(char out[DS_GPULOCK_JOB], const char *name, const char *run_dir)
{
    char host[HOST_NAME_MAX + 1] = "", word[SHOWN_WORD], path[DS_GPULOCK_JOB / 2];

    (void)gethostname(host, sizeof(host) - 1);
    (void)ds_escape_control(word, sizeof(word), name, strlen(name));
    (void)ds_escape_control(path, sizeof(path), run_dir, strlen(run_dir));
    (void)snprintf(out, DS_GPULOCK_JOB, "%ld %s\n%s\n%s", (long)getpid(), host, word, path);
}

/* The next line of what anybody may have written; "" at the end. */
static const char *next_line(char **rest)
{
    char *line = *rest, *end = strchr(line, '\n');

    *rest = end != NULL ? end + 1 : line + strlen(line);
    if (end != NULL)
        *end = '\0';
    return line;
}

static const char *shown(const char *text, char *out, size_t room)
{
    static const char cut[] = "...";
    char all[4 * FILE_BYTES];
    size_t len = strlen(text), whole = ds_escape_control(all, sizeof(all), text, len);
    size_t used = ds_escape_control(out, room - sizeof(cut) + 1, text, len);

    if (used < whole)
        memcpy(out + used, cut, sizeof(cut));
    return out;
}

static bool number(const char *text, char after, unsigned long *out, const char **rest)
{
    size_t digits = strspn(text, "0123456789");

    if (digits == 0 || digits > 10 || text[digits] != after)
        return false;
    *out = strtoul(text, NULL, 10);
    *rest = text + digits + (after != '\0');
    return true;
}

/* " (job 17 'tiny' of 'head', ...)": as much as the file says. */
static void holder_of(int fd, char out[SHOWN])
{
    char text[FILE_BYTES], *rest = text;
    char host[SHOWN_WORD], name[SHOWN_WORD], path[SHOWN_PATH], job[SHOWN_JOB] = "";
    unsigned long pid, uid, starter;
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    const char *line;

    text[n > 0 ? n : 0] = '\0';
    line = next_line(&rest);
    if (!number(line, ' ', &pid, &line) || !number(line, '\0', &uid, &line)) {
        (void)snprintf(out, SHOWN, ", which does not say who it is");
        return;
    }
    line = next_line(&rest);
    if (number(line, ' ', &starter, &line)) {
        (void)shown(line, host, sizeof(host));
        (void)shown(next_line(&rest), name, sizeof(name));
        (void)shown(next_line(&rest), path, sizeof(path));
        (void)snprintf(job, sizeof(job), "job %lu '%s' of host '%s'%s%s%s, ", starter, name, host,
                       path[0] != '\0' ? ", run directory '" : "", path,
                       path[0] != '\0' ? "'" : "");
    }
    (void)snprintf(out, SHOWN, " (%sprocess %lu of user %lu)", job, pid, uid);
}

/* Only words for others: a full disk takes nothing from the lock. */
static void sign(int fd, const char *job)
{
    char text[FILE_BYTES];
    size_t len = (size_t)snprintf(text, sizeof(text), "%ld %lu\n%s\n", (long)getpid(),
                                  (unsigned long)geteuid(), job != NULL ? job : "");
    ssize_t n = ftruncate(fd, 0) == 0
                    ? pwrite(fd, text, len < sizeof(text) ? len : sizeof(text) - 1, 0)
                    : -1;

    (void)n;
}

static int busy(int fd, const char *pci, struct ds_error *err)
{
    char host[HOST_NAME_MAX + 1] = "", holder[SHOWN];

    (void)gethostname(host, sizeof(host) - 1);
    holder_of(fd, holder);
    return ds_fail(err, EBUSY,
                   "GPU %s of host '%s' is in use by another job of dsrun%s: wait for its end, "
                   "choose other devices, or set DSRUN_CUDA_SHARE=1 for both",
                   pci, host, holder);
}

/* One try: a locked file in *out, or -EAGAIN when it was removed meanwhile. */
static int try_lock(int *out, const char *path, const char *pci, bool shared, struct ds_error *err)
{
    int rc, fd = open_file(path, err);

    if (fd < 0)
        return fd;
    rc = check_file(fd, path, err);
    if (rc == 0 && flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0)
        rc = errno == EWOULDBLOCK ? busy(fd, pci, err)
                                  : ds_fail(err, errno, "'%s': %s", path, strerror(errno));
    if (rc == 0 && !is_current(fd, path))
        rc = -EAGAIN;
    if (rc == 0)
        *out = fd;
    else
        (void)close(fd);
    return rc;
}

int ds_gpulock_take(struct ds_gpulock *lock, const char *folder, const char *pci, bool shared,
                    struct ds_error *err)
{
    int n, fd = -1, rc = -EAGAIN;
    char *path;

    if (lock->count == DS_MAX_GPUS)
        return ds_fail(err, ENOTSUP, "more than %d GPUs", DS_MAX_GPUS);
    path = lock->path[lock->count];
    n = snprintf(path, sizeof(lock->path[0]), "%s/dsrun-gpu-%s", folder, pci);
    if (n < 0 || (size_t)n >= sizeof(lock->path[0]))
        return ds_fail(err, ENAMETOOLONG, "'%s' is too long a folder", folder);
    for (int round = 0; rc == -EAGAIN && round < ROUNDS; round++)
        rc = try_lock(&fd, path, pci, shared, err);
    if (rc == -EAGAIN)
        return ds_fail(err, ENOTSUP, "'%s' is removed again and again", path);
    if (rc != 0)
        return rc;
    sign(fd, lock->job);
    lock->fd[lock->count++] = fd;
    return 0;
}

int ds_gpulock_host(struct ds_gpulock *lock, const struct ds_bound *bound, struct ds_error *err)
{
    const char *folder = ds_gpulock_folder(ds_gpulock_folders);
    int rc = 0;

    if (bound->asked > 0 && folder == NULL)
        rc = ds_fail(err, ENOTSUP, "no folder is root's, sticky and open to all");
    for (unsigned i = 0; rc == 0 && i < bound->asked; i++)
        rc = ds_gpulock_take(lock, folder, bound->topology.gpu[bound->device[i]].pci, bound->shared,
                             err);
    return rc == 0 || rc == -EBUSY ? rc
                                   : ds_error_context(err, rc,
                                                      "GPUs are not locked, another job may "
                                                      "use them too");
}

/* Others that share it keep the file: it is removed by who can have it alone. */
void ds_gpulock_release(struct ds_gpulock *lock)
{
    for (unsigned i = 0; i < lock->count; i++) {
        if (flock(lock->fd[i], LOCK_EX | LOCK_NB) == 0 && is_current(lock->fd[i], lock->path[i]))
            (void)unlink(lock->path[i]);
        (void)close(lock->fd[i]);
    }
    lock->count = 0;
}
