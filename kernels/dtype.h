/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * dtype.h - element types, their names (safetensors spelling) and sizes.
 */
#ifndef DS_KERNELS_DTYPE_H
#define DS_KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* clang-format off */
#define DS_DTYPES(X) \
    X(F32,  "F32",  4) \
    X(BF16, "BF16", 2) \
    X(F16,  "F16",  2) \
    X(I32,  "I32",  4) \
    X(I64,  "I64",  8) \
    X(U8,   "U8",   1) \
    X(U16,  "U16",  2)
/* clang-format on */

enum ds_dtype {
#define X(id, name, bytes) DS_##id,
    DS_DTYPES(X)
#undef X
        DS_DTYPE_COUNT
};

/* "F32", ... */
const char *ds_dtype_name(enum ds_dtype dtype);
size_t ds_dtype_bytes(enum ds_dtype dtype);
/* The type of that name, or -1. */
int ds_dtype_parse(const char *name);

typedef uint16_t ds_bf16; /* the bits; upper half of an IEEE single */

static inline float ds_bf16_to_f32(ds_bf16 bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof(value));
    return value;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline ds_bf16 ds_bf16_from_f32(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof(word));
    if ((word & 0x7fffffffu) > 0x7f800000u)
        return (ds_bf16)((word >> 16) | 0x40u);
    word += 0x7fffu + ((word >> 16) & 1u);
    return (ds_bf16)(word >> 16);
}

#endif
