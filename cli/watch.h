/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * watch.h - the run directory of a job from outside, while the job runs or after.
 *
 * A job is looked for by number or name among those that run here (jobs.h), else the word is a run
 * directory, of a job that has ended or runs on another machine.  That a job has ended is known by
 * a lock: that of its record, or of the run directory.  Whoever asks ds_watch_ended() first and
 * reads then has read everything.
 *
 * Files are read by path and again and again, for there is nothing to be told by on a file system
 * of the network.
 *
 * Tests   tests/cli/test_watch.c, tests/e2e/attach.py
 */
#ifndef DS_CLI_WATCH_H
#define DS_CLI_WATCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "cli/tail.h"

enum {
    DS_WATCH_MS = 150,                              /* between two looks */
    DS_RECORD_BYTES = 2 * DS_MAX_FRAME_BYTES,       /* a line of events.jsonl, metrics.jsonl */
    DS_HOST_LABEL_BYTES = 4 * DS_MAX_HOST_NAME + 1, /* a host's name, escaped */
};

/* The file of records below, line by line. */
struct ds_records {
    struct ds_tail tail;
    json_t *object; /* the record at hand, or NULL */
    const char *text;
    size_t len;
};

struct ds_watched {
    pid_t pid; /* 0: it does not run here */
    char run_dir[DS_MAX_PATH];
    int dir_fd, lock_fd;      /* lock_fd -1: it has ended */
    struct ds_records events; /* of events.jsonl */
    json_t *launch;           /* the newest event of this name, or NULL: who runs where */
    uint64_t begin;           /* where the job begins in events.jsonl */
    int64_t first_step;       /* it went on from there; -1: not known yet */
};

/* Find the job that `word` means, and how it began; events are then at their end.  -ENOENT: there
 * is none.  -ENODATA: it keeps no record.  -EINVAL: the name of several, or no run directory. */
int ds_watch_open(struct ds_watched *watch, const char *word, struct ds_error *err) DS_NODISCARD;
void ds_watch_close(struct ds_watched *watch); /* fine on a zeroed struct */

/* Asked until it is true, and not again. */
bool ds_watch_ended(struct ds_watched *watch);

/* Have a record at hand, what is none being passed over.  1, or 0: there is no further one. */
int ds_records_fill(struct ds_records *records, bool last, struct ds_error *err) DS_NODISCARD;
void ds_records_pass(struct ds_records *records); /* done with the one at hand */
void ds_records_close(struct ds_records *records);

/* The event at hand of the watch is heeded if it says who runs where. */
void ds_watch_heed(struct ds_watched *watch, const json_t *event);

/* Ranks of the job, 0: not known; the host of one, escaped, "?" where it is not known. */
uint64_t ds_watch_world(const struct ds_watched *watch);
const char *ds_watch_host(const struct ds_watched *watch, uint32_t rank,
                          char out[DS_HOST_LABEL_BYTES]);

#endif
