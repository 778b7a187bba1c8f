/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ranklogs.h - what the ranks of a job wrote, out of logs/ of its run directory.
 *
 *     look, look, ...     each gives what was added since the one before, rank after rank
 *
 * The first look gives the last lines of every log there is, a later one all of a log that has
 * come since.  No file stays open, so that any number of ranks can be followed.  Lines are
 * escaped, and longer ones than DS_MAX_LINE_BYTES come in pieces, as on the job's own console
 * (launcher/fleet/logmux.h).
 *
 * Tests   tests/cli/test_watch.c, tests/e2e/attach.py
 */
#ifndef DS_CLI_RANKLOGS_H
#define DS_CLI_RANKLOGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* `text` is escaped, terminated and borrowed. */
typedef void ds_rankline_fn(void *user, uint32_t rank, const char *text);

struct ds_ranklogs_args {
    int run_dir_fd; /* borrowed */
    int64_t rank;   /* of this one only; -1: of all */
    uint64_t lines; /* the last ones of each that the first look gives */
    ds_rankline_fn *line;
    void *user;
};

struct ds_ranklog {
    uint64_t at, seen; /* given up to there; the size when it was looked at */
    bool known, begun;
};

struct ds_ranklogs {
    struct ds_ranklogs_args args;
    struct ds_ranklog *log; /* [DS_MAX_RANKS], by rank */
    uint32_t top;           /* 1 + the highest rank that is known */
    bool looked;
    uint64_t listed_ns;
    char *escaped; /* scratch for one line */
};

int ds_ranklogs_init(struct ds_ranklogs *logs, const struct ds_ranklogs_args *args,
                     struct ds_error *err) DS_NODISCARD;
void ds_ranklogs_release(struct ds_ranklogs *logs); /* fine on a zeroed struct */

/* `last`: nothing is added any more, a line without an end is one. */
int ds_ranklogs_look(struct ds_ranklogs *logs, bool last, struct ds_error *err) DS_NODISCARD;

/* The last lines of one rank, whatever was given before. */
int ds_ranklogs_tail(const struct ds_ranklogs *logs, uint32_t rank, uint64_t lines,
                     ds_rankline_fn *line, struct ds_error *err) DS_NODISCARD;

#endif
