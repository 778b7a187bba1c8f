/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pipeline.c - who has which blocks, where parts of a pipeline meet, and what all of them come to.
 *
 * Layers are alike; the head does the work of several, the embedding next to none.  So the last
 * part gets as many layers as make the longest part shortest, the others share the rest equally,
 * and what is over goes to those behind, which have fewer micro-batches under way.
 *
 * Ranks of a host show each other memory of one size, and compare the hash of one plan.  Both
 * follow from the plans of all parts, so each rank makes them all: they are pure.
 *
 * Source  Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
 *         Megatron-LM" (2021), section 2.2
 * Tests   tests/plan/test_pipeline.c
 */
#include <errno.h>

#include "kernels/dtype.h"
#include "runtime/plan/internal.h"

/* FLOPs of a token, forward and backward: of the head, in those of a layer. */
static double head_layers(const struct ds_plan *plan)
{
    const struct ds_model_shape *shape = &plan->shape;
    double hidden = (double)shape->hidden;
    double layer = ds_model_product_flops_per_token(shape) / (double)shape->layers +
                   6.0 * (double)(shape->heads * shape->head_size) * (double)plan->whole_sequence;

    return 6.0 * hidden * (double)shape->vocab / layer;
}

/* Layers of the last part. */
static uint64_t last_layers(const struct ds_plan *plan)
{
    const uint64_t others = plan->pipeline_ranks - 1, layers = plan->shape.layers;
    const double head = head_layers(plan);
    double least = 0.0;
    uint64_t best = 0;

    for (uint64_t last = 1; last <= layers - others; last++) {
        double its = (double)last + head;
        double longest = (double)((layers - last + others - 1) / others);

        longest = its > longest ? its : longest;
        if (best == 0 || longest <= least) {
            best = last;
            least = longest;
        }
    }
    return best;
}

/* Layers in front of part `part`. */
static uint64_t layers_before(const struct ds_plan *plan, uint64_t part, uint64_t last)
{
    const uint64_t others = plan->pipeline_ranks - 1, rest = plan->shape.layers - last;
    const uint64_t more = rest % others, from = others - more; /* have one more, from that on */

    return part * (rest / others) + (part > from ? part - from : 0);
}

static void take_blocks(struct ds_plan *plan)
{
    const uint64_t part = plan->pipeline_rank, parts = plan->pipeline_ranks;
    uint64_t last;

    plan->first_block = 0;
    plan->end_block = ds_model_blocks(&plan->shape);
    if (parts == 1)
        return;
    last = last_layers(plan);
    if (part > 0)
        plan->first_block = 1 + (uint32_t)layers_before(plan, part, last);
    if (part + 1 < parts)
        plan->end_block = 1 + (uint32_t)layers_before(plan, part + 1, last);
}

/* What cannot be done with it. */
static int check(const struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
{
    const struct ds_job *job = args->job;
    const unsigned long long parts = job->parallel.pipeline;

    if (parts > plan->shape.layers)
        return ds_fail(err, EINVAL,
                       "'parallel.pipeline' %llu is more than 'model.layers' %llu, of which each "
                       "part needs one",
                       parts, (unsigned long long)plan->shape.layers);
    if (parts > 1 && job->zero.stage == 3)
        return ds_fail(err, EINVAL,
                       "'parallel.pipeline' %llu and 'zero.stage' 3 do not go together: layers "
                       "would be gathered anew for every micro-batch of a part; set 'zero.stage' "
                       "to 2 or less",
                       parts);
    return 0;
}

int ds__plan_pipeline(struct ds_plan *plan, const struct ds_plan_args *args, struct ds_error *err)
{
    int rc = check(plan, args, err);
    uint64_t ahead;

    if (rc != 0)
        return rc;
    take_blocks(plan);
    ahead = plan->pipeline_ranks - plan->pipeline_rank;
    plan->slots = (unsigned)(ahead < plan->micro_batches ? ahead : plan->micro_batches);
    return 0;
}

/* --- groups ----------------------------------------------------------------------------------- */

struct ds_comm_group ds_plan_pair_group(const struct ds_plan *plan, unsigned turn)
{
    const unsigned part = plan->pipeline_rank, apart = plan->holders * plan->tensor_ranks;
    bool upper = part % 2 != turn % 2;
    bool there = upper ? part > 0 : part + 1 < plan->pipeline_ranks;

    return (struct ds_comm_group){
        .first = there && upper ? plan->rank - apart : plan->rank,
        .stride = apart,
        .count = there ? 2 : 1,
    };
}

struct ds_comm_group ds_plan_tie_group(const struct ds_plan *plan)
{
    const unsigned apart = plan->holders * plan->tensor_ranks;
    const unsigned span = (plan->pipeline_ranks - 1) * apart;
    bool end = ds_plan_embeds(plan) || ds_plan_classifies(plan);

    return (struct ds_comm_group){
        .first = end ? plan->rank % apart : plan->rank, .stride = span, .count = end ? 2 : 1};
}

uint64_t ds__plan_passed(struct ds_plan *plan, uint64_t at)
{
    const uint64_t tokens = plan->micro_batch * plan->sequence;
    const bool there[] = {
        [DS_PASSED_OUT] = !ds_plan_classifies(plan), [DS_PASSED_GRADIENT] = !ds_plan_embeds(plan)};

    at = ds__round_up(at, DS_BUFFER_ALIGN);
    plan->passed_bytes =
        tokens * plan->shape.hidden * ds_dtype_bytes(ds_compute_dtype(plan->compute));
    for (unsigned i = 0; i < DS_PASSED_COUNT; i++) {
        plan->passed_at[i] = there[i] ? at : DS_NOT_SHARED;
        at += there[i] ? ds__round_up(plan->passed_bytes, DS_BUFFER_ALIGN) : 0;
    }
    return at;
}

/* --- all parts -------------------------------------------------------------------------------- */

/* Ranks of part `part` among those of host `host`. */
static uint64_t ranks_there(const struct ds_plan *plan, uint64_t host, uint64_t part)
{
    uint64_t from = host * plan->local_world, to = from + plan->local_world;
    uint64_t ranks = (uint64_t)plan->holders * plan->tensor_ranks;
    uint64_t first = part * ranks, end = first + ranks;

    from = from > first ? from : first;
    to = to < end ? to : end;
    return to > from ? to - from : 0;
}

uint64_t ds__plan_host_bytes(const struct ds_plan *plan)
{
    uint64_t most = 0;

    for (uint64_t host = 0; host * plan->local_world < plan->world; host++) {
        uint64_t sum = 0;

        for (uint64_t part = 0; part < plan->pipeline_ranks; part++)
            sum += ranks_there(plan, host, part) * plan->part[part].owned_bytes;
        most = sum > most ? sum : most;
    }
    return most;
}

uint64_t ds__plan_part_bytes(const struct ds_plan *plan)
{
    uint64_t most = 0;

    for (unsigned part = 0; part < plan->pipeline_ranks; part++)
        if (plan->part[part].owned_bytes > most)
            most = plan->part[part].owned_bytes;
    return most;
}

int ds__plan_other_parts(struct ds_plan *plan, const struct ds_plan_args *args,
                         struct ds_error *err)
{
    const unsigned apart = plan->holders * plan->tensor_ranks;
    uint64_t hash = 0;
    int rc = 0;

    plan->part = ds_arena_alloc(&plan->arena, plan->pipeline_ranks, sizeof(*plan->part));
    if (plan->part == NULL)
        return ds_fail(err, ENOMEM, "no memory for the parts of a pipeline");
    for (unsigned part = 0; rc == 0 && part < plan->pipeline_ranks; part++) {
        struct ds_plan_args its = *args;
        struct ds_plan other;

        its.rank = part * apart + plan->rank % apart;
        rc = ds__plan_part(&other, &its, err);
        if (rc != 0)
            break;
        plan->part[part] = (struct ds_plan_part){
            .first_block = other.first_block,
            .end_block = other.end_block,
            .slots = other.slots,
            .owned_bytes = ds__plan_owned_bytes(&other),
            .total_bytes = ds_plan_total_bytes(&other),
        };
        hash = ds__plan_mix(hash, other.hash);
        if (other.shared_bytes > plan->shared_bytes)
            plan->shared_bytes = other.shared_bytes;
        ds_plan_release(&other);
    }
    if (rc != 0)
        return rc;
    plan->hash = hash;
    return 0;
}
