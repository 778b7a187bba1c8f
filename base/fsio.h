/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fsio.h - files: opened safely, written whole, replaced atomically.
 *
 * All descriptors are O_CLOEXEC.  Files that are created never follow a
 * symbolic link in the last component and are made 0644 less the umask.
 *
 * Errors  ENOENT missing, EACCES/EPERM, ENOSPC full disk, EFBIG over a bound,
 *         EINVAL not a regular file; the text names the path.
 * Tests   tests/base/test_fsio.c
 */
#ifndef DS_BASE_FSIO_H
#define DS_BASE_FSIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"

/* The whole of a regular file, at most `max_bytes`; appended to `out`. */
int ds_fs_read(const char *path, size_t max_bytes, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

/* Every byte or an error; retries EINTR and short writes. */
int ds_fs_write_all(int fd, const void *bytes, size_t len, struct ds_error *err) DS_NODISCARD;
int ds_fs_pwrite_all(int fd, const void *bytes, size_t len, uint64_t at, struct ds_error *err)
    DS_NODISCARD;
/* Exactly `len` bytes at `at`; a shorter file is EBADMSG. */
int ds_fs_pread_all(int fd, void *bytes, size_t len, uint64_t at, struct ds_error *err)
    DS_NODISCARD;

/* Replace `path` by these bytes: temporary file beside it, fsync, rename, fsync of the folder.  A
 * link is replaced itself; a device, a pipe or a socket, also behind a link, stays: EINVAL. */
int ds_fs_replace(const char *path, const void *bytes, size_t len, struct ds_error *err)
    DS_NODISCARD;

/* The same in two steps, for what is written bit by bit.  First a new file beside `path`, of a name
 * that nobody has: its descriptor, to write and to read, and the name in temp[DS_MAX_PATH].  What
 * may not be replaced is refused here. */
int ds_fs_create_beside(const char *path, char *temp, struct ds_error *err) DS_NODISCARD;
/* Then, when it is synced and closed: it is `path` now.  Without `replace` a file that is there
 * stays: -EEXIST.  On failure `temp` is removed. */
int ds_fs_publish(const char *temp, const char *path, bool replace, struct ds_error *err)
    DS_NODISCARD;

/* mkdir -p; existing folders are fine. */
int ds_fs_mkdirs(const char *path, struct ds_error *err) DS_NODISCARD;

/* fsync a folder, so that names in it survive a power cut. */
int ds_fs_sync_dir(const char *path, struct ds_error *err) DS_NODISCARD;

/* Remove a folder and what is in it (never following links); a missing one is success. */
int ds_fs_remove_tree(const char *path, struct ds_error *err) DS_NODISCARD;

/* A regular file mapped read-only.  Zero length: data is NULL and fd -1.  Reading what the file
 * lost by being truncated since is a SIGBUS. */
struct ds_map {
    const void *data;
    size_t len;
    int fd; /* kept open; the owner may close it early and set -1; -1 when released */
};
int ds_fs_map(const char *path, struct ds_map *map, struct ds_error *err) DS_NODISCARD;
void ds_map_release(struct ds_map *map);

/* a "/" b into out[DS_MAX_PATH]; b alone when it is absolute.  ENAMETOOLONG. */
int ds_path_join(char *out, const char *a, const char *b, struct ds_error *err) DS_NODISCARD;

/* Folder of the running program (from /proc/self/exe), without a trailing slash. */
int ds_path_self_dir(char *out, struct ds_error *err) DS_NODISCARD;

#endif
