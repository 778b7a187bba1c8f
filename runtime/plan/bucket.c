/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bucket.c - parameters laid end to end, block by block, in buckets that ranks share equally.
 *
 * Blocks are grouped from the last one down, the order in which the backward pass finishes them, so
 * that a bucket can be reduced as soon as it is full.  Within a bucket parameters have no gaps;
 * padding stands at its end only.  A tied head has no tensor: its gradient is the embedding's.
 *
 * Tests   tests/plan/test_plan.c
 */
#include <errno.h>

#include "runtime/plan/internal.h"

enum { MIB = 1 << 20, AUTO_BUCKET_MIB = 32, AUTO_BUCKETS = 4 };

/* Bytes of gradients that close a bucket: as asked for, else 32 MiB, less where that would leave
 * fewer than four buckets to overlap, but at least 1 MiB. */
static uint64_t target_bytes(const struct ds_plan *plan, uint64_t bucket_mb)
{
    uint64_t total = ds_model_elems(&plan->shape) * sizeof(float);

    if (bucket_mb != 0)
        return bucket_mb * MIB;
    if (total / AUTO_BUCKETS < MIB)
        return MIB;
    return total / AUTO_BUCKETS < AUTO_BUCKET_MIB * MIB ? total / AUTO_BUCKETS
                                                        : (uint64_t)AUTO_BUCKET_MIB * MIB;
}

/* Fill first_block and blocks of the buckets, last bucket first; then turn them round. */
static void group_blocks(struct ds_plan *plan, const uint64_t *elems, uint64_t target)
{
    unsigned block = ds_model_blocks(&plan->shape);
    uint64_t bytes = 0;
    struct ds_bucket *bucket = plan->bucket;

    plan->buckets = 0;
    while (block-- > 0) {
        if (bytes == 0)
            bucket[plan->buckets++] = (struct ds_bucket){0};
        bucket[plan->buckets - 1].first_block = block;
        bucket[plan->buckets - 1].blocks++;
        bucket[plan->buckets - 1].elems += elems[block];
        bytes += elems[block] * sizeof(float);
        if (bytes >= target)
            bytes = 0;
    }
    for (size_t i = 0; i < plan->buckets / 2; i++) {
        struct ds_bucket swap = bucket[i];

        bucket[i] = bucket[plan->buckets - 1 - i];
        bucket[plan->buckets - 1 - i] = swap;
    }
}

static void place_buckets(struct ds_plan *plan)
{
    uint64_t at = 0;

    for (size_t i = 0; i < plan->buckets; i++) {
        struct ds_bucket *bucket = &plan->bucket[i];

        bucket->offset = at;
        bucket->padded_elems = ds__round_up(bucket->elems, (uint64_t)plan->world * DS_SHARD_ALIGN);
        bucket->shard_elems = bucket->padded_elems / plan->world;
        at += bucket->padded_elems;
    }
    plan->padded_elems = at;
}

static void place_params(struct ds_plan *plan)
{
    uint32_t bucket = 0;
    uint64_t at = 0;

    for (size_t i = 0; i < plan->params; i++) {
        struct ds_plan_param *param = &plan->param[i];

        while (param->param.block >= plan->bucket[bucket].first_block + plan->bucket[bucket].blocks)
            at = plan->bucket[++bucket].offset;
        param->bucket = bucket;
        param->offset = at;
        at += param->param.elems;
    }
}

static void make_spans(struct ds_plan *plan)
{
    struct ds_plan_span *span = NULL;

    plan->spans = 0;
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        bool decay = param->param.ndim >= 2;

        if (span == NULL || span->bucket != param->bucket || span->decay != decay) {
            span = &plan->span[plan->spans++];
            *span = (struct ds_plan_span){
                .bucket = param->bucket, .offset = param->offset, .decay = decay};
        }
        span->elems += param->param.elems;
    }
}

int ds__plan_buckets(struct ds_plan *plan, uint64_t bucket_mb, struct ds_error *err)
{
    unsigned blocks = ds_model_blocks(&plan->shape);
    uint64_t *elems = ds_arena_alloc(&plan->arena, blocks, sizeof(*elems));

    plan->params = ds_model_param_count(&plan->shape);
    plan->param = ds_arena_alloc(&plan->arena, plan->params, sizeof(*plan->param));
    plan->span = ds_arena_alloc(&plan->arena, plan->params, sizeof(*plan->span));
    plan->bucket = ds_arena_alloc(&plan->arena, blocks, sizeof(*plan->bucket));
    if (elems == NULL || plan->param == NULL || plan->span == NULL || plan->bucket == NULL)
        return ds_fail(err, ENOMEM, "no memory for a plan of %zu parameters", plan->params);
    for (size_t i = 0; i < plan->params; i++) {
        ds_model_param(&plan->shape, i, &plan->param[i].param);
        elems[plan->param[i].param.block] += plan->param[i].param.elems;
    }
    group_blocks(plan, elems, target_bytes(plan, bucket_mb));
    place_buckets(plan);
    place_params(plan);
    make_spans(plan);
    return 0;
}
