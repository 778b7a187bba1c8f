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
 * where ranks share layers, those that a team holds alike.  What several of a team have alike are
 * rows of a matrix whose other rows are a rank's own; it stays with them, in spans of its own.
 * The embedding's matrix that both ends of a pipeline hold is a bucket by itself, in front of that:
 * so its shards are the same ones at both.
 * What is frozen is in buckets of its own, too, before all others, grouped alike.
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
static bool is_ends(const struct ds_plan *plan, const struct ds_param *param)
{
    return ds_plan_ties(plan) && param->role == DS_ROLE_WTE;
}

/* And must its gradients be added up? */
static bool is_tied(const struct ds_plan *plan, const struct ds_plan_tensor *tensor)
{
    return is_ends(plan, &tensor->param) && !tensor->frozen;
}

/* What is to be laid out: elements of each block, and of its experts where ranks divide those, that
 * are trained or frozen; and elements that are in no bucket of neighbours. */
struct amounts {
    uint64_t *of[2][2]; /* [frozen][experts][blocks] */
    uint64_t tied, replicated;
};

/* Append buckets of neighbours, last one first. */
static void group_blocks(struct ds_plan *plan, const struct amounts *amounts, uint64_t target,
                         struct ds_bucket kind)
{
    const uint64_t *elems = amounts->of[kind.frozen][kind.experts];
    unsigned block = plan->end_block;
    size_t first = plan->buckets;
    uint64_t bytes = 0;

    while (block-- > plan->first_block) {
        struct ds_bucket *bucket;

        if (elems[block] == 0)
            continue;
        if (plan->buckets == first || bytes >= target) {
            kind.first_block = block + 1;
            plan->bucket[plan->buckets++] = kind;
            bytes = 0;
        }
        bucket = &plan->bucket[plan->buckets - 1];
        bucket->blocks += bucket->first_block - block;
        bucket->first_block = block;
        bucket->elems += elems[block];
        bytes += elems[block] * sizeof(float);
    }
}

/* Does `a` come first: all that is frozen, then what a forward pass reads first? */
static bool precedes(const struct ds_bucket *a, const struct ds_bucket *b)
{
    if (a->frozen != b->frozen)
        return a->frozen;
    if (a->first_block != b->first_block)
        return a->first_block < b->first_block;
    return !a->experts && b->experts;
}

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
        if (!bucket->frozen)
            continue;
        plan->frozen_elems = at;
        plan->frozen_buckets = i + 1;
    }
    plan->padded_elems = at;
}

/* The bucket of a tensor. */
static uint32_t bucket_of(const struct ds_plan *plan, const struct ds_plan_param *param)
{
    const struct ds_plan_tensor *tensor = &plan->tensor[param->tensor];
    const bool tied = is_tied(plan, tensor);
    uint32_t at = 0;

    if (tensor->replicated)
        return (uint32_t)plan->buckets - 1;
    for (;; at++) {
        const struct ds_bucket *bucket = &plan->bucket[at];

        if (bucket->tied == tied && bucket->experts == tensor->expert &&
            bucket->frozen == tensor->frozen && !bucket->replicated &&
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
        bucket->doubled |= plan->tensor[param->tensor].doubled > 1;
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
        const bool unowned = bucket->replicated || bucket->frozen;
        uint64_t from = unowned ? bucket->offset : 0;

        if (!unowned)
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
    plan->frozen_elems = 0;
    plan->frozen_buckets = 0;
    for (unsigned i = 0; i < 4; i++)
        group_blocks(plan, amounts, target,
                     (struct ds_bucket){.experts = i % 2 == 1, .frozen = i >= 2});
    sort_buckets(plan);
    add_apart(plan, amounts);
    place_buckets(plan);
    place_params(plan);
    if (owners != NULL)
        place_owned(plan, owners);
}

/* Is padding more than an eighth, and could larger buckets do with less?  Blocks' own tensors and
 * their experts stay apart, and what both ends of a pipeline hold is always alone. */
static bool wastes(const struct ds_plan *plan)
{
    uint64_t elems = all_elems(plan);
    size_t own = 0, experts = 0;

    for (size_t i = plan->frozen_buckets; i < plan->buckets; i++) {
        const struct ds_bucket *bucket = &plan->bucket[i];

        own += !bucket->replicated && !bucket->tied && !bucket->experts;
        experts += bucket->experts;
    }
    return (own > 1 || experts > 1) && plan->padded_elems - elems > elems / WASTE_SHARE;
}

/* What optim.groups says of a tensor; without a group matrices decay and vectors do not. */
static struct ds_plan_span treatment(const struct ds_plan *plan, const struct ds_job *job,
                                     const struct ds_plan_param *param)
{
    const struct ds_optim_group *group = ds_optim_group_of(job, param->param.name);
    struct ds_plan_span span = {
        .bucket = param->bucket,
        .offset = param->offset,
        .lr_mult = group != NULL ? group->lr_mult : 1.0,
        .weight_decay = param->param.ndim >= 2 ? job->optim.weight_decay : 0.0,
        .doubled = plan->tensor[param->tensor].doubled,
        .tensor = param->tensor,
    };
    struct ds_param whole;

    if (group != NULL && !isnan(group->weight_decay))
        span.weight_decay = group->weight_decay;
    if (ds_optim_by_matrix(job, &param->param)) {
        ds_model_param(&plan->model, param->tensor, &whole);
        span.rows = whole.shape[0];
        span.cols = whole.shape[1];
        span.scale = ds_optim_matrix_scale(job, &whole);
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
        struct ds_plan_span next = treatment(plan, job, param);

        if (plan->bucket[param->bucket].frozen)
            continue;
        if (span == NULL || plan->by_tensor || span->bucket != next.bucket || span->rows != 0 ||
            next.rows != 0 || begins_anew(plan, param) || span->doubled != next.doubled ||
            span->lr_mult != next.lr_mult || span->weight_decay != next.weight_decay ||
            span->offset + span->elems != next.offset) {
            span = &plan->span[plan->spans++];
            *span = next;
        }
        span->elems += param->param.elems;
    }
}

/* What says which tensors are frozen, or with adapters are not. */
static const char *globs_of(const struct ds_job *job, const struct ds_strings **globs)
{
    *globs = job->model.shape.lora.rank > 0 ? &job->lora.whole : &job->train.freeze;
    return job->model.shape.lora.rank > 0 ? "lora.whole" : "train.freeze";
}

/* What is used as one matrix is trained or frozen as one, as gpt2's both embeddings are, whose
 * gradients one operation makes; what has an adapter is frozen; and something is trained. */
static int check_frozen(const struct ds_plan *plan, const char *path, struct ds_error *err)
{
    size_t trained = 0;

    for (size_t i = 0; i < plan->tensors; i++) {
        const struct ds_plan_tensor *tensor = &plan->tensor[i];

        trained += !tensor->frozen;
        if (i > 0 && tensor[-1].frozen != tensor->frozen &&
            (ds_model_same_matrix(&tensor[-1].param, &tensor->param) ||
             tensor->param.role == DS_ROLE_WPE))
            return ds_fail(err, EINVAL,
                           "'%s' has one of '%s' and '%s' and not the other, which are used as "
                           "one; name both or none",
                           path, tensor[-1].param.name, tensor->param.name);
        if (!tensor->frozen && ds_model_has_adapter(&plan->shape, &tensor->param))
            return ds_fail(err, EINVAL,
                           "'%s' has '%s', which has an adapter; leave it out, or its module out "
                           "of 'lora.targets'",
                           path, tensor->param.name);
    }
    return trained > 0 ? 0
                       : ds_fail(err, EINVAL,
                                 "'train.freeze' leaves nothing to train: it matches all tensors");
}

/* A pattern without a tensor is a misspelt one. */
static int check_globs(const struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    const struct ds_strings *globs;
    const char *path = globs_of(job, &globs);

    for (size_t i = 0; i < globs->count; i++) {
        const struct ds_strings one = {.count = 1, .item = &globs->item[i]};
        size_t k = 0;

        while (k < plan->tensors && !ds_optim_globbed(&one, &plan->tensor[k].param))
            k++;
        if (k == plan->tensors)
            return ds_fail(err, EINVAL,
                           "'%s' item %zu: no tensor matches '%s'; tensors are called like '%s'",
                           path, i + 1, globs->item[i], plan->tensor[plan->tensors - 1].param.name);
    }
    return check_frozen(plan, path, err);
}

/* The first block that has something to train. */
static uint32_t first_trained(const struct ds_plan *plan)
{
    uint32_t first = ds_model_blocks(&plan->shape);

    for (size_t i = 0; i < plan->tensors; i++) {
        if (!plan->tensor[i].frozen && plan->tensor[i].param.block < first)
            first = plan->tensor[i].param.block;
    }
    return first;
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
        tensor->frozen = !ds_optim_trains(job, &tensor->param);
        tensor->doubled = tensor->frozen ? 1 : ds__plan_doubles(plan, tensor->param.role);
        if (tensor->frozen)
            continue;
        tensor->replicated = plan->tensor_ranks > 1
                                 ? ds__plan_alike(plan, i)
                                 : matrix_elems(plan, i) < job->zero.replicate_below &&
                                       !is_tied(plan, tensor) && !tensor->expert;
    }
    plan->first_trained = first_trained(plan);
    return check_globs(plan, job, err);
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
        if (is_ends(plan, &plan->tensor[i].param))
            take_tensor(plan, i, plan->end_block - 1);
    return 0;
}

/* What counts a parameter. */
static uint64_t *amount_of(const struct ds_plan *plan, struct amounts *amounts,
                           const struct ds_plan_param *param)
{
    const struct ds_plan_tensor *tensor = &plan->tensor[param->tensor];

    if (tensor->replicated)
        return &amounts->replicated;
    return is_tied(plan, tensor) ? &amounts->tied
                                 : &amounts->of[tensor->frozen][tensor->expert][param->param.block];
}

int ds__plan_buckets(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    unsigned blocks = ds_model_blocks(&plan->shape);
    uint64_t *elems = ds_arena_alloc(&plan->arena, 4 * (size_t)blocks, sizeof(*elems));
    struct amounts amounts = {.tied = 0};
    bool owned = ds_optim_wants_matrices(job);
    struct ds__owners *owners = NULL;
    uint64_t target;
    int rc = list_tensors(plan, job, err);

    if (rc == 0)
        rc = take_tensors(plan, err);
    if (rc != 0)
        return rc;
    plan->bucket = ds_arena_alloc(&plan->arena, 4 * (size_t)blocks + 2, sizeof(*plan->bucket));
    if (elems == NULL || plan->bucket == NULL)
        return ds_fail(err, ENOMEM, "no memory for the buckets of %u blocks", blocks);
    for (unsigned i = 0; i < 4; i++)
        amounts.of[i / 2][i % 2] = elems + (size_t)i * blocks;
    for (size_t i = 0; i < plan->params; i++)
        *amount_of(plan, &amounts, &plan->param[i]) += plan->param[i].param.elems;
    if (owned && (owners = ds__owners_new(plan, job)) == NULL)
        return ds_fail(err, ENOMEM, "no memory for the owners of %zu parameters", plan->params);
    target = target_bytes(plan, job->zero.bucket_mb);
    lay_out(plan, &amounts, target, owners);
    for (; owned && job->zero.bucket_mb == 0 && wastes(plan); target *= 2)
        lay_out(plan, &amounts, 2 * target, owners);
    make_spans(plan, job);
    if (plan->spans == 0)
        return ds_fail(
            err, EINVAL,
            "part %u of 'parallel.pipeline' %u has nothing to train; freeze less, or use "
            "fewer parts",
            plan->pipeline_rank, plan->pipeline_ranks);
    return check_groups(plan, job, err);
}
