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

typedef uint16_t ds_f16; /* the bits; IEEE half */

static inline float ds_f16_to_f32(ds_f16 bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, rest = bits & 0x7fffu, word;
    float value;

    if (rest < 0x400u) { /* subnormal: a multiple of 2^-24 */
        value = (float)rest * 0x1p-24f;
        memcpy(&word, &value, sizeof(word));
    } else {
        word = (rest << 13) + 0x38000000u;
        if (rest >= 0x7c00u) /* infinite or NaN, which becomes a quiet one */
            word += 0x38000000u | (rest > 0x7c00u ? 0x400000u & ~word : 0u);
    }
    word |= sign;
    memcpy(&value, &word, sizeof(value));
    return value;
}

/* Round to nearest, ties to even; from 65520 on it is infinite; NaN stays NaN. */
static inline ds_f16 ds_f16_from_f32(float value)
{
    uint32_t word, sign;
    float small;

    memcpy(&word, &value, sizeof(word));
    sign = word >> 16 & 0x8000u;
    word &= 0x7fffffffu;
    if (word > 0x7f800000u)
        return (ds_f16)(sign | 0x7e00u | (word >> 13 & 0x3ffu));
    if (word >= 0x47800000u)
        return (ds_f16)(sign | 0x7c00u);
    if (word < 0x38800000u) { /* the last bit of 0.5 + x is 2^-24 */
        memcpy(&small, &word, sizeof(small));
        small += 0.5f;
        memcpy(&word, &small, sizeof(word));
        return (ds_f16)(sign | (word - 0x3f000000u));
    }
    word += 0xfffu + (word >> 13 & 1u);
    return (ds_f16)(sign | (word - 0x38000000u) >> 13);
}

#endif
