/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * metrics.h - metrics.jsonl, metrics.csv and the events of TensorBoard: each step stands once,
 * whatever happened in between.
 *
 * A run that goes on from a checkpoint made after N updates makes steps N, N+1, ... again: training
 * lines of steps >= N and evaluation lines of steps > N are cut first, by a new file that replaces
 * the old one.  A training line's step is the update it was; an evaluation's is how many had been
 * made.  Of TensorBoard's files tfevents.h says how that is told.
 *
 * The CSV has a column for each named evaluation once there has been one: then the file is replaced
 * by one with more columns.
 *
 * Tests   tests/cli/test_metrics.c
 */
#ifndef DS_CLI_METRICS_H
#define DS_CLI_METRICS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"
#include "cli/tfevents.h"

struct ds_metrics {
    char jsonl_path[DS_MAX_PATH], csv_path[DS_MAX_PATH]; /* "" where not wanted */
    int jsonl_fd, csv_fd;
    struct ds_buf line;
    struct ds_buf columns; /* the first line of the CSV */
    struct ds_tfevents events;
};

/* Open (or create) the files in `run_dir` that `sinks`, an or of enum ds_sink, names. */
int ds_metrics_open(struct ds_metrics *metrics, const char *run_dir, unsigned sinks,
                    struct ds_error *err) DS_NODISCARD;
void ds_metrics_close(struct ds_metrics *metrics); /* fine on a zeroed struct */

/* Append one line; `json` is the text of `object`, without a line end in it. */
int ds_metrics_add(struct ds_metrics *metrics, const char *json, size_t len, json_t *object,
                   struct ds_error *err) DS_NODISCARD;

/* The run goes on after `updates` updates: cut what will be made again; 0 starts anew. */
int ds_metrics_resume(struct ds_metrics *metrics, uint64_t updates, struct ds_error *err)
    DS_NODISCARD;

int ds_metrics_flush(struct ds_metrics *metrics, struct ds_error *err) DS_NODISCARD;

/* Pure: append to `out` the lines of a file that stay.  `csv` says which of the two it is. */
int ds_metrics_cut(const char *text, size_t len, bool csv, uint64_t updates, struct ds_buf *out);

/* A row of the CSV for `object` under these columns, "step,loss,...", with its line end. */
int ds_metrics_csv_row(const char *columns, const json_t *object, struct ds_buf *out);

/* Append to `columns` those of named evaluations that only `object` has; were there any? */
bool ds_metrics_columns(struct ds_buf *columns, json_t *object);

#endif
