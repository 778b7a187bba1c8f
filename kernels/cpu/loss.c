/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * loss.c - softmax cross-entropy over rows of logits.
 *
 * Three passes over a row that stays in the second cache: its largest value,
 * exp() with its sum, and the scaling into gradients.  F32 gradients hold the
 * exponentials between the last two passes; smaller ones are computed anew, so
 * that they are rounded once.  Where ranks share the columns the first two are
 * of one operation, and the third of another.  A row without a target is not
 * looked at.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { UNROLL = 4 * DS_LANES };

DS_INLINE float row_max(enum ds_dtype type, const void *x, size_t n)
{
    ds_vec max[4];
    float largest;
    size_t i = 0;

    for (int j = 0; j < 4; j++)
        max[j] = ds_vec_set(-INFINITY);
    for (; i + UNROLL <= n; i += UNROLL) {
        for (size_t j = 0; j < 4; j++)
            max[j] = ds_vec_max(max[j], ds_load(type, x, i + j * DS_LANES));
    }
    largest = ds_vec_largest(ds_vec_max(ds_vec_max(max[0], max[1]), ds_vec_max(max[2], max[3])));
    for (; i < n; i++) {
        float last = ds_load_one(type, x, i);

        largest = last > largest ? last : largest;
    }
    return largest;
}

/* Sum of exp(x - max); the terms go to `e` unless it is NULL (e may be x). */
DS_INLINE float row_exp(enum ds_dtype type, const void *x, size_t n, float max, float *e)
{
    ds_vec sum0 = {0}, sum1 = {0};
    size_t i = 0;

    for (; i + 2 * DS_LANES <= n; i += 2 * DS_LANES) {
        ds_vec e0 = ds_vec_exp(ds_load(type, x, i) - max);
        ds_vec e1 = ds_vec_exp(ds_load(type, x, i + DS_LANES) - max);

        sum0 += e0;
        sum1 += e1;
        if (e != NULL) {
            ds_vec_store(e + i, e0);
            ds_vec_store(e + i + DS_LANES, e1);
        }
    }
    for (; i < n; i += DS_LANES) {
        size_t part = ds__min(DS_LANES, n - i);
        ds_vec term = ds_vec_exp(ds_load_part(type, x, i, part) - max), used = {0};

        ds_store_part(DS_F32, &used, 0, part, term);
        sum0 += used;
        if (e != NULL)
            ds_store_part(DS_F32, e, i, part, used);
    }
    return ds_vec_sum(sum0 + sum1);
}

static void row_scale(float *x, size_t n, float by)
{
    size_t i = 0;

    for (; i + DS_LANES <= n; i += DS_LANES)
        ds_vec_store(x + i, ds_vec_load(x + i) * by);
    for (; i < n; i++)
        x[i] *= by;
}

/* Gradients that are rounded once; `out` may be x where both are of one type. */
DS_INLINE void row_narrow(enum ds_dtype from, enum ds_dtype to, const void *x, size_t n, float max,
                          float by, void *out)
{
    size_t i = 0;

    for (; i + DS_LANES <= n; i += DS_LANES)
        ds_store(to, out, i, ds_vec_exp(ds_load(from, x, i) - max) * by);
    if (i < n)
        ds_store_part(to, out, i, n - i, ds_vec_exp(ds_load_part(from, x, i, n - i) - max) * by);
}

/* Gradients of F32, of logits of F32; returns the sum of exp(x - max). */
static float row_wide(const struct ds_xent_args *a, const float *x, size_t target, float max,
                      float *d)
{
    float sum = row_exp(DS_F32, x, a->vocab, max, d);
    float p = target < a->vocab ? d[target] / sum : NAN;

    row_scale(d, a->vocab, a->grad_scale / sum);
    if (target < a->vocab)
        d[target] = (p - 1.0f) * a->grad_scale;
    return sum;
}

/* Nothing is wanted of row r: `columns` gradients of it are 0. */
static void clear_row(const struct ds_xent_args *a, size_t r, size_t columns)
{
    size_t size = ds_dtype_bytes(a->act);

    a->losses[r] = 0.0f;
    if (a->dlogits != NULL)
        memset((char *)a->dlogits + r * a->dld * size, 0, columns * size);
}

static void row(const struct ds_xent_args *a, size_t r)
{
    const void *x = (const char *)a->logits + r * a->ld * ds_dtype_bytes(a->logits_type);
    size_t target = (size_t)a->targets[r];
    bool inside = a->targets[r] >= 0 && target < a->vocab;
    float wanted = inside ? ds_load_one(a->logits_type, x, target) : NAN, max = 0.0f, sum = 0.0f;
    void *d = NULL;

    if (a->dlogits != NULL)
        d = (char *)a->dlogits + r * a->dld * ds_dtype_bytes(a->act);
    DS_TYPED(a->logits_type, max = row_max(T, x, a->vocab));
    if (d != NULL && a->act == DS_F32) {
        sum = row_wide(a, x, inside ? target : a->vocab, max, d);
    } else {
        DS_TYPED(a->logits_type, sum = row_exp(T, x, a->vocab, max, NULL));
        if (d != NULL && a->logits_type == DS_F32)
            DS_TYPED(a->act, row_narrow(DS_F32, T, x, a->vocab, max, a->grad_scale / sum, d));
        else if (d != NULL)
            DS_TYPED(a->act, row_narrow(T, T, x, a->vocab, max, a->grad_scale / sum, d));
        if (d != NULL && inside)
            ds_store_one(a->act, d, target, (expf(wanted - max) / sum - 1.0f) * a->grad_scale);
    }
    a->losses[r] = logf(sum) + max - wanted;
}

static void xent_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_xent_args *a = arg;

    (void)thread;
    if (a->targets[task] == DS_NO_TARGET)
        clear_row(a, task, a->vocab);
    else
        row(a, task);
}

/* --- columns that ranks share ------------------------------------------------------------------*/

/* What is subtracted where `most` is the largest: exp() of nothing but -INFINITY is 0, not NaN. */
static float base_of(float most)
{
    return most == -INFINITY ? 0.0f : most;
}

static void part_task(void *arg, size_t r, unsigned thread)
{
    const struct ds_xent_part_args *a = arg;
    const void *x = (const char *)a->logits + r * a->ld * ds_dtype_bytes(a->logits_type);
    size_t at = (size_t)a->targets[r] - a->first_id; /* far above `vocab` in front of the first */
    struct ds_xent_row out = {.wanted = NAN};

    (void)thread;
    DS_TYPED(a->logits_type, out.most = row_max(T, x, a->vocab));
    DS_TYPED(a->logits_type, out.sum = row_exp(T, x, a->vocab, base_of(out.most), NULL));
    if (at < a->vocab)
        out.wanted = ds_load_one(a->logits_type, x, at);
    a->out[r] = out;
}

/* What all ranks' columns say of a row. */
static struct ds_xent_row whole_row(const struct ds_xent_args *a, size_t r)
{
    struct ds_xent_row all = {.most = -INFINITY, .wanted = NAN};
    size_t owner = (size_t)a->targets[r] / a->each; /* far above `ranks` of a negative target */

    for (size_t rank = 0; rank < a->ranks; rank++)
        all.most = fmaxf(all.most, a->parts[rank * a->rows + r].most);
    for (size_t rank = 0; rank < a->ranks; rank++) {
        const struct ds_xent_row *part = &a->parts[rank * a->rows + r];

        all.sum += part->sum * expf(part->most - all.most);
    }
    if (owner < a->ranks)
        all.wanted = a->parts[owner * a->rows + r].wanted;
    return all;
}

static void shared_row(const struct ds_xent_args *a, size_t r)
{
    const void *x = (const char *)a->logits + r * a->ld * ds_dtype_bytes(a->logits_type);
    size_t at = (size_t)a->targets[r] - a->first_id, size = ds_dtype_bytes(a->act);
    struct ds_xent_row all = whole_row(a, r);
    float by = a->grad_scale / all.sum;
    char *d = a->dlogits;

    a->losses[r] = logf(all.sum) + all.most - all.wanted;
    if (d == NULL)
        return;
    d += r * a->dld * size;
    if (a->logits_type == DS_F32)
        DS_TYPED(a->act, row_narrow(DS_F32, T, x, a->vocab, all.most, by, d));
    else
        DS_TYPED(a->act, row_narrow(T, T, x, a->vocab, all.most, by, d));
    if (at < a->vocab)
        ds_store_one(a->act, d, at, (expf(all.wanted - all.most) / all.sum - 1.0f) * a->grad_scale);
    memset(d + a->vocab * size, 0, (a->columns - a->vocab) * size);
}

static void shared_task(void *arg, size_t r, unsigned thread)
{
    const struct ds_xent_args *a = arg;

    (void)thread;
    if (a->targets[r] == DS_NO_TARGET)
        clear_row(a, r, a->columns);
    else
        shared_row(a, r);
}

int DS_ISA(ds__cpu_xent_part)(const struct ds_xent_part_args *args, struct ds_stream *stream,
                              struct ds_error *err)
{
    struct ds_xent_part_args a = *args;

    (void)err;
    ds__cpu_run(stream, a.rows, part_task, &a);
    return 0;
}

int DS_ISA(ds__cpu_xent)(const struct ds_xent_args *args, struct ds_stream *stream,
                         struct ds_error *err)
{
    struct ds_xent_args a = *args;

    (void)err;
    if (a.grad_scale_at != NULL)
        a.grad_scale = *a.grad_scale_at;
    ds__cpu_run(stream, a.rows, a.parts != NULL ? shared_task : xent_task, &a);
    return 0;
}
