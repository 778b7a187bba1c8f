/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * half.c - the contract is in half.h.
 *
 * Sums go block by block: sources are widened into blocks of scratch memory that stay in the
 * first-level cache, added there, and narrowed on the way out.
 */
#include "runtime/comm/half.h"

#include <stdbool.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "runtime/comm/tree.h"

typedef float vec4 __attribute__((vector_size(16)));
typedef uint32_t uvec4 __attribute__((vector_size(16)));
typedef uint16_t hvec4 __attribute__((vector_size(8)));

enum { LANES = 4, BLOCK = DS_TREE_BLOCK / 2 }; /* two blocks of scratch for each level */

static uvec4 narrowed(vec4 x)
{
    uvec4 bits = (uvec4)x, nan = (uvec4)(x != x);
    uvec4 up = bits + 0x7fffu + ((bits >> 16) & 1u);

    return ((up & ~nan) | ((bits | 0x400000u) & nan)) >> 16;
}

void ds_bf16_pack(uint16_t *out, const float *x, size_t n)
{
    vec4 v = {0};
    hvec4 half;
    size_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        memcpy(&v, x + i, sizeof(v));
        half = __builtin_convertvector(narrowed(v), hvec4);
        memcpy(out + i, &half, sizeof(half));
    }
    if (i == n)
        return;
    memcpy(&v, x + i, (n - i) * sizeof(*x));
    half = __builtin_convertvector(narrowed(v), hvec4);
    memcpy(out + i, &half, (n - i) * sizeof(*out));
}

void ds_bf16_unpack(float *out, const uint16_t *x, size_t n)
{
    hvec4 half = {0};
    uvec4 bits;
    size_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        memcpy(&half, x + i, sizeof(half));
        bits = __builtin_convertvector(half, uvec4) << 16;
        memcpy(out + i, &bits, sizeof(bits));
    }
    if (i == n)
        return;
    memcpy(&half, x + i, (n - i) * sizeof(*x));
    bits = __builtin_convertvector(half, uvec4) << 16;
    memcpy(out + i, &bits, (n - i) * sizeof(*out));
}

/* --- fp16 ------------------------------------------------------------------------------------- */

#ifdef __x86_64__
/* As kernels/cpu/ takes it: processors with AVX2 have these instructions, too. */
static bool has_words(void)
{
    return __builtin_cpu_supports("avx2");
}

__attribute__((target("avx,f16c"))) static size_t pack_words(uint16_t *out, const float *x,
                                                             size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}

__attribute__((target("avx,f16c"))) static size_t unpack_words(float *out, const uint16_t *x,
                                                               size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i,
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x + i))));
    return i;
}
#else
static bool has_words(void)
{
    return false;
}

static size_t pack_words(uint16_t *out, const float *x, size_t n)
{
    (void)out;
    (void)x;
    (void)n;
    return 0;
}

static size_t unpack_words(float *out, const uint16_t *x, size_t n)
{
    (void)out;
    (void)x;
    (void)n;
    return 0;
}
#endif

void ds_f16_pack(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = has_words() ? pack_words(out, x, n) : 0; i < n; i++)
        out[i] = ds_f16_from_f32(x[i]);
}

void ds_f16_unpack(float *out, const uint16_t *x, size_t n)
{
    for (size_t i = has_words() ? unpack_words(out, x, n) : 0; i < n; i++)
        out[i] = ds_f16_to_f32(x[i]);
}

/* --- sums ------------------------------------------------------------------------------------- */

static void pack(enum ds_dtype type, uint16_t *out, const float *x, size_t n)
{
    if (type == DS_F16)
        ds_f16_pack(out, x, n);
    else
        ds_bf16_pack(out, x, n);
}

static void unpack(enum ds_dtype type, float *out, const uint16_t *x, size_t n)
{
    if (type == DS_F16)
        ds_f16_unpack(out, x, n);
    else
        ds_bf16_unpack(out, x, n);
}

static void add(float *sum, const float *more, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += more[i];
}

/* Elements [at, at + n) of the sources, n <= BLOCK, into the first block of scratch. */
static void sum_block(enum ds_dtype type, const uint16_t *const *src, unsigned count, size_t at,
                      size_t n, float *scratch)
{
    unsigned left;

    if (count == 1) {
        unpack(type, scratch, src[0] + at, n);
        return;
    }
    left = ds__tree_left(count);
    sum_block(type, src, left, at, n, scratch);
    sum_block(type, src + left, count - left, at, n, scratch + BLOCK);
    add(scratch, scratch + BLOCK, n);
}

void ds__tree_sum_half(enum ds_dtype type, uint16_t *out, const uint16_t *const *src,
                       unsigned count, size_t n, float *scratch)
{
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t len = n - at < BLOCK ? n - at : BLOCK;

        sum_block(type, src, count, at, len, scratch);
        pack(type, out + at, scratch, len);
    }
}

void ds__tree_sum_all_half(enum ds_dtype type, uint16_t *const *vec, unsigned count, size_t n,
                           float *scratch)
{
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t len = n - at < BLOCK ? n - at : BLOCK;

        sum_block(type, (const uint16_t *const *)vec, count, at, len, scratch);
        pack(type, vec[0] + at, scratch, len);
        for (unsigned k = 1; k < count; k++)
            memcpy(vec[k] + at, vec[0] + at, len * sizeof(**vec));
    }
}

void ds__tree_run_half(enum ds_dtype type, uint16_t *out, const int *program, unsigned steps,
                       const uint16_t *const *src, size_t n, float *scratch)
{
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t len = n - at < BLOCK ? n - at : BLOCK;
        float *top = scratch;

        for (unsigned step = 0; step < steps; step++) {
            if (program[step] >= 0) {
                unpack(type, top, src[program[step]] + at, len);
                top += BLOCK;
                continue;
            }
            top -= BLOCK;
            add(top - BLOCK, top, len);
        }
        pack(type, out + at, scratch, len);
    }
}
