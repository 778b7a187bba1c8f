/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * report.h - what a fleet tells, on its way to the run directory and to the console.
 *
 *     OUT, ERR ─► logs/rank-NNNNN.log, lines of rank 0, or of all of a program ─► console
 *     METRIC   ─► metrics.jsonl, metrics.csv, events.out.tfevents.* ─► console
 *     EVENT    ─► events.jsonl                         ─► console
 *     the resolved job ─► job.yaml, while the ranks begin
 *
 * dsrun's own events beside those of the ranks: launch, started, stop, failing, kill, failure,
 * restart, exit.  An event "resumed" of a rank cuts the metrics, "checkpoint" is remembered.
 *
 * Tests   tests/e2e/processes.py
 */
#ifndef DS_CLI_REPORT_H
#define DS_CLI_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/console.h"
#include "cli/jobs.h"
#include "cli/metrics.h"
#include "cli/rundir.h"
#include "launcher/fleet/fleet.h"
#include "launcher/fleet/logmux.h"
#include "launcher/hosts/placement.h"

struct ds_report {
    const struct ds_placement *placement; /* borrowed */
    const char *run_dir;                  /* as the user wrote it; borrowed */
    const char *header;            /* of the console, for who attaches, until the next launch has
                                    * told it; NULL: none; borrowed */
    bool program;                  /* ranks are any program: all are shown */
    bool saves;                    /* ranks that are asked to stop make a checkpoint */
    const struct ds_buf *job_text; /* for job.yaml, written once ranks run; borrowed */
    bool job_written;
    bool broken; /* a file could not be written, and that is the failure of the job */
    struct ds_rundir dir;
    struct ds_metrics metrics;
    struct ds_console console;
    struct ds_logmux mux;
    struct ds_job_record record; /* for dsrun ps */
    int64_t checkpoint;          /* newest step heard of, -1: none */
    bool saved;                  /* a checkpoint was, since the job began */
    int64_t last_metric;         /* last step recorded in this attempt, -1: none */
};

/* `user` is the struct ds_report. */
extern const struct ds_fleet_ops ds_report_ops;

/* Take the run directory and open its files; `path` is absolute, `sinks` the job's. */
int ds_report_open(struct ds_report *report, const char *path, unsigned sinks, struct ds_error *err)
    DS_NODISCARD;
/* The same for ranks that are any program; `path` may be NULL: nothing is recorded. */
int ds_report_open_program(struct ds_report *report, const char *path, struct ds_error *err)
    DS_NODISCARD;
void ds_report_close(struct ds_report *report); /* fine on a zeroed struct */

/* An attempt begins. */
int ds_report_launch(struct ds_report *report, unsigned attempt, struct ds_error *err) DS_NODISCARD;
/* The first failure, once: the last lines of its rank, then one sentence. */
int ds_report_failure(struct ds_report *report, const struct ds_fleet_result *result,
                      struct ds_error *err) DS_NODISCARD;
/* Hosts and ranks are the placement's, told where they are others than those of the attempt before;
 * `lack` is why they are not fewer, or NULL. */
int ds_report_restart(struct ds_report *report, unsigned attempt, unsigned delay_ms,
                      const char *lack, struct ds_error *err) DS_NODISCARD;
int ds_report_exit(struct ds_report *report, int code, struct ds_error *err) DS_NODISCARD;
/* An attempt could not begin; the caller says why. */
void ds_report_refused(struct ds_report *report, int code);

#endif
