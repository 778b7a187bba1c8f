/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tail.h - the lines of a file that others write, from its last ones on, as long as it grows.
 *
 * Memory does not depend on the file: a block and one line.  A line of more than `max` bytes is
 * given in pieces of that size, and going back over lines reads at most `max` bytes for each.
 * A file that was cut short, as a torn line is, is read from where it ends now; one that was
 * emptied, from its start.
 *
 * Tests   tests/cli/test_tail.c
 */
#ifndef DS_CLI_TAIL_H
#define DS_CLI_TAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

struct ds_tail {
    int fd;             /* owned; -1: closed */
    uint64_t at;        /* offset of the first byte that was not given */
    size_t max;         /* bytes of a line */
    struct ds_buf held; /* what was read */
    size_t from;        /* in `held`: the byte at `at` */
};

/* Open a regular file below `dir_fd`, at its start; the last component is not followed.  -ENOENT,
 * -EINVAL: it is something else than a file. */
int ds_tail_open(struct ds_tail *tail, int dir_fd, const char *name, size_t max,
                 struct ds_error *err) DS_NODISCARD;
void ds_tail_close(struct ds_tail *tail); /* fine on a zeroed struct, and twice */

void ds_tail_seek(struct ds_tail *tail, uint64_t at);
/* To where the last `lines` lines begin; one that has no end yet counts. */
int ds_tail_back(struct ds_tail *tail, uint64_t lines, struct ds_error *err) DS_NODISCARD;

/* The next line, without its end; borrowed until the next call.  1, or 0: there is no whole one
 * yet.  With `last` what follows the last line end is a line, too. */
int ds_tail_next(struct ds_tail *tail, bool last, const char **line, size_t *len,
                 struct ds_error *err) DS_NODISCARD;

#endif
