/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * vec.h - vectors of the instruction set a file is compiled for.
 *
 * GCC and clang vector extensions, so that one source serves SSE2, AVX2,
 * AVX-512 and others.  A ds_vec holds DS_LANES floats.  Loads and stores take
 * the element type, which callers pass as a constant; they are inlined to one
 * or two instructions.  Memory need not be aligned.
 *
 * Source  exp: Cephes expf (range reduction by ln 2 in two parts, polynomial of degree 5)
 */
#ifndef DS_KERNELS_CPU_VEC_H
#define DS_KERNELS_CPU_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define DS_LANES 16
#elif defined(__AVX2__)
#define DS_LANES 8
#else
#define DS_LANES 4
#endif

/* For arrays that live in registers: hardened builds fill every other one with zeros. */
#if defined(__has_attribute)
#if __has_attribute(uninitialized)
#define DS_UNINITIALIZED __attribute__((uninitialized))
#endif
#endif
#ifndef DS_UNINITIALIZED
#define DS_UNINITIALIZED
#endif

#define DS_INLINE static inline __attribute__((always_inline))

/* clang-format off */
typedef float    ds_vec  __attribute__((vector_size(4 * DS_LANES)));
typedef int32_t  ds_ivec __attribute__((vector_size(4 * DS_LANES)));
typedef uint32_t ds_uvec __attribute__((vector_size(4 * DS_LANES)));
typedef uint16_t ds_hvec __attribute__((vector_size(2 * DS_LANES)));
typedef float    ds_half_vec __attribute__((vector_size(2 * DS_LANES)));
typedef double   ds_wide     __attribute__((vector_size(4 * DS_LANES)));
/* clang-format on */

/* Lanes of one half (0 or 1) in double. */
DS_INLINE ds_wide ds_vec_wide(ds_vec x, size_t half)
{
    ds_half_vec part;

    memcpy(&part, (const char *)&x + half * sizeof(part), sizeof(part));
    return __builtin_convertvector(part, ds_wide);
}

DS_INLINE ds_vec ds_vec_set(float x)
{
    return x - (ds_vec){0};
}

DS_INLINE ds_vec ds_vec_load(const float *p)
{
    ds_vec x;
    memcpy(&x, p, sizeof(x));
    return x;
}

DS_INLINE void ds_vec_store(float *p, ds_vec x)
{
    memcpy(p, &x, sizeof(x));
}

DS_INLINE ds_vec ds_vec_from_bits(ds_uvec bits)
{
    return (ds_vec)bits;
}

/* What compilers do not find by themselves, in the machine's own words; else plain vectors. */
#if defined(__AVX512F__)
#define DS_WIDEN(half)   ((ds_vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)(half)), 16))
#define DS_UPPER(bits)   ((ds_hvec)_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)(bits), 16)))
#define DS_MIN(x, limit) ((ds_vec)_mm512_min_ps((__m512)(limit), (__m512)(x)))
#define DS_MAX(x, limit) ((ds_vec)_mm512_max_ps((__m512)(limit), (__m512)(x)))
#define DS_SQRT(x)       ((ds_vec)_mm512_sqrt_ps((__m512)(x)))
#elif defined(__AVX2__)
#define DS_WIDEN(half)   ((ds_vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)(half)), 16))
#define DS_MIN(x, limit) ((ds_vec)_mm256_min_ps((__m256)(limit), (__m256)(x)))
#define DS_MAX(x, limit) ((ds_vec)_mm256_max_ps((__m256)(limit), (__m256)(x)))
#define DS_SQRT(x)       ((ds_vec)_mm256_sqrt_ps((__m256)(x)))
#elif defined(__SSE2__)
#define DS_MIN(x, limit) ((ds_vec)_mm_min_ps((__m128)(limit), (__m128)(x)))
#define DS_MAX(x, limit) ((ds_vec)_mm_max_ps((__m128)(limit), (__m128)(x)))
#define DS_SQRT(x)       ((ds_vec)_mm_sqrt_ps((__m128)(x)))
#endif

DS_INLINE ds_vec ds_vec_widen(ds_hvec half)
{
#ifdef DS_WIDEN
    return DS_WIDEN(half);
#else
    return (ds_vec)(__builtin_convertvector(half, ds_uvec) << 16);
#endif
}

/* The upper halves. */
DS_INLINE ds_hvec ds_vec_upper(ds_uvec bits)
{
#if defined(__AVX512F__)
    return DS_UPPER(bits);
#elif defined(__AVX2__)
    __m256i upper = _mm256_srai_epi32((__m256i)bits, 16);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(upper, upper), 0x08);

    return (ds_hvec)_mm256_castsi256_si128(packed);
#else
    return __builtin_convertvector(bits >> 16, ds_hvec);
#endif
}

/* Round to nearest even; a NaN stays one. */
DS_INLINE ds_hvec ds_vec_narrow(ds_vec x)
{
    ds_uvec bits = (ds_uvec)x;
    ds_uvec up = bits + 0x7fffu + ((bits >> 16) & 1u);
    ds_uvec nan = (ds_uvec)(x != x);

    up = (up & ~nan) | ((bits | 0x400000u) & nan);
    return ds_vec_upper(up);
}

/* IEEE halves; in the machine's words where it has them. */
DS_INLINE ds_vec ds_vec_from_f16(ds_hvec half)
{
#if defined(__AVX512F__)
    return (ds_vec)_mm512_cvtph_ps((__m256i)half);
#elif defined(__F16C__)
    return (ds_vec)_mm256_cvtph_ps((__m128i)half);
#else
    ds_vec x = {0};

    for (size_t i = 0; i < DS_LANES; i++)
        x[i] = ds_f16_to_f32(half[i]);
    return x;
#endif
}

DS_INLINE ds_hvec ds_vec_to_f16(ds_vec x)
{
#if defined(__AVX512F__)
    return (ds_hvec)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
    return (ds_hvec)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
    ds_hvec half = {0};

    for (size_t i = 0; i < DS_LANES; i++)
        half[i] = ds_f16_from_f32(x[i]);
    return half;
#endif
}

/* One element. */
DS_INLINE float ds_load_one(enum ds_dtype type, const void *base, size_t at)
{
    switch (type) {
    case DS_F32: return ((const float *)base)[at];
    case DS_BF16: return ds_bf16_to_f32(((const ds_bf16 *)base)[at]);
    default: return ds_f16_to_f32(((const ds_f16 *)base)[at]);
    }
}

DS_INLINE void ds_store_one(enum ds_dtype type, void *base, size_t at, float x)
{
    switch (type) {
    case DS_F32: ((float *)base)[at] = x; break;
    case DS_BF16: ((ds_bf16 *)base)[at] = ds_bf16_from_f32(x); break;
    default: ((ds_f16 *)base)[at] = ds_f16_from_f32(x); break;
    }
}

/* Run the statement with the constant T for `type`, one of the three that kernels compute with. */
#define DS_TYPED(type, ...)                                                                        \
    do {                                                                                           \
        if ((type) == DS_F32) {                                                                    \
            const enum ds_dtype T = DS_F32;                                                        \
            __VA_ARGS__;                                                                           \
        } else if ((type) == DS_BF16) {                                                            \
            const enum ds_dtype T = DS_BF16;                                                       \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            const enum ds_dtype T = DS_F16;                                                        \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

/* DS_LANES elements of `type` at base[at]. */
DS_INLINE ds_vec ds_load(enum ds_dtype type, const void *base, size_t at)
{
    ds_hvec half;

    if (type == DS_F32)
        return ds_vec_load((const float *)base + at);
    memcpy(&half, (const uint16_t *)base + at, sizeof(half));
    return type == DS_BF16 ? ds_vec_widen(half) : ds_vec_from_f16(half);
}

DS_INLINE void ds_store(enum ds_dtype type, void *base, size_t at, ds_vec x)
{
    ds_hvec half;

    if (type == DS_F32) {
        ds_vec_store((float *)base + at, x);
        return;
    }
    half = type == DS_BF16 ? ds_vec_narrow(x) : ds_vec_to_f16(x);
    memcpy((uint16_t *)base + at, &half, sizeof(half));
}

/* The first `n` < DS_LANES elements; the other lanes are 0. */
DS_INLINE ds_vec ds_load_part(enum ds_dtype type, const void *base, size_t at, size_t n)
{
    ds_vec x = {0};

    for (size_t i = 0; i < n; i++)
        x[i] = ds_load_one(type, base, at + i);
    return x;
}

DS_INLINE void ds_store_part(enum ds_dtype type, void *base, size_t at, size_t n, ds_vec x)
{
    for (size_t i = 0; i < n; i++)
        ds_store_one(type, base, at + i, x[i]);
}

/* Lanes of `yes` where mask is all ones, of `no` where it is 0. */
DS_INLINE ds_vec ds_vec_pick(ds_ivec mask, ds_vec yes, ds_vec no)
{
    return (ds_vec)(((ds_ivec)yes & mask) | ((ds_ivec)no & ~mask));
}

/* NaN in x comes through. */
DS_INLINE ds_vec ds_vec_min(ds_vec x, ds_vec limit)
{
#ifdef DS_MIN
    return DS_MIN(x, limit);
#else
    return ds_vec_pick(x > limit, limit, x);
#endif
}

DS_INLINE ds_vec ds_vec_max(ds_vec x, ds_vec limit)
{
#ifdef DS_MAX
    return DS_MAX(x, limit);
#else
    return ds_vec_pick(x < limit, limit, x);
#endif
}

DS_INLINE ds_vec ds_vec_sqrt(ds_vec x)
{
#ifdef DS_SQRT
    return DS_SQRT(x);
#else
    for (size_t i = 0; i < DS_LANES; i++)
        x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

/* Sum of the lanes, always in the same order. */
DS_INLINE float ds_vec_sum(ds_vec x)
{
    float lane[DS_LANES];

    ds_vec_store(lane, x);
    for (size_t half = DS_LANES / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++)
            lane[i] += lane[i + half];
    }
    return lane[0];
}

DS_INLINE float ds_vec_largest(ds_vec x)
{
    float largest = x[0];

    for (size_t i = 1; i < DS_LANES; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* exp within 2 ulp; below -87.3 it is 0, above 88.7 infinite, NaN stays. */
DS_INLINE ds_vec ds_vec_exp(ds_vec x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    ds_vec t, n, r, p;
    ds_uvec scale;
    ds_ivec keep = ~(x < -87.33654f);

    x = ds_vec_max(ds_vec_min(x, ds_vec_set(89.0f)), ds_vec_set(-87.33654f));
    t = x * 1.44269504f + magic;
    n = t - magic;
    r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    scale = ((ds_uvec)t << 23) + 0x3f800000u;
    return (ds_vec)((ds_ivec)(p * (ds_vec)scale) & keep);
}

/* 1 / (1 + exp(-x)), and the complement without cancellation. */
struct ds_sigmoid {
    ds_vec value, complement;
};

DS_INLINE struct ds_sigmoid ds_vec_sigmoid(ds_vec x)
{
    ds_vec e = ds_vec_exp(ds_vec_min(-x, ds_vec_set(80.0f)));
    ds_vec value = 1.0f / (1.0f + e);

    return (struct ds_sigmoid){.value = value, .complement = e * value};
}

#endif
