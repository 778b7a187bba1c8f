/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ranklogs.c - the contract is in ranklogs.h.
 *
 * Names are listed once a second, sizes are asked at every look: a rank that writes nothing costs
 * one fstatat().
 */
#include "cli/ranklogs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "cli/tail.h"

enum { ESCAPED_BYTES = 4 * DS_MAX_LINE_BYTES + 1, NAME_BYTES = 32 };
#define LIST_EVERY_NS UINT64_C(1000000000)

int ds_ranklogs_init(struct ds_ranklogs *logs, const struct ds_ranklogs_args *args,
                     struct ds_error *err)
{
    *logs = (struct ds_ranklogs){.args = *args};
    logs->log = calloc(DS_MAX_RANKS, sizeof(*logs->log));
    logs->escaped = malloc(ESCAPED_BYTES);
    if (logs->log != NULL && logs->escaped != NULL)
        return 0;
    ds_ranklogs_release(logs);
    return ds_fail(err, ENOMEM, "no memory for the logs of ranks");
}

void ds_ranklogs_release(struct ds_ranklogs *logs)
{
    free(logs->log);
    free(logs->escaped);
    *logs = (struct ds_ranklogs){0};
}

/* --- which logs there are --------------------------------------------------------------------- */

static void name_of(char out[NAME_BYTES], uint32_t rank)
{
    (void)snprintf(out, NAME_BYTES, "logs/rank-%05u.log", rank);
}

/* The rank whose log has this name within logs/; -1: it is no log. */
static int64_t rank_of(const char *name)
{
    unsigned rank;
    char again[NAME_BYTES];

    if (sscanf(name, "rank-%5u.log", &rank) != 1 || rank >= DS_MAX_RANKS)
        return -1;
    name_of(again, rank);
    return strcmp(strchr(again, '/') + 1, name) == 0 ? (int64_t)rank : -1;
}

static int list(struct ds_ranklogs *logs, struct ds_error *err)
{
    int fd = openat(logs->args.run_dir_fd, "logs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;

    if (dir == NULL) {
        int number = errno;

        if (fd >= 0)
            (void)close(fd);
        return ds_fail(err, number, "cannot open 'logs': %s", strerror(number));
    }
    while ((entry = readdir(dir)) != NULL) {
        int64_t rank = rank_of(entry->d_name);

        if (rank < 0 || (logs->args.rank >= 0 && rank != logs->args.rank))
            continue;
        logs->log[rank].known = true;
        if (rank >= logs->top)
            logs->top = (uint32_t)rank + 1;
    }
    (void)closedir(dir);
    return 0;
}

/* --- one log ---------------------------------------------------------------------------------- */

static void emit(const struct ds_ranklogs *logs, uint32_t rank, const char *text, size_t len,
                 ds_rankline_fn *line)
{
    if (len > 0 && text[len - 1] == '\r')
        len--;
    (void)ds_escape_control(logs->escaped, ESCAPED_BYTES, text, len);
    line(logs->args.user, rank, logs->escaped);
}

/* Give what stands before `size`; a rank that writes faster than that is read goes on next time. */
static int give(const struct ds_ranklogs *logs, uint32_t rank, struct ds_tail *tail, uint64_t size,
                bool last, ds_rankline_fn *line, struct ds_error *err)
{
    const char *text;
    size_t len;
    int rc = 0;

    while (tail->at < size && (rc = ds_tail_next(tail, last, &text, &len, err)) > 0)
        emit(logs, rank, text, len, line);
    return rc < 0 ? rc : 0;
}

static int open_log(const struct ds_ranklogs *logs, uint32_t rank, struct ds_tail *tail,
                    struct ds_error *err)
{
    char name[NAME_BYTES];

    name_of(name, rank);
    return ds_tail_open(tail, logs->args.run_dir_fd, name, DS_MAX_LINE_BYTES, err);
}

static int look_at(struct ds_ranklogs *logs, uint32_t rank, bool last, struct ds_error *err)
{
    struct ds_ranklog *log = &logs->log[rank];
    struct ds_tail tail;
    char name[NAME_BYTES];
    struct stat stat;
    int rc = 0;

    name_of(name, rank);
    if (fstatat(logs->args.run_dir_fd, name, &stat, AT_SYMLINK_NOFOLLOW) != 0)
        return 0; /* somebody removed it */
    if (log->begun && (uint64_t)stat.st_size == log->seen && (!last || log->at == log->seen))
        return 0;
    rc = open_log(logs, rank, &tail, err);
    if (rc == -ENOENT) {
        ds_error_clear(err);
        return 0;
    }
    if (rc != 0)
        return rc;
    if (log->begun || logs->looked)
        ds_tail_seek(&tail, log->at <= (uint64_t)stat.st_size ? log->at : 0);
    else
        rc = ds_tail_back(&tail, logs->args.lines, err);
    if (rc == 0)
        rc = give(logs, rank, &tail, (uint64_t)stat.st_size, last, logs->args.line, err);
    log->begun = true;
    log->seen = (uint64_t)stat.st_size;
    log->at = tail.at;
    ds_tail_close(&tail);
    return ds_error_context(err, rc, "'%s'", name);
}

int ds_ranklogs_look(struct ds_ranklogs *logs, bool last, struct ds_error *err)
{
    uint64_t now_ns = ds_clock_mono_ns();
    int rc = 0;

    if (!logs->looked || last || now_ns - logs->listed_ns > LIST_EVERY_NS) {
        rc = list(logs, err);
        logs->listed_ns = now_ns;
    }
    for (uint32_t rank = 0; rc == 0 && rank < logs->top; rank++)
        if (logs->log[rank].known)
            rc = look_at(logs, rank, last, err);
    logs->looked = true;
    return rc;
}

int ds_ranklogs_tail(const struct ds_ranklogs *logs, uint32_t rank, uint64_t lines,
                     ds_rankline_fn *line, struct ds_error *err)
{
    struct ds_tail tail;
    int rc = open_log(logs, rank, &tail, err);

    if (rc != 0)
        return rc;
    rc = ds_tail_back(&tail, lines, err);
    if (rc == 0)
        rc = give(logs, rank, &tail, UINT64_MAX, true, line, err);
    ds_tail_close(&tail);
    return rc;
}
