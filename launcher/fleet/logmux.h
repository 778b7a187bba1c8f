/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * logmux.h - what ranks write, as whole, bounded, harmless lines.
 *
 * Bytes arrive in any pieces; lines leave one at a time, without their end, escaped
 * (ds_escape_control()), at most DS_MAX_LINE_BYTES of input each: a longer line leaves in pieces.
 * The last DS_TAIL_LINES lines of stderr are kept per rank for the report of a failure.
 *
 * Tests   tests/launcher/test_logmux.c
 */
#ifndef DS_LAUNCHER_FLEET_LOGMUX_H
#define DS_LAUNCHER_FLEET_LOGMUX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

enum ds_log_stream { DS_LOG_STDOUT, DS_LOG_STDERR, DS_LOG_STREAMS };

enum { DS_TAIL_LINE_BYTES = 1024 }; /* of one kept line */

/* `text` is escaped, terminated and borrowed. */
typedef void ds_line_fn(void *user, uint32_t rank, enum ds_log_stream stream, const char *text);

struct ds_log_tail {
    char *line[DS_TAIL_LINES]; /* a ring; NULL: not used yet */
    unsigned next;
};

struct ds_log_rank {
    struct ds_buf part[DS_LOG_STREAMS]; /* the line that has no end yet */
    struct ds_log_tail tail;
};

struct ds_logmux {
    struct ds_log_rank *rank;
    uint32_t world;
    char *escaped; /* scratch for one line */
    ds_line_fn *line;
    void *user;
};

int ds_logmux_init(struct ds_logmux *mux, uint32_t world, ds_line_fn *line, void *user,
                   struct ds_error *err) DS_NODISCARD;
void ds_logmux_release(struct ds_logmux *mux); /* fine on a zeroed struct */

void ds_logmux_feed(struct ds_logmux *mux, uint32_t rank, enum ds_log_stream stream,
                    const char *bytes, size_t len);
/* The rank has ended: its last lines may have no end. */
void ds_logmux_end(struct ds_logmux *mux, uint32_t rank);

/* The kept lines, oldest first. */
void ds_logmux_tail(const struct ds_logmux *mux, uint32_t rank, ds_line_fn *line, void *user);

#endif
