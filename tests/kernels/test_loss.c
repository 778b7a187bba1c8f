/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_loss.c - softmax cross-entropy against double.
 */
#include "tests/kernels/harness.h"

struct xent {
    size_t rows, vocab, ld, dld;
    enum ds_dtype act, logits_type;
    bool in_place, loss_only;
    struct nums logits;
    int32_t *targets;
    double *losses, *dlogits;
};

static const float grad_scale = 0.0625f;

/* A row without a target has no loss and no gradient, and its logits do not count. */
static void reference_masked(struct xent *c, size_t r)
{
    c->targets[r] = DS_NO_TARGET;
    c->losses[r] = 0.0;
    for (size_t i = 0; i < c->vocab; i++)
        c->dlogits[r * c->dld + i] = 0.0;
    nums_set(&c->logits, r * c->ld + r % c->vocab, (double)(r % 8 < 4 ? NAN : INFINITY));
}

static void reference_row(struct xent *c, size_t r)
{
    const double *x = c->logits.d + r * c->ld;
    double max = x[0], sum = 0.0;

    for (size_t i = 0; i < c->vocab; i++)
        max = fmax(max, x[i]);
    for (size_t i = 0; i < c->vocab; i++)
        sum += exp(x[i] - max);
    c->losses[r] = log(sum) + max - x[c->targets[r]];
    for (size_t i = 0; i < c->vocab; i++)
        c->dlogits[r * c->dld + i] =
            (exp(x[i] - max) / sum - (i == (size_t)c->targets[r])) * (double)grad_scale;
}

static int run(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct xent *c = ctx;
    struct ds_xent_args args = {.rows = c->rows,
                                .vocab = c->vocab,
                                .act = c->act,
                                .logits_type = c->logits_type,
                                .logits = c->in_place ? out[1] : c->logits.data,
                                .ld = c->ld,
                                .targets = c->targets,
                                .losses = out[0],
                                .dlogits = c->loss_only ? NULL : out[1],
                                .dld = c->dld,
                                .grad_scale = grad_scale};

    return ds_xent(&args, stream, err);
}

/* Logits of `type`; in place, or gradients of `act` beside them. */
static void check_types(size_t rows, size_t vocab, size_t pad, enum ds_dtype type,
                        enum ds_dtype act, bool in_place, double scale)
{
    struct xent c = {.rows = rows,
                     .vocab = vocab,
                     .ld = vocab + pad,
                     .act = act,
                     .logits_type = type,
                     .in_place = in_place};
    struct nums old;
    struct trial t = {.what = "xent", .outs = 2, .run = run, .ctx = &c, .f32 = 1e-5};

    c.dld = in_place ? c.ld : vocab + 2 * pad;
    c.logits = nums_random(type, rows * c.ld, scale, 1.0);
    old = nums_random(act, rows * c.dld, 1.0, 0.0);
    c.targets = calloc(rows, sizeof(int32_t));
    c.losses = calloc(rows, sizeof(double));
    c.dlogits = calloc(rows * c.dld, sizeof(double));
    /* What lies between the rows stays as it is. */
    memcpy(c.dlogits, in_place ? c.logits.d : old.d, rows * c.dld * sizeof(double));
    for (size_t r = 0; r < rows; r++) {
        c.targets[r] = (int32_t)(r + 1 == rows ? vocab - 1 : (r * 7919 + 3) % vocab);
        if (r % 4 == 3)
            reference_masked(&c, r);
        else
            reference_row(&c, r);
    }
    t.out[0] = (struct out){DS_F32, rows, c.losses, NULL};
    t.out[1] = (struct out){act, rows * c.dld, c.dlogits, in_place ? &c.logits : &old};
    try_all(&t);
    c.loss_only = true;
    t.outs = 1;
    if (!in_place)
        try_all(&t);
    nums_free(&c.logits);
    nums_free(&old);
    free(c.targets);
    free(c.losses);
    free(c.dlogits);
}

static void check(size_t rows, size_t vocab, size_t pad, enum ds_dtype act, bool in_place,
                  double scale)
{
    check_types(rows, vocab, pad, DS_F32, act, in_place, scale);
}

Test(xent, shapes_and_types)
{
    static const size_t vocabs[] = {1, 2, 17, 64, 97, 113, 256, 5003};

    for (size_t i = 0; i < sizeof(vocabs) / sizeof(vocabs[0]); i++) {
        check(1 + i, vocabs[i], 0, DS_F32, false, 2.0);
        check(5, vocabs[i], 0, DS_F32, true, 2.0);
        check(5, vocabs[i], 0, DS_BF16, false, 2.0);
        check(3, vocabs[i], 3, i % 2 ? DS_F32 : DS_BF16, false, 20.0);
    }
    check(9, 300, 5, DS_F32, true, 100.0);
}

/* As long as GPT-2's and Llama's: more than a GPU's block holds, too, and more rows than blocks. */
Test(xent, long_rows)
{
    check(7, 5003, 5, DS_F32, true, 2.0);
    check(3, 45001, 3, DS_BF16, false, 3.0);
#ifndef DS_TESTS_FEW
    check(5, 50304, 0, DS_F32, true, 3.0);
    check(3, 128256, 0, DS_BF16, false, 3.0);
#endif
}

/* The loss of a row of 37 logits, which is at a multiple of 16 bytes or after one. */
static float loss_of(const char *isa, size_t shift, size_t where, float what, int32_t target)
{
    struct ds_device *device = open_cpu(isa, 1, 0);
    _Alignas(16) float x[48] = {0};
    float loss = NAN, d[40];
    struct ds_xent_args args = {.rows = 1,
                                .vocab = 37,
                                .logits = x + shift,
                                .ld = 40,
                                .targets = &target,
                                .losses = &loss,
                                .act = DS_F32,
                                .dlogits = d,
                                .dld = 40};

    if (device == NULL) /* the processor lacks the instructions */
        return NAN;
    x[shift + where] = what;
    cr_assert(ds_xent(&args, ds_device_stream(device), NULL) == 0);
    ds_device_close(device);
    return loss;
}

Test(xent, what_is_no_number_shows_in_the_loss)
{
    static const char *const isas[] = {"v4", "v3", "base"};

    for (size_t i = 0; i < 6; i++) {
        const char *isa = isas[i % 3];
        size_t shift = i / 3;

        for (size_t where = 0; where < 37; where++) {
            cr_assert(isnan(loss_of(isa, shift, where, NAN, 5)), "NaN at %zu", where);
            cr_assert(isnan(loss_of(isa, shift, where, INFINITY, 5)), "infinity at %zu", where);
        }
        cr_assert(isnan(loss_of(isa, shift, 0, 1.0f, 37)), "an id of no token");
        cr_assert(isnan(loss_of(isa, shift, 0, 1.0f, -2)), "a negative id");
    }
    /* The others have the probability that this one lacks. */
    for (size_t shift = 0; shift < 2; shift++) {
        cr_assert_float_eq(loss_of(NULL, shift, 7, -INFINITY, 5), logf(36.0f), 1e-5);
        cr_assert_float_eq(loss_of(NULL, shift, 5, -1000.0f, 5), 1000.0f + logf(36.0f), 1e-3);
        cr_assert(isinf(loss_of(NULL, shift, 5, -INFINITY, 5)), "a target of no probability");
        cr_assert(loss_of(NULL, shift, 5, NAN, DS_NO_TARGET) == 0.0f, "no target");
    }
}

Test(xent, halves)
{
    static const size_t widths[] = {2, 7, 97, 257, 1024};

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
        check(5, widths[i], i % 3, DS_F16, false, 2.0);
}

Test(xent, logits_of_the_gradients_type)
{
    static const size_t widths[] = {1, 2, 7, 16, 97, 257, 1024, 5003};

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        enum ds_dtype type = i % 2 ? DS_F16 : DS_BF16, other = i % 2 ? DS_BF16 : DS_F16;
        size_t words = (8 - widths[i] % 8) % 8; /* to the next multiple of 16 bytes */

        check_types(5, widths[i], words, type, type, true, 2.0);
        check_types(6, widths[i], words, other, other, i % 4 < 2, 2.0);
        check_types(3, widths[i], i % 3, type, type, i % 4 < 2, 20.0);
    }
    check_types(2, 50257, 15, DS_BF16, DS_BF16, true, 3.0);
#ifndef DS_TESTS_FEW
    check_types(5, 50304, 0, DS_F16, DS_F16, true, 3.0);
    check_types(5, 90009, 7, DS_BF16, DS_BF16, true, 3.0);
    check_types(3, 128256, 0, DS_BF16, DS_BF16, true, 3.0);
    check_types(2, 128256, 0, DS_F16, DS_F16, false, 3.0);
#endif
}
