/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tail.c - the contract is in tail.h.
 */
#include "cli/tail.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"

enum { BLOCK_BYTES = 64 * 1024 };

int ds_tail_open(struct ds_tail *tail, int dir_fd, const char *name, size_t max,
                 struct ds_error *err)
{
    struct stat stat;
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    *tail = (struct ds_tail){.fd = -1, .max = max};
    if (fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", name, strerror(errno));
    if (fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) {
        (void)close(fd);
        return ds_fail(err, EINVAL, "'%s' is not a regular file", name);
    }
    tail->fd = fd;
    ds_buf_init(&tail->held, max + 1 + BLOCK_BYTES);
    return 0;
}

void ds_tail_close(struct ds_tail *tail)
{
    if (tail->held.max == 0)
        return;
    (void)close(tail->fd);
    ds_buf_release(&tail->held);
    *tail = (struct ds_tail){.fd = -1};
}

void ds_tail_seek(struct ds_tail *tail, uint64_t at)
{
    tail->at = at;
    tail->from = 0;
    ds_buf_reset(&tail->held);
}

static int size_of(const struct ds_tail *tail, uint64_t *size, struct ds_error *err)
{
    struct stat stat;

    if (fstat(tail->fd, &stat) != 0)
        return ds_fail(err, errno, "cannot read: %s", strerror(errno));
    *size = (uint64_t)stat.st_size;
    return 0;
}

/* The bytes that `lines` lines can have at most. */
static uint64_t reach(const struct ds_tail *tail, uint64_t lines)
{
    uint64_t bytes;

    return __builtin_mul_overflow(lines, (uint64_t)tail->max + 1, &bytes) ? UINT64_MAX : bytes;
}

/* Go back over line ends in `n` bytes that stand at `base`; true: the line sought begins at *at. */
static bool count_back(const char *bytes, size_t n, uint64_t base, uint64_t size, uint64_t *lines,
                       uint64_t *at)
{
    const char *end;

    while (n > 0 && (end = memrchr(bytes, '\n', n)) != NULL) {
        n = (size_t)(end - bytes);
        *at = base + n + 1;
        if (*at != size && --*lines == 0)
            return true;
    }
    return false;
}

int ds_tail_back(struct ds_tail *tail, uint64_t lines, struct ds_error *err)
{
    char bytes[4096];
    uint64_t size, floor, at;
    int rc = size_of(tail, &size, err);

    if (rc != 0)
        return rc;
    floor = reach(tail, lines) < size ? size - reach(tail, lines) : 0;
    for (uint64_t end = size; lines > 0 && end > floor;) {
        size_t n = end - floor < sizeof(bytes) ? (size_t)(end - floor) : sizeof(bytes);

        rc = ds_fs_pread_all(tail->fd, bytes, n, end - n, err);
        if (rc != 0)
            return rc;
        if (count_back(bytes, n, end - n, size, &lines, &at)) {
            floor = at;
            break;
        }
        end -= n;
    }
    ds_tail_seek(tail, floor);
    return 0;
}

/* Nothing more was read: has the file become shorter? */
static int follow_cut(struct ds_tail *tail, struct ds_error *err)
{
    uint64_t size;
    int rc = size_of(tail, &size, err);

    if (rc == 0 && size < tail->at + tail->held.len)
        ds_tail_seek(tail, size < tail->at ? 0 : tail->at);
    return rc;
}

/* 1: there is more than before.  0: there is not. */
static int read_more(struct ds_tail *tail, struct ds_error *err)
{
    void *room;
    ssize_t n;

    ds_buf_consume(&tail->held, tail->from);
    tail->from = 0;
    room = ds_buf_reserve(&tail->held, BLOCK_BYTES);
    if (room == NULL)
        return ds_fail(err, ENOMEM, "no memory for a line");
    do
        n = pread(tail->fd, room, BLOCK_BYTES, (off_t)(tail->at + tail->held.len));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return ds_fail(err, errno, "cannot read: %s", strerror(errno));
    ds_buf_commit(&tail->held, (size_t)n);
    return n > 0 ? 1 : follow_cut(tail, err);
}

/* Give `len` bytes and pass over `more`. */
static int give(struct ds_tail *tail, size_t len, size_t more, const char **line, size_t *out)
{
    *line = ds_buf_text(&tail->held) + tail->from;
    *out = len;
    tail->from += len + more;
    tail->at += len + more;
    return 1;
}

int ds_tail_next(struct ds_tail *tail, bool last, const char **line, size_t *len,
                 struct ds_error *err)
{
    for (;;) {
        const char *text = ds_buf_text(&tail->held) + tail->from;
        size_t there = tail->held.len - tail->from;
        const char *end = there > 0 ? memchr(text, '\n', there) : NULL;
        int rc;

        if (end != NULL && (size_t)(end - text) <= tail->max)
            return give(tail, (size_t)(end - text), 1, line, len);
        if (there > tail->max)
            return give(tail, tail->max, 0, line, len);
        rc = read_more(tail, err);
        if (rc < 0)
            return rc;
        if (rc == 0 && (!last || tail->held.len == 0))
            return 0;
        if (rc == 0)
            return give(tail, tail->held.len, 0, line, len);
    }
}
