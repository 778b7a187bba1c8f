/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * safetensors.h - the header of a safetensors file: read with suspicion, written in order.
 *
 *   u64 length, little-endian | length bytes of JSON | data
 *   {"__metadata__": {...},
 *    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
 *
 * Offsets count bytes from the start of the data.  The tensors must tile the data: no hole, no
 * overlap, nothing behind the last one.  Parsing looks at nothing but the bytes it is given, so it
 * serves mapped files, descriptors and a fuzzer alike.
 *
 * Units   *_bytes and offsets count bytes, elems counts elements.
 * Source  github.com/huggingface/safetensors, README "Format" and safetensors/src/tensor.rs.
 * Tests   tests/ckpt/test_safetensors.c, tests/fuzz/fuzz_safetensors.c
 */
#ifndef DS_RUNTIME_SAFETENSORS_H
#define DS_RUNTIME_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"
#include "kernels/dtype.h"

struct ds_safetensor {
    const char *name;
    const char *dtype_name; /* as the file spells it */
    int dtype;              /* enum ds_dtype, or -1: a type that nothing here reads */
    unsigned ndim;          /* 0: a scalar */
    uint64_t shape[DS_MAX_TENSOR_DIMS];
    uint64_t elems;
    uint64_t begin, end; /* bytes of the data, end excluded */
};

struct ds_safetensors {
    struct ds_arena arena;        /* owns everything below */
    struct ds_safetensor *tensor; /* sorted by name, names distinct */
    size_t count;
    uint64_t data_at; /* where in the file the data starts */
    uint64_t data_bytes;
};

/* Parse the first `len` bytes of a file of `file_len` bytes (len <= file_len); they must hold the
 * whole header.  Returns 0; or -EBADMSG, -ENOMEM with `st` released and `err` saying what is wrong,
 * without the file's name, which the caller adds. */
int ds_safetensors_parse(struct ds_safetensors *st, const void *bytes, size_t len,
                         uint64_t file_len, struct ds_error *err) DS_NODISCARD;

/* Read and parse the header of an open regular file.  Errors as above, and those of reading. */
int ds_safetensors_read(struct ds_safetensors *st, int fd, struct ds_error *err) DS_NODISCARD;

/* Free the table.  A zeroed struct is fine. */
void ds_safetensors_release(struct ds_safetensors *st);

/* The tensor of that name, or NULL.  Borrowed from `st`. */
const struct ds_safetensor *ds_safetensors_find(const struct ds_safetensors *st, const char *name);

/* The same for a tensor that must be there, of a type of kernels/dtype.h: else -EBADMSG when it is
 * missing, -ENOTSUP when its type is not read here. */
int ds_safetensors_get(const struct ds_safetensors *st, const char *name,
                       const struct ds_safetensor **out, struct ds_error *err) DS_NODISCARD;

/* Put `tensors` (name, dtype, ndim and shape set) in file order, which is element size downwards,
 * then name, fill elems, begin, end and dtype_name, and write the header with its length in front
 * to `out`.  The header is padded with spaces, so that the data starts at a multiple of 8.
 * `format` goes to __metadata__ as {"format": ...}; NULL: no metadata.
 * Errors  EINVAL two tensors of one name; EOVERFLOW; ENOBUFS, ENOMEM from `out`. */
int ds_safetensors_build(struct ds_safetensor *tensors, size_t count, const char *format,
                         struct ds_buf *out, struct ds_error *err) DS_NODISCARD;

/* Elements of a shape; false when the product does not fit in 64 bits. */
bool ds_shape_elems(const uint64_t *shape, unsigned ndim, uint64_t *elems);

/* "[2, 3]" for a message; at most DS_MAX_TENSOR_DIMS dimensions.  Returns out. */
enum { DS_SHAPE_TEXT = DS_MAX_TENSOR_DIMS * 22 + 3 };
const char *ds_shape_text(const uint64_t *shape, unsigned ndim, char out[DS_SHAPE_TEXT]);

#endif
