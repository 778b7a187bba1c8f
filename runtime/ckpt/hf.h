/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf.h - Hugging Face folders from the inside: config.json, and the tensors of all shards in one
 * table.
 *
 * Tests   tests/ckpt/test_hf.c
 */
#ifndef DS_RUNTIME_HF_H
#define DS_RUNTIME_HF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/safetensors.h"
#include "runtime/job.h"
#include "runtime/model/model.h"

#define DS__HF_CONFIG     "config.json"
#define DS__HF_GENERATION "generation_config.json"
#define DS__HF_SINGLE     "model.safetensors"
#define DS__HF_INDEX      "model.safetensors.index.json"

struct ds__hf_file {
    const char *name;
    int fd;
    struct ds_safetensors table;
};

struct ds__hf_tensor {
    const char *name; /* as the model's table has it (ds_model_param()) */
    const struct ds__hf_file *file;
    const struct ds_safetensor *at;
    /* The element of `at` that it begins with: there may be others in it, which stand behind `run`
     * elements of it, until the next are `stride` behind those; run 0: it is in one piece. */
    uint64_t first, run, stride;
    uint64_t shape[DS_MAX_TENSOR_DIMS]; /* its own */
    bool wanted;                        /* the model has it */
    bool one_more;                      /* the model's numbers are more by 1 */
};

struct ds__hf {
    struct ds_arena arena;
    const char *dir; /* borrowed */
    struct ds__hf_file *file;
    size_t files;
    struct ds__hf_tensor *tensor; /* sorted by name, names distinct, buffers left out */
    size_t tensors;
};

/* Open the weights of `dir`; every parameter of `shape` is there in its shape and a type that can
 * be widened, and nothing else is.  Nothing is left open on failure. */
int ds__hf_open(struct ds__hf *hf, const char *dir, const struct ds_model_shape *shape,
                struct ds_error *err) DS_NODISCARD;
void ds__hf_close(struct ds__hf *hf);

/* ds_hf_digest() */
int ds__hf_digest(const struct ds__hf *hf, uint64_t *digest, struct ds_error *err) DS_NODISCARD;

/* The tensor of that name, or NULL. */
const struct ds__hf_tensor *ds__hf_find(const struct ds__hf *hf, const char *name);

/* Read elements `first` to first + count of a tensor (which it has) as F32 into out[count]; EBADMSG
 * when one is NaN or infinite. */
int ds__hf_read(const struct ds__hf *hf, const struct ds__hf_tensor *tensor, uint64_t first,
                uint64_t count, float *out, struct ds_error *err) DS_NODISCARD;

/* Has a folder of this family the tensor of this name with 1 less than the model? */
bool ds__hf_one_more(enum ds_arch arch, const char *name);

/* The shape that a config.json describes; ds_hf_read_config() (runtime/job.h) without the file.
 * -EBADMSG malformed, -ENOTSUP what is computed otherwise here, -EINVAL or -ERANGE sizes. */
int ds__hf_parse_config(const void *text, size_t len, struct ds_model_shape *shape,
                        struct ds_error *err) DS_NODISCARD;

/* config.json of a model whose weights are of type `dtype`; `tokens` may be NULL. */
int ds__hf_write_config(const struct ds_model_shape *shape, enum ds_dtype dtype,
                        const struct ds_hf_tokens *tokens, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

/* generation_config.json; empty where no token is within the vocabulary. */
int ds__hf_write_generation(const struct ds_model_shape *shape, const struct ds_hf_tokens *tokens,
                            struct ds_buf *out, struct ds_error *err) DS_NODISCARD;

/* Make the folder `path`, or take it when it is there and empty: EEXIST when it is not. */
int ds__folder_claim(const char *path, bool *made, struct ds_error *err) DS_NODISCARD;
/* Empty it again, which held nothing before, and remove it if it was made. */
void ds__folder_unclaim(const char *path, bool made);
/* A file of it; `rc` is that of making the text, which is released. */
int ds__folder_write(const char *dir, const char *name, struct ds_buf *text, int rc,
                     struct ds_error *err) DS_NODISCARD;
/* Round to BF16 in place. */
void ds__narrow(float *data, size_t n);

/* Export with files of at most `max_bytes` of data each (a larger tensor has one of its own). */
int ds__hf_export_split(const char *ckpt, const char *out_dir, enum ds_dtype dtype,
                        const struct ds_hf_tokens *tokens, const char *base, uint64_t max_bytes,
                        struct ds_error *err) DS_NODISCARD;

#endif
