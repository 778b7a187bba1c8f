/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sumsq.c - sums over flat arrays; one array added to another; what a step came to.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* A core's prefetchers stop at the end of a page; asking for the next one makes a pass over what is
 * in no cache half as fast again. */
enum { HALF = DS_LANES / 2, AHEAD = 4096 / sizeof(float) };

struct sumsq {
    const struct ds_sumsq_args *a;
    size_t first; /* chunk of this group */
    double *sum;  /* [DS_SUMSQ_GROUP] */
    uint64_t *nonfinite;
};

static void sumsq_task(void *arg, size_t task, unsigned thread)
{
    const struct sumsq *s = arg;
    size_t i = (s->first + task) * DS_SUMSQ_CHUNK, end = ds__min(i + DS_SUMSQ_CHUNK, s->a->n);
    ds_wide low = {0}, high = {0};
    ds_uvec bad = {0};
    double sum = 0.0;
    uint64_t count = 0;

    (void)thread;
    for (; i < end; i += DS_LANES) {
        ds_vec x = i + DS_LANES <= end ? ds_vec_load(s->a->x + i)
                                       : ds_load_part(DS_F32, s->a->x, i, end - i);
        ds_ivec mask = ((ds_ivec)x & 0x7f800000) == 0x7f800000;
        ds_wide x0, x1;

        __builtin_prefetch(s->a->x + ds__min(i + AHEAD, s->a->n));
        x = (ds_vec)((ds_ivec)x & ~mask);
        bad -= (ds_uvec)mask;
        x0 = ds_vec_wide(x, 0);
        x1 = ds_vec_wide(x, 1);
        low += x0 * x0;
        high += x1 * x1;
    }
    low += high;
    for (size_t j = 0; j < HALF; j++)
        sum += low[j];
    for (size_t j = 0; j < DS_LANES; j++)
        count += bad[j];
    s->sum[task] = sum;
    s->nonfinite[task] = count;
}

/* Where the first element of chunk `task` is that is not finite; there is one. */
static uint64_t place_in(const struct sumsq *s, size_t task)
{
    size_t i = (s->first + task) * DS_SUMSQ_CHUNK;

    while (isfinite(s->a->x[i]))
        i++;
    return s->a->base + i;
}

int DS_ISA(ds__cpu_sumsq)(const struct ds_sumsq_args *args, struct ds_stream *stream,
                          struct ds_error *err)
{
    struct sumsq s = {.a = args};
    size_t chunks = ds__div_up(args->n, DS_SUMSQ_CHUNK);
    double sum = 0.0;
    uint64_t nonfinite = 0, place = DS_NOWHERE;
    int rc = ds__cpu_scratch(stream, ds__need_sumsq(), &s.sum, err);

    if (rc != 0)
        return rc;
    s.nonfinite = (uint64_t *)(void *)(s.sum + DS_SUMSQ_GROUP);
    for (; s.first < chunks; s.first += DS_SUMSQ_GROUP) {
        size_t group = ds__min(DS_SUMSQ_GROUP, chunks - s.first);

        ds__cpu_run(stream, group, sumsq_task, &s);
        for (size_t i = 0; i < group; i++) {
            sum += s.sum[i];
            nonfinite += s.nonfinite[i];
            if (s.nonfinite[i] > 0 && place == DS_NOWHERE)
                place = place_in(&s, i);
        }
    }
    *args->sum = sum;
    *args->nonfinite = nonfinite;
    if (args->place != NULL)
        *args->place = place;
    return 0;
}

int DS_ISA(ds__cpu_tally)(const struct ds_tally_args *args, struct ds_stream *stream,
                          struct ds_error *err)
{
    struct ds_entry entry = {.loss = *args->loss,
                             .peaks = *args->peaks,
                             .place = {DS_NOWHERE, DS_NOWHERE},
                             .hash = args->hash,
                             .stop = args->stop,
                             .writing = args->writing};

    (void)stream;
    (void)err;
    for (size_t i = 0; i < args->parts; i++)
        ds_entry_take(&entry, &args->part[i], i >= args->own);
    *args->entry = entry;
    return 0;
}

int DS_ISA(ds__cpu_verdict)(const struct ds_verdict_args *args, struct ds_stream *stream,
                            struct ds_error *err)
{
    (void)stream;
    (void)err;
    for (size_t apart = 1; apart < args->ranks; apart *= 2)
        for (size_t i = 0; i + apart < args->ranks; i += 2 * apart)
            ds_entry_add(&args->entry[i], &args->entry[i + apart]);
    ds_verdict_make(args->verdict, args->entry, args->before, &args->size, args->clip, &args->rule);
    for (int i = 0; args->loss_factor != NULL && i < DS_LOSS_FACTORS; i++)
        args->loss_factor[i] = args->verdict->loss_factor;
    return 0;
}

int DS_ISA(ds__cpu_rank_sum)(const struct ds_rank_sum_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    size_t n = args->n;

    (void)stream;
    (void)err;
    for (size_t apart = 1; apart < args->ranks; apart *= 2)
        for (size_t i = 0; i + apart < args->ranks; i += 2 * apart)
            for (size_t k = 0; k < n; k++)
                args->x[i * n + k] += args->x[(i + apart) * n + k];
    return 0;
}

/* One by one: as many as a micro-batch has tokens. */
int DS_ISA(ds__cpu_sum)(const struct ds_sum_args *args, struct ds_stream *stream,
                        struct ds_error *err)
{
    double sum = args->accumulate ? *args->sum : 0.0;

    (void)stream;
    (void)err;
    for (size_t i = 0; i < args->n; i++)
        sum += (double)args->x[i];
    *args->sum = sum;
    return 0;
}

int DS_ISA(ds__cpu_add)(const struct ds_add_args *args, struct ds_stream *stream,
                        struct ds_error *err)
{
    (void)stream;
    (void)err;
    for (size_t i = 0; i < args->n; i++)
        args->y[i] += args->x[i];
    return 0;
}
