/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * story.h - what becomes of a job, as sentences: the same on its own console (report.c) and on one
 * that is attached to it (cmd_attach.c), where they come out of events.jsonl.
 *
 * Tests   tests/e2e/processes.py, tests/e2e/attach.py
 */
#ifndef DS_CLI_STORY_H
#define DS_CLI_STORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "cli/console.h"

/* A record of a rank or of a file: one object on one line, or NULL with `err` filled. */
json_t *ds_story_parse(const char *text, size_t len, struct ds_error *err);

/* The member "step", -1: there is none. */
int64_t ds_story_step(const json_t *object);

struct ds_story_restart { /* borrowed */
    unsigned attempt, delay_ms;
    unsigned hosts, ranks; /* that it goes on with; 0: those that it had */
    const char *lack;      /* why it cannot go on with fewer, a sentence; or NULL */
};

/* `program`: ranks are any program.  `saves`: they make a checkpoint when asked to stop. */
void ds_story_stop(struct ds_console *console, bool program, bool saves);
void ds_story_where(struct ds_console *console, const json_t *event, uint32_t rank,
                    const char *host);
void ds_story_failure(struct ds_console *console, const char *cause, unsigned victims);
void ds_story_restart(struct ds_console *console, const struct ds_story_restart *restart);
/* `run_dir` as the user calls it; NULL: nothing was recorded. */
void ds_story_exit(struct ds_console *console, bool program, int code, const char *run_dir);

#endif
