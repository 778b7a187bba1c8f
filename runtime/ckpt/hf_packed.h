/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_packed.h - tensors that a Hugging Face folder has as one and the model as several.
 *
 * Phi-3's folders have queries, keys and values of a layer in one matrix, gate and up in another:
 * the model's, one behind the other.  GPT-NeoX's have the rows of each head's query, key and value
 * behind each other, head by head, of the matrix and of the bias.  Everywhere else they are apart,
 * with names of their own, as Llama's are, so that nothing but reader and writer of folders knows.
 * A folder that has them apart is read, too.
 *
 * Private to runtime/ckpt/.
 * Tests   tests/ckpt/test_hf_packed.c
 */
#ifndef DS_RUNTIME_CKPT_HF_PACKED_H
#define DS_RUNTIME_CKPT_HF_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "runtime/model/model.h"

enum { DS__HF_PARTS = 3 };

struct ds__hf_pack {
    const char *name; /* how that of a folder ends */
    unsigned parts, ndim;
    bool by_heads; /* parts take turns, a head's rows each */
    struct {
        const char *name; /* how the model's end */
        enum ds_role role;
    } part[DS__HF_PARTS];
};

/* What the tensor `name` of a folder is made of; NULL: of itself. */
const struct ds__hf_pack *ds__hf_unpacks(enum ds_arch arch, const char *name);
/* What begins with the model's tensor `name`; NULL: nothing does. */
const struct ds__hf_pack *ds__hf_packs(enum ds_arch arch, const char *name);

/* Is the matrix of this module of a layer one of those? */
bool ds__hf_is_part(enum ds_arch arch, const char *module);

/* Rows of a part; elements of a row; rows of it that stand together. */
uint64_t ds__hf_part_rows(const struct ds_model_shape *shape, const struct ds__hf_pack *pack,
                          unsigned part);
uint64_t ds__hf_part_width(const struct ds_model_shape *shape, const struct ds__hf_pack *pack);
uint64_t ds__hf_part_run(const struct ds_model_shape *shape, const struct ds__hf_pack *pack,
                         unsigned part);
/* `name`, which ends so, with another end; NULL without memory. */
const char *ds__hf_rename(struct ds_arena *arena, const char *name, const char *end,
                          const char *other);

#endif
