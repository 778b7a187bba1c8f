/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * owner.c - a bucket of which some tensors must lie whole in one shard: who owns which matrix.
 *
 *   | loose ............ | matrices . pad | matrices ... pad | matrices . pad |
 *   shard 0              shard 1          shard 2            shard 3
 *
 * What is updated element by element comes first, in model order and without gaps, over as many
 * shards as it takes.  Matrices are then put where they fit, largest first, into the smallest
 * shards for which that works, found by halving: MULTIFIT, never more than 1.22 times the best
 * (Coffman, Garey and Johnson, 1978).  What is left of a shard is padding, which costs memory and
 * wire as parameters do; bucket.c makes buckets larger until it is a small part.
 *
 * Neighbours that kernels use as one matrix stay together; the optimizer treats each by itself.
 *
 * Tests   tests/plan/test_owner.c
 */
#include <assert.h>
#include <stdlib.h>

#include "runtime/optim.h"
#include "runtime/plan/internal.h"

struct unit { /* neighbours of one owner */
    size_t first, count;
    uint64_t elems, at;
};

struct ds__owners {
    struct ds_plan *plan;
    const struct ds_job *job;
    struct unit *unit; /* of the bucket at hand, largest first */
    size_t units;
    uint64_t *used;  /* [shards] */
    uint64_t shards; /* of the bucket at hand */
    uint64_t loose;  /* elements of the bucket that need no owner */
    uint64_t align;  /* shards are multiples of this */
};

struct ds__owners *ds__owners_new(struct ds_plan *plan, const struct ds_job *job)
{
    struct ds__owners *owners = ds_arena_alloc(&plan->arena, 1, sizeof(*owners));

    if (owners == NULL)
        return NULL;
    owners->plan = plan;
    owners->job = job;
    owners->unit = ds_arena_alloc(&plan->arena, plan->params, sizeof(*owners->unit));
    owners->used = ds_arena_alloc(&plan->arena, plan->shards, sizeof(*owners->used));
    return owners->unit == NULL || owners->used == NULL ? NULL : owners;
}

/* For qsort: larger first, then in model order. */
static int by_elems(const void *a, const void *b)
{
    const struct unit *x = a, *y = b;

    if (x->elems != y->elems)
        return x->elems > y->elems ? -1 : 1;
    return x->first < y->first ? -1 : 1;
}

/* Find the matrices of `bucket` and put everything else at its start. */
static void collect(struct ds__owners *owners, uint32_t bucket)
{
    struct ds_plan *plan = owners->plan;
    struct unit *unit = NULL;

    owners->units = 0;
    owners->loose = 0;
    for (size_t i = 0; i < plan->params; i++) {
        struct ds_plan_param *param = &plan->param[i];

        if (param->bucket != bucket)
            continue;
        if (!ds_optim_by_matrix(owners->job, &param->param)) {
            param->offset = owners->loose;
            owners->loose += param->param.elems;
            continue;
        }
        if (unit == NULL || !ds_model_same_matrix(&plan->param[unit->first].param, &param->param)) {
            unit = &owners->unit[owners->units++];
            *unit = (struct unit){.first = i};
        }
        unit->count++;
        unit->elems += param->param.elems;
    }
    qsort(owners->unit, owners->units, sizeof(*owners->unit), by_elems);
}

/* First fit into shards of that size; false where something finds no place. */
static bool fit(struct ds__owners *owners, uint64_t shard_elems)
{
    uint64_t shards = owners->shards, full = owners->loose / shard_elems;

    if (full > shards || (full == shards && owners->loose % shard_elems != 0))
        return false;
    for (uint64_t i = full; i < shards; i++)
        owners->used[i] = i == full ? owners->loose % shard_elems : 0;
    for (size_t i = 0; i < owners->units; i++) {
        struct unit *unit = &owners->unit[i];
        uint64_t shard = full;

        while (shard < shards && owners->used[shard] + unit->elems > shard_elems)
            shard++;
        if (shard == shards)
            return false;
        unit->at = shard * shard_elems + owners->used[shard];
        owners->used[shard] += unit->elems;
    }
    return true;
}

/* The smallest shard for which everything fits, as far as halving finds it. */
static uint64_t smallest(struct ds__owners *owners, uint64_t elems)
{
    uint64_t align = owners->align, least = elems / owners->shards / align;
    uint64_t most = least + 1;

    while (!fit(owners, most * align)) {
        least = most;
        most *= 2;
    }
    while (most - least > 1) {
        uint64_t middle = least + (most - least) / 2;

        if (fit(owners, middle * align))
            most = middle;
        else
            least = middle;
    }
    return most * align;
}

void ds__owners_place(struct ds__owners *owners, uint32_t index)
{
    struct ds_plan *plan = owners->plan;
    struct ds_bucket *bucket = &plan->bucket[index];
    const struct ds_plan_holders of = ds_plan_holders_of(plan, index);
    uint64_t shard_elems;
    bool fits;

    owners->shards = of.shards;
    owners->align = (uint64_t)of.replicas * DS_SHARD_ALIGN;
    collect(owners, index);
    shard_elems = smallest(owners, bucket->elems);
    fits = fit(owners, shard_elems); /* the last try may have been another */
    assert(fits);
    bucket->padded_elems = shard_elems * of.shards;
    bucket->slice_elems = shard_elems / of.replicas;
    bucket->loose_elems = owners->loose;
    bucket->gaps = owners->units > 0;
    for (size_t i = 0; i < owners->units; i++) {
        uint64_t at = owners->unit[i].at;

        for (size_t k = owners->unit[i].first, n = 0; n < owners->unit[i].count; k++, n++) {
            plan->param[k].offset = at;
            at += plan->param[k].param.elems;
        }
    }
}
