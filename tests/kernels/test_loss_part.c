/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_loss_part.c - softmax cross-entropy over columns that ranks share, against double: every rank
 * has the losses of the whole, all with the same bits, and its columns' gradients.
 */
#include "tests/kernels/harness.h"

struct shared {
    size_t rows, vocab, ranks, each; /* of the whole, and columns of a rank */
    size_t ld, dld, columns;
    enum ds_dtype act, logits_type;
    bool in_place, loss_only;
    const float *scale_at;
    struct nums logits; /* [ranks][rows, ld] */
    int32_t *targets;
    double *losses, *dlogits; /* [rows]; [ranks][rows, dld] */
};

static const float grad_scale = 0.0625f;

static size_t columns_of(const struct shared *c, size_t rank)
{
    size_t left = c->vocab - rank * c->each;

    return left < c->each ? left : c->each;
}

static double logit(const struct shared *c, size_t r, size_t column)
{
    return c->logits.d[(column / c->each * c->rows + r) * c->ld + column % c->each];
}

/* A row without a target has no loss and no gradient on any rank. */
static void reference_masked(struct shared *c, size_t r)
{
    c->targets[r] = DS_NO_TARGET;
    c->losses[r] = 0.0;
    for (size_t rank = 0; rank < c->ranks; rank++)
        for (size_t i = 0; i < c->columns; i++)
            c->dlogits[(rank * c->rows + r) * c->dld + i] = 0.0;
}

static void reference_row(struct shared *c, size_t r)
{
    double max = logit(c, r, 0), sum = 0.0;

    for (size_t i = 0; i < c->vocab; i++)
        max = fmax(max, logit(c, r, i));
    for (size_t i = 0; i < c->vocab; i++)
        sum += exp(logit(c, r, i) - max);
    c->losses[r] = log(sum) + max - logit(c, r, (size_t)c->targets[r]);
    for (size_t i = 0; i < c->vocab; i++)
        c->dlogits[(i / c->each * c->rows + r) * c->dld + i % c->each] =
            (exp(logit(c, r, i) - max) / sum - (i == (size_t)c->targets[r])) * (double)grad_scale;
    for (size_t rank = 0; rank < c->ranks; rank++)
        for (size_t i = columns_of(c, rank); i < c->columns; i++)
            c->dlogits[(rank * c->rows + r) * c->dld + i] = 0.0;
}

/* What a rank's columns say of a row: the largest is one of them, to the bit. */
static void check_row(const struct shared *c, size_t rank, size_t r, const struct ds_xent_row *row)
{
    size_t first = rank * c->each, n = columns_of(c, rank), target = (size_t)c->targets[r];
    double most = logit(c, r, first), sum = 0.0;

    for (size_t i = 0; i < n; i++)
        most = fmax(most, logit(c, r, first + i));
    for (size_t i = 0; i < n; i++)
        sum += exp(logit(c, r, first + i) - most);
    cr_expect((double)row->most == most, "rank %zu, row %zu: largest %g", rank, r,
              (double)row->most);
    cr_expect(fabs((double)row->sum - sum) <= 1e-5 * sum, "rank %zu, row %zu: sum %g, not %g", rank,
              r, (double)row->sum, sum);
    if (target >= first && target - first < n)
        cr_expect((double)row->wanted == logit(c, r, target), "rank %zu, row %zu", rank, r);
    else
        cr_expect(isnan(row->wanted), "rank %zu, row %zu: a target of others", rank, r);
}

static int part(const struct shared *c, size_t rank, void *logits, struct ds_xent_row *out,
                struct ds_stream *stream, struct ds_error *err)
{
    struct ds_xent_part_args args = {.rows = c->rows,
                                     .vocab = columns_of(c, rank),
                                     .logits_type = c->logits_type,
                                     .logits = logits,
                                     .ld = c->ld,
                                     .targets = c->targets,
                                     .first_id = rank * c->each,
                                     .out = out};

    return ds_xent_part(&args, stream, err);
}

static int whole(const struct shared *c, size_t rank, void *logits, void *dlogits, float *losses,
                 const struct ds_xent_row *parts, struct ds_stream *stream, struct ds_error *err)
{
    struct ds_xent_args args = {.rows = c->rows,
                                .vocab = columns_of(c, rank),
                                .act = c->act,
                                .logits_type = c->logits_type,
                                .logits = logits,
                                .ld = c->ld,
                                .targets = c->targets,
                                .losses = losses,
                                .dlogits = c->loss_only ? NULL : dlogits,
                                .dld = c->dld,
                                .grad_scale = c->scale_at != NULL ? NAN : grad_scale,
                                .grad_scale_at = c->scale_at,
                                .parts = parts,
                                .ranks = c->ranks,
                                .each = c->each,
                                .first_id = rank * c->each,
                                .columns = c->columns};

    return ds_xent(&args, stream, err);
}

/* All ranks, one after the other; losses of the first are the result. */
static int run(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct shared *c = ctx;
    size_t all = c->ranks * c->rows, of_rank = c->rows * c->ld * ds_dtype_bytes(c->logits_type);
    size_t of_gradients = c->rows * c->dld * ds_dtype_bytes(c->act);
    char *logits = c->in_place ? out[1] : c->logits.data;
    struct nums parts = nums_blank(DS_F32, 3 * all), losses = nums_blank(DS_F32, c->rows);
    struct ds_xent_row *rows = (void *)parts.data;
    int rc = 0;

    for (size_t rank = 0; rc == 0 && rank < c->ranks; rank++)
        rc = part(c, rank, logits + rank * of_rank, rows + rank * c->rows, stream, err);
    for (size_t i = 0; rc == 0 && i < all; i++)
        check_row(c, i / c->rows, i % c->rows, &rows[i]);
    for (size_t rank = 0; rc == 0 && rank < c->ranks; rank++) {
        char *d = c->loss_only ? NULL : (char *)out[1] + rank * of_gradients;
        float *got = rank == 0 ? out[0] : (void *)losses.data;

        rc = whole(c, rank, logits + rank * of_rank, d, got, rows, stream, err);
        if (rank > 0)
            cr_expect(memcmp(out[0], losses.data, c->rows * sizeof(float)) == 0,
                      "rank %zu has losses of other bits", rank);
    }
    nums_free(&parts);
    nums_free(&losses);
    return rc;
}

/* Behind a rank's columns are NaN, and behind what it writes large numbers that stay. */
static void poison(struct shared *c)
{
    for (size_t i = 0; i < c->ranks * c->rows * c->ld; i++) {
        size_t column = i % c->ld;

        if (column >= c->columns)
            nums_set(&c->logits, i, 3e4);
        else if (column >= columns_of(c, i / c->ld / c->rows))
            nums_set(&c->logits, i, (double)NAN);
    }
}

/* The first and the last column of a rank, of all, and others. */
static int32_t target_of(const struct shared *c, size_t r)
{
    const size_t border[] = {0, c->vocab - 1, c->each - 1, c->each};

    return (int32_t)((r < 4 ? border[r] : r * 7919 + 3) % c->vocab);
}

static void check(struct shared c, size_t pad, double scale)
{
    struct nums old;
    struct trial t = {.what = "xent of parts", .outs = 2, .run = run, .ctx = &c};

    c.ld = c.each + 2 * pad;
    c.columns = c.each + pad;
    c.dld = c.in_place ? c.ld : c.each + 3 * pad;
    c.logits = nums_random(c.logits_type, c.ranks * c.rows * c.ld, scale, 1.0);
    poison(&c);
    old = nums_random(c.act, c.ranks * c.rows * c.dld, 1.0, 0.0);
    c.targets = calloc(c.rows, sizeof(int32_t));
    c.losses = calloc(c.rows, sizeof(double));
    c.dlogits = calloc(old.n, sizeof(double));
    memcpy(c.dlogits, c.in_place ? c.logits.d : old.d, old.n * sizeof(double));
    for (size_t r = 0; r < c.rows; r++) {
        c.targets[r] = target_of(&c, r);
        if (r % 5 == 2)
            reference_masked(&c, r);
        else
            reference_row(&c, r);
    }
    t.out[0] = (struct out){DS_F32, c.rows, c.losses, NULL};
    t.out[1] = (struct out){c.act, old.n, c.dlogits, c.in_place ? &c.logits : &old};
    try_all(&t);
    c.loss_only = true;
    t.outs = 1;
    if (!c.in_place)
        try_all(&t);
    nums_free(&c.logits);
    nums_free(&old);
    free(c.targets);
    free(c.losses);
    free(c.dlogits);
}

/* In one of the ways that types may be combined. */
enum { WAYS = 5 };

static struct shared of_types(unsigned way, size_t rows, size_t vocab, size_t ranks, size_t each)
{
    static const enum ds_dtype logits[WAYS] = {DS_F32, DS_F32, DS_F32, DS_BF16, DS_F16};
    static const enum ds_dtype act[WAYS] = {DS_F32, DS_BF16, DS_F16, DS_BF16, DS_F16};

    return (struct shared){.rows = rows,
                           .vocab = vocab,
                           .ranks = ranks,
                           .each = each,
                           .logits_type = logits[way % WAYS],
                           .act = act[way % WAYS]};
}

Test(xent_parts, together_are_the_whole)
{
    static const size_t vocabs[] = {5, 17, 64, 97, 256, 1003}, ranks[] = {1, 2, 3, 5};

    for (unsigned i = 0; i < 6 * 4; i++) {
        size_t vocab = vocabs[i / 4], n = ranks[i % 4], least = (vocab + n - 1) / n;
        size_t words = (least + 7) / 8 * 8; /* rows that begin at words, if all have columns then */

        check(of_types(i, 6, vocab, n, least), i % 3, 2.0);
        if ((n - 1) * words < vocab)
            check(of_types(i + 2, 5, vocab, n, words), i % 2 * 8, 20.0);
    }
}

Test(xent_parts, gradients_in_place_of_logits)
{
    static const size_t vocabs[] = {5, 33, 97, 1003}, ranks[] = {1, 2, 3, 5};
    static const unsigned alike[] = {0, 3, 4}; /* ways with gradients of the logits' type */

    for (unsigned i = 0; i < 4 * 4; i++) {
        size_t vocab = vocabs[i / 4], n = ranks[i % 4], each = (vocab + n - 1) / n;
        struct shared c = of_types(alike[i % 3], 5, vocab, n, each);

        c.in_place = true;
        check(c, i % 2 ? 3 : 0, 2.0);
        c.each = (each + 7) / 8 * 8;
        if ((n - 1) * c.each < vocab)
            check(c, 8, 100.0);
    }
}

/* More than a block has under way at a time, and GPT-2's and Llama's. */
Test(xent_parts, long_rows)
{
    for (unsigned way = 0; way < WAYS; way++) {
        check(of_types(way, 3, 45001, 2, 22504), 0, 3.0);
        check(of_types(way, 3, 36007, 2, 18007), 3, 3.0);
    }
#ifndef DS_TESTS_FEW
    check(of_types(0, 5, 50257, 4, 12568), 8, 3.0);
    check(of_types(3, 5, 50257, 4, 12568), 8, 3.0);
    check(of_types(3, 3, 128256, 3, 42752), 0, 3.0);
#endif
}

Test(xent_parts, a_factor_that_is_read)
{
    struct shared c = of_types(0, 4, 33, 2, 17);
    float factor = grad_scale;

    c.scale_at = &factor;
    check(c, 1, 2.0);
}

/* The loss of a row of 37 logits that three ranks share, 13 each, with some of them replaced. */
struct replaced {
    size_t first, n;
    float with;
    int32_t target;
};

static float loss_of(const char *isa, size_t shift, const struct replaced *by)
{
    struct ds_device *device = open_cpu(isa, 1, 0);
    _Alignas(16) float x[3 * 16 + 4] = {0}, d[3 * 16];
    float loss[3] = {NAN, NAN, NAN};
    struct ds_xent_row parts[3];
    struct shared c = {.rows = 1, .vocab = 37, .ranks = 3, .each = 13, .ld = 16, .dld = 16};

    if (device == NULL) /* the processor lacks the instructions */
        return NAN;
    c.columns = 13;
    c.targets = (int32_t[]){by->target};
    for (size_t i = by->first; i < by->first + by->n; i++)
        x[shift + i / 13 * 16 + i % 13] = by->with;
    for (size_t rank = 0; rank < 3; rank++)
        cr_assert(part(&c, rank, x + shift + 16 * rank, &parts[rank], ds_device_stream(device),
                       NULL) == 0);
    for (size_t rank = 0; rank < 3; rank++)
        cr_assert(whole(&c, rank, x + shift + 16 * rank, d + 16 * rank, &loss[rank], parts,
                        ds_device_stream(device), NULL) == 0);
    cr_assert(memcmp(&loss[0], &loss[1], sizeof(float)) == 0);
    cr_assert(memcmp(&loss[0], &loss[2], sizeof(float)) == 0);
    ds_device_close(device);
    return loss[0];
}

Test(xent_parts, what_is_no_number_shows_in_the_loss)
{
    static const char *const isas[] = {"v4", "v3", "base"};
    static const int32_t no_tokens[] = {-2, INT32_MIN, 37, 38, 39, INT32_MAX};

    for (size_t i = 0; i < 6; i++) {
        const char *isa = isas[i % 3];
        size_t shift = i / 3;

        for (size_t at = 0; at < 37; at++) {
            cr_assert(isnan(loss_of(isa, shift, &(struct replaced){at, 1, NAN, 5})), "%zu", at);
            cr_assert(isnan(loss_of(isa, shift, &(struct replaced){at, 1, INFINITY, 5})), "%zu",
                      at);
        }
        cr_assert(isnan(loss_of(isa, shift, &(struct replaced){13, 13, NAN, 5})));
        cr_assert(!isfinite(loss_of(isa, shift, &(struct replaced){0, 37, -INFINITY, 5})));
        for (size_t k = 0; k < sizeof(no_tokens) / sizeof(no_tokens[0]); k++)
            cr_assert(isnan(loss_of(isa, shift, &(struct replaced){0, 1, 1.0f, no_tokens[k]})),
                      "%d is no token", no_tokens[k]);
    }
    /* The others have the probability that these lack, all columns of a rank among them. */
    for (size_t shift = 0; shift < 2; shift++) {
        float one = loss_of(NULL, shift, &(struct replaced){7, 1, -INFINITY, 5});
        float all = loss_of(NULL, shift, &(struct replaced){13, 13, -INFINITY, 5});
        float little = loss_of(NULL, shift, &(struct replaced){5, 1, -1000.0f, 5});
        float none = loss_of(NULL, shift, &(struct replaced){5, 1, -INFINITY, 5});

        cr_assert_float_eq(one, logf(36.0f), 1e-5);
        cr_assert_float_eq(all, logf(24.0f), 1e-5);
        cr_assert_float_eq(little, 1000.0f + logf(36.0f), 1e-3);
        cr_assert(isinf(none), "a target of no probability");
    }
}
