/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fp8.c - matrices of FP8 on processors that have no such numbers.
 *
 * Codes are those that a device makes.  For a product they become BF16, scale and all, which is
 * exact: a power of two moves no mantissa, and BF16 has more bits and more exponents.  What is left
 * is the product that bf16 has, its sums in F32.
 */
#include "kernels/cpu/fp8.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <stdatomic.h>

enum { TILE = 64, SPAN = 1 << 14 };

struct search {
    const struct ds_largest_args *a;
    _Atomic uint32_t largest;
};

struct cast {
    const struct ds_fp8_cast_args *a;
    float factor;
};

/* Magnitudes are ordered as their bits are. */
DS_INLINE uint32_t largest_of(enum ds_dtype type, const void *x, size_t i, size_t end)
{
    uint32_t largest = 0;
    ds_ivec most = {0};

    for (; i + DS_LANES <= end; i += DS_LANES) {
        ds_ivec bits = (ds_ivec)ds_load(type, x, i) & 0x7fffffff;

        most = (ds_ivec)ds_vec_pick(bits > most, (ds_vec)bits, (ds_vec)most);
    }
    for (size_t j = 0; j < DS_LANES; j++)
        largest = (uint32_t)most[j] > largest ? (uint32_t)most[j] : largest;
    for (; i < end; i++) {
        uint32_t bits = ds_fp8_bits(ds_load_one(type, x, i)) & 0x7fffffffu;

        largest = bits > largest ? bits : largest;
    }
    return largest;
}

static void largest_task(void *arg, size_t task, unsigned thread)
{
    struct search *s = arg;
    size_t begin = task * SPAN, end = ds__min(begin + SPAN, s->a->n);
    uint32_t largest = 0, seen = atomic_load_explicit(&s->largest, memory_order_relaxed);

    (void)thread;
    DS_TYPED(s->a->act, largest = largest_of(T, s->a->x, begin, end));
    while (largest > seen && !atomic_compare_exchange_weak(&s->largest, &seen, largest))
        ;
}

int DS_ISA(ds__cpu_largest)(const struct ds_largest_args *args, struct ds_stream *stream,
                            struct ds_error *err)
{
    struct search search = {.a = args};

    (void)err;
    ds__cpu_run(stream, ds__div_up(args->n, SPAN), largest_task, &search);
    *args->largest = atomic_load(&search.largest);
    return 0;
}

DS_INLINE void codes_of(enum ds_dtype act, enum ds_fp8 type, const void *x, size_t at, size_t n,
                        float factor, uint8_t *to)
{
    float value[TILE];

    for (size_t i = 0; i < n; i += DS_LANES) /* n is a multiple of 16 */
        ds_vec_store(value + i, ds_load(act, x, at + i));
    for (size_t i = 0; i < n; i++)
        to[i] = ds_fp8_from_f32(type, value[i] * factor);
}

/* A tile of at most TILE rows and columns. */
DS_INLINE void cast_tile(const struct cast *c, enum ds_dtype act, enum ds_fp8 type, size_t r0,
                         size_t c0)
{
    const struct ds_fp8_cast_args *a = c->a;
    size_t rows = ds__min(TILE, a->rows - r0), cols = ds__min(TILE, a->cols - c0);
    uint8_t tile[TILE][TILE];

    for (size_t r = 0; r < rows; r++) {
        size_t at = (r0 + r) * a->cols + c0;

        codes_of(act, type, a->x, at, cols, c->factor, tile[r]);
        if (a->codes != NULL)
            memcpy(a->codes + at, tile[r], cols);
    }
    for (size_t j = 0; a->turned != NULL && j < cols; j++) {
        uint8_t *to = a->turned + (c0 + j) * a->rows + r0;

        for (size_t r = 0; r < rows; r++)
            to[r] = tile[r][j];
    }
}

static void cast_task(void *arg, size_t task, unsigned thread)
{
    const struct cast *c = arg;
    size_t across = ds__div_up(c->a->cols, TILE);
    size_t r0 = task / across * TILE, c0 = task % across * TILE;

    (void)thread;
    if (c->a->type == DS_E4M3)
        DS_TYPED(c->a->act, cast_tile(c, T, DS_E4M3, r0, c0));
    else
        DS_TYPED(c->a->act, cast_tile(c, T, DS_E5M2, r0, c0));
}

int DS_ISA(ds__cpu_fp8_cast)(const struct ds_fp8_cast_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct cast c = {.a = args, .factor = ds_fp8_factor(args->type, *args->largest)};
    size_t tiles = ds__div_up(args->rows, TILE) * ds__div_up(args->cols, TILE);

    (void)err;
    *args->scale = ds_fp8_scale(c.factor, *args->largest);
    ds__cpu_run(stream, tiles, cast_task, &c);
    return 0;
}

/* --- products ----------------------------------------------------------------------------------*/

struct widening {
    enum ds_fp8 type;
    const uint8_t *codes;
    float scale;
    size_t n; /* a multiple of 16 */
    ds_bf16 *to;
};

DS_INLINE void widen(const struct widening *w, enum ds_fp8 type, size_t begin, size_t end)
{
    float value[TILE];

    for (size_t at = begin; at < end; at += TILE) {
        size_t n = ds__min(TILE, end - at);

        for (size_t i = 0; i < n; i++)
            value[i] = ds_fp8_to_f32(type, w->codes[at + i]) * w->scale;
        for (size_t i = 0; i < n; i += DS_LANES)
            ds_store(DS_BF16, w->to, at + i, ds_vec_load(value + i));
    }
}

static void widen_task(void *arg, size_t task, unsigned thread)
{
    const struct widening *w = arg;
    size_t begin = task * SPAN, end = ds__min(begin + SPAN, w->n);

    (void)thread;
    if (w->type == DS_E4M3)
        widen(w, DS_E4M3, begin, end);
    else
        widen(w, DS_E5M2, begin, end);
}

int DS_ISA(ds__cpu_fp8_matmul)(const struct ds_matmul_args *args, struct ds_stream *stream,
                               struct ds_error *err)
{
    unsigned threads = ds__cpu_threads(stream);
    size_t a_elems = args->m * args->k, b_elems = args->n * args->k;
    struct ds_matmul_args product = *args;
    char *scratch = NULL;
    int rc = ds__cpu_scratch(stream, ds__need_fp8(threads, a_elems + b_elems), &scratch, err);

    if (rc != 0)
        return rc;
    ds_bf16 *wide = (ds_bf16 *)(void *)(scratch + ds__need_matmul(threads, true));
    struct widening w[2] = {
        {args->fp8.a_type, args->a, *args->fp8.a_scale, a_elems, wide},
        {args->fp8.b_type, args->b, *args->fp8.b_scale, b_elems, wide + a_elems},
    };

    for (size_t i = 0; i < 2; i++)
        ds__cpu_run(stream, ds__div_up(w[i].n, SPAN), widen_task, &w[i]);
    product.in_type = DS_BF16;
    product.a = w[0].to;
    product.b = w[1].to;
    return DS_ISA(ds__cpu_matmul)(&product, stream, err);
}
