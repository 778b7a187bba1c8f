/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * lamb.c - LAMB in its two passes: states and sums of squares, then the step.
 *
 * The direction u of an element is worked out in both and never stored.
 *
 * Source  You et al., "Large Batch Optimization for Deep Learning", 2019, algorithm 2.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <math.h>

/* What of u does not depend on the element. */
struct direction {
    float mean; /* 1 / bias1 */
    float root; /* 1 / sqrt(bias2) */
    float eps, decay;
};

/* As the step before went: its number is this one's if it made no update. */
#define DIRECTION_OF(a)                                                                            \
    ((a)->verdict != NULL && (a)->verdict->behind                                                  \
         ? direction_of((a)->behind_bias1, (a)->behind_bias2, (a)->eps, (a)->weight_decay)         \
         : direction_of((a)->bias1, (a)->bias2, (a)->eps, (a)->weight_decay))

struct moments {
    const struct ds_lamb_moments_args *a;
    struct direction u;
    float beta1, beta1_1, beta2, beta2_1, grad_scale;
    size_t first;          /* chunk of this group */
    double *p_sum, *u_sum; /* [DS_SUMSQ_GROUP] */
};

struct step {
    const struct ds_lamb_args *a;
    struct direction u;
    float step;
};

static struct direction direction_of(double bias1, double bias2, double eps, double decay)
{
    return (struct direction){
        .mean = (float)(1.0 / bias1),
        .root = (float)(1.0 / sqrt(bias2)),
        .eps = (float)eps,
        .decay = (float)decay,
    };
}

DS_INLINE ds_vec direction(const struct direction *u, ds_vec p, ds_vec m, ds_vec v)
{
    return m * u->mean / (ds_vec_sqrt(v) * u->root + u->eps) + u->decay * p;
}

DS_INLINE ds_vec load(const float *x, size_t i, size_t part)
{
    return part == DS_LANES ? ds_vec_load(x + i) : ds_load_part(DS_F32, x, i, part);
}

DS_INLINE void store(float *x, size_t i, size_t part, ds_vec value)
{
    if (part == DS_LANES)
        ds_vec_store(x + i, value);
    else
        ds_store_part(DS_F32, x, i, part, value);
}

DS_INLINE double total(ds_wide low, ds_wide high)
{
    double sum = 0.0;

    low += high;
    for (size_t i = 0; i < DS_LANES / 2; i++)
        sum += low[i];
    return sum;
}

DS_INLINE void chunk(const struct moments *w, size_t task, enum ds_dtype grad_type)
{
    const struct ds_lamb_moments_args *a = w->a;
    size_t i = (w->first + task) * DS_SUMSQ_CHUNK, end = ds__min(i + DS_SUMSQ_CHUNK, a->n);
    ds_wide p_low = {0}, p_high = {0}, u_low = {0}, u_high = {0};

    for (; i < end; i += DS_LANES) {
        size_t part = ds__min(DS_LANES, end - i);
        ds_vec p = load(a->p, i, part), m = load(a->m, i, part), v = load(a->v, i, part);
        ds_vec g = part == DS_LANES ? ds_load(grad_type, a->grad, i)
                                    : ds_load_part(grad_type, a->grad, i, part);
        ds_vec u;

        g = g * w->grad_scale;
        m = w->beta1 * m + w->beta1_1 * g;
        v = w->beta2 * v + w->beta2_1 * (g * g);
        store(a->m, i, part, m);
        store(a->v, i, part, v);
        u = direction(&w->u, p, m, v);
        p_low += ds_vec_wide(p, 0) * ds_vec_wide(p, 0);
        p_high += ds_vec_wide(p, 1) * ds_vec_wide(p, 1);
        u_low += ds_vec_wide(u, 0) * ds_vec_wide(u, 0);
        u_high += ds_vec_wide(u, 1) * ds_vec_wide(u, 1);
    }
    w->p_sum[task] = total(p_low, p_high);
    w->u_sum[task] = total(u_low, u_high);
}

static void moments_task(void *arg, size_t task, unsigned thread)
{
    const struct moments *w = arg;

    (void)thread;
    DS_TYPED(w->a->grad_type, chunk(w, task, T));
}

int DS_ISA(ds__cpu_lamb_moments)(const struct ds_lamb_moments_args *args, struct ds_stream *stream,
                                 struct ds_error *err)
{
    size_t chunks = ds__div_up(args->n, DS_SUMSQ_CHUNK);
    struct moments w = {
        .a = args,
        .u = DIRECTION_OF(args),
        .beta1 = (float)args->beta1,
        .beta1_1 = (float)(1.0 - args->beta1),
        .beta2 = (float)args->beta2,
        .beta2_1 = (float)(1.0 - args->beta2),
        .grad_scale = args->verdict != NULL ? args->verdict->grad_scale : (float)args->grad_scale,
    };
    int rc = ds__cpu_scratch(stream, ds__need_sumsq(), &w.p_sum, err);

    if (rc != 0)
        return rc;
    w.u_sum = w.p_sum + DS_SUMSQ_GROUP;
    *args->p_sumsq = *args->u_sumsq = 0.0;
    if (args->verdict != NULL && args->verdict->skip)
        return 0;
    for (; w.first < chunks; w.first += DS_SUMSQ_GROUP) {
        size_t group = ds__min(DS_SUMSQ_GROUP, chunks - w.first);

        ds__cpu_run(stream, group, moments_task, &w);
        for (size_t i = 0; i < group; i++) {
            *args->p_sumsq += w.p_sum[i];
            *args->u_sumsq += w.u_sum[i];
        }
    }
    return 0;
}

DS_INLINE void span(const struct step *w, size_t task, enum ds_dtype low_type)
{
    const struct ds_lamb_args *a = w->a;
    size_t i = task * DS_SUMSQ_CHUNK, end = ds__min(i + DS_SUMSQ_CHUNK, a->n);

    for (; i < end; i += DS_LANES) {
        size_t part = ds__min(DS_LANES, end - i);
        ds_vec p = load(a->p, i, part), m = load(a->m, i, part), v = load(a->v, i, part);

        p -= w->step * direction(&w->u, p, m, v);
        store(a->p, i, part, p);
        if (low_type != DS_F32 && part == DS_LANES)
            ds_store(low_type, a->p_low, i, p);
        else if (low_type != DS_F32)
            ds_store_part(low_type, a->p_low, i, part, p);
    }
}

static void step_task(void *arg, size_t task, unsigned thread)
{
    const struct step *w = arg;

    (void)thread;
    if (w->a->p_low == NULL)
        span(w, task, DS_F32);
    else if (w->a->low_type == DS_BF16)
        span(w, task, DS_BF16);
    else
        span(w, task, DS_F16);
}

int DS_ISA(ds__cpu_lamb)(const struct ds_lamb_args *args, struct ds_stream *stream,
                         struct ds_error *err)
{
    struct step w = {
        .a = args,
        .u = DIRECTION_OF(args),
    };

    (void)err;
    if (args->n == 0 || (args->verdict != NULL && args->verdict->skip))
        return 0;
    w.step = (float)(args->lr * ds_trust_ratio(*args->p_sumsq, *args->u_sumsq));
    ds__cpu_run(stream, ds__div_up(args->n, DS_SUMSQ_CHUNK), step_task, &w);
    return 0;
}
