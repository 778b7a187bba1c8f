/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rundir.h - a run directory in the hands of one dsrun: lock, logs of the ranks, events.
 *
 *     .lock                  held while any process of the run lives; holds dsrun's pid
 *     events.jsonl           one JSON object a line, only ever appended to
 *     logs/rank-00000.log    everything a rank wrote, byte for byte
 *
 * Every failed write is an error: a job whose record cannot be kept does not go on.
 *
 * Tests   tests/e2e/processes.py
 */
#ifndef DS_CLI_RUNDIR_H
#define DS_CLI_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"

enum { DS_LOGS_OPEN = 64 }; /* log files open at once */

struct ds_rundir {
    char path[DS_MAX_PATH];
    int lock_fd, events_fd;
    struct {
        int fd; /* 0: none */
        uint32_t rank;
    } log[DS_LOGS_OPEN];
};

/* Create the folders as needed and take the lock.  -EBUSY names the process that has it; the last
 * processes of a dsrun that was killed are waited for. */
int ds_rundir_open(struct ds_rundir *dir, const char *path, struct ds_error *err) DS_NODISCARD;
void ds_rundir_close(struct ds_rundir *dir); /* fine on a zeroed struct */

/* These do nothing where no run directory is open. */
int ds_rundir_log(struct ds_rundir *dir, uint32_t rank, const char *bytes, size_t len,
                  struct ds_error *err) DS_NODISCARD;
/* `json` is one object without a line end. */
int ds_rundir_event(struct ds_rundir *dir, const char *json, size_t len, struct ds_error *err)
    DS_NODISCARD;
int ds_rundir_flush(struct ds_rundir *dir, struct ds_error *err) DS_NODISCARD;

/* Open for appending (O_NOFOLLOW, O_CLOEXEC); a line that a crash cut short is dropped. */
int ds_append_open(const char *path, int *fd, struct ds_error *err) DS_NODISCARD;

#endif
