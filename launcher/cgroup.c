/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cgroup.c - the contract is in cgroup.h.
 */
#include "launcher/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

enum { PROC_BYTES = 64 * 1024, NAME_BYTES = 32, ROUNDS = 200 };

static const char prefix[] = "dsrun-";

/* --- where ------------------------------------------------------------------------------------ */

/* A component that leads out of what is seen, or back. */
static bool has_dots(const char *path, size_t len)
{
    for (size_t at = 0; at + 2 < len; at++)
        if (memcmp(path + at, "/..", 3) == 0 && (at + 3 == len || path[at + 3] == '/'))
            return true;
    return false;
}

int ds_cgroup_folder(const char *text, const char *mount, char out[DS_MAX_PATH],
                     struct ds_error *err)
{
    static const char deleted[] = " (deleted)";
    const char *line = strncmp(text, "0::/", 4) == 0 ? text : strstr(text, "\n0::/");
    size_t len;
    int n;

    if (line == NULL)
        return ds_fail(err, ENOTSUP, "this process is in no cgroup v2");
    line = strchr(line, '/');
    len = strcspn(line, "\n");
    if (len >= strlen(deleted) &&
        memcmp(line + len - strlen(deleted), deleted, strlen(deleted)) == 0)
        return ds_fail(err, ENOTSUP, "the cgroup of this process was removed");
    if (has_dots(line, len))
        return ds_fail(err, ENOTSUP, "the cgroup of this process lies outside of what it sees");
    n = snprintf(out, DS_MAX_PATH, "%s%.*s", mount, len == 1 ? 0 : (int)len, line);
    if (n < 0 || n >= DS_MAX_PATH)
        return ds_fail(err, ENAMETOOLONG, "the path of this process's cgroup is too long");
    return 0;
}

int ds_cgroup_own(char out[DS_MAX_PATH], struct ds_error *err)
{
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    char *text = calloc(1, PROC_BYTES);
    FILE *file = fopen("/proc/self/cgroup", "re");
    size_t n = text != NULL && file != NULL ? fread(text, 1, PROC_BYTES - 1, file) : 0;

    if (file != NULL)
        (void)fclose(file);
    for (size_t i = 0; n > 0 && i < sizeof(mounts) / sizeof(mounts[0]); i++) {
        struct statfs info;
        int rc;

        if (statfs(mounts[i], &info) != 0 || info.f_type != CGROUP2_SUPER_MAGIC)
            continue;
        rc = ds_cgroup_folder(text, mounts[i], out, err);
        free(text);
        return rc;
    }
    free(text);
    return ds_fail(err, ENOTSUP, "no cgroup v2 is mounted on /sys/fs/cgroup");
}

/* --- what others left ------------------------------------------------------------------------- */

/* The agent of a group's name, or 0 when it is none of ours. */
static pid_t agent_of(const char *name)
{
    const char *number = name + strlen(prefix);
    char *end;
    long pid;

    if (strncmp(name, prefix, strlen(prefix)) != 0 || *number < '1' || *number > '9')
        return 0;
    errno = 0;
    pid = strtol(number, &end, 10);
    return errno != 0 || *end != '\0' || pid > INT32_MAX ? 0 : (pid_t)pid;
}

/* One that has processes or groups in it is not removed: rmdir() refuses. */
static void sweep(int parent_fd)
{
    int fd = openat(parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    struct stat info;

    if (folder == NULL && fd >= 0)
        (void)close(fd);
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        pid_t agent = agent_of(entry->d_name);
        bool gone = agent == getpid() || (agent > 0 && kill(agent, 0) != 0 && errno == ESRCH);

        if (gone && fstatat(parent_fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(info.st_mode) && info.st_uid == geteuid())
            (void)unlinkat(parent_fd, entry->d_name, AT_REMOVEDIR);
    }
    if (folder != NULL)
        (void)closedir(folder);
}

/* --- one of our own --------------------------------------------------------------------------- */

static void name_of(pid_t agent, char out[NAME_BYTES])
{
    (void)snprintf(out, NAME_BYTES, "%s%ld", prefix, (long)agent);
}

static void set_none(struct ds_cgroup *cgroup)
{
    *cgroup = (struct ds_cgroup){.parent_fd = -1, .procs_fd = -1, .kill_fd = -1};
}

static void close_all(struct ds_cgroup *cgroup)
{
    const int fds[] = {cgroup->parent_fd, cgroup->procs_fd, cgroup->kill_fd};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    set_none(cgroup);
}

/* Is the new group one that processes can be put into? */
static int open_group(struct ds_cgroup *cgroup, int fd, struct ds_error *err)
{
    char type[32] = "";
    int type_fd = openat(fd, "cgroup.type", O_RDONLY | O_CLOEXEC);
    ssize_t n = type_fd >= 0 ? read(type_fd, type, sizeof(type) - 1) : -1;

    if (type_fd >= 0)
        (void)close(type_fd);
    if (n <= 0 || strcmp(type, "domain\n") != 0)
        return ds_fail(err, ENOTSUP, "a group below this one cannot hold processes: %.*s",
                       n <= 0 ? 7 : (int)n - 1, n <= 0 ? "no type" : type);
    cgroup->procs_fd = openat(fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (cgroup->procs_fd < 0)
        return ds_fail(err, errno, "cgroup.procs: %s", strerror(errno));
    cgroup->kill_fd = openat(fd, "cgroup.kill", O_WRONLY | O_CLOEXEC); /* since Linux 5.14 */
    return 0;
}

int ds_cgroup_make(struct ds_cgroup *cgroup, const char *folder, struct ds_error *err)
{
    char name[NAME_BYTES];
    int fd = -1, rc = 0;

    set_none(cgroup);
    name_of(getpid(), name);
    cgroup->agent = getpid();
    cgroup->parent_fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (cgroup->parent_fd < 0)
        return ds_fail(err, errno, "'%s': %s", folder, strerror(errno));
    sweep(cgroup->parent_fd);
    /* Whoever moves a process needs the right to write where both groups meet. */
    if (faccessat(cgroup->parent_fd, "cgroup.procs", W_OK, AT_EACCESS) != 0 ||
        mkdirat(cgroup->parent_fd, name, 0755) != 0) {
        rc = ds_fail(err, errno, "no group can be made in '%s': %s", folder, strerror(errno));
        close_all(cgroup);
        return rc;
    }
    fd = openat(cgroup->parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        rc = ds_fail(err, errno, "'%s/%s': %s", folder, name, strerror(errno));
    else
        rc = open_group(cgroup, fd, err);
    if (fd >= 0)
        (void)close(fd);
    if (rc == 0 && snprintf(cgroup->path, DS_MAX_PATH, "%s/%s", folder, name) >= DS_MAX_PATH)
        rc = ds_fail(err, ENAMETOOLONG, "the path of the job's cgroup is too long");
    if (rc != 0) {
        (void)unlinkat(cgroup->parent_fd, name, AT_REMOVEDIR);
        close_all(cgroup);
    }
    return rc;
}

static void kill_group(int kill_fd)
{
    ssize_t n = kill_fd >= 0 ? write(kill_fd, "1", 1) : 0;

    (void)n; /* process groups are killed beside it */
}

void ds_cgroup_kill(const struct ds_cgroup *cgroup)
{
    if (cgroup->path[0] != '\0')
        kill_group(cgroup->kill_fd);
}

/* Kill what is in it; the last of that may take a moment to go. */
static void remove_group(int parent_fd, pid_t agent)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    char name[NAME_BYTES], path[NAME_BYTES + sizeof("/cgroup.kill")];
    int fd;

    name_of(agent, name);
    (void)snprintf(path, sizeof(path), "%s/cgroup.kill", name);
    fd = openat(parent_fd, path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    kill_group(fd);
    if (fd >= 0)
        (void)close(fd);
    for (int round = 0; round < ROUNDS; round++) {
        if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno != EBUSY)
            return;
        (void)nanosleep(&pause, NULL);
    }
}

void ds_cgroup_remove(struct ds_cgroup *cgroup)
{
    if (cgroup->path[0] == '\0')
        return;
    remove_group(cgroup->parent_fd, cgroup->agent);
    close_all(cgroup);
}

void ds_cgroup_forget(pid_t agent)
{
    char folder[DS_MAX_PATH];
    int fd;

    if (ds_cgroup_own(folder, NULL) != 0)
        return;
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    remove_group(fd, agent);
    (void)close(fd);
}
