/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fsio.c - the contract is in fsio.h.
 */
#include "base/fsio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    READ_BYTES = 64 * 1024,
    MAX_IO_BYTES = 1 << 30, /* one system call; Linux itself stops at 2 GiB */
    MAX_TEMP_TRIES = 100,
    MAX_TREE_DEPTH = 64, /* each level holds a descriptor */
};

/* Open a regular file for reading; never waits on a FIFO or a terminal. */
static int open_regular(const char *path, struct stat *st, struct ds_error *err)
{
    int code, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(fd, st) != 0) {
        code = errno;
        close(fd);
        return ds_fail(err, code, "cannot read '%s': %s", path, strerror(code));
    }
    if (!S_ISREG(st->st_mode)) {
        close(fd);
        return ds_fail(err, EINVAL, "'%s' is not a regular file", path);
    }
    return fd;
}

/* One read() into `out`, or into nothing to see whether the file ends; as read(), or -errno. */
static ssize_t read_some(int fd, size_t want, struct ds_buf *out)
{
    char probe, *at = want > 0 ? ds_buf_reserve(out, want) : &probe;
    ssize_t n;

    if (at == NULL)
        return -ENOBUFS;
    do
        n = read(fd, at, want > 0 ? want : 1);
    while (n < 0 && errno == EINTR);
    if (n > 0 && want > 0)
        ds_buf_commit(out, (size_t)n);
    return n < 0 ? -errno : n;
}

/* Append up to `max_bytes` of `fd`; -EFBIG when there is more.  A file of the size that it was said
 * to have is read in one piece: no memory that grew keeps a copy of a secret. */
static int read_rest(int fd, off_t size, size_t max_bytes, struct ds_buf *out)
{
    size_t left = max_bytes, want = size > 0 ? (size_t)size + 1 : READ_BYTES;

    for (;;) {
        size_t asked = left < want ? left : want;
        ssize_t n = read_some(fd, asked, out);

        if (n <= 0)
            return (int)n;
        if (left == 0)
            return -EFBIG;
        left -= (size_t)n;
        want = (size_t)n < asked ? 1 : READ_BYTES; /* most likely that was all */
    }
}

int ds_fs_read(const char *path, size_t max_bytes, struct ds_buf *out, struct ds_error *err)
{
    struct stat st = {0};
    int rc, fd = open_regular(path, &st, err);

    if (fd < 0)
        return fd;
    rc = st.st_size > 0 && (uintmax_t)st.st_size > max_bytes
             ? -EFBIG
             : read_rest(fd, st.st_size, max_bytes, out);
    close(fd);
    if (rc == -EFBIG)
        return ds_fail(err, EFBIG, "'%s' is larger than the %zu bytes allowed here", path,
                       max_bytes);
    if (rc != 0)
        return ds_fail(err, -rc, "cannot read '%s': %s", path, strerror(-rc));
    return 0;
}

int ds_fs_write_all(int fd, const void *bytes, size_t len, struct ds_error *err)
{
    const char *at = bytes;

    while (len > 0) {
        ssize_t n = write(fd, at, len < MAX_IO_BYTES ? len : MAX_IO_BYTES);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ds_fail(err, errno, "cannot write: %s", strerror(errno));
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int ds_fs_pwrite_all(int fd, const void *bytes, size_t len, uint64_t at, struct ds_error *err)
{
    const char *from = bytes;

    if (at > INT64_MAX || len > INT64_MAX - at)
        return ds_fail(err, EFBIG, "cannot write %zu bytes at offset %ju", len, (uintmax_t)at);
    while (len > 0) {
        ssize_t n = pwrite(fd, from, len < MAX_IO_BYTES ? len : MAX_IO_BYTES, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ds_fail(err, errno, "cannot write at offset %ju: %s", (uintmax_t)at,
                           strerror(errno));
        from += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int ds_fs_pread_all(int fd, void *bytes, size_t len, uint64_t at, struct ds_error *err)
{
    char *to = bytes;

    if (at > INT64_MAX || len > INT64_MAX - at)
        return ds_fail(err, EBADMSG, "cannot read %zu bytes at offset %ju", len, (uintmax_t)at);
    while (len > 0) {
        ssize_t n = pread(fd, to, len < MAX_IO_BYTES ? len : MAX_IO_BYTES, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ds_fail(err, errno, "cannot read at offset %ju: %s", (uintmax_t)at,
                           strerror(errno));
        if (n == 0)
            return ds_fail(err, EBADMSG, "file ends at byte %ju, %zu more were expected",
                           (uintmax_t)at, len);
        to += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* --- replacing ----------------------------------------------------------------------------- */

int ds_fs_create_beside(const char *path, char *temp, struct ds_error *err)
{
    struct stat there;
    int code = EEXIST;

    /* A folder the rename refuses. */
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode) && !S_ISDIR(there.st_mode))
        return ds_fail(err, EINVAL, "cannot replace '%s': it is no regular file", path);
    for (int i = 0; code == EEXIST && i < MAX_TEMP_TRIES; i++) {
        int fd, len = snprintf(temp, DS_MAX_PATH, "%s.tmp-%ld-%d", path, (long)getpid(), i);

        if (len < 0 || len >= DS_MAX_PATH)
            return ds_fail(err, ENAMETOOLONG, "cannot create '%s': %s", path,
                           strerror(ENAMETOOLONG));
        fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd >= 0)
            return fd;
        code = errno;
    }
    return ds_fail(err, code, "cannot create '%s': %s", path, strerror(code));
}

/* The folder part of `path` into `dir`; "." where there is none. */
static void folder_of(const char *path, char dir[DS_MAX_PATH])
{
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL ? 0 : (size_t)(slash - path);

    if (slash == path)
        len = 1;
    if (len == 0)
        (void)snprintf(dir, DS_MAX_PATH, ".");
    else
        (void)snprintf(dir, DS_MAX_PATH, "%.*s", (int)(len < DS_MAX_PATH ? len : DS_MAX_PATH - 1),
                       path);
}

static int write_and_close(int fd, const void *bytes, size_t len, struct ds_error *err)
{
    int rc = ds_fs_write_all(fd, bytes, len, err);

    if (rc == 0 && fsync(fd) != 0)
        rc = ds_fail(err, errno, "cannot write: %s", strerror(errno));
    if (close(fd) != 0 && rc == 0)
        rc = ds_fail(err, errno, "cannot write: %s", strerror(errno));
    return rc;
}

/* Where a file system has no such renaming, there is an instant between looking and renaming. */
static int rename_new(const char *temp, const char *path)
{
    int rc = renameat2(AT_FDCWD, temp, AT_FDCWD, path, RENAME_NOREPLACE);

    if (rc == 0 || (errno != EINVAL && errno != ENOSYS))
        return rc;
    if (access(path, F_OK) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(temp, path);
}

int ds_fs_publish(const char *temp, const char *path, bool replace, struct ds_error *err)
{
    char dir[DS_MAX_PATH];

    if ((replace ? rename(temp, path) : rename_new(temp, path)) != 0) {
        int code = errno;

        (void)unlink(temp);
        return ds_fail(err, code, "cannot replace '%s': %s", path, strerror(code));
    }
    folder_of(path, dir);
    return ds_fs_sync_dir(dir, err);
}

int ds_fs_replace(const char *path, const void *bytes, size_t len, struct ds_error *err)
{
    char temp[DS_MAX_PATH];
    int rc, fd = ds_fs_create_beside(path, temp, err);

    if (fd < 0)
        return fd;
    rc = write_and_close(fd, bytes, len, err);
    if (rc == 0)
        return ds_fs_publish(temp, path, true, err);
    (void)unlink(temp);
    return ds_error_context(err, rc, "file '%s'", path);
}

int ds_fs_sync_dir(const char *path, struct ds_error *err)
{
    int code = 0, fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return ds_fail(err, errno, "cannot open folder '%s': %s", path, strerror(errno));
    /* EINVAL: this file system has no such thing as syncing a folder. */
    if (fsync(fd) != 0 && errno != EINVAL)
        code = errno;
    close(fd);
    if (code != 0)
        return ds_fail(err, code, "cannot sync folder '%s': %s", path, strerror(code));
    return 0;
}

/* --- folders ------------------------------------------------------------------------------- */

static int make_dir(const char *path, struct ds_error *err)
{
    struct stat st;

    if (mkdir(path, 0755) == 0)
        return 0;
    if (errno != EEXIST)
        return ds_fail(err, errno, "cannot create folder '%s': %s", path, strerror(errno));
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return ds_fail(err, ENOTDIR, "cannot create folder '%s': a file is in its place", path);
    return 0;
}

int ds_fs_mkdirs(const char *path, struct ds_error *err)
{
    char part[DS_MAX_PATH];
    size_t len = strlen(path);

    if (len == 0 || len >= sizeof(part))
        return ds_fail(err, len == 0 ? EINVAL : ENAMETOOLONG, "'%.100s' is no name for a folder",
                       path);
    memcpy(part, path, len + 1);
    for (size_t i = 1; i < len; i++) {
        int rc;

        if (part[i] != '/')
            continue;
        part[i] = '\0';
        rc = make_dir(part, err);
        part[i] = '/';
        if (rc != 0)
            return rc;
    }
    return make_dir(part, err);
}

static int empty_dir(int fd, int depth, struct ds_error *err);

/* Remove one name in the folder `dir`, which stays open.  A missing one is success. */
static int remove_at(int dir, const char *name, int depth, struct ds_error *err)
{
    int rc, fd;

    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR)
        return ds_fail(err, errno, "cannot remove '%s': %s", name, strerror(errno));
    fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return ds_fail(err, errno, "cannot remove '%s': %s", name, strerror(errno));
    rc = empty_dir(fd, depth + 1, err);
    if (rc != 0)
        return ds_error_context(err, rc, "in '%s'", name);
    if (unlinkat(dir, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        return ds_fail(err, errno, "cannot remove '%s': %s", name, strerror(errno));
    return 0;
}

/* Remove everything in the folder `fd`, which is closed. */
static int empty_dir(int fd, int depth, struct ds_error *err)
{
    struct dirent *entry;
    DIR *dir = depth <= MAX_TREE_DEPTH ? fdopendir(fd) : NULL;
    int rc = 0;

    if (dir == NULL) {
        close(fd);
        return ds_fail(err, ELOOP, "folders are nested more than %d deep", MAX_TREE_DEPTH);
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = remove_at(dirfd(dir), entry->d_name, depth, err);
    closedir(dir);
    return rc;
}

int ds_fs_remove_tree(const char *path, struct ds_error *err)
{
    return remove_at(AT_FDCWD, path, 0, err);
}

/* --- mapping and names --------------------------------------------------------------------- */

int ds_fs_map(const char *path, struct ds_map *map, struct ds_error *err)
{
    struct stat st = {0};
    int code, fd;
    void *data = NULL;

    *map = (struct ds_map){.fd = -1};
    fd = open_regular(path, &st, err);
    if (fd < 0)
        return fd;
    if (st.st_size > 0)
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        code = errno;
        close(fd);
        return ds_fail(err, code, "cannot map '%s': %s", path, strerror(code));
    }
    if (data == NULL) { /* empty: nothing to hold on to */
        close(fd);
        return 0;
    }
    *map = (struct ds_map){.data = data, .len = (size_t)st.st_size, .fd = fd};
    return 0;
}

void ds_map_release(struct ds_map *map)
{
    if (map->data != NULL) {
        (void)munmap((void *)(uintptr_t)map->data, map->len);
        if (map->fd >= 0)
            close(map->fd);
    }
    *map = (struct ds_map){.fd = -1};
}

int ds_path_join(char *out, const char *a, const char *b, struct ds_error *err)
{
    size_t a_len = strlen(a);
    bool alone = b[0] == '/' || a_len == 0;
    int len = snprintf(out, DS_MAX_PATH, "%s%s%s", alone ? "" : a,
                       alone || a[a_len - 1] == '/' ? "" : "/", b);

    if (len < 0 || len >= DS_MAX_PATH)
        return ds_fail(err, ENAMETOOLONG, "the path '%.60s…/%.60s…' is too long", a, b);
    return 0;
}

int ds_path_self_dir(char *out, struct ds_error *err)
{
    ssize_t len = readlink("/proc/self/exe", out, DS_MAX_PATH - 1);
    char *slash;

    if (len < 0)
        return ds_fail(err, errno, "cannot find this program's own folder: %s", strerror(errno));
    out[len] = '\0';
    slash = strrchr(out, '/');
    if (slash == NULL)
        return ds_fail(err, ENOENT, "cannot find this program's own folder: '%s' is no path", out);
    slash[slash == out] = '\0';
    return 0;
}
