/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * of_run.h - what a checkpoint's run says of it: its tokenizer, and the type it computed in.
 *
 * A checkpoint lies in the folder of its run, RUN_DIR/checkpoints/step-N, or anywhere, and then
 * nothing is known.  Of the run's job.yaml those two keys are read and no other: what its paths
 * name may have gone.
 *
 * Tests   tests/e2e/generate.py, tests/e2e/tokenizer.py (export)
 */
#ifndef DS_CLI_OF_RUN_H
#define DS_CLI_OF_RUN_H

#include <stdbool.h>

#include "base/error.h"
#include "base/limits.h"

struct ds_of_run {
    bool known;                  /* there is a job.yaml */
    char tokenizer[DS_MAX_PATH]; /* the copy that the run has; "": bytes are its ids */
    char compute[8];             /* "fp32", "bf16", "fp16" */
};

/* `ckpt` is a checkpoint's folder.  -EINVAL: a job.yaml that cannot be read. */
int ds_cli_of_run(const char *ckpt, struct ds_of_run *run, struct ds_error *err) DS_NODISCARD;

#endif
