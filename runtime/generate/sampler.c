/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sampler.c - the contract is in sampler.h.
 *
 * Where ids are left out, a heap gives them in their order, as many as are kept: of a large
 * vocabulary those are few.  Weights are in double, relative to the largest, which is 1.
 */
#include "runtime/generate/sampler.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

int ds_sampler_init(struct ds_sampler *sampler, size_t ids, struct ds_error *err)
{
    *sampler = (struct ds_sampler){.room = calloc(ids, sizeof(*sampler->room)),
                                   .weight = calloc(ids, sizeof(*sampler->weight)),
                                   .ids = ids};
    if (ids > 0 && sampler->room != NULL && sampler->weight != NULL)
        return 0;
    ds_sampler_release(sampler);
    return ds_fail(err, ids == 0 ? EINVAL : ENOMEM, "no memory to sample from %zu ids", ids);
}

void ds_sampler_release(struct ds_sampler *sampler)
{
    free(sampler->room);
    free(sampler->weight);
    *sampler = (struct ds_sampler){0};
}

/* --- the order of ids ------------------------------------------------------------------------- */

static bool before(struct ds_candidate a, struct ds_candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Of the heap's n candidates none is before its parent, but for the one at i. */
static void sift(struct ds_candidate *heap, size_t n, size_t i)
{
    struct ds_candidate moved = heap[i];

    for (size_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], moved))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

/* Take the first one off; it goes behind the others. */
static struct ds_candidate pop(struct ds_candidate *heap, size_t n)
{
    struct ds_candidate first = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = first;
    sift(heap, n - 1, 0);
    return first;
}

/* --- weights ---------------------------------------------------------------------------------- */

static size_t likeliest(const float *logits, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static int check(const float *logits, size_t n, struct ds_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(logits[i]))
            return ds_fail(err, EBADMSG,
                           "the model's logit of id %zu is %s: its weights are of a run that has "
                           "diverged, or damaged",
                           i, isnan(logits[i]) ? "not a number" : "infinite");
    return 0;
}

/* Bits as a number in [0, 1). */
static double uniform(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

/* Which of n weights, in their order, the share `u` of their sum falls into. */
static size_t walk(const double *weight, size_t n, double sum, double u)
{
    double left = u * sum;

    for (size_t i = 0; i + 1 < n; i++) {
        if (left < weight[i])
            return i;
        left -= weight[i];
    }
    return n - 1;
}

/* From all ids, as they stand. */
static uint32_t from_all(const struct ds_sampler *s, const float *logits, float max,
                         double temperature, double u)
{
    double sum = 0.0;

    for (size_t i = 0; i < s->ids; i++) {
        s->weight[i] = exp(((double)logits[i] - (double)max) / temperature);
        sum += s->weight[i];
    }
    return (uint32_t)walk(s->weight, s->ids, sum, u);
}

/* How many of the `kept` first weights make up the share p of their sum; *sum becomes theirs. */
static size_t nucleus(const double *weight, size_t kept, double p, double *sum)
{
    double goal = p * *sum, mass = 0.0;

    for (size_t i = 0; i < kept; i++) {
        mass += weight[i];
        if (mass >= goal) {
            *sum = mass;
            return i + 1;
        }
    }
    return kept;
}

/* Ids in their order, as many as the smaller of k and what has mass p of all when k is all; their
 * weights and the sum of them.  Id i is then in room[ids - 1 - i]. */
static size_t take(const struct ds_sampler *s, const struct ds_sampling *how, const float *logits,
                   float max, size_t k, double *sum)
{
    double goal = (double)INFINITY, mass = 0.0;
    size_t kept = 0;

    if (k == s->ids) {
        goal = 0.0;
        for (size_t i = 0; i < s->ids; i++)
            goal += exp(((double)logits[i] - (double)max) / how->temperature);
        goal *= how->top_p;
    }
    for (size_t i = 0; i < s->ids; i++)
        s->room[i] = (struct ds_candidate){logits[i], (uint32_t)i};
    for (size_t i = s->ids / 2; i > 0; i--)
        sift(s->room, s->ids, i - 1);
    while (kept < k && mass < goal) {
        struct ds_candidate next = pop(s->room, s->ids - kept);

        s->weight[kept] = exp(((double)next.logit - (double)max) / how->temperature);
        mass += s->weight[kept++];
    }
    *sum = mass;
    return kept;
}

int ds_sample(const struct ds_sampler *sampler, const struct ds_sampling *how, const float *logits,
              uint64_t bits, uint32_t *id, struct ds_error *err)
{
    size_t ids = sampler->ids, best, k = how->top_k, kept;
    double sum = 0.0;
    int rc = check(logits, ids, err);

    if (rc != 0)
        return rc;
    best = likeliest(logits, ids);
    if (k == 0 || k > ids)
        k = ids;
    *id = (uint32_t)best;
    if (how->temperature == 0.0 || k == 1)
        return 0;
    if (k == ids && how->top_p >= 1.0) {
        *id = from_all(sampler, logits, logits[best], how->temperature, uniform(bits));
        return 0;
    }
    kept = take(sampler, how, logits, logits[best], k, &sum);
    if (k < ids)
        kept = nucleus(sampler->weight, kept, how->top_p, &sum);
    *id = sampler->room[ids - 1 - walk(sampler->weight, kept, sum, uniform(bits))].id;
    return 0;
}
