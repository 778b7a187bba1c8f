/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * commlog.c - the contract is in commlog.h.
 */
#include "runtime/commlog.h"

#include <string.h>

int ds_comm_log_begin(struct ds_comm_log *log, struct ds_engine *engine, struct ds_error *err)
{
    int rc = log->on ? ds_engine_settle(engine, err) : 0;

    for (unsigned op = 0; log->on && rc == 0 && op < DS_COMM_OP_COUNT; op++)
        ds_engine_traffic(engine, (enum ds_comm_op)op, &log->before[op]);
    return rc;
}

int ds_comm_log_end(struct ds_comm_log *log, struct ds_engine *engine, struct ds_error *err)
{
    int rc = log->on ? ds_engine_settle(engine, err) : 0;

    if (rc != 0 || !log->on)
        return rc;
    log->steps++;
    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++) {
        struct ds_comm_stats now, *sum = &log->sum[op], *before = &log->before[op];

        ds_engine_traffic(engine, (enum ds_comm_op)op, &now);
        sum->calls += now.calls - before->calls;
        sum->bytes += now.bytes - before->bytes;
        sum->wait_ns += now.wait_ns - before->wait_ns;
        sum->work_ns += now.work_ns - before->work_ns;
    }
    return 0;
}

void ds_comm_log_clear(struct ds_comm_log *log)
{
    log->steps = 0;
    memset(log->sum, 0, sizeof(log->sum));
}
