/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_table.h - the keys of the job file, in the order they are documented and written.
 *
 * Reader, writer, digest, shell completion and dsrun-job(5) all come from this table.
 *
 * Tests   tests/job/test_job.c
 */
#ifndef DS_RUNTIME_JOB_TABLE_H
#define DS_RUNTIME_JOB_TABLE_H

#include "base/keys.h"
#include "runtime/job.h"

/* All keys; constant. */
const struct ds_key *ds_job_keys(size_t *count);

struct ds_job_source { /* what a job was read from; borrowed by messages as long as the job lives */
    struct ds_keys keys;
};

/* Check and complete a job whose keys have been read (job_check.c). */
int ds__job_check(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

/* The parts of it that are about `lora` and `train.freeze`, once the shape of the model is known
 * (job_frozen.c). */
int ds__job_check_frozen(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

/* The part of it that is about `offload` (job_offload.c); after that about the optimizer. */
int ds__job_check_offload(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

#endif
