/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * commlog.h - what the collectives of the steps sent and how long they took (log.comm).
 *
 * Counted from the beginning of a step until all it set going has ended, so that evaluations and
 * checkpoints are not in it.  A step that is counted waits for its last gather, which otherwise
 * runs on under the next step.
 *
 * Tests   tests/e2e/wire.py
 */
#ifndef DS_RUNTIME_COMMLOG_H
#define DS_RUNTIME_COMMLOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/engine.h"

struct ds_comm_log {
    bool on;
    uint64_t steps; /* since the log was last told */
    struct ds_comm_stats before[DS_COMM_OP_COUNT], sum[DS_COMM_OP_COUNT];
};

/* Around a step; nothing unless `on`. */
int ds_comm_log_begin(struct ds_comm_log *log, struct ds_engine *engine, struct ds_error *err)
    DS_NODISCARD;
int ds_comm_log_end(struct ds_comm_log *log, struct ds_engine *engine, struct ds_error *err)
    DS_NODISCARD;
void ds_comm_log_clear(struct ds_comm_log *log);

#endif
