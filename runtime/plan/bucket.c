/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bucket.c - parameters laid end to end, block by block, in buckets that ranks share equally.
 *
 * Blocks are grouped from the last one down, the order in which the backward pass finishes them, so
 * that a bucket can be reduced as soon as it is full.  Within a bucket parameters have no gaps;
 * padding stands at its end only.  A tied head has no tensor: its gradient is the embedding's.
 * Where ranks divide experts, the tensors of those are in buckets of their own, grouped alike.
 * Tensors below zero.replicate_below make one more bucket, the last, whatever their blocks are;
 * where ranks share layers, those that a team holds alike.
 * The embedding's matrix that both ends of a pipeline hold is a bucket by itself, in front of that:
 * so its shards are the same ones at both.
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

/* Elements of the tensors that this rank has. */
static uint64_t all_elems(const struct ds_plan *plan)
{
    uint64_t elems = 0;

    for (size_t i = 0; i < plan->params; i++)
        elems += plan->param[i].param.elems;
    return elems;
}

/* Bytes of gradients that close a bucket: as asked for, else 32 MiB, less where that would leave
 * fewer than sixteen buckets, so that a few of them are a small part of the model, but at least
 * 1 MiB. */
static uint64_t target_bytes(const struct ds_plan *plan, uint64_t bucket_mb)
{
    uint64_t total = all_elems(plan) * sizeof(float);

    if (bucket_mb != 0)
        return bucket_mb * MIB;
    if (total / AUTO_BUCKETS < MIB)
        return MIB;
    return total / AUTO_BUCKETS < AUTO_BUCKET_MIB * MIB ? total / AUTO_BUCKETS
                                                        : (uint64_t)AUTO_BUCKET_MIB * MIB;
}

/* Elements of the matrix that tensor i is, or is a part of. */
static uint64_t matrix_elems(const struct ds_plan *plan, size_t i)
{
    const struct ds_plan_tensor *tensor = plan->tensor;
    uint64_t elems = 0;
    size_t first = i;

    while (first > 0 && ds_model_same_matrix(&tensor[first - 1].param, &tensor[i].param))
        first--;
    for (; first < plan->tensors && ds_model_same_matrix(&tensor[first].param, &tensor[i].param);
         first++)
        elems += tensor[first].param.elems;
    return elems;
}

/* Is it the matrix that another part of the pipeline holds, too? */
static bool is_tied(const struct ds_plan *plan, const struct ds_param *param)
{
    return ds_plan_ties(plan) && param->role == DS_ROLE_WTE;
}

/* What is to be laid out: elements of each block, and of its experts where ranks divide those; and
 * elements that are in no bucket of neighbours. */
struct amounts {
    uint64_t *own, *experts; /* [blocks] */
    uint64_t tied, replicated;
};

/* Append buckets of neighbours, last one first. */
static void group_blocks(struct ds_plan *plan, const uint64_t *elems, uint64_t target, bool experts)
{
    unsigned block = plan->end_block;
    size_t first = plan->buckets;
    uint64_t bytes = 0;

    while (block-- > plan->first_block) {
        struct ds_bucket *bucket;

        if (experts && elems[block] == 0)
            continue;
        if (plan->buckets == first || (bytes >= target && elems[block] > 0)) {
            plan->bucket[plan->buckets++] = (struct ds_bucket){.experts = experts};
            bytes = 0;
        }
        bucket = &plan->bucket[plan->buckets - 1];
        bucket->first_block = block;
        bucket->blocks++;
        bucket->elems += elems[block];
        bytes += elems[block] * sizeof(float);
    }
}

/* Does `a` come first in a forward pass? */
static bool precedes(const struct ds_bucket *a, const struct ds_bucket *b)
{
    if (a->first_block != b->first_block)
        return a->first_block < b->first_block;
    return !a->experts && b->experts;
}

/* In the order of a forward pass. */
static void sort_buckets(struct ds_plan *plan)
{
    for (size_t i = 1; i < plan->buckets; i++) {
        struct ds_bucket one = plan->bucket[i];
        size_t at = i;

        for (; at > 0 && precedes(&one, &plan->bucket[at - 1]); at--)
            plan->bucket[at] = plan->bucket[at - 1];
        plan->bucket[at] = one;
    }
}

/* Behind the others the tied matrix, and the bucket of what every rank keeps whole, which is
 * complete with the first block. */
static void add_apart(struct ds_plan *plan, const struct amounts *amounts)
{
    const uint32_t blocks = plan->end_block - plan->first_block;
    const bool last = ds_plan_classifies(plan);

    if (amounts->tied + amounts->replicated == all_elems(plan))
        plan->buckets = 0;
    if (amounts->tied > 0)
        plan->bucket[plan->buckets++] =
            (struct ds_bucket){.first_block = last ? plan->end_block - 1 : 0,
                               .blocks = 1,
                               .elems = amounts->tied,
                               .tied = true,
                               .twin = last};
    if (amounts->replicated > 0)
        plan->bucket[plan->buckets++] = (struct ds_bucket){.first_block = plan->first_block,
                                                           .blocks = blocks,
                                                           .elems = amounts->replicated,
                                                           .replicated = true,
                                                           .twin = plan->tensor_rank > 0};
}

static void place_buckets(struct ds_plan *plan)
{
    uint64_t at = 0;

    for (size_t i = 0; i < plan->buckets; i++) {
        struct ds_bucket *bucket = &plan->bucket[i];

        const uint64_t holders = ds_plan_holders_of(plan, i).count;

        bucket->offset = at;
        bucket->padded_elems = ds__round_up(bucket->elems, holders * DS_SHARD_ALIGN);
        bucket->slice_elems = bucket->padded_elems / holders;
        bucket->loose_elems = bucket->padded_elems;
        at += bucket->padded_elems;
    }
    plan->padded_elems = at;
}

/* The bucket of a tensor. */
static uint32_t bucket_of(const struct ds_plan *plan, const struct ds_plan_param *param)
{
    const struct ds_plan_tensor *tensor = &plan->tensor[param->tensor];
    const bool tied = is_tied(plan, &param->param);
    uint32_t at = 0;

    if (tensor->replicated)
        return (uint32_t)plan->buckets - 1;
    for (;; at++) {
        const struct ds_bucket *bucket = &plan->bucket[at];

        if (bucket->tied == tied && bucket->experts == tensor->expert &&
            (tied || param->param.block < bucket->first_block + bucket->blocks))
            return at;
    }
}

/* Each behind what is in its bucket already. */
static void place_params(struct ds_plan *plan)
{
    for (size_t i = 0; i < plan->buckets; i++)
        plan->bucket[i].elems = 0;
    for (size_t i = 0; i < plan->params; i++) {
        struct ds_plan_param *param = &plan->param[i];
        struct ds_bucket *bucket;

        param->bucket = bucket_of(plan, param);
        bucket = &plan->bucket[param->bucket];
        param->offset = bucket->offset + bucket->elems;
        bucket->elems += param->param.elems;
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

/* Buckets of `target` bytes and what lies where in them. */
static void lay_out(struct ds_plan *plan, const struct amounts *amounts, uint64_t target,
                    struct ds__owners *owners)
{
    plan->buckets = 0;
    group_blocks(plan, amounts->own, target, false);
    group_blocks(plan, amounts->experts, target, true);
    sort_buckets(plan);
    add_apart(plan, amounts);
    place_buckets(plan);
    place_params(plan);
    if (owners != NULL)
        place_owned(plan, owners);
}

/* Is padding more than an eighth, and could larger buckets do with less? */
static bool wastes(const struct ds_plan *plan)
{
    uint64_t elems = all_elems(plan);
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

/* Has another rank, or another bucket, the tensor in front of it?  Then what is not finite could
 * not be told by its place in the span (runtime/tally.c). */
static bool begins_anew(const struct ds_plan *plan, const struct ds_plan_param *param)
{
    return plan->expert_ranks > 1 && !plan->tensor[param->tensor].replicated &&
           param->tensor != param[-1].tensor + 1;
}

static void make_spans(struct ds_plan *plan, const struct ds_job *job)
{
    struct ds_plan_span *span = NULL;

    plan->spans = 0;
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        struct ds_plan_span next = treatment(job, param);

        if (span == NULL || plan->by_tensor || span->bucket != next.bucket || span->rows != 0 ||
            next.rows != 0 || begins_anew(plan, param) || span->lr_mult != next.lr_mult ||
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

        while (k < plan->tensors && ds_optim_group_of(job, plan->tensor[k].param.name) != &group[i])
            k++;
        if (k == plan->tensors)
            return ds_fail(
                err, EINVAL,
                "'optim.groups' item %zu: no tensor is left for '%s'; tensors are called "
                "like '%s'",
                i + 1, group[i].match, plan->tensor[plan->tensors - 1].param.name);
    }
    return 0;
}

/* All tensors of the model, and which of them every rank keeps whole. */
static int list_tensors(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    plan->tensors = ds_model_param_count(&plan->shape);
    plan->tensor = ds_arena_alloc(&plan->arena, plan->tensors, sizeof(*plan->tensor));
    if (plan->tensor == NULL)
        return ds_fail(err, ENOMEM, "no memory for a model of %zu tensors", plan->tensors);
    for (size_t i = 0; i < plan->tensors; i++)
        ds_model_param(&plan->shape, i, &plan->tensor[i].param);
    for (size_t i = 0; i < plan->tensors; i++) {
        struct ds_plan_tensor *tensor = &plan->tensor[i];

        tensor->expert = ds__plan_is_expert(plan, i);
        tensor->replicated = plan->tensor_ranks > 1
                                 ? ds__plan_alike(plan, i)
                                 : matrix_elems(plan, i) < job->zero.replicate_below &&
                                       !is_tied(plan, &tensor->param) && !tensor->expert;
    }
    return 0;
}

static void take_tensor(struct ds_plan *plan, size_t tensor, unsigned block)
{
    struct ds_plan_param *param = &plan->param[plan->params++];

    *param =
        (struct ds_plan_param){.param = plan->tensor[tensor].param, .tensor = (uint32_t)tensor};
    param->param.block = block;
}

/* Those of this rank's blocks and experts.  The matrix that the last part has besides is its
 * classifier's. */
static int take_tensors(struct ds_plan *plan, struct ds_error *err)
{
    bool twin = !ds_plan_embeds(plan) && ds_plan_classifies(plan);

    plan->param = ds_arena_alloc(&plan->arena, plan->tensors + 1, sizeof(*plan->param));
    plan->span = ds_arena_alloc(&plan->arena, plan->tensors + 1, sizeof(*plan->span));
    if (plan->param == NULL || plan->span == NULL)
        return ds_fail(err, ENOMEM, "no memory for a plan of %zu parameters", plan->tensors);
    for (size_t i = 0; i < plan->tensors; i++) {
        unsigned block = plan->tensor[i].param.block;

        if (block >= plan->first_block && block < plan->end_block &&
            ds_plan_expert_place(plan, i) == plan->expert_rank)
            take_tensor(plan, i, block);
    }
    for (size_t i = 0; twin && i < plan->tensors; i++)
        if (is_tied(plan, &plan->tensor[i].param))
            take_tensor(plan, i, plan->end_block - 1);
    return 0;
}

int ds__plan_buckets(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    unsigned blocks = ds_model_blocks(&plan->shape);
    struct amounts amounts = {.own = ds_arena_alloc(&plan->arena, blocks, sizeof(*amounts.own)),
                              .experts =
                                  ds_arena_alloc(&plan->arena, blocks, sizeof(*amounts.experts))};
    bool owned = ds_optim_wants_matrices(job);
    struct ds__owners *owners = NULL;
    uint64_t target;
    int rc = list_tensors(plan, job, err);

    if (rc == 0)
        rc = take_tensors(plan, err);
    if (rc != 0)
        return rc;
    plan->bucket = ds_arena_alloc(&plan->arena, 2 * (size_t)blocks + 2, sizeof(*plan->bucket));
    if (amounts.own == NULL || amounts.experts == NULL || plan->bucket == NULL)
        return ds_fail(err, ENOMEM, "no memory for the buckets of %u blocks", blocks);
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_param *param = &plan->param[i].param;
        const struct ds_plan_tensor *tensor = &plan->tensor[plan->param[i].tensor];

        *(tensor->replicated     ? &amounts.replicated
          : is_tied(plan, param) ? &amounts.tied
          : tensor->expert       ? &amounts.experts[param->block]
                                 : &amounts.own[param->block]) += param->elems;
    }
    if (owned && (owners = ds__owners_new(plan, job)) == NULL)
        return ds_fail(err, ENOMEM, "no memory for the owners of %zu parameters", plan->params);
    target = target_bytes(plan, job->zero.bucket_mb);
    lay_out(plan, &amounts, target, owners);
    for (; owned && job->zero.bucket_mb == 0 && wastes(plan); target *= 2)
        lay_out(plan, &amounts, 2 * target, owners);
    make_spans(plan, job);
    return check_groups(plan, job, err);
}
