/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_attention_cached.c - attention against a cache: any way of giving the rows of a sequence, in
 * pieces or one by one, comes to the T x T form in double, and leaves alone what is behind them.
 */
#include "tests/kernels/harness.h"

struct cached {
    size_t rows, room, heads, kv_heads, size, ld;
    size_t piece;  /* rows at a time */
    size_t window; /* or 0 */
    enum ds_dtype act;
    double scale;
    struct nums qkv;
    double *want, *want_keys, *want_values;
};

static const double *row_of(const struct cached *x, size_t t, int part, size_t head)
{
    size_t first = part == 0 ? 0 : part == 1 ? x->heads : x->heads + x->kv_heads;

    return x->qkv.d + t * x->ld + (first + head) * x->size;
}

static void reference_row(const struct cached *x, size_t t, size_t h, double *p)
{
    size_t kv = h / (x->heads / x->kv_heads);
    double *out = x->want + (t * x->heads + h) * x->size, max = (double)-INFINITY, sum = 0.0;
    size_t low = x->window != 0 && t >= x->window ? t + 1 - x->window : 0;

    for (size_t s = low; s <= t; s++) {
        const double *q = row_of(x, t, 0, h), *key = row_of(x, s, 1, kv);

        p[s] = 0.0;
        for (size_t i = 0; i < x->size; i++)
            p[s] += x->scale * q[i] * key[i];
        max = fmax(max, p[s]);
    }
    for (size_t s = low; s <= t; s++) {
        p[s] = exp(p[s] - max);
        sum += p[s];
    }
    for (size_t s = low; s <= t; s++) {
        const double *value = row_of(x, s, 2, kv);

        for (size_t i = 0; i < x->size; i++)
            out[i] += p[s] / sum * value[i];
    }
}

/* What the cache holds in the end; behind the last row, what it held before: `blank`. */
static void reference_cache(const struct cached *x, const struct nums *blank)
{
    memcpy(x->want_keys, blank->d, blank->n * sizeof(double));
    memcpy(x->want_values, blank->d, blank->n * sizeof(double));
    for (size_t t = 0; t < x->rows; t++) {
        size_t tile = t / DS_CACHE_TILE * DS_CACHE_TILE;

        for (size_t i = 0; i < x->kv_heads * x->size; i++) {
            size_t kv = i / x->size, column = i % x->size;

            x->want_keys[(kv * x->room + tile) * x->size + column * DS_CACHE_TILE + t - tile] =
                row_of(x, t, 1, kv)[column];
            x->want_values[(kv * x->room + t) * x->size + column] = row_of(x, t, 2, kv)[column];
        }
    }
}

static int run(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    const struct cached *x = ctx;
    size_t bytes = ds_dtype_bytes(x->act);
    int rc = 0;

    for (size_t t = 0; rc == 0 && t < x->rows; t += x->piece) {
        const struct ds_attention_cached_args args = {
            .seq = x->rows - t < x->piece ? x->rows - t : x->piece,
            .first = t,
            .room = x->room,
            .window = x->window,
            .heads = x->heads,
            .kv_heads = x->kv_heads,
            .head_size = x->size,
            .act = x->act,
            .scale = (float)x->scale,
            .qkv = x->qkv.data + t * x->ld * bytes,
            .keys = out[1],
            .values = out[2],
            .out = (char *)out[0] + t * x->heads * x->size * bytes};

        rc = ds_attention_cached(&args, stream, err);
    }
    return rc;
}

static void check_window(size_t rows, size_t piece, size_t kv_heads, size_t group, size_t size,
                         enum ds_dtype act, double sharp, size_t window)
{
    struct cached x = {.rows = rows,
                       .piece = piece,
                       .window = window,
                       .room = (rows / DS_CACHE_TILE + 1) * DS_CACHE_TILE,
                       .heads = kv_heads * group,
                       .kv_heads = kv_heads,
                       .size = size,
                       .ld = (group + 2) * kv_heads * size,
                       .act = act,
                       .scale = (double)(float)(1.0 / sqrt((double)size))};
    size_t out = rows * x.heads * size, cache = kv_heads * x.room * size;
    double *p = calloc(rows, sizeof(double));
    struct nums blank;
    char what[128];
    struct trial t = {
        .what = what,
        .outs = 3,
        .run = run,
        .ctx = &x,
        .query = {.act = act, .seq = x.room, .heads = x.heads, .head_size = size, .cached = true},
        .low = act != DS_F32};

    snprintf(what, sizeof(what), "%zu rows by %zu, NK %zu group %zu HS %zu %s sharp %g window %zu",
             rows, piece, kv_heads, group, size, ds_dtype_name(act), sharp, window);
    x.qkv = nums_random(act, rows * x.ld, sharp, 0.0);
    blank = nums_random(act, cache, 3.0, 0.0);
    x.want = calloc(out, sizeof(double));
    x.want_keys = calloc(cache, sizeof(double));
    x.want_values = calloc(cache, sizeof(double));
    for (size_t i = 0; i < rows * x.heads; i++)
        reference_row(&x, i / x.heads, i % x.heads, p);
    reference_cache(&x, &blank);
    t.out[0] = (struct out){act, out, x.want, NULL};
    t.out[1] = (struct out){act, cache, x.want_keys, &blank};
    t.out[2] = (struct out){act, cache, x.want_values, &blank};
    try_all(&t);
    nums_free(&x.qkv);
    nums_free(&blank);
    free(x.want);
    free(x.want_keys);
    free(x.want_values);
    free(p);
}

static void check(size_t rows, size_t piece, size_t kv_heads, size_t group, size_t size,
                  enum ds_dtype act, double sharp)
{
    check_window(rows, piece, kv_heads, group, size, act, sharp, 0);
}

#if defined(DS_TESTS_FEW)
static const size_t lengths[] = {1, 67}, sizes[] = {20, 64};
#elif defined(DS_TESTS_EMULATED) /* where every number takes its time */
static const size_t lengths[] = {1, 63, 65}, sizes[] = {20, 64, 128};
#else
static const size_t lengths[] = {1, 2, 63, 64, 65, 130, 300},
                    sizes[] = {2, 16, 20, 64, 72, 128, 200};
#endif

Test(attention_cached, rows_in_pieces_and_one_by_one)
{
    static const size_t pieces[] = {1, 5, 64, 1000};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            size_t piece = pieces[(i + j) % (sizeof(pieces) / sizeof(pieces[0]))];

            check(lengths[i], piece, 1 + (i + j) % 2, 1 + j % 3, sizes[j], DS_F32, 1.0);
            check(lengths[i], piece, 1, 2, sizes[j], DS_BF16, 1.0);
            check(lengths[i], piece, 2, 1, sizes[j], DS_F16, 1.0);
        }
    }
}

Test(attention_cached, groups_of_query_heads)
{
    for (size_t piece = 1; piece < 90; piece += 44) {
        check(70, piece, 2, 1, 16, DS_F32, 1.0);
        check(70, piece, 2, 4, 32, DS_F32, 1.0);
        check(70, piece, 1, 8, 16, DS_BF16, 1.0);
    }
}

Test(attention_cached, sharp_weights)
{
    check(100, 1, 1, 1, 32, DS_F32, 5.0);
    check(100, 33, 1, 1, 32, DS_F32, 5.0);
}

Test(attention_cached, windows)
{
    static const size_t windows[] = {1, 2, 31, 64, 90, 500}, pieces[] = {1, 7, 100};

    for (size_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
        for (size_t j = 0; j < sizeof(pieces) / sizeof(pieces[0]); j++)
            check_window(140, pieces[j], 1 + j % 2, 1 + i % 2, 20, act_types[(i + j) % 3], 1.0,
                         windows[i]);
    }
}

#ifndef DS_TESTS_EMULATED
/* Pieces of keys that are added up; spans of queries and tiles of keys that do not begin together. */
Test(attention_cached, many_keys)
{
    check(700, 1, 1, 2, 16, DS_F32, 2.0);
    check(1300, 601, 1, 2, 16, DS_F32, 2.0);
    check(1300, 1300, 2, 1, 16, DS_BF16, 1.0);
}

Test(attention_cached, windows_of_many_keys)
{
    check_window(1300, 1, 1, 2, 16, DS_F32, 2.0, 601);
    check_window(1300, 601, 1, 2, 16, DS_F32, 2.0, 333);
    check_window(1300, 1300, 1, 1, 16, DS_F16, 2.0, 700);
}
#endif
