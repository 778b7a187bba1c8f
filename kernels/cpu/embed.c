/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * embed.c - embedding rows and their gradients, and column sums for biases.
 *
 * Gradients of the token table are added token after token, so threads take
 * slices of the channels; those of positions are independent rows.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

enum { FWD_TOKENS = 32, SLICE = 64, ZERO_ROWS = 64, COLUMNS = 512 };

/* The row of an id.  One outside the table has none, `vocab`, where that is a part of a table; else
 * it is a bug of the caller and has row 0. */
static size_t row_of(int32_t id, size_t first_id, size_t vocab, bool partial)
{
    size_t row = (size_t)id - first_id; /* far above `vocab` in front of the first */

    return row < vocab ? row : partial ? vocab : 0;
}

DS_INLINE void fwd_token(const struct ds_embed_fwd_args *a, enum ds_dtype act, enum ds_dtype param,
                         size_t token)
{
    size_t n = a->channels, t = token % a->seq, i = 0;
    int32_t id = a->ids[token / a->seq * a->ids_ld + t];
    size_t row = row_of(id, a->first_id, a->vocab, a->partial);
    size_t from = row * n, position = t * n, to = token * n;
    bool there = row < a->vocab;

    for (; i + DS_LANES <= n; i += DS_LANES) {
        ds_vec x = {0};

        if (there)
            x = ds_load(param, a->wte, from + i) * a->scale;
        if (a->wpe != NULL)
            x += ds_load(param, a->wpe, position + i);
        ds_store(act, a->out, to + i, x);
    }
    if (i < n) {
        ds_vec x = {0};

        if (there)
            x = ds_load_part(param, a->wte, from + i, n - i) * a->scale;
        if (a->wpe != NULL)
            x += ds_load_part(param, a->wpe, position + i, n - i);
        ds_store_part(act, a->out, to + i, n - i, x);
    }
}

static void fwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_embed_fwd_args *a = arg;
    size_t begin = task * FWD_TOKENS, end = ds__min(begin + FWD_TOKENS, a->batch * a->seq);

    (void)thread;
    for (size_t token = begin; token < end; token++) {
        if (a->act == DS_F32 && a->param == DS_F32)
            fwd_token(a, DS_F32, DS_F32, token);
        else
            fwd_token(a, a->act, a->param, token);
    }
}

int DS_ISA(ds__cpu_embed_fwd)(const struct ds_embed_fwd_args *args, struct ds_stream *stream,
                              struct ds_error *err)
{
    struct ds_embed_fwd_args a = *args;

    (void)err;
    a.scale = args->scale != 0.0f ? args->scale : 1.0f;
    ds__cpu_run(stream, ds__div_up(a.batch * a.seq, FWD_TOKENS), fwd_task, &a);
    return 0;
}

/* out[0 ... n) += scale * x[at ...) */
DS_INLINE void add_scaled(enum ds_dtype act, const void *x, size_t at, float scale, float *out,
                          size_t n)
{
    size_t i = 0;

    for (; i + DS_LANES <= n; i += DS_LANES)
        ds_vec_store(out + i, ds_vec_load(out + i) + ds_load(act, x, at + i) * scale);
    if (i < n)
        ds_store_part(DS_F32, out, i, n - i,
                      ds_load_part(DS_F32, out, i, n - i) +
                          ds_load_part(act, x, at + i, n - i) * scale);
}

DS_INLINE void add_row(enum ds_dtype act, const void *x, size_t at, float *out, size_t n)
{
    add_scaled(act, x, at, 1.0f, out, n);
}

static void zero_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_embed_bwd_args *a = arg;
    size_t begin = task * ZERO_ROWS, end = ds__min(begin + ZERO_ROWS, a->vocab);

    (void)thread;
    memset(a->dwte + begin * a->channels, 0, (end - begin) * a->channels * sizeof(float));
}

static void tokens_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_embed_bwd_args *a = arg;
    size_t begin = task * SLICE, n = ds__min(SLICE, a->channels - begin);

    (void)thread;
    for (size_t b = 0; b < a->batch; b++) {
        for (size_t t = 0; t < a->seq; t++) {
            size_t at = (b * a->seq + t) * a->channels + begin;
            int32_t id = a->ids[b * a->ids_ld + t];
            size_t row = row_of(id, a->first_id, a->vocab, a->partial);
            float *out = a->dwte + row * a->channels + begin;

            if (row < a->vocab)
                DS_TYPED(a->act, add_scaled(T, a->dout, at, a->scale, out, n));
        }
    }
}

static void positions_task(void *arg, size_t position, unsigned thread)
{
    const struct ds_embed_bwd_args *a = arg;
    float *out = a->dwpe + position * a->channels;
    size_t t = position - a->first; /* far above `seq` in front of the first */

    (void)thread;
    if (!a->accumulate_wpe)
        memset(out, 0, a->channels * sizeof(float));
    if (t >= a->seq)
        return;
    for (size_t b = 0; b < a->batch; b++) {
        size_t at = (b * a->seq + t) * a->channels;

        DS_TYPED(a->act, add_row(T, a->dout, at, out, a->channels));
    }
}

int DS_ISA(ds__cpu_embed_bwd)(const struct ds_embed_bwd_args *args, struct ds_stream *stream,
                              struct ds_error *err)
{
    struct ds_embed_bwd_args a = *args;

    (void)err;
    a.scale = args->scale != 0.0f ? args->scale : 1.0f;
    if (!a.accumulate_wte)
        ds__cpu_run(stream, ds__div_up(a.vocab, ZERO_ROWS), zero_task, &a);
    ds__cpu_run(stream, ds__div_up(a.channels, SLICE), tokens_task, &a);
    if (a.dwpe != NULL)
        ds__cpu_run(stream, a.positions, positions_task, &a);
    return 0;
}

struct bias {
    const struct ds_bias_bwd_args *a;
    size_t blocks, width;
    float *partial; /* [blocks][width] */
};

/* Four rows at a time, so that the sums are read and written once for them. */
DS_INLINE void bias_rows(const struct bias *b, enum ds_dtype act, size_t begin, size_t end,
                         float *sum)
{
    const void *dy = b->a->dy;
    size_t n = b->a->n, row = begin;

    for (; row + 4 <= end; row += 4) {
        size_t at = row * n, i = 0;

        for (; i + DS_LANES <= n; i += DS_LANES)
            ds_vec_store(sum + i, ds_vec_load(sum + i) +
                                      ((ds_load(act, dy, at + i) + ds_load(act, dy, at + n + i)) +
                                       (ds_load(act, dy, at + 2 * n + i) +
                                        ds_load(act, dy, at + 3 * n + i))));
        for (size_t r = 0; i < n && r < 4; r++)
            add_row(act, dy, at + r * n + i, sum + i, n - i);
    }
    for (; row < end; row++)
        add_row(act, dy, row * n, sum, n);
}

static void bias_task(void *arg, size_t task, unsigned thread)
{
    const struct bias *b = arg;
    size_t begin = b->a->rows * task / b->blocks, end = b->a->rows * (task + 1) / b->blocks;
    float *sum = b->partial + task * b->width;

    (void)thread;
    memset(sum, 0, b->width * sizeof(float));
    DS_TYPED(b->a->act, bias_rows(b, T, begin, end, sum));
}

static void combine_task(void *arg, size_t task, unsigned thread)
{
    const struct bias *b = arg;
    size_t begin = task * COLUMNS, n = ds__min(COLUMNS, b->a->n - begin);
    float *out = b->a->dbias + begin;

    (void)thread;
    if (!b->a->accumulate)
        memset(out, 0, n * sizeof(float));
    for (size_t block = 0; block < b->blocks; block++)
        add_row(DS_F32, b->partial, block * b->width + begin, out, n);
}

int DS_ISA(ds__cpu_bias_bwd)(const struct ds_bias_bwd_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct bias b = {
        .a = args, .blocks = ds__row_blocks(args->rows), .width = ds__round_line(args->n)};
    int rc = ds__cpu_scratch(stream, ds__need_bias_bwd(args->rows, args->n), &b.partial, err);

    if (rc != 0)
        return rc;
    ds__cpu_run(stream, b.blocks, bias_task, &b);
    ds__cpu_run(stream, ds__div_up(args->n, COLUMNS), combine_task, &b);
    return 0;
}
