/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_ranks.h - what the keys of parallel say to each other and to the model; for job_check.c.
 */
#ifndef DS_RUNTIME_JOB_RANKS_H
#define DS_RUNTIME_JOB_RANKS_H

#include "runtime/job.h"

/* Refuse, at the place of the key that should change. */
int ds__job_check_parallel(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

#endif
