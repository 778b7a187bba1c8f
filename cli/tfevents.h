/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tfevents.h - the metrics of a run for TensorBoard: events.out.tfevents.* in the run directory.
 *
 * A file is a chain of records, each a message Event of the protocol buffers of TensorFlow:
 *
 *     u64 length | u32 checksum of these 8 bytes | the message | u32 checksum of the message
 *
 * Such a file is only ever appended to, since a TensorBoard may be reading it, and each dsrun
 * begins one of its own, so that a record that a crash cut short is the last of its file.  What is
 * made again after a restart is therefore not cut: a SessionLog START with the step from which it
 * is made again tells readers to drop what they have of that step and later ones.  An evaluation
 * has the step of the update before it, so that the one a checkpoint was made with stays.
 *
 * Source  tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.h
 * Tests   tests/cli/test_tfevents.c, tests/e2e/tfevents.py
 */
#ifndef DS_CLI_TFEVENTS_H
#define DS_CLI_TFEVENTS_H

#include <jansson.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"

struct ds_tfevents {
    char path[DS_MAX_PATH]; /* "": not open */
    int fd;
    struct ds_buf record;
};

/* Begin a new file in `run_dir`. */
int ds_tfevents_open(struct ds_tfevents *events, const char *run_dir, struct ds_error *err)
    DS_NODISCARD;
void ds_tfevents_close(struct ds_tfevents *events); /* fine on a zeroed struct */

/* These do nothing where no file is open. */
int ds_tfevents_add(struct ds_tfevents *events, json_t *line, struct ds_error *err) DS_NODISCARD;
int ds_tfevents_resume(struct ds_tfevents *events, uint64_t updates, struct ds_error *err)
    DS_NODISCARD;
int ds_tfevents_flush(struct ds_tfevents *events, struct ds_error *err) DS_NODISCARD;

/* Pure: append a record.  Of a line of metrics all its numbers but step and time, which is `now_s`
 * where the line has none; nothing where it has no number. */
int ds_tfevents_scalars(json_t *line, double now_s, struct ds_buf *out);
int ds_tfevents_start(uint64_t updates, double now_s, struct ds_buf *out);
int ds_tfevents_version(double now_s, struct ds_buf *out);

#endif
