/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reader.c - the contract is in reader.h.
 */
#include "runtime/data/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/text/tokenizer.h"

enum { STRETCH_BYTES = 256 * 1024, BEHIND_BYTES = 4096, READ_BYTES = 64 * 1024, WAIT_MS = 100 };

int ds_reader_open(struct ds_reader *reader, const char *const *path, size_t paths,
                   enum ds_text_format format, bool cuts, struct ds_error *err)
{
    *reader = (struct ds_reader){.path = path,
                                 .paths = paths,
                                 .format = format,
                                 .cuts = cuts,
                                 .stretch_bytes = STRETCH_BYTES,
                                 .fd = -1};
    ds_buf_init(&reader->rest, 2 * (size_t)DS_MAX_STRETCH + READ_BYTES);
    for (size_t i = 0; i < paths; i++) {
        struct stat st;

        if (stat(path[i], &st) != 0 || access(path[i], R_OK) != 0)
            return ds_fail(err, errno, "cannot open '%s': %s", path[i], strerror(errno));
        if (S_ISDIR(st.st_mode))
            return ds_fail(err, EINVAL, "'%s' is a folder; name the files in it", path[i]);
        if (S_ISREG(st.st_mode))
            reader->total_bytes += (uint64_t)st.st_size;
    }
    return 0;
}

void ds_reader_close(struct ds_reader *reader)
{
    if (reader->fd >= 0)
        (void)close(reader->fd);
    ds_buf_release(&reader->rest);
    *reader = (struct ds_reader){.fd = -1};
}

static const char *current(const struct ds_reader *reader)
{
    return reader->path[reader->next - 1];
}

static bool is_jsonl(const struct ds_reader *reader)
{
    static const char end[] = ".jsonl";
    size_t len = strlen(current(reader)), end_len = sizeof(end) - 1;

    if (reader->format != DS_TEXT_AUTO)
        return reader->format == DS_TEXT_JSONL;
    return len >= end_len && strcmp(current(reader) + len - end_len, end) == 0;
}

/* The next file; 1, 0 after the last, or -errno. */
static int open_next(struct ds_reader *reader, struct ds_error *err)
{
    if (reader->next == reader->paths)
        return 0;
    reader->fd = open(reader->path[reader->next++], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (reader->fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", current(reader), strerror(errno));
    ds_buf_reset(&reader->rest);
    reader->ended = false;
    reader->continued = false;
    reader->at = is_jsonl(reader) ? 1 : 0;
    return 1;
}

/* Whoever fills a pipe, or opens it, may take his time: whether to go on is asked meanwhile. */
static int wait_input(const struct ds_reader *reader, struct ds_error *err)
{
    struct pollfd input = {.fd = reader->fd, .events = POLLIN};

    while (poll(&input, 1, WAIT_MS) <= 0)
        if (reader->go_on != NULL && !reader->go_on(reader->user))
            return ds_fail(err, ECANCELED, "stopped while '%s' was read", current(reader));
    return 0;
}

/* Read until `want` bytes are there, or the file ends. */
static int fill(struct ds_reader *reader, size_t want, struct ds_error *err)
{
    while (!reader->ended && reader->rest.len < want) {
        void *at = ds_buf_reserve(&reader->rest, READ_BYTES);
        int rc = wait_input(reader, err);
        ssize_t n;

        if (rc != 0)
            return rc;
        if (at == NULL)
            return ds_fail(err, ENOMEM, "no memory for a stretch of '%s'", current(reader));
        n = read(reader->fd, at, READ_BYTES);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return ds_fail(err, errno, "cannot read '%s': %s", current(reader), strerror(errno));
        ds_buf_commit(&reader->rest, (size_t)n);
        reader->ended = n == 0;
    }
    return 0;
}

/* Where the stretch may end within `want` bytes: behind a line, or at a cut; 0: nowhere. */
static size_t find_end(const struct ds_reader *reader, size_t want, bool lines)
{
    const char *newline;

    if (!lines)
        return reader->cuts ? ds_tokenizer_cut(reader->rest.data, reader->rest.len, want) : 0;
    newline = memrchr(reader->rest.data, '\n', want);
    return newline == NULL ? 0 : (size_t)(newline - reader->rest.data) + 1;
}

static int too_long(const struct ds_reader *reader, bool lines, struct ds_error *err)
{
    if (lines)
        return ds_fail(err, EOVERFLOW, "'%s':%ju: a line of more than %d MiB", current(reader),
                       (uintmax_t)reader->at, DS_MAX_STRETCH >> 20);
    return ds_fail(err, EOVERFLOW,
                   "'%s': %d MiB from byte %ju on without a place where this tokenizer allows to "
                   "cut; divide the file, or make JSON lines of it",
                   current(reader), DS_MAX_STRETCH >> 20, (uintmax_t)reader->at);
}

/* Bytes of the stretch that is next, of which there are `*behind` more. */
static int choose(struct ds_reader *reader, bool lines, size_t *len, size_t *behind,
                  struct ds_error *err)
{
    size_t want = (size_t)reader->stretch_bytes;
    int rc = 0;

    for (;; want *= 2) {
        rc = fill(reader, want + BEHIND_BYTES, err);
        if (rc != 0)
            return rc;
        if (reader->ended && reader->rest.len <= want + BEHIND_BYTES) {
            *len = reader->rest.len;
            *behind = 0;
            return *len > DS_MAX_STRETCH ? too_long(reader, lines, err) : 0;
        }
        *len = find_end(reader, want, lines);
        if (*len > 0)
            break;
        if (want >= DS_MAX_STRETCH)
            return too_long(reader, lines, err);
    }
    *behind = lines ? 0 : reader->rest.len - *len;
    if (*behind > BEHIND_BYTES)
        *behind = BEHIND_BYTES;
    return 0;
}

static uint64_t count_lines(const char *text, size_t len)
{
    uint64_t count = 0;
    const char *end = text + len;

    while (text < end && (text = memchr(text, '\n', (size_t)(end - text))) != NULL) {
        count++;
        text++;
    }
    return count;
}

int ds_reader_next(struct ds_reader *reader, struct ds_stretch *stretch, struct ds_error *err)
{
    size_t len, behind;
    bool lines;
    int rc = reader->fd < 0 ? open_next(reader, err) : 1;

    if (rc <= 0)
        return rc;
    lines = is_jsonl(reader);
    rc = choose(reader, lines, &len, &behind, err);
    if (rc != 0)
        return rc;
    ds_buf_reset(&stretch->text);
    if (ds_buf_put(&stretch->text, ds_buf_text(&reader->rest), len + behind) != 0)
        return ds_fail(err, ENOMEM, "no memory for a stretch of '%s'", current(reader));
    stretch->path = current(reader);
    stretch->lines = lines;
    stretch->at = reader->at;
    stretch->end = len;
    stretch->continued = reader->continued;
    reader->at += lines ? count_lines(reader->rest.data, len) : len;
    reader->continued = true;
    reader->bytes += len;
    ds_buf_consume(&reader->rest, len);
    if (reader->ended && reader->rest.len == 0) {
        (void)close(reader->fd);
        reader->fd = -1;
    }
    return 1;
}
