/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_model.h - what the keys of model say to each other and to config.json; for job_check.c.
 */
#ifndef DS_RUNTIME_JOB_MODEL_H
#define DS_RUNTIME_JOB_MODEL_H

#include "runtime/job.h"

/* Complete the shape; refuse, at the place of the key that should change. */
int ds__job_check_model(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

#endif
