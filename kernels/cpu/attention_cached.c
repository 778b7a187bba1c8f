/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention_cached.c - attention of new rows against a cache of keys and values.
 *
 * Several rows go through the tiles of attention.c.  One row, as when a text is made token by
 * token, is bound by reading the cache: a task is a piece of the keys of one key/value head and
 * does all its query heads, so that what it reads comes from memory once; then the pieces of a
 * head are added up, in their order.  A tile of keys has a key in each lane, so scores need no sum
 * across lanes.  Pieces follow from the number of keys alone, and with them the bits.
 *
 * Source  Dao et al., "Flash-Decoding for long-context inference", 2023
 */
#include "kernels/cpu/cached.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/softmax.h"

#include <math.h>

enum {
    TILE = DS_CACHE_TILE,
    VECTORS = TILE / DS_LANES, /* of a row of a tile */
    WIDE = VECTORS,            /* of an output that are summed at a time */
};

_Static_assert((int)DS_CACHE_TILE == (int)DS_CACHE_UNIT, "pieces are whole tiles");

struct one {
    const struct ds_attention_cached_args *a;
    size_t base;          /* the first row of the cache that is read, of a tile */
    size_t hidden;        /* keys from there on that the row does not see, less than a tile */
    size_t keys;          /* from there on up to the row */
    size_t piece, pieces; /* of a task, of a head */
    float *parts;         /* [heads][pieces]: struct part */
    float *own;           /* per thread: scores of a piece, then a query */
    size_t own_floats;
};

/* What a task leaves of a query head: ds__cache_part() floats. */
struct part {
    float *max, *sum, *values;
};

static struct part part_of(const struct one *o, size_t head, size_t piece)
{
    float *at = o->parts + (head * o->pieces + piece) * ds__cache_part(o->a->head_size);

    return (struct part){at, at + 1, at + 2};
}

/* --- putting rows into the cache -------------------------------------------------------------- */

/* The keys and values of one head. */
DS_INLINE void put_head(const struct ds_attention_cached_args *a, enum ds_dtype act, size_t kv)
{
    size_t size = a->head_size, ld = (a->heads + 2 * a->kv_heads) * size;

    for (size_t t = 0; t < a->seq; t++) {
        size_t row = a->first + t, key = t * ld + (a->heads + kv) * size;
        size_t tile = (kv * a->room + row / TILE * TILE) * size + row % TILE;

        for (size_t i = 0; i < size; i++) {
            ds_store_one(act, a->keys, tile + i * TILE, ds_load_one(act, a->qkv, key + i));
            ds_store_one(act, a->values, (kv * a->room + row) * size + i,
                         ds_load_one(act, a->qkv, key + a->kv_heads * size + i));
        }
    }
}

static void put_task(void *arg, size_t kv, unsigned thread)
{
    const struct ds_attention_cached_args *a = arg;

    (void)thread;
    DS_TYPED(a->act, put_head(a, T, kv));
}

/* --- one row ---------------------------------------------------------------------------------- */

/* s[TILE] = q K of a tile of keys at keys[at]. */
DS_INLINE void tile_scores(enum ds_dtype act, const float *q, size_t size, const void *keys,
                           size_t at, float *s)
{
    ds_vec sum[VECTORS] = {0};

    for (size_t i = 0; i < size; i++, at += TILE) {
        ds_vec x = ds_vec_set(q[i]);

        for (size_t v = 0; v < VECTORS; v++)
            sum[v] += x * ds_load(act, keys, at + v * DS_LANES);
    }
    for (size_t v = 0; v < VECTORS; v++)
        ds_vec_store(s + v * DS_LANES, sum[v]);
}

/* out = sum of w[k] times row k at values[at], for `n` columns of rows of `size`: at most WIDE
 * whole vectors, or less than one. */
DS_INLINE void columns(enum ds_dtype act, const float *w, size_t keys, const void *values,
                       size_t at, size_t size, size_t n, float *out)
{
    ds_vec sum[WIDE] = {0};

    for (size_t k = 0; k < keys; k++, at += size) {
        ds_vec x = ds_vec_set(w[k]);

        if (n == WIDE * DS_LANES)
            for (size_t v = 0; v < WIDE; v++)
                sum[v] += x * ds_load(act, values, at + v * DS_LANES);
        else if (n == DS_LANES)
            sum[0] += x * ds_load(act, values, at);
        else
            sum[0] += x * ds_load_part(act, values, at, n);
    }
    for (size_t v = 0; v * DS_LANES < n; v++)
        ds_store_part(DS_F32, out, v * DS_LANES, ds__min(DS_LANES, n - v * DS_LANES), sum[v]);
}

static void weigh(const struct one *o, const float *w, size_t keys, size_t at, float *out)
{
    const struct ds_attention_cached_args *a = o->a;
    size_t size = a->head_size, i = 0;

    for (; i + WIDE * DS_LANES <= size; i += WIDE * DS_LANES)
        DS_TYPED(a->act, columns(T, w, keys, a->values, at + i, size, WIDE * DS_LANES, out + i));
    for (; i + DS_LANES <= size; i += DS_LANES)
        DS_TYPED(a->act, columns(T, w, keys, a->values, at + i, size, DS_LANES, out + i));
    if (i < size)
        DS_TYPED(a->act, columns(T, w, keys, a->values, at + i, size, size - i, out + i));
}

/* A query head against `keys` keys from the base's `first` on. */
static void piece_of_head(const struct one *o, size_t head, size_t first, size_t keys, float *s)
{
    const struct ds_attention_cached_args *a = o->a;
    size_t size = a->head_size, kv = head / (a->heads / a->kv_heads);
    size_t at = (kv * a->room + o->base + first) * size, hidden = first == 0 ? o->hidden : 0;
    struct part part = part_of(o, head, first / o->piece);
    float *q = s + o->piece;

    for (size_t i = 0; i < size; i++)
        DS_TYPED(a->act, q[i] = ds_load_one(T, a->qkv, head * size + i) * a->scale);
    for (size_t k = 0; k < keys; k += TILE)
        DS_TYPED(a->act, tile_scores(T, q, size, a->keys, at + k * size, s + k));
    s += hidden;
    keys -= hidden;
    *part.max = ds__largest_of(s, keys);
    *part.sum = ds__exp_row(s, keys, 1.0f, *part.max);
    weigh(o, s, keys, at + hidden * size, part.values);
}

static void piece_task(void *arg, size_t task, unsigned thread)
{
    const struct one *o = arg;
    size_t first = task % o->pieces * o->piece, keys = ds__min(o->piece, o->keys - first);
    size_t group = o->a->heads / o->a->kv_heads, kv = task / o->pieces;

    for (size_t head = kv * group; head < (kv + 1) * group; head++)
        piece_of_head(o, head, first, keys, o->own + thread * o->own_floats);
}

/* Bring the pieces of a head to one maximum and add them up, in the place of the first. */
static void add_pieces(const struct one *o, size_t head)
{
    const struct ds_attention_cached_args *a = o->a;
    struct part all = part_of(o, head, 0);

    for (size_t piece = 1; piece < o->pieces; piece++) {
        struct part part = part_of(o, head, piece);
        float max = *part.max > *all.max ? *part.max : *all.max;
        float old = expf(*all.max - max), new = expf(*part.max - max);

        *all.max = max;
        *all.sum = *all.sum * old + *part.sum * new;
        for (size_t i = 0; i < a->head_size; i++)
            all.values[i] = all.values[i] * old + part.values[i] * new;
    }
    for (size_t i = 0; i < a->head_size; i++)
        DS_TYPED(a->act,
                 ds_store_one(T, a->out, head * a->head_size + i, all.values[i] / *all.sum));
}

static int one_row(const struct ds_attention_cached_args *a, struct ds_stream *stream,
                   struct ds_error *err)
{
    size_t low = a->window != 0 && a->first >= a->window ? a->first + 1 - a->window : 0;
    size_t keys = a->first + 1 - low / TILE * TILE;
    size_t piece = ds__cache_piece(keys), pieces = ds__div_up(keys, piece);
    struct one o = {.a = a,
                    .base = low / TILE * TILE,
                    .hidden = low % TILE,
                    .keys = keys,
                    .piece = piece,
                    .pieces = pieces,
                    .own_floats = ds__round_line(piece + a->head_size)};
    size_t need = ds__need_cached(ds__cpu_threads(stream), keys, a->heads, a->head_size);
    int rc = ds__cpu_scratch(stream, need, &o.parts, err);

    if (rc != 0)
        return rc;
    o.own = o.parts + a->heads * pieces * ds__cache_part(a->head_size);
    ds__cpu_run(stream, a->kv_heads * pieces, piece_task, &o);
    for (size_t head = 0; head < a->heads; head++)
        add_pieces(&o, head);
    return 0;
}

int DS_ISA(ds__cpu_attention_cached)(const struct ds_attention_cached_args *args,
                                     struct ds_stream *stream, struct ds_error *err)
{
    struct ds_attention_cached_args a = *args;

    ds__cpu_run(stream, a.kv_heads, put_task, &a);
    return a.seq == 1 ? one_row(&a, stream, err) : DS_ISA(ds__attention_behind)(&a, stream, err);
}
