/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * experts.c - which experts rows are given to, and rows in the experts' order and back.
 *
 * Pairs are sorted by counting: blocks of rows count how many each expert is given, and from the
 * counts of the blocks before it each knows where its own go.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { BLOCKS = 16, SPAN = 16 };

static bool above(float x, float y)
{
    return x > y || (isnan(y) && !isnan(x));
}

/* The largest ones, the largest first. */
static void choose(const float *logits, size_t experts, size_t each, uint32_t *chosen)
{
    for (size_t e = 0; e < experts; e++) {
        size_t at = ds__min(e, each);

        for (; at > 0 && above(logits[e], logits[chosen[at - 1]]); at--) {
            if (at < each)
                chosen[at] = chosen[at - 1];
        }
        if (at < each)
            chosen[at] = (uint32_t)e;
    }
}

static void weigh(const float *logits, const uint32_t *chosen, size_t each, float *weight)
{
    float w[DS_MAX_EXPERTS_EACH] = {0}, sum;

    for (size_t j = 0; j < each; j++)
        w[j] = logits[chosen[j]];
    sum = ds__exp_row(w, each, 1.0f, w[0]);
    for (size_t j = 0; j < each; j++)
        weight[j] = w[j] / sum;
}

static void choose_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_route_args *a = arg;
    size_t end = ds__min((task + 1) * SPAN, a->batch * a->seq), experts = a->experts;
    float s[DS_MAX_EXPERTS + DS_LANES] = {0}; /* whole vectors of it are read */

    (void)thread;
    for (size_t n = task * SPAN; n < end; n++) {
        const float *logits = a->logits + n * experts;
        uint32_t *chosen = a->chosen + n * a->each;
        float sum;

        choose(logits, experts, a->each, chosen);
        weigh(logits, chosen, a->each, a->weight + n * a->each);
        memcpy(s, logits, experts * sizeof(*s));
        sum = ds__exp_row(s, experts, 1.0f, ds__largest_of(s, experts));
        for (size_t e = 0; e < experts; e++)
            a->probs[n * experts + e] = s[e] / sum;
    }
}

static void load_task(void *arg, size_t b, unsigned thread)
{
    const struct ds_route_args *a = arg;
    const uint32_t *chosen = a->chosen + b * a->seq * a->each;
    uint32_t count[DS_MAX_EXPERTS] = {0};

    (void)thread;
    for (size_t i = 0; i < a->seq * a->each; i++)
        count[chosen[i]]++;
    for (size_t e = 0; e < a->experts; e++)
        a->load[b * a->experts + e] = (float)count[e];
}

int DS_ISA(ds__cpu_route)(const struct ds_route_args *args, struct ds_stream *stream,
                          struct ds_error *err)
{
    struct ds_route_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__div_up(a.batch * a.seq, SPAN), choose_task, &a);
    ds__cpu_run(stream, a.batch, load_task, &a);
    return 0;
}

struct order {
    const struct ds_sort_pairs_args *a;
    size_t pairs;
    uint32_t count[BLOCKS][DS_MAX_EXPERTS]; /* then where the block's first one goes */
};

/* Among the experts that are here; `held` and more if it is not. */
static size_t held_expert(const struct ds_sort_pairs_args *a, size_t pair)
{
    return (size_t)a->chosen[pair] - a->first;
}

static void count_task(void *arg, size_t block, unsigned thread)
{
    struct order *o = arg;

    (void)thread;
    for (size_t p = o->pairs * block / BLOCKS; p < o->pairs * (block + 1) / BLOCKS; p++) {
        size_t e = held_expert(o->a, p);

        if (e < o->a->held)
            o->count[block][e]++;
    }
}

static void add_up(struct order *o)
{
    uint32_t at = 0;

    o->a->offset[0] = 0;
    for (size_t e = 0; e < o->a->held; e++) {
        for (size_t block = 0; block < BLOCKS; block++) {
            uint32_t count = o->count[block][e];

            o->count[block][e] = at;
            at += count;
        }
        o->a->offset[e + 1] = (uint32_t)ds__min(at, o->a->sorted);
    }
}

static void place_task(void *arg, size_t block, unsigned thread)
{
    struct order *o = arg;
    const struct ds_sort_pairs_args *a = o->a;

    (void)thread;
    for (size_t p = o->pairs * block / BLOCKS; p < o->pairs * (block + 1) / BLOCKS; p++) {
        size_t e = held_expert(a, p);
        uint32_t to = e < a->held ? o->count[block][e]++ : DS_NO_ROW;

        a->place[p] = to < a->sorted ? to : DS_NO_ROW;
        if (to < a->sorted)
            a->source[to] = (uint32_t)p;
    }
}

int DS_ISA(ds__cpu_sort_pairs)(const struct ds_sort_pairs_args *args, struct ds_stream *stream,
                               struct ds_error *err)
{
    struct order o = {.a = args, .pairs = args->rows * args->each};

    (void)err;
    ds__cpu_run(stream, BLOCKS, count_task, &o);
    add_up(&o);
    ds__cpu_run(stream, BLOCKS, place_task, &o);
    return 0;
}

/* Gradients by way of the weights of a row's pairs. */
static void weights_bwd(const struct ds_route_bwd_args *a, size_t n, float *dlogits)
{
    const float *w = a->weight + n * a->each, *d = a->dweight + n * a->each;
    float sum = 0.0f;

    for (size_t j = 0; j < a->each; j++)
        sum += w[j] * d[j];
    for (size_t j = 0; j < a->each; j++)
        dlogits[ds__min(a->chosen[n * a->each + j], a->experts - 1)] += w[j] * (d[j] - sum);
}

/* And by way of the probabilities of all experts. */
static void balance_bwd(const struct ds_route_bwd_args *a, size_t n, float *dlogits)
{
    const float *probs = a->probs + n * a->experts, *load = a->load + n / a->seq * a->experts;
    float grad = a->grad_scale_at != NULL ? *a->grad_scale_at : a->grad_scale;
    float scale = a->balance * grad * (float)a->experts;
    float pairs = (float)a->sequence * (float)a->each, sum = 0.0f;

    for (size_t e = 0; e < a->experts; e++)
        sum += load[e] / pairs * probs[e];
    for (size_t e = 0; e < a->experts; e++)
        dlogits[e] += scale * probs[e] * (load[e] / pairs - sum);
}

static void route_bwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_route_bwd_args *a = arg;
    size_t rows = a->batch * a->seq, end = ds__min((task + 1) * SPAN, rows), experts = a->experts;
    float dlogits[DS_MAX_EXPERTS];

    (void)thread;
    for (size_t n = task * SPAN; n < end; n++) {
        memset(dlogits, 0, experts * sizeof(*dlogits));
        weights_bwd(a, n, dlogits);
        if (a->balance != 0.0f)
            balance_bwd(a, n, dlogits);
        for (size_t e = 0; e < experts; e++)
            ds_store_one(a->act, a->dlogits, n * experts + e, dlogits[e]);
    }
}

int DS_ISA(ds__cpu_route_bwd)(const struct ds_route_bwd_args *args, struct ds_stream *stream,
                              struct ds_error *err)
{
    struct ds_route_bwd_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__div_up(a.batch * a.seq, SPAN), route_bwd_task, &a);
    return 0;
}

static void take_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_rows_take_args *a = arg;
    size_t end = ds__min((task + 1) * SPAN, a->sorted);
    size_t bytes = a->channels * ds_dtype_bytes(a->act);

    (void)thread;
    for (size_t r = task * SPAN; r < end; r++) {
        size_t from = ds__min(a->source[r] / a->each, a->rows - 1);

        memcpy((char *)a->y + r * bytes, (const char *)a->x + from * bytes, bytes);
    }
}

int DS_ISA(ds__cpu_rows_take)(const struct ds_rows_take_args *args, struct ds_stream *stream,
                              struct ds_error *err)
{
    struct ds_rows_take_args a = *args;

    (void)err;
    a.sorted = ds__min(*a.count, a.sorted);
    ds__cpu_run(stream, ds__div_up(a.sorted, SPAN), take_task, &a);
    return 0;
}

/* Where the j-th summand of a row is; false where there is none. */
DS_INLINE bool summand(const struct ds_rows_sum_args *a, size_t row, size_t j, size_t *from)
{
    size_t at = a->place != NULL ? a->place[row * a->each + j] : j * a->rows + row;

    *from = at * a->channels;
    return a->place == NULL || at < a->sorted;
}

DS_INLINE void sum_row(const struct ds_rows_sum_args *a, enum ds_dtype act, size_t row)
{
    size_t n = a->channels, to = row * n, i = 0, from;

    for (; i + DS_LANES <= n; i += DS_LANES) {
        ds_vec sum = {0};

        if (a->residual != NULL)
            sum = ds_load(act, a->residual, to + i);
        for (size_t j = 0; j < a->each; j++) {
            if (summand(a, row, j, &from))
                sum += ds_load(act, a->x, from + i);
        }
        ds_store(act, a->y, to + i, sum);
    }
    if (i < n) {
        ds_vec sum = {0};

        if (a->residual != NULL)
            sum = ds_load_part(act, a->residual, to + i, n - i);
        for (size_t j = 0; j < a->each; j++) {
            if (summand(a, row, j, &from))
                sum += ds_load_part(act, a->x, from + i, n - i);
        }
        ds_store_part(act, a->y, to + i, n - i, sum);
    }
}

static void sum_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_rows_sum_args *a = arg;
    size_t end = ds__min((task + 1) * SPAN, a->rows);

    (void)thread;
    for (size_t row = task * SPAN; row < end; row++)
        DS_TYPED(a->act, sum_row(a, T, row));
}

int DS_ISA(ds__cpu_rows_sum)(const struct ds_rows_sum_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct ds_rows_sum_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__div_up(a.rows, SPAN), sum_task, &a);
    return 0;
}

int DS_ISA(ds__cpu_load_peak)(const struct ds_load_peak_args *args, struct ds_stream *stream,
                              struct ds_error *err)
{
    (void)stream;
    (void)err;
    for (size_t b = 0; b < args->batch; b++) {
        const float *load = args->load + b * args->experts;
        double all = 0.0, most = 0.0;

        for (size_t e = 0; e < args->experts; e++) {
            all += (double)load[e];
            most = fmax(most, (double)load[e]);
        }
        *args->sum += most * (double)args->experts / all;
    }
    return 0;
}
