/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * part.h - one safetensors file being written: header first, then tensor after tensor, hashed on
 * the way.
 *
 * Tests   tests/ckpt/test_save.c
 */
#ifndef DS_RUNTIME_PART_H
#define DS_RUNTIME_PART_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "runtime/ckpt/safetensors.h"

struct ds__part {
    int fd; /* -1: closed */
    char path[DS_MAX_PATH];
    uint64_t header_bytes, header_xxh3;
    uint64_t bytes; /* of the whole file */
};

/* Create the new file `name` in `dir` and write its header.  `tensors` as ds_safetensors_build()
 * takes them; their begin and end are then known.  On failure nothing is left open. */
int ds__part_create(struct ds__part *part, const char *dir, const char *name,
                    struct ds_safetensor *tensors, size_t count, const char *format,
                    struct ds_error *err) DS_NODISCARD;

/* Write the whole of one tensor; *xxh3 becomes the XXH3-64 of its bytes. */
int ds__part_write(struct ds__part *part, const struct ds_safetensor *tensor, const void *data,
                   uint64_t *xxh3, struct ds_error *err) DS_NODISCARD;

/* Make what was written durable and close; `rc` is the outcome so far and wins over errors here. */
int ds__part_close(struct ds__part *part, int rc, struct ds_error *err) DS_NODISCARD;

#endif
