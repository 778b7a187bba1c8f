/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * part.h - one safetensors file being written: header first, then tensor after tensor, hashed on
 * the way and noted in a manifest.
 *
 * Tests   tests/ckpt/test_save.c
 */
#ifndef DS_RUNTIME_PART_H
#define DS_RUNTIME_PART_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/manifest.h"
#include "runtime/ckpt/safetensors.h"

struct ds__part {
    int fd; /* -1: closed */
    char path[DS_MAX_PATH];
    struct ds_manifest *manifest; /* borrowed, or NULL */
    uint64_t data_at;             /* where in the file the data starts */
};

/* What a file's entry is when it is not the whole of a tensor of its name. */
struct ds__piece {
    const char *name; /* of the tensor */
    unsigned ndim;
    const uint64_t *shape;
    struct ds_ckpt_view view; /* of it, in its shortest form */
    uint64_t elems;           /* of the view */
    uint64_t first;           /* element of it that the entry starts with */
};

/* Room in the manifest for what parts will note there; sums are of DS_CKPT_BLOCK_BYTES. */
int ds__manifest_reserve(struct ds_manifest *manifest, size_t files, size_t tensors,
                         struct ds_error *err) DS_NODISCARD;

/* Create the new file `name` in `dir`, write its header and note it in `manifest` (may be NULL).
 * `tensors` as ds_safetensors_build() takes them; their begin and end are then known, and they and
 * their names must outlive the manifest.  On failure nothing is left open. */
int ds__part_create(struct ds__part *part, const char *dir, const char *name,
                    struct ds_safetensor *tensors, size_t count, struct ds_manifest *manifest,
                    struct ds_error *err) DS_NODISCARD;

/* Bytes to write: in memory, or where `line` is given at `at` of that. */
struct ds__source {
    const void *data;
    const struct ds_ckpt_line *line;
    uint64_t at;
};

/* Write the whole of one entry and note it; `piece` NULL: as the tensor that it says it is. */
int ds__part_write(struct ds__part *part, const struct ds_safetensor *entry,
                   const struct ds__piece *piece, struct ds__source source, struct ds_error *err)
    DS_NODISCARD;

/* Make what was written durable and close; `rc` is the outcome so far and wins over errors here. */
int ds__part_close(struct ds__part *part, int rc, struct ds_error *err) DS_NODISCARD;

#endif
