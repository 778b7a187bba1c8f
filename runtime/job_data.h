/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_data.h - what the keys of data say together, and to the vocabulary; for job_check.c.
 */
#ifndef DS_RUNTIME_JOB_DATA_H
#define DS_RUNTIME_JOB_DATA_H

#include "runtime/job.h"

/* Complete and refuse, at the place of the key that should change. */
int ds__job_check_data(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

/* model.vocab where the job does not say: the tokenizer's, or 256 bytes. */
int ds__job_default_vocab(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

/* Is some of the data text, and its bytes the ids? */
bool ds__job_reads_bytes(const struct ds_job *job);

/* Is there an id that ends documents, where they are to be kept apart? */
int ds__job_check_documents(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
    DS_NODISCARD;

#endif
