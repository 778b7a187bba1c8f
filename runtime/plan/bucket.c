/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bucket.c - parameters laid end to end, block by block, in buckets that ranks share equally.
 *
 * Blocks are grouped from the last one down, the order in which the backward pass finishes them, so
 * that a bucket can be reduced as soon as it is full.  Within a bucket parameters have no gaps;
 * padding stands at its end only.  A tied head has no tensor: its gradient is the embedding's.
 * Tensors below zero.replicate_below make one more bucket, the last, whatever their blocks are.
 *
 * Where the optimizer wants whole matrices (owner.c), padding stands between them, too; buckets are
 * then larger, if the job leaves that to the plan, until padding is an eighth of them at most.
 *
 * Tests   tests/plan/test_plan.c
 */
#include <errno.h>
#include <math.h>

#include "runtime/optim.h"
#include "runtime/plan/internal.h"

enum { MIB = 1 << 20, AUTO_BUCKET_MIB = 32, AUTO_BUCKETS = 16, WASTE_SHARE = 8 };

/* Bytes of gradients that close a bucket: as asked for, else 32 MiB, less where that would leave
 * fewer than sixteen buckets, so that a few of them are a small part of the model, but at least
 * 1 MiB. */
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

/* Llama's neighbours that are used as one matrix stay together. */
static enum ds_role matrix_of(enum ds_role role)
{
    switch (role) {
    case DS_ROLE_K_W:
    case DS_ROLE_V_W: return DS_ROLE_Q_W;
    case DS_ROLE_UP_W: return DS_ROLE_GATE_W;
    default: return role;
    }
}

bool ds__plan_same_matrix(const struct ds_plan_param *a, const struct ds_plan_param *b)
{
    return a->param.block == b->param.block && matrix_of(a->param.role) == matrix_of(b->param.role);
}

/* Elements of the matrix that parameter i is, or is a part of. */
static uint64_t matrix_elems(const struct ds_plan *plan, size_t i)
{
    const struct ds_plan_param *param = plan->param;
    uint64_t elems = 0;
    size_t first = i;

    while (first > 0 && ds__plan_same_matrix(&param[first - 1], &param[i]))
        first--;
    for (; first < plan->params && ds__plan_same_matrix(&param[first], &param[i]); first++)
        elems += param[first].param.elems;
    return elems;
}

/* Fill first_block and blocks of the buckets, last bucket first; then turn them round. */
static void group_blocks(struct ds_plan *plan, const uint64_t *elems, uint64_t target)
{
    unsigned block = ds_model_blocks(&plan->shape);
    uint64_t bytes = 0;
    struct ds_bucket *bucket = plan->bucket;

    plan->buckets = 0;
    while (block-- > 0) {
        if (plan->buckets == 0 || (bytes >= target && elems[block] > 0)) {
            bucket[plan->buckets++] = (struct ds_bucket){0};
            bytes = 0;
        }
        bucket[plan->buckets - 1].first_block = block;
        bucket[plan->buckets - 1].blocks++;
        bucket[plan->buckets - 1].elems += elems[block];
        bytes += elems[block] * sizeof(float);
    }
    for (size_t i = 0; i < plan->buckets / 2; i++) {
        struct ds_bucket swap = bucket[i];

        bucket[i] = bucket[plan->buckets - 1 - i];
        bucket[plan->buckets - 1 - i] = swap;
    }
}

/* The bucket of what every rank keeps whole, behind the others; it is complete with block 0. */
static void add_replicated(struct ds_plan *plan, uint64_t elems)
{
    if (elems == ds_model_elems(&plan->shape))
        plan->buckets = 0;
    if (elems > 0)
        plan->bucket[plan->buckets++] = (struct ds_bucket){
            .blocks = ds_model_blocks(&plan->shape), .elems = elems, .replicated = true};
}

static void place_buckets(struct ds_plan *plan)
{
    uint64_t at = 0;

    for (size_t i = 0; i < plan->buckets; i++) {
        struct ds_bucket *bucket = &plan->bucket[i];

        bucket->offset = at;
        bucket->padded_elems = ds__round_up(bucket->elems, (uint64_t)plan->world * DS_SHARD_ALIGN);
        bucket->slice_elems = bucket->padded_elems / plan->world;
        bucket->loose_elems = bucket->padded_elems;
        at += bucket->padded_elems;
    }
    plan->padded_elems = at;
}

static void place_params(struct ds_plan *plan, uint64_t below)
{
    uint32_t bucket = 0, last = (uint32_t)plan->buckets - 1;
    uint64_t at = 0, replicated_at = plan->bucket[last].offset;

    for (size_t i = 0; i < plan->params; i++) {
        struct ds_plan_param *param = &plan->param[i];

        if (matrix_elems(plan, i) < below) {
            param->bucket = last;
            param->offset = replicated_at;
            replicated_at += param->param.elems;
            continue;
        }
        while (param->param.block >= plan->bucket[bucket].first_block + plan->bucket[bucket].blocks)
            at = plan->bucket[++bucket].offset;
        param->bucket = bucket;
        param->offset = at;
        at += param->param.elems;
    }
}

/* Give every bucket that is shared its owners, and move the buckets apart. */
static void place_owned(struct ds_plan *plan, struct ds__owners *owners)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < plan->buckets; i++) {
        struct ds_bucket *bucket = &plan->bucket[i];
        uint64_t from = bucket->replicated ? bucket->offset : 0;

        if (!bucket->replicated)
            ds__owners_place(owners, i);
        for (size_t k = 0; k < plan->params; k++)
            if (plan->param[k].bucket == i)
                plan->param[k].offset += at - from;
        bucket->offset = at;
        at += bucket->padded_elems;
    }
    plan->padded_elems = at;
}

/* Buckets of `target` bytes and what lies where in them; `elems` are those of each block. */
static void lay_out(struct ds_plan *plan, const struct ds_job *job, const uint64_t *elems,
                    uint64_t replicated, uint64_t target, struct ds__owners *owners)
{
    group_blocks(plan, elems, target);
    add_replicated(plan, replicated);
    place_buckets(plan);
    place_params(plan, job->zero.replicate_below);
    if (owners != NULL)
        place_owned(plan, owners);
}

/* Is padding more than an eighth, and could larger buckets do with less? */
static bool wastes(const struct ds_plan *plan)
{
    uint64_t elems = ds_model_elems(&plan->shape);
    size_t shared = 0;

    for (size_t i = 0; i < plan->buckets; i++)
        shared += !plan->bucket[i].replicated;
    return shared > 1 && plan->padded_elems - elems > elems / WASTE_SHARE;
}

/* What optim.groups says of a tensor; without a group matrices decay and vectors do not. */
static struct ds_plan_span treatment(const struct ds_job *job, const struct ds_plan_param *param)
{
    const struct ds_optim_group *group = ds_optim_group_of(job, param->param.name);
    struct ds_plan_span span = {
        .bucket = param->bucket,
        .offset = param->offset,
        .lr_mult = group != NULL ? group->lr_mult : 1.0,
        .weight_decay = param->param.ndim >= 2 ? job->optim.weight_decay : 0.0,
    };

    if (group != NULL && !isnan(group->weight_decay))
        span.weight_decay = group->weight_decay;
    if (ds_optim_by_matrix(job, &param->param)) {
        span.rows = param->param.shape[0];
        span.cols = param->param.shape[1];
        span.scale = ds_optim_matrix_scale(job, &param->param);
    } else {
        span.lr_mult *= ds_optim_loose_lr_mult(job);
    }
    return span;
}

static void make_spans(struct ds_plan *plan, const struct ds_job *job)
{
    struct ds_plan_span *span = NULL;

    plan->spans = 0;
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        struct ds_plan_span next = treatment(job, param);

        if (span == NULL || plan->by_tensor || span->bucket != next.bucket || span->rows != 0 ||
            next.rows != 0 || span->lr_mult != next.lr_mult ||
            span->weight_decay != next.weight_decay || span->offset + span->elems != next.offset) {
            span = &plan->span[plan->spans++];
            *span = next;
        }
        span->elems += param->param.elems;
    }
}

/* A group without a tensor is a misspelt one. */
static int check_groups(const struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    const struct ds_optim_group *group = job->optim.groups.row;

    for (size_t i = 0; i < job->optim.groups.count; i++) {
        size_t k = 0;

        while (k < plan->params && ds_optim_group_of(job, plan->param[k].param.name) != &group[i])
            k++;
        if (k == plan->params)
            return ds_fail(
                err, EINVAL,
                "'optim.groups' item %zu: no tensor is left for '%s'; tensors are called "
                "like '%s'",
                i + 1, group[i].match, plan->param[plan->params - 1].param.name);
    }
    return 0;
}

int ds__plan_buckets(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    unsigned blocks = ds_model_blocks(&plan->shape);
    uint64_t *elems = ds_arena_alloc(&plan->arena, blocks, sizeof(*elems));
    uint64_t below = job->zero.replicate_below, replicated = 0, target;
    bool owned = ds_optim_wants_matrices(job);
    struct ds__owners *owners = NULL;

    plan->params = ds_model_param_count(&plan->shape);
    plan->param = ds_arena_alloc(&plan->arena, plan->params, sizeof(*plan->param));
    plan->span = ds_arena_alloc(&plan->arena, plan->params, sizeof(*plan->span));
    plan->bucket = ds_arena_alloc(&plan->arena, blocks + 1, sizeof(*plan->bucket));
    if (elems == NULL || plan->param == NULL || plan->span == NULL || plan->bucket == NULL)
        return ds_fail(err, ENOMEM, "no memory for a plan of %zu parameters", plan->params);
    for (size_t i = 0; i < plan->params; i++)
        ds_model_param(&plan->shape, i, &plan->param[i].param);
    for (size_t i = 0; i < plan->params; i++)
        *(matrix_elems(plan, i) < below ? &replicated : &elems[plan->param[i].param.block]) +=
            plan->param[i].param.elems;
    if (owned && (owners = ds__owners_new(plan, job)) == NULL)
        return ds_fail(err, ENOMEM, "no memory for the owners of %zu parameters", plan->params);
    target = target_bytes(plan, job->zero.bucket_mb);
    lay_out(plan, job, elems, replicated, target, owners);
    for (; owned && job->zero.bucket_mb == 0 && wastes(plan); target *= 2)
        lay_out(plan, job, elems, replicated, 2 * target, owners);
    make_spans(plan, job);
    return check_groups(plan, job, err);
}
