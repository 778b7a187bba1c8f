/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * agree.h - do the ranks see the same files?  Each opens those of its own host.
 *
 * Copies of the data that are not alike would train, on sequences that no order ever had; they are
 * compared by their ids' number and a few samples.  Of weights to start from each rank reads a
 * part, and parts of several models are none.  A run directory of each host's own would cost the
 * first checkpoint, in which every rank writes its part.
 *
 * Tests   tests/e2e/data.py
 */
#ifndef DS_RUNTIME_AGREE_H
#define DS_RUNTIME_AGREE_H

#include "runtime/trainer.h"

/* Collective.  -EBADMSG: this rank's model.init.from has another ds_hf_digest() than rank 0's. */
int ds__trainer_agree_on_weights(const struct ds_trainer *trainer, uint64_t digest,
                                 struct ds_error *err) DS_NODISCARD;

/* Collective.  -EBADMSG: this rank sees other data than rank 0; -EINVAL: another run directory. */
int ds__trainer_agree(struct ds_trainer *trainer, struct ds_error *err) DS_NODISCARD;

#endif
