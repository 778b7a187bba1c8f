/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * jobs.h - the jobs of this user that run on this machine, for `dsrun ps`, `kill`, `logs` and
 * `attach`.
 *
 * One file per running dsrun in a folder that only its user can enter: dsrun/jobs in
 * $XDG_RUNTIME_DIR, else in $XDG_STATE_HOME or ~/.local/state.  The file is named by the process
 * and locked by it as long as it lives: a file whose lock is free is left over, and removed by
 * whoever meets it.  Its first line is one JSON object.
 *
 * Tests   tests/cli/test_ps.c, tests/e2e/processes.py, tests/e2e/attach.py
 */
#ifndef DS_CLI_JOBS_H
#define DS_CLI_JOBS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct ds_job_record {
    const char *name, *run_dir; /* borrowed */
    const char *state;          /* "launching", "running", "stopping", "failing", "restarting" */
    uint32_t hosts, ranks;
    uint64_t step, steps; /* made, of */
    double started;       /* seconds since 1970 */
    int fd, dir_fd;       /* -1: not listed */
    uint64_t written_ns;
};

/* List this process; name, run_dir, hosts, ranks and steps are set.  A job that cannot be listed
 * runs all the same: who opens says so. */
int ds_job_record_open(struct ds_job_record *record, struct ds_error *err) DS_NODISCARD;
void ds_job_record_state(struct ds_job_record *record, const char *state);
void ds_job_record_step(struct ds_job_record *record, uint64_t step); /* now and then on disk */
void ds_job_record_close(struct ds_job_record *record);

/* Call `each` with the text of every job that runs. */
int ds_jobs_each(int (*each)(void *user, pid_t pid, const char *json, size_t len), void *user,
                 struct ds_error *err) DS_NODISCARD;

struct ds_job_found {
    pid_t pid;
    char run_dir[DS_MAX_PATH]; /* "": it keeps no record */
};

/* The one job with this number or name.  -ENOENT: none, -EINVAL: several have the name. */
int ds_jobs_find(const char *word, struct ds_job_found *found, struct ds_error *err) DS_NODISCARD;
/* The job whose run directory this is, a path without links in it.  -ENOENT, without a text. */
int ds_jobs_find_run(const char *run_dir, struct ds_job_found *found, struct ds_error *err)
    DS_NODISCARD;

/* The record of a job, to be closed by the caller: its end is known by it.  -ESRCH. */
int ds_jobs_watch(pid_t pid, int *fd, struct ds_error *err) DS_NODISCARD;
/* Has who held the lock of this file ended?  Asked until it is true, and not again. */
bool ds_jobs_ended(int fd);

/* Send a signal to the process of a job, if that still is the one that was listed.  -ESRCH. */
int ds_jobs_signal(pid_t pid, int number, struct ds_error *err) DS_NODISCARD;

#endif
