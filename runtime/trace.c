/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trace.c - one step of a run as a Chrome trace: log.trace.
 *
 * The same form as the predicted step of dsrun plan --timeline, so that the two can be laid side by
 * side.
 *
 * Tests   tests/e2e/plan.py
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fsio.h"
#include "runtime/trainer.h"

enum { TRACE_BYTES = 1 << 30 }; /* grows as needed */

int ds__trainer_trace_open(struct ds_trainer *trainer, struct ds_error *err)
{
    if (trainer->job->log.trace == DS_TRACE_NONE)
        return 0;
    trainer->trace = calloc(trainer->plan.step.count, sizeof(*trainer->trace));
    return trainer->trace == NULL
               ? ds_fail(err, ENOMEM, "no memory for the times of %zu instructions",
                         trainer->plan.step.count)
               : 0;
}

int ds__trainer_trace_write(const struct ds_trainer *trainer, struct ds_error *err)
{
    char folder[DS_MAX_PATH], path[DS_MAX_PATH], name[32];
    struct ds_buf out;
    int rc = ds_path_join(folder, trainer->args->run_dir, "trace", err);

    (void)snprintf(name, sizeof(name), "rank-%05u.json", trainer->args->rank);
    if (rc == 0)
        rc = ds_path_join(path, folder, name, err);
    if (rc == 0)
        rc = ds_fs_mkdirs(folder, err);
    if (rc != 0)
        return rc;
    ds_buf_init(&out, TRACE_BYTES);
    ds_timeline_write(&trainer->plan, trainer->trace, "measured", &out);
    rc = out.failed ? ds_fail(err, ENOMEM, "no memory to write a trace")
                    : ds_fs_replace(path, out.data, out.len, err);
    ds_buf_release(&out);
    return rc;
}
