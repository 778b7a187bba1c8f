/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * merge.h - the weights of a checkpoint's model without adapters, wherever they are: in the
 * checkpoint, or in the folder that it was made on, with what its adapters add.
 *
 * Tests   tests/e2e/lora.py
 */
#ifndef DS_RUNTIME_MERGE_H
#define DS_RUNTIME_MERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/ckpt/hf.h"
#include "runtime/ckpt/store.h"

/* W += scale * left right, for the matrix at hand: left [rows, rank], right [rank, columns]. */
struct ds__merge_factors {
    char name[DS_MAX_TENSOR_NAME + 1]; /* of W; "": none is */
    float *left, *right;
    uint64_t columns;
};

struct ds__merge {
    struct ds__store *store; /* borrowed */
    struct ds_model_shape shape;
    bool folder; /* numbers are wanted as a folder has them (ds__hf_one_more()) */
    bool based;  /* `hf` is open */
    struct ds__hf hf;
    struct ds__merge_factors factors;
};

/* `base` (NULL: where the checkpoint says) is the folder; -EINVAL where it has other weights. */
int ds__merge_open(struct ds__merge *merge, struct ds__store *store, const char *base,
                   struct ds_error *err) DS_NODISCARD;
void ds__merge_close(struct ds__merge *merge);

/* Elements first .. first + count of a parameter of merge->shape, of its name, shape and number of
 * elements, as F32.  -EBADMSG where neither has it. */
int ds__merge_read(struct ds__merge *merge, const struct ds_safetensor *param, uint64_t first,
                   uint64_t count, float *out, struct ds_error *err) DS_NODISCARD;

#endif
