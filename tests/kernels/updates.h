/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * updates.h - several updates of a tensor by an optimizer: what all optimizers' tests share.
 *
 * A test has a struct that begins with struct updates and a function that makes one pass of one
 * update over a range of elements.  Outputs are the parameters, two lines of state and the low copy
 * of the parameters.
 */
#ifndef DS_TESTS_KERNELS_UPDATES_H
#define DS_TESTS_KERNELS_UPDATES_H

#include "tests/kernels/harness.h"

enum { UPDATES = 5, UPDATE_OUTS = 4 };

static const double grad_scale = 0.5;

struct updates;

struct updates_range {
    size_t at, n;
    unsigned t; /* 1 .. UPDATES */
};

typedef int updates_pass_fn(struct updates *run, unsigned pass, void **out,
                            struct updates_range range, struct ds_stream *stream,
                            struct ds_error *err);

struct updates {
    const char *name;
    updates_pass_fn *pass;
    unsigned passes; /* of an update; each is over the whole tensor */
    size_t n;
    struct nums grad[UPDATES];
    bool low;
    size_t cut; /* > 0: in pieces of that many elements */
};

/* What kernels of a job with such gradients read. */
static inline enum ds_dtype updates_low_type(enum ds_dtype grad_type)
{
    return grad_type == DS_F16 ? DS_F16 : DS_BF16;
}

static inline int updates_run(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct updates *run = ctx;
    size_t piece = run->cut > 0 ? run->cut : run->n;
    int rc = 0;

    for (unsigned t = 1; t <= UPDATES; t++)
        for (unsigned pass = 0; pass < run->passes; pass++)
            for (size_t at = 0; rc == 0 && at < run->n; at += piece) {
                size_t n = run->n - at < piece ? run->n - at : piece;

                rc = run->pass(run, pass, out, (struct updates_range){at, n, t}, stream, err);
            }
    return rc;
}

/* Gradients of one type; those of a range that is cut are of two. */
static inline void updates_draw(struct updates *run, const enum ds_dtype *types, size_t count,
                                double zeros)
{
    for (unsigned u = 0; u < UPDATES; u++)
        run->grad[u] = nums_random(types[u % count], run->n, 1.0, zeros);
}

static inline void updates_free(struct updates *run)
{
    for (unsigned u = 0; u < UPDATES; u++)
        nums_free(&run->grad[u]);
}

/* From `p` and no state to want[UPDATE_OUTS], on every instruction set and number of threads. */
static inline void updates_try(struct updates *run, const struct nums *p, double **want)
{
    struct nums zero = nums_random(DS_F32, run->n, 0.0, 0.0);
    struct trial t = {.what = run->name,
                      .outs = run->low ? UPDATE_OUTS : UPDATE_OUTS - 1,
                      .run = updates_run,
                      .ctx = run,
                      .f32 = 4e-6, /* a few roundings of each update */
                      .bf16 = 4e-3};

    t.out[0] = (struct out){DS_F32, run->n, want[0], p};
    t.out[1] = (struct out){DS_F32, run->n, want[1], &zero};
    t.out[2] = (struct out){DS_F32, run->n, want[2], &zero};
    t.out[3] = (struct out){updates_low_type(run->grad[0].type), run->n, want[3], NULL};
    try_all(&t);
    nums_free(&zero);
}

static inline void updates_bits(struct updates *run, const struct nums *p, void **out)
{
    struct ds_device *device = open_cpu(NULL, 2, ds_scratch_bytes(&(struct ds_scratch_query){0}));

    for (size_t i = 0; i < UPDATE_OUTS; i++)
        out[i] = calloc(run->n, sizeof(float));
    memcpy(out[0], p->data, run->n * sizeof(float));
    cr_assert(updates_run(run, out, ds_device_stream(device), NULL) == 0);
    ds_device_close(device);
}

/* A shard may start and end anywhere: the bits are those of the whole. */
static inline void updates_in_pieces(struct updates *run)
{
    static const enum ds_dtype types[] = {DS_F32, DS_BF16};
    static const size_t cuts[] = {1, 13, 16, 17, 1000};
    struct nums p = nums_random(DS_F32, run->n, 1.0, 0.0);
    void *whole[UPDATE_OUTS], *cut[UPDATE_OUTS];

    updates_draw(run, types, 2, 0.0);
    updates_bits(run, &p, whole);
    for (size_t c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++) {
        run->cut = cuts[c];
        updates_bits(run, &p, cut);
        for (size_t i = 0; i < UPDATE_OUTS; i++) {
            size_t bytes = run->n * (i < 3 ? sizeof(float) : sizeof(ds_bf16));

            cr_assert(memcmp(whole[i], cut[i], bytes) == 0, "%s: output %zu in pieces of %zu",
                      run->name, i, cuts[c]);
            free(cut[i]);
        }
    }
    for (size_t i = 0; i < UPDATE_OUTS; i++)
        free(whole[i]);
    updates_free(run);
    nums_free(&p);
}

#endif
