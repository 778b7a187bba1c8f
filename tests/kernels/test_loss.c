/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_loss.c - softmax cross-entropy against double.
 */
#include "tests/kernels/harness.h"

struct xent {
    size_t rows, vocab, ld, dld;
    enum ds_dtype act;
    bool in_place, loss_only;
    struct nums logits;
    int32_t *targets;
    double *losses, *dlogits;
};

static const float grad_scale = 0.0625f;

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
                                .logits = c->in_place ? out[1] : c->logits.data,
                                .ld = c->ld,
                                .targets = c->targets,
                                .losses = out[0],
                                .dlogits = c->loss_only ? NULL : out[1],
                                .dld = c->dld,
                                .grad_scale = grad_scale};

    return ds_xent(&args, stream, err);
}

static void check(size_t rows, size_t vocab, size_t pad, enum ds_dtype act, bool in_place,
                  double scale)
{
    struct xent c = {
        .rows = rows, .vocab = vocab, .ld = vocab + pad, .act = act, .in_place = in_place};
    struct nums old;
    struct trial t = {.what = "xent", .outs = 2, .run = run, .ctx = &c, .f32 = 1e-5};

    c.dld = in_place ? c.ld : vocab + 2 * pad;
    c.logits = nums_random(DS_F32, rows * c.ld, scale, 1.0);
    old = nums_random(act, rows * c.dld, 1.0, 0.0);
    c.targets = calloc(rows, sizeof(int32_t));
    c.losses = calloc(rows, sizeof(double));
    c.dlogits = calloc(rows * c.dld, sizeof(double));
    /* What lies between the rows stays as it is. */
    memcpy(c.dlogits, in_place ? c.logits.d : old.d, rows * c.dld * sizeof(double));
    for (size_t r = 0; r < rows; r++) {
        c.targets[r] = (int32_t)((r * 7919 + 3) % vocab);
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

Test(xent, nan_shows_in_the_loss)
{
    static const char *const isas[] = {"v4", "v3", "base"};

    for (size_t i = 0; i < 3; i++) {
        for (size_t where = 0; where < 37; where++) {
            struct ds_device *device = open_cpu(isas[i], 1, 0);
            float x[37] = {0}, loss = 0.0f;
            int32_t target = 5;
            struct ds_xent_args args = {.rows = 1,
                                        .vocab = 37,
                                        .logits = x,
                                        .ld = 37,
                                        .targets = &target,
                                        .losses = &loss,
                                        .act = DS_F32};

            if (device == NULL)
                break;
            x[where] = NAN;
            cr_assert(ds_xent(&args, ds_device_stream(device), NULL) == 0);
            cr_assert(isnan(loss), "NaN at %zu: loss %g", where, (double)loss);
            ds_device_close(device);
        }
    }
}

Test(xent, halves)
{
    static const size_t widths[] = {2, 7, 97, 257, 1024};

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
        check(5, widths[i], i % 3, DS_F16, false, 2.0);
}
