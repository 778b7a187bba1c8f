/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * norm.c - LayerNorm and RMSNorm, of rows and of the heads in them.
 *
 * A row is small enough for the first cache, so it is read again for each
 * quantity.  Gradients of weight and bias are summed over fixed blocks of rows
 * first and over the blocks, in order, second.  A head is a row of as many channels.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <errno.h>
#include <math.h>

enum { FWD_ROWS = 32, COLUMNS = 256 };

DS_INLINE float row_sum(enum ds_dtype type, const void *x, size_t at, size_t n)
{
    ds_vec sum0 = {0}, sum1 = {0};
    size_t i = 0;

    for (; i + 2 * DS_LANES <= n; i += 2 * DS_LANES) {
        sum0 += ds_load(type, x, at + i);
        sum1 += ds_load(type, x, at + i + DS_LANES);
    }
    if (i + DS_LANES <= n) {
        sum0 += ds_load(type, x, at + i);
        i += DS_LANES;
    }
    if (i < n)
        sum1 += ds_load_part(type, x, at + i, n - i);
    return ds_vec_sum(sum0 + sum1);
}

/* Sum of (x - mean)^2. */
DS_INLINE float row_squares(enum ds_dtype type, const void *x, size_t at, size_t n, float mean)
{
    ds_vec sum0 = {0}, sum1 = {0};
    size_t i = 0;

    for (; i + 2 * DS_LANES <= n; i += 2 * DS_LANES) {
        ds_vec d0 = ds_load(type, x, at + i) - mean;
        ds_vec d1 = ds_load(type, x, at + i + DS_LANES) - mean;

        sum0 += d0 * d0;
        sum1 += d1 * d1;
    }
    for (; i < n; i += DS_LANES) {
        if (i + DS_LANES <= n) {
            ds_vec d = ds_load(type, x, at + i) - mean;
            sum0 += d * d;
        } else {
            ds_vec d = ds_load_part(type, x, at + i, n - i) - mean;
            ds_vec none = {0};
            ds_store_part(DS_F32, &none, 0, n - i, d);
            sum1 += none * none;
        }
    }
    return ds_vec_sum(sum0 + sum1);
}

/* `stats` is the row's number in mean and rstd. */
DS_INLINE void fwd_row(const struct ds_norm_fwd_args *a, size_t row, size_t stats, bool layer,
                       enum ds_dtype act, enum ds_dtype param)
{
    size_t n = a->channels, at = row * a->ld, i = 0;
    float mean = layer ? row_sum(act, a->x, at, n) / (float)n : 0.0f;
    float rstd = 1.0f / sqrtf(row_squares(act, a->x, at, n, mean) / (float)n + a->eps);

    if (layer)
        a->mean[stats] = mean;
    a->rstd[stats] = rstd;
    for (; i + DS_LANES <= n; i += DS_LANES) {
        ds_vec y = (ds_load(act, a->x, at + i) - mean) * rstd * ds_load(param, a->weight, i);

        if (layer)
            y += ds_load(param, a->bias, i);
        else if (a->residual != NULL)
            y += ds_load(act, a->residual, at + i);
        ds_store(act, a->y, at + i, y);
    }
    if (i < n) {
        ds_vec y = (ds_load_part(act, a->x, at + i, n - i) - mean) * rstd *
                   ds_load_part(param, a->weight, i, n - i);

        if (layer)
            y += ds_load_part(param, a->bias, i, n - i);
        else if (a->residual != NULL)
            y += ds_load_part(act, a->residual, at + i, n - i);
        ds_store_part(act, a->y, at + i, n - i, y);
    }
}

DS_INLINE void fwd_rows(const struct ds_norm_fwd_args *a, size_t begin, size_t end, bool layer,
                        enum ds_dtype act, enum ds_dtype param)
{
    for (size_t row = begin; row < end; row++)
        fwd_row(a, row, row, layer, act, param);
}

static void fwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_norm_fwd_args *a = arg;
    size_t begin = task * FWD_ROWS, end = ds__min(begin + FWD_ROWS, a->rows);
    bool layer = a->kind == DS_NORM_LAYER;

    (void)thread;
    if (a->act == a->param && layer)
        DS_TYPED(a->act, fwd_rows(a, begin, end, true, T, T));
    else if (a->act == a->param)
        DS_TYPED(a->act, fwd_rows(a, begin, end, false, T, T));
    else
        fwd_rows(a, begin, end, layer, a->act, a->param);
}

int DS_ISA(ds__cpu_norm_fwd)(const struct ds_norm_fwd_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct ds_norm_fwd_args copy = *args;

    (void)err;
    copy.ld = args->ld > 0 ? args->ld : args->channels;
    ds__cpu_run(stream, ds__div_up(args->rows, FWD_ROWS), fwd_task, &copy);
    return 0;
}

struct bwd {
    const struct ds_norm_bwd_args *a;
    size_t blocks, width; /* partial sums: [blocks][2][width] */
    float *partial;
};

struct bwd_row {
    float mean, rstd, dot, sum; /* means over the row of dy w xhat and of dy w */
};

/* One vector of: xhat, dy and dy w. */
struct bwd_part {
    ds_vec xhat, dy, grad;
};

DS_INLINE struct bwd_part bwd_load(const struct ds_norm_bwd_args *a, struct bwd_row r, size_t at,
                                   size_t i, size_t n, enum ds_dtype act, enum ds_dtype param)
{
    struct bwd_part p;

    if (n == DS_LANES) {
        p.xhat = (ds_load(act, a->x, at + i) - r.mean) * r.rstd;
        p.dy = ds_load(act, a->dy, at + i);
        p.grad = p.dy * ds_load(param, a->weight, i);
    } else {
        p.xhat = (ds_load_part(act, a->x, at + i, n) - r.mean) * r.rstd;
        p.dy = ds_load_part(act, a->dy, at + i, n);
        p.grad = p.dy * ds_load_part(param, a->weight, i, n);
    }
    return p;
}

/* First pass: the two means, and this row's share of dweight and dbias. */
DS_INLINE void bwd_sums(const struct ds_norm_bwd_args *a, struct bwd_row *r, size_t at, bool layer,
                        enum ds_dtype act, enum ds_dtype param, float *dweight, float *dbias)
{
    size_t n = a->channels;
    ds_vec dot = {0}, sum = {0};

    for (size_t i = 0; i < n; i += DS_LANES) {
        struct bwd_part p = i + DS_LANES <= n ? bwd_load(a, *r, at, i, DS_LANES, act, param)
                                              : bwd_load(a, *r, at, i, n - i, act, param);

        dot += p.grad * p.xhat;
        sum += p.grad;
        ds_vec_store(dweight + i, ds_vec_load(dweight + i) + p.dy * p.xhat);
        if (layer)
            ds_vec_store(dbias + i, ds_vec_load(dbias + i) + p.dy);
    }
    r->dot = ds_vec_sum(dot) / (float)n;
    r->sum = layer ? ds_vec_sum(sum) / (float)n : 0.0f;
}

/* Second pass: dx. */
DS_INLINE void bwd_dx(const struct ds_norm_bwd_args *a, struct bwd_row r, size_t at,
                      enum ds_dtype act, enum ds_dtype param)
{
    size_t n = a->channels, i = 0;

    for (; i + DS_LANES <= n; i += DS_LANES) {
        struct bwd_part p = bwd_load(a, r, at, i, DS_LANES, act, param);
        ds_vec dx = (p.grad - r.sum - p.xhat * r.dot) * r.rstd;

        if (a->dres != NULL)
            dx += ds_load(act, a->dres, at + i);
        ds_store(act, a->dx, at + i, dx);
    }
    if (i < n) {
        struct bwd_part p = bwd_load(a, r, at, i, n - i, act, param);
        ds_vec dx = (p.grad - r.sum - p.xhat * r.dot) * r.rstd;

        if (a->dres != NULL)
            dx += ds_load_part(act, a->dres, at + i, n - i);
        ds_store_part(act, a->dx, at + i, n - i, dx);
    }
}

DS_INLINE void bwd_one(const struct ds_norm_bwd_args *a, size_t row, size_t stats, float *dweight,
                       float *dbias, bool layer, enum ds_dtype act, enum ds_dtype param)
{
    struct bwd_row r = {.mean = layer ? a->mean[stats] : 0.0f, .rstd = a->rstd[stats]};

    bwd_sums(a, &r, row * a->ld, layer, act, param, dweight, dbias);
    bwd_dx(a, r, row * a->ld, act, param);
}

DS_INLINE void bwd_rows(const struct bwd *b, size_t begin, size_t end, float *dweight, float *dbias,
                        bool layer, enum ds_dtype act, enum ds_dtype param)
{
    for (size_t row = begin; row < end; row++)
        bwd_one(b->a, row, row, dweight, dbias, layer, act, param);
}

static void bwd_task(void *arg, size_t task, unsigned thread)
{
    const struct bwd *b = arg;
    const struct ds_norm_bwd_args *a = b->a;
    size_t begin = a->rows * task / b->blocks, end = a->rows * (task + 1) / b->blocks;
    float *dweight = b->partial + task * 2 * b->width, *dbias = dweight + b->width;
    bool layer = a->kind == DS_NORM_LAYER;

    (void)thread;
    memset(dweight, 0, 2 * b->width * sizeof(float));
    if (a->act == a->param && layer)
        DS_TYPED(a->act, bwd_rows(b, begin, end, dweight, dbias, true, T, T));
    else if (a->act == a->param)
        DS_TYPED(a->act, bwd_rows(b, begin, end, dweight, dbias, false, T, T));
    else
        bwd_rows(b, begin, end, dweight, dbias, layer, a->act, a->param);
}

/* Add the blocks' sums of some columns, in order. */
static void combine(const struct bwd *b, float *out, size_t which, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        float sum = b->a->accumulate ? out[i] : 0.0f;

        for (size_t block = 0; block < b->blocks; block++)
            sum += b->partial[(block * 2 + which) * b->width + i];
        out[i] = sum;
    }
}

static void combine_task(void *arg, size_t task, unsigned thread)
{
    const struct bwd *b = arg;
    size_t begin = task * COLUMNS, end = ds__min(begin + COLUMNS, b->a->channels);

    (void)thread;
    combine(b, b->a->dweight, 0, begin, end);
    if (b->a->kind == DS_NORM_LAYER)
        combine(b, b->a->dbias, 1, begin, end);
}

int DS_ISA(ds__cpu_norm_bwd)(const struct ds_norm_bwd_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct ds_norm_bwd_args copy = *args;
    struct bwd b = {
        .a = &copy, .blocks = ds__row_blocks(args->rows), .width = ds__round_line(args->channels)};
    int rc =
        ds__cpu_scratch(stream, ds__need_norm_bwd(args->rows, args->channels), &b.partial, err);

    if (rc != 0)
        return rc;
    copy.ld = args->ld > 0 ? args->ld : args->channels;
    ds__cpu_run(stream, b.blocks, bwd_task, &b);
    ds__cpu_run(stream, ds__div_up(args->channels, COLUMNS), combine_task, &b);
    return 0;
}

/* Heads of packed rows are rows of two norms; those of values are of none. */
struct heads_fwd {
    const struct ds_head_norm_fwd_args *a;
    struct ds_norm_fwd_args queries, keys;
};

static void copy_values(enum ds_dtype act, void *to, const void *from, size_t at, size_t n)
{
    size_t bytes = ds_dtype_bytes(act);

    memcpy((char *)to + at * bytes, (const char *)from + at * bytes, n * bytes);
}

DS_INLINE void fwd_heads(const struct heads_fwd *f, size_t begin, size_t end, enum ds_dtype act,
                         enum ds_dtype param)
{
    const struct ds_head_norm_fwd_args *a = f->a;
    size_t normed = a->heads + a->kv_heads, all = normed + a->kv_heads;

    for (size_t row = begin; row < end; row++) {
        for (size_t h = 0; h < normed; h++)
            fwd_row(h < a->heads ? &f->queries : &f->keys, row * all + h, row * normed + h, false,
                    act, param);
        copy_values(act, a->y, a->x, (row * all + normed) * a->head_size,
                    a->kv_heads * a->head_size);
    }
}

static void fwd_heads_task(void *arg, size_t task, unsigned thread)
{
    const struct heads_fwd *f = arg;
    size_t begin = task * FWD_ROWS, end = ds__min(begin + FWD_ROWS, f->a->rows);

    (void)thread;
    if (f->a->act == f->a->param)
        DS_TYPED(f->a->act, fwd_heads(f, begin, end, T, T));
    else
        fwd_heads(f, begin, end, f->a->act, f->a->param);
}

int DS_ISA(ds__cpu_head_norm_fwd)(const struct ds_head_norm_fwd_args *args,
                                  struct ds_stream *stream, struct ds_error *err)
{
    struct heads_fwd f = {.a = args,
                          .queries = {.channels = args->head_size,
                                      .ld = args->head_size,
                                      .eps = args->eps,
                                      .x = args->x,
                                      .weight = args->q_weight,
                                      .y = args->y,
                                      .rstd = args->rstd}};

    (void)err;
    f.keys = f.queries;
    f.keys.weight = args->k_weight;
    ds__cpu_run(stream, ds__div_up(args->rows, FWD_ROWS), fwd_heads_task, &f);
    return 0;
}

/* Partial sums of the two weights' gradients lie as those of weight and bias do. */
struct heads_bwd {
    const struct ds_head_norm_bwd_args *a;
    struct ds_norm_bwd_args queries, keys;
    struct bwd b;
};

DS_INLINE void bwd_heads(const struct heads_bwd *h, size_t begin, size_t end, float *dq, float *dk,
                         enum ds_dtype act, enum ds_dtype param)
{
    const struct ds_head_norm_bwd_args *a = h->a;
    size_t normed = a->heads + a->kv_heads, all = normed + a->kv_heads;

    for (size_t row = begin; row < end; row++) {
        for (size_t i = 0; i < normed; i++)
            bwd_one(i < a->heads ? &h->queries : &h->keys, row * all + i, row * normed + i,
                    i < a->heads ? dq : dk, NULL, false, act, param);
        if (a->dx != a->dy)
            copy_values(act, a->dx, a->dy, (row * all + normed) * a->head_size,
                        a->kv_heads * a->head_size);
    }
}

static void bwd_heads_task(void *arg, size_t task, unsigned thread)
{
    const struct heads_bwd *h = arg;
    const struct ds_head_norm_bwd_args *a = h->a;
    const struct bwd *b = &h->b;
    size_t begin = a->rows * task / b->blocks, end = a->rows * (task + 1) / b->blocks;
    float *dq = b->partial + task * 2 * b->width, *dk = dq + b->width;

    (void)thread;
    memset(dq, 0, 2 * b->width * sizeof(float));
    if (a->act == a->param)
        DS_TYPED(a->act, bwd_heads(h, begin, end, dq, dk, T, T));
    else
        bwd_heads(h, begin, end, dq, dk, a->act, a->param);
}

int DS_ISA(ds__cpu_head_norm_bwd)(const struct ds_head_norm_bwd_args *args,
                                  struct ds_stream *stream, struct ds_error *err)
{
    struct heads_bwd h = {
        .a = args,
        .queries = {.channels = args->head_size,
                    .ld = args->head_size,
                    .dy = args->dy,
                    .x = args->x,
                    .weight = args->q_weight,
                    .rstd = args->rstd,
                    .dx = args->dx,
                    .accumulate = args->accumulate},
        .b = {.blocks = ds__row_blocks(args->rows), .width = ds__round_line(args->head_size)}};
    int rc =
        ds__cpu_scratch(stream, ds__need_norm_bwd(args->rows, args->head_size), &h.b.partial, err);

    if (rc != 0)
        return rc;
    h.keys = h.queries;
    h.keys.weight = args->k_weight;
    h.b.a = &h.queries;
    ds__cpu_run(stream, h.b.blocks, bwd_heads_task, &h);
    combine(&h.b, args->dq_weight, 0, 0, args->head_size);
    combine(&h.b, args->dk_weight, 1, 0, args->head_size);
    return 0;
}
