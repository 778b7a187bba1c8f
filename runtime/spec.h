/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spec.h (runtime) - what dsrun tells every worker: run directory, launch facts, the resolved job.
 *
 * Text, so that it can be read in a log:
 *     dsrun-job 1
 *     run_dir /abs/path            where checkpoints are (absolute)
 *     cwd /abs/path                what relative data paths are relative to
 *     attempt 0                    0 for the first start, then 1, 2, ... for restarts
 *     saved 1                      a start before this one has saved a checkpoint: go on from the
 *                                  newest, whatever checkpoint.resume says
 *     trial KEY=VALUE KEY=VALUE    (any number) dsrun tune: not the job is run, but some steps of
 *                                  it with these overrides, one trial after the other
 *     evaluate 1                   dsrun eval: it is not trained, only evaluated
 *     (empty line)
 *     resolved job YAML
 *
 * Tests   tests/plan/test_spec.c
 */
#ifndef DS_RUNTIME_SPEC_H
#define DS_RUNTIME_SPEC_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"

struct ds_run_spec {
    char run_dir[DS_MAX_PATH], cwd[DS_MAX_PATH];
    unsigned attempt;
    bool saved, evaluate;
    unsigned trials;
    char trial[DS_MAX_TRIALS][DS_MAX_TRIAL_TEXT];
    const char *job_text; /* borrowed from the text parsed */
    size_t job_bytes;
};

int ds_run_spec_write(const struct ds_run_spec *spec, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;
int ds_run_spec_parse(struct ds_run_spec *spec, const char *text, size_t len, struct ds_error *err)
    DS_NODISCARD;

#endif
