/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * train.h - one rank's run from the first weight to the last checkpoint.
 *
 * Order of a step: update, metric, evaluation, checkpoint; a checkpoint is committed only once
 * every metric sent before it is on disk, because a resumed run will not make them again.
 *
 * Tests   tests/engine/test_worker.c, tests/e2e/
 */
#ifndef DS_RUNTIME_TRAIN_H
#define DS_RUNTIME_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/job.h"
#include "runtime/link.h"

struct ds_train_args {
    const struct ds_job *job; /* launch.device is cpu or cuda */
    const char *run_dir;      /* absolute */
    struct ds_link *link;
    unsigned rank, world, threads, attempt;
    unsigned local_rank, local_world, node; /* on this host; its number */
    unsigned device;                        /* the number of its CUDA device */
    unsigned cores;                         /* this rank may use, >= 1 */
    int shm_fd;                             /* taken; -1 when world is 1 */
    bool saved;                             /* a start before this one has: go on from the newest */
    bool evaluate;                          /* and nothing else */
};

/* Train, or evaluate once.  Returns 0 and the exit code of the process in *code (0 done, 75 stopped
 * after a checkpoint, 143 stopped where none could be made), or a negative errno; -ECANCELED:
 * another rank failed. */
int ds_train(const struct ds_train_args *args, int *code, struct ds_error *err) DS_NODISCARD;

#endif
