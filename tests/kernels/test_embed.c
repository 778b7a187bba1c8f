/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_embed.c - embeddings, their gradients, and gradients of biases, against double.
 */
#include "tests/kernels/harness.h"

struct embed {
    size_t batch, seq, n, vocab, positions, first, ids_ld;
    size_t first_id,
        ids_of; /* of a part of a table: its first, and of how many tokens there are ids */
    enum ds_dtype act, param;
    bool learned, accumulate;
    float scale; /* 0: 1 */
    size_t skew; /* elements before the first of dout: it is not aligned to a word then */
    int32_t *ids;
    struct nums wte, wpe, dout, old_wte, old_wpe;
    double *out, *dwte, *dwpe;
};

static void reference(struct embed *c)
{
    const double scale = c->scale != 0.0f ? (double)c->scale : 1.0;

    for (size_t i = 0; c->accumulate && i < c->vocab * c->n; i++)
        c->dwte[i] = c->old_wte.d[i];
    for (size_t i = 0; c->accumulate && i < c->positions * c->n; i++)
        c->dwpe[i] = c->old_wpe.d[i];
    for (size_t token = 0; token < c->batch * c->seq; token++) {
        size_t t = token % c->seq, id = (size_t)c->ids[token / c->seq * c->ids_ld + t];
        size_t position = c->first + t, row = id - c->first_id;
        bool there = id >= c->first_id && row < c->vocab;

        for (size_t i = 0; i < c->n; i++) {
            c->out[token * c->n + i] = (there ? scale * c->wte.d[row * c->n + i] : 0.0) +
                                       (c->learned ? c->wpe.d[position * c->n + i] : 0.0);
            if (there)
                c->dwte[row * c->n + i] += scale * c->dout.d[c->skew + token * c->n + i];
            c->dwpe[position * c->n + i] += c->dout.d[c->skew + token * c->n + i];
        }
    }
}

static int run_fwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct embed *c = ctx;
    const char *wpe = c->wpe.data + c->first * c->n * ds_dtype_bytes(c->param);
    struct ds_embed_fwd_args args = {.batch = c->batch,
                                     .seq = c->seq,
                                     .channels = c->n,
                                     .vocab = c->vocab,
                                     .first_id = c->first_id,
                                     .partial = c->ids_of != 0,
                                     .act = c->act,
                                     .param = c->param,
                                     .scale = c->scale,
                                     .ids = c->ids,
                                     .ids_ld = c->ids_ld,
                                     .wte = c->wte.data,
                                     .wpe = c->learned ? wpe : NULL,
                                     .out = out[0]};

    return ds_embed_fwd(&args, stream, err);
}

static int run_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct embed *c = ctx;
    struct ds_embed_bwd_args args = {.batch = c->batch,
                                     .seq = c->seq,
                                     .channels = c->n,
                                     .vocab = c->vocab,
                                     .first_id = c->first_id,
                                     .partial = c->ids_of != 0,
                                     .positions = c->positions,
                                     .first = c->first,
                                     .act = c->act,
                                     .scale = c->scale,
                                     .ids = c->ids,
                                     .ids_ld = c->ids_ld,
                                     .dout = c->dout.data + c->skew * ds_dtype_bytes(c->act),
                                     .dwte = out[0],
                                     .dwpe = c->learned ? out[1] : NULL,
                                     .accumulate_wte = c->accumulate,
                                     .accumulate_wpe = c->accumulate};

    return ds_embed_bwd(&args, stream, err);
}

static void try_both(struct embed *c)
{
    struct trial t = {.what = "embed_fwd",
                      .out = {{c->act, c->batch * c->seq * c->n, c->out, NULL}},
                      .outs = 1,
                      .run = run_fwd,
                      .ctx = c,
                      .query = {.rows = c->batch * c->seq, .hidden = c->n}};

    try_all(&t);
    t.what = "embed_bwd";
    t.run = run_bwd;
    t.outs = c->learned ? 2 : 1;
    t.out[0] = (struct out){DS_F32, c->vocab * c->n, c->dwte, c->accumulate ? &c->old_wte : NULL};
    t.out[1] =
        (struct out){DS_F32, c->positions * c->n, c->dwpe, c->accumulate ? &c->old_wpe : NULL};
    try_all(&t);
}

/* With everything set but the numbers. */
static void check_case(struct embed *c, int32_t (*id_of)(size_t i, size_t vocab))
{
    size_t tokens = c->batch * c->seq;

    c->positions = c->first + c->seq + 3;
    c->ids_ld = c->seq + 1;
    c->ids = calloc(c->batch * c->ids_ld, sizeof(int32_t));
    for (size_t i = 0; i < c->batch * c->ids_ld; i++)
        c->ids[i] = id_of(i, c->ids_of != 0 ? c->ids_of : c->vocab);
    c->wte = nums_random(c->param, c->vocab * c->n, 1.0, 0.0);
    c->wpe = nums_random(c->param, c->positions * c->n, 1.0, 0.0);
    c->dout = nums_random(c->act, c->skew + tokens * c->n, 1.0, 0.0);
    c->old_wte = nums_random(DS_F32, c->vocab * c->n, 1.0, 0.0);
    c->old_wpe = nums_random(DS_F32, c->positions * c->n, 1.0, 0.0);
    c->out = calloc(tokens * c->n, sizeof(double));
    c->dwte = calloc(c->vocab * c->n, sizeof(double));
    c->dwpe = calloc(c->positions * c->n, sizeof(double));
    reference(c);
    try_both(c);
    nums_free(&c->wte);
    nums_free(&c->wpe);
    nums_free(&c->dout);
    nums_free(&c->old_wte);
    nums_free(&c->old_wpe);
    free(c->ids);
    free(c->out);
    free(c->dwte);
    free(c->dwpe);
}

static int32_t scattered(size_t i, size_t vocab)
{
    return (int32_t)(i * i * 31 % vocab);
}

static int32_t always(size_t i, size_t vocab)
{
    return (int32_t)(i * 0 + vocab - 1);
}

/* As text has them: the first comes all the time, the last hardly ever. */
static int32_t as_in_text(size_t i, size_t vocab)
{
    double u = (double)((uint32_t)i * 2654435761u >> 8) / (double)(1 << 24);

    return (int32_t)((double)vocab * u * u * u * u);
}

static void check_types(size_t batch, size_t seq, size_t n, enum ds_dtype act, enum ds_dtype param,
                        unsigned mode)
{
    struct embed c = {.batch = batch,
                      .seq = seq,
                      .n = n,
                      .vocab = 70,
                      .act = act,
                      .param = param,
                      .scale = n % 2 == 0 ? 33.941125f : 0.0f,
                      .learned = mode & 1,
                      .accumulate = (mode & 2) != 0};

    check_case(&c, scattered);
}

static void check_from(size_t first, size_t batch, size_t seq, size_t n, enum ds_dtype act,
                       unsigned mode)
{
    struct embed c = {.batch = batch,
                      .seq = seq,
                      .first = first,
                      .n = n,
                      .vocab = 70,
                      .act = act,
                      .param = act,
                      .learned = mode & 1,
                      .accumulate = (mode & 2) != 0};

    check_case(&c, scattered);
}

static void check(size_t batch, size_t seq, size_t n, enum ds_dtype act, unsigned mode)
{
    check_types(batch, seq, n, act, act, mode);
}

Test(embed, shapes_and_modes)
{
    static const size_t widths[] = {3, 48, 64, 97, 113, 200};

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        for (unsigned mode = 0; mode < 4; mode++) {
            check(2, 17, widths[i], DS_F32, mode);
            check(3, 40, widths[i], DS_BF16, mode);
            check(3, 40, widths[i], DS_F16, mode);
        }
    }
    for (unsigned mode = 0; mode < 4; mode++) { /* a part of longer sequences */
        check_from(5, 2, 17, 48, act_types[mode % 3], mode);
        check_from(64, 1, 33, 97, act_types[(mode + 1) % 3], mode);
    }
    check(2, 331, 48, DS_F32, 3); /* ids that come often, and far apart */
    check(1, 5, 2056, DS_BF16, 1);
}

/* Ids of one, two and three digits of a sort, runs of one id over many pieces of its order, and
 * more tokens than a block sorts. */
Test(embed, ids_that_come_often)
{
    static const struct {
        size_t batch, seq, n, vocab, skew;
        int32_t (*id_of)(size_t i, size_t vocab);
    } cases[] = {
        {1, 31, 48, 600, 0, always},       {1, 32, 48, 1, 0, always},
        {1, 33, 97, 600, 0, always},       {2, 32, 64, 7, 0, always},
        {3, 700, 8, 600, 0, always},       {2, 600, 24, 5000, 0, as_in_text},
        {3, 41, 264, 40, 3, as_in_text},   {2, 90, 113, 700, 1, as_in_text},
        {1, 300, 4, 263000, 0, scattered}, {5, 64, 40, 513, 0, as_in_text},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t type = 0; type < 3; type++) {
            struct embed c = {.batch = cases[i].batch,
                              .seq = cases[i].seq,
                              .n = cases[i].n,
                              .vocab = cases[i].vocab,
                              .act = act_types[type],
                              .param = act_types[type],
                              .learned = (i + type) % 2 == 0,
                              .accumulate = i % 2 == 0,
                              .scale = i % 3 == 0 ? 7.25f : 0.0f,
                              .skew = cases[i].skew};

            check_case(&c, cases[i].id_of);
        }
    }
}

/* All of the first 33 tokens are in one run, of the others none is in a table without the last ids. */
static int32_t begun_with_one(size_t i, size_t vocab)
{
    return (int32_t)(i < 33 ? 3 : vocab - 1);
}

static int32_t begun_with_some(size_t i, size_t vocab)
{
    return (int32_t)(i < 64 ? i % 7 : vocab - 1 - i % 5);
}

/* A table in parts: together they are the whole one, for what a part lacks is no part of its sums.
 * The last part is shorter, or has no token at all; the numbers of rows have one digit of a sort and
 * two, and one more than the rows of a part has two. */
Test(embed, parts_of_a_table)
{
    static const struct {
        size_t batch, seq, n, all, each, skew;
        int32_t (*id_of)(size_t i, size_t vocab);
    } cases[] = {
        {2, 17, 64, 70, 70, 0, scattered},        {2, 17, 48, 70, 35, 0, scattered},
        {3, 40, 97, 70, 24, 0, as_in_text},       {2, 90, 113, 70, 14, 1, as_in_text},
        {1, 70, 48, 100, 50, 0, always},          {1, 130, 40, 600, 512, 0, scattered},
        {3, 700, 8, 600, 511, 0, as_in_text},     {2, 40, 24, 100, 40, 0, begun_with_one},
        {1, 96, 64, 100, 50, 0, begun_with_some}, {2, 33, 264, 9, 2, 3, scattered},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t first = 0; first < cases[i].all; first += cases[i].each) {
            size_t left = cases[i].all - first, part = first / cases[i].each;
            struct embed c = {.batch = cases[i].batch,
                              .seq = cases[i].seq,
                              .first = i % 2 * 5,
                              .n = cases[i].n,
                              .vocab = left < cases[i].each ? left : cases[i].each,
                              .first_id = first,
                              .ids_of = cases[i].all,
                              .act = act_types[(i + part) % 3],
                              .param = act_types[(i + part) % 3],
                              .learned = (i + part) % 2 == 0,
                              .accumulate = i % 3 == 0,
                              .skew = cases[i].skew};

            check_case(&c, cases[i].id_of);
        }
    }
}

#ifndef DS_TESTS_EMULATED
Test(embed, tables_of_another_type_than_the_rows)
{
    static const size_t widths[] = {3, 64, 113};

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
        for (unsigned mode = 0; mode < 9; mode++)
            check_types(2, 17, widths[i], act_types[mode / 3], act_types[mode % 3], mode % 2);
}
#endif

/* The caller's duty, yet nothing outside the table is read or written. */
Test(embed, ids_outside_the_table_do_no_harm)
{
    struct ds_device *device = open_cpu(NULL, 1, 0);
    int32_t ids[3] = {-1, 5, INT32_MAX};
    struct nums wte = nums_random(DS_F32, 5 * 8, 1.0, 0.0), out = nums_blank(DS_F32, 3 * 8);
    struct ds_embed_fwd_args args = {.batch = 1,
                                     .seq = 3,
                                     .channels = 8,
                                     .vocab = 5,
                                     .ids = ids,
                                     .act = DS_F32,
                                     .param = DS_F32,
                                     .ids_ld = 3,
                                     .wte = wte.data,
                                     .out = out.data};

    cr_assert(ds_embed_fwd(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(nums_get(&out, 8) == wte.d[0]);
    ds_device_close(device);
    nums_free(&wte);
    nums_free(&out);
}

struct bias {
    size_t rows, n;
    bool accumulate;
    struct nums dy;
};

static int run_bias(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct bias *c = ctx;
    struct ds_bias_bwd_args args = {.rows = c->rows,
                                    .n = c->n,
                                    .act = c->dy.type,
                                    .dy = c->dy.data,
                                    .dbias = out[0],
                                    .accumulate = c->accumulate};

    return ds_bias_bwd(&args, stream, err);
}

static void check_bias(size_t rows, size_t n, enum ds_dtype act, bool accumulate)
{
    struct bias c = {rows, n, accumulate, nums_random(act, rows * n, 1.0, 0.2)};
    struct nums old = nums_random(DS_F32, n, 1.0, 0.0);
    double *want = calloc(n + 1, sizeof(double));
    struct trial t = {.what = "bias_bwd",
                      .out = {{DS_F32, n, want, accumulate ? &old : NULL}},
                      .outs = 1,
                      .run = run_bias,
                      .ctx = &c,
                      .query = {.rows = rows, .ffn_in = n}};

    for (size_t i = 0; i < rows * n; i++)
        want[i % n] += c.dy.d[i];
    for (size_t i = 0; accumulate && i < n; i++)
        want[i] += old.d[i];
    try_all(&t);
    nums_free(&c.dy);
    nums_free(&old);
    free(want);
}

Test(bias_bwd, shapes_and_types)
{
    static const size_t rows[] = {1, 3, 64, 65, 333, 1500}, widths[] = {1, 48, 97, 113, 600};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t j = 0; j < sizeof(widths) / sizeof(widths[0]); j++) {
            check_bias(rows[i], widths[j], DS_F32, (i + j) % 2);
            check_bias(rows[i], widths[j], DS_BF16, (i + j + 1) % 2);
            check_bias(rows[i], widths[j], DS_F16, (i + j + 1) % 2);
        }
    }
}
