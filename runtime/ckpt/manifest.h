/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * manifest.h - which bytes of which file are which elements of which tensor, and what they sum to.
 *
 *   {"format":"dsrun-checkpoint","version":2,"block_bytes":262144
 *   ,"state":{"step":100,"samples":3200,"tokens":819200,"skipped":0,"seed":"1",
 *             "job_digest":"91c3…","world":2,"stage":1,"shard_ranks":2,"tensor_ranks":1,
 *             "sequence_ranks":1,"pipeline_ranks":1,"expert_ranks":1,
 *             "scalars":{"loss_scale":65536}}
 *   ,"model":{"arch":"gpt2","layers":4,"hidden":128, …}
 *   ,"base":{"path":"/models/llama","digest":"77aa…","frozen":"03bc…"}
 *   ,"files":[{"name":"weights-00001-of-00002.safetensors","bytes":2048,"header_bytes":512,
 *              "header_xxh3":"5f0e…"}, …]
 *   ,"tensors":[{"name":"transformer.wte.weight","dtype":"F32","shape":[256,128],
 *                "ranges":[{"file":0,"offset":512,"bytes":1536,"begin":0,"xxh3":"77aa…"}, …]}, …]
 *   ,"xxh3":"0c24…"}
 *
 * `begin` is the first element of a range, in row-major order; the ranges of a tensor tile it in
 * order, and the header and the ranges of a file fill it.  A range's sums are those of its blocks
 * of `block_bytes` bytes, the last one shorter, written one behind the other.  Version 1 has no
 * blocks: one sum is over the whole range.
 *
 * A tensor whose columns were divided has, where others have "ranges", its views:
 *
 *    "views":[{"columns":[[0,64],[128,192]],"ranges":[…]},{"columns":[[64,128],[192,384]], …}]
 *
 * Each is some runs of columns, first to end, in their shortest form; the views are in the order of
 * their first columns, disjoint, and together all columns.  Ranges tile the matrix that a view's
 * columns make, `begin` counts its elements.  Only a manifest with views has version 3.
 *
 * "base" is there where tensors are left out: they are those of that folder.  Then the version is
 * 4, and the model may have "lora":{"rank":8,"alpha":16,"targets":["self_attn.q_proj", …]}, with
 * "dropout" and "rslora" where there was some.
 *
 * The part of one rank, "dsrun-checkpoint-part", is the same, but its ranges follow each other with
 * gaps, and columns may be in no view: it knows only of what it wrote.
 *
 * The last line is the seal: the XXH3-64 of every byte before it.  64-bit numbers that JSON readers
 * may round stand as strings (the seed decimal, sums and digests as 16 hexadecimal digits).
 *
 * Owner   everything a manifest points to lives in its arena.
 * Errors  EBADMSG damaged or not a manifest, ENOTSUP a later version.
 * Tests   tests/ckpt/test_manifest.c, tests/fuzz/fuzz_safetensors.c
 */
#ifndef DS_RUNTIME_MANIFEST_H
#define DS_RUNTIME_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"
#include "kernels/dtype.h"
#include "runtime/ckpt/ckpt.h"

enum { DS_MANIFEST_VERSION = 4, DS_MAX_FILE_NAME = 255 };
#define DS_MANIFEST_NAME "manifest.json"

struct ds_manifest_file {
    const char *name; /* a plain name in the checkpoint's folder */
    uint64_t bytes;   /* of the whole file */
    uint64_t header_bytes, header_xxh3;
};

struct ds_manifest_range {
    size_t file; /* index in the manifest's files */
    uint64_t offset, bytes;
    uint64_t begin_elem;
    uint64_t *xxh3; /* [ds_manifest_sums()] */
};

struct ds_manifest_view {
    struct ds_ckpt_view columns; /* in its shortest form; runs 0: all, and the only view */
    uint64_t elems;
    struct ds_manifest_range *range; /* in order of begin_elem */
    size_t ranges;
};

struct ds_manifest_tensor {
    const char *name;
    enum ds_dtype dtype;
    unsigned ndim;
    uint64_t shape[DS_MAX_TENSOR_DIMS];
    uint64_t elems;
    struct ds_manifest_view *view; /* in order of their first columns */
    size_t views;                  /* >= 1 */
};

struct ds_manifest {
    struct ds_arena arena;
    bool part;            /* of one rank, still to be joined with the others */
    uint64_t block_bytes; /* 0: one sum per range (version 1) */
    struct ds_ckpt_state state;
    struct ds_manifest_file *file;
    size_t files;
    struct ds_manifest_tensor *tensor; /* sorted by name, names distinct */
    size_t tensors;
};

void ds_manifest_init(struct ds_manifest *manifest);
void ds_manifest_release(struct ds_manifest *manifest); /* a zeroed one is fine */

/* Parse a manifest's bytes; all that can be known without the files is checked.  On failure the
 * manifest is released and `err` says what is wrong, without the path. */
int ds_manifest_parse(struct ds_manifest *manifest, const void *bytes, size_t len,
                      struct ds_error *err) DS_NODISCARD;

/* Read and parse a file; the text names the path.  -ENOENT when it is missing. */
int ds_manifest_load(struct ds_manifest *manifest, const char *path, struct ds_error *err)
    DS_NODISCARD;

/* Write the manifest, sealed, to `out`, which is empty.  The tensors are sorted by name first,
 * which is why it is not const; two of one name are EINVAL. */
int ds_manifest_write(struct ds_manifest *manifest, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

/* How many sums a range of `bytes` bytes has. */
uint64_t ds_manifest_sums(const struct ds_manifest *manifest, uint64_t bytes);

/* Bring pieces together: entries of one name become one tensor, those of the same columns one view
 * with its ranges in order.  In a whole manifest the views must then be all columns, and the ranges
 * tile each (EINVAL). */
int ds_manifest_join(struct ds_manifest *manifest, struct ds_error *err) DS_NODISCARD;

/* Append the seal to an unsealed manifest (for tests and fuzzers). */
int ds_manifest_seal(struct ds_buf *out, struct ds_error *err) DS_NODISCARD;

/* The tensor of that name, or NULL.  Borrowed. */
const struct ds_manifest_tensor *ds_manifest_find(const struct ds_manifest *manifest,
                                                  const char *name);

/* Is this a name that may be opened in a checkpoint's folder: no slash, no leading dot, bounded? */
bool ds_plain_file_name(const char *name);

#endif
