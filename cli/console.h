/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * console.h - what a person sees of a run.
 *
 * Terminal: a header, one live line that is redrawn and cut to the terminal's width, and permanent
 * lines for evaluations, checkpoints and warnings.  Not a terminal: a plain line for each of those
 * and for each step that is logged.  --json: the metrics and events themselves, one a line.  -q:
 * warnings and errors only.  Progress goes to stdout; warnings, errors and stderr of ranks to
 * stderr.
 *
 * A reader that stalls stalls the console, and with it the ranks, but never a signal: while one
 * waits the console gives up what it was writing, and from then on writes only what is taken at
 * once.  A reader that is gone ends the console, not the job; so does a full disk, which is said.
 *
 * Tests   tests/cli/test_console.c, test_terminal.c, tests/e2e/processes.py
 */
#ifndef DS_CLI_CONSOLE_H
#define DS_CLI_CONSOLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

struct ds_console_args {
    int out_fd, err_fd;          /* borrowed */
    int interrupt_fd;            /* readable: a signal waits; -1: none */
    void (*waiting)(void *user); /* called now and then while the reader takes nothing; or NULL */
    void *user;
    bool color, quiet, json;
    uint64_t steps; /* of the whole job */
};

struct ds_console {
    struct ds_console_args args;
    bool tty;     /* there is a live line */
    bool hurried; /* a signal came while a reader stalled */
    bool gone[2]; /* nobody reads stdout, stderr */
    bool lost;    /* stdout could not be written, for another reason: a full disk */
    bool live;    /* the live line is on the screen */
    uint64_t drawn_ns;
    double step_ms; /* smoothed; the first step, which warms up, does not count for long */
    unsigned steps_seen;
    struct ds_buf line, out;
};

void ds_console_init(struct ds_console *console, const struct ds_console_args *args);
void ds_console_release(struct ds_console *console);
/* Was something for stdout not written though nobody closed it? */
bool ds_console_lost(const struct ds_console *console);

/* The live line stays on the screen; what follows stands below it. */
void ds_console_settle(struct ds_console *console);

/* Lines of text, as they are: the header. */
void ds_console_text(struct ds_console *console, const char *text);
/* A permanent line. */
void ds_console_note(struct ds_console *console, const char *fmt, ...) DS_PRINTF(2, 3);
void ds_console_warn(struct ds_console *console, const char *fmt, ...) DS_PRINTF(2, 3);
void ds_console_error(struct ds_console *console, const char *fmt, ...) DS_PRINTF(2, 3);

/* A line of a rank, already escaped, with its label; shown even when quiet if `force`. */
void ds_console_rank(struct ds_console *console, const char *host, uint32_t rank, bool is_err,
                     const char *text, bool force);

/* For commands whose work is output: shown even when quiet.  A line of a host, already escaped. */
void ds_console_host(struct ds_console *console, const char *host, bool is_err, const char *text);
/* Text as it is; and the head of such text, appended to it. */
void ds_console_put(struct ds_console *console, bool is_err, const struct ds_buf *text);
void ds_console_head(const struct ds_console *console, const char *hosts, struct ds_buf *text);

/* One METRIC or EVENT: the object and its text. */
void ds_console_metric(struct ds_console *console, json_t *object, const char *json, size_t len);
void ds_console_event(struct ds_console *console, const json_t *object, const char *json,
                      size_t len);

/* Pure: the line for a step, of at most `width` columns (0: any). */
void ds_console_step_line(const json_t *object, uint64_t steps, double step_ms, unsigned width,
                          struct ds_buf *out);

#endif
