/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_owner - for Muon every matrix lies whole with one rank of a shard group, whatever the world;
 * nothing overlaps; padding is bounded; only what needs a second state has room for one.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "runtime/optim.h"
#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

struct setting {
    unsigned model, world, local, stage;
    uint64_t bucket_mb, replicate_below;
};

static struct ds_job job_of(const struct setting *set)
{
    static const unsigned hidden[] = {128, 64, 192};
    struct ds_model_shape shape = set->model == 0
                                      ? test_gpt2(6, hidden[0], 4, 257, 32)
                                      : test_llama(2 + 3 * set->model, hidden[set->model], 4, 2,
                                                   7 * hidden[set->model] / 2, 1009, 32);
    struct ds_job job = test_job(shape, set->world, 1, 16);

    job.optim.kind = DS_OPTIM_MUON;
    job.optim.momentum = 0.95;
    job.zero.stage = set->stage;
    job.zero.bucket_mb = set->bucket_mb;
    job.zero.replicate_below = set->replicate_below;
    job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    return job;
}

static void build(struct ds_plan *plan, const struct ds_job *job, const struct setting *set,
                  unsigned rank)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_plan_build(plan,
                               &(struct ds_plan_args){.job = job,
                                                      .world = set->world,
                                                      .rank = rank,
                                                      .threads = 1,
                                                      .local_world = set->local},
                               &err),
                 0, "%s", err.text);
}

/* No two tensors share an element, and each is inside its bucket. */
static void check_places(const struct ds_plan *plan)
{
    unsigned char *taken = calloc(plan->padded_elems, 1);

    cr_assert_not_null(taken);
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        const struct ds_bucket *bucket = &plan->bucket[param->bucket];

        cr_assert_geq(param->offset, bucket->offset);
        cr_assert_leq(param->offset + param->param.elems, bucket->offset + bucket->padded_elems);
        for (uint64_t k = 0; k < param->param.elems; k++)
            cr_assert_eq(taken[param->offset + k]++, 0, "%s", param->param.name);
    }
    free(taken);
}

/* Kernels use these as one matrix. */
static void check_neighbours(const struct ds_plan *plan)
{
    for (size_t i = 1; i < plan->params; i++) {
        enum ds_role role = plan->param[i].param.role;

        if (role == DS_ROLE_K_W || role == DS_ROLE_V_W || role == DS_ROLE_UP_W)
            cr_assert_eq(plan->param[i].offset,
                         plan->param[i - 1].offset + plan->param[i - 1].param.elems, "%s",
                         plan->param[i].param.name);
    }
}

/* Of each matrix one rank of a group has all and the others nothing. */
static void check_owned(const struct ds_plan *plan, const struct ds_job *job, bool *owned)
{
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        struct ds_held shard =
            ds_held_within(ds_plan_shard(plan, DS_ARENA_GRADS, param->bucket),
                           param->offset - plan->bucket[param->bucket].offset, param->param.elems);

        if (!ds_optim_by_matrix(job, &param->param))
            continue;
        cr_assert(shard.count == 0 || shard.count == param->param.elems, "%s", param->param.name);
        if (shard.count == 0)
            continue;
        cr_assert(plan->stage == 0 || plan->bucket[param->bucket].replicated || !owned[i],
                  "%s has two owners", param->param.name);
        owned[i] = true;
    }
}

/* Second states of one rank do not overlap and lie inside their line. */
static void check_second(const struct ds_plan *plan, const struct ds_job *job)
{
    uint64_t room = ds_plan_state_elems(plan, 1);
    unsigned char *taken = calloc(room + 1, 1);

    cr_assert_not_null(taken);
    for (size_t i = 0; i < plan->params; i++) {
        struct ds_held held = ds_plan_held_param(plan, DS_ARENA_MOMENTS, i);
        uint64_t at = ds_plan_state_at(plan, plan->param[i].bucket, 1, held.at);

        if (held.count == 0 || ds_optim_state_name(job, &plan->param[i].param, 1) == NULL)
            continue;
        cr_assert_leq(at + held.count, room, "%s", plan->param[i].param.name);
        for (uint64_t k = 0; k < held.count; k++)
            cr_assert_eq(taken[at + k]++, 0, "%s", plan->param[i].param.name);
    }
    cr_assert_eq(plan->arena_bytes[DS_ARENA_MOMENTS],
                 (ds_plan_state_elems(plan, 0) + room) * sizeof(float));
    free(taken);
}

static void check_setting(const struct setting *set)
{
    struct ds_job job = job_of(set);
    bool owned[256] = {false};

    for (unsigned rank = 0; rank < set->world; rank++) {
        struct ds_plan plan;

        build(&plan, &job, set, rank);
        if (rank == 0)
            check_places(&plan);
        check_neighbours(&plan);
        check_second(&plan, &job);
        if (rank < plan.shards) /* the first group */
            check_owned(&plan, &job, owned);
        for (size_t i = 0; rank + 1 == set->world && i < plan.params; i++)
            cr_assert_eq(owned[i], ds_optim_by_matrix(&job, &plan.param[i].param), "%s",
                         plan.param[i].param.name);
        ds_plan_release(&plan);
    }
}

Test(owner, matrices_lie_whole_in_shards)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 2}, {5, 5}, {6, 3}, {12, 12}};

    for (unsigned i = 0; i < 7 * 3 * 4; i++) {
        const struct setting set = {.model = i % 3,
                                    .world = groups[i / 12][0],
                                    .local = groups[i / 12][1],
                                    .stage = i / 3 % 4,
                                    .bucket_mb = i % 2,
                                    .replicate_below = i % 5 == 0 ? 20000 : 0};

        check_setting(&set);
    }
}

/* With as many matrices as here buckets can be made that are filled by seven eighths. */
Test(owner, buckets_grow_until_padding_is_small)
{
    for (unsigned world = 1; world <= 8; world++) {
        struct setting set = {.world = world, .local = world, .stage = 2};
        struct ds_job job = job_of(&set);
        struct ds_plan plan;
        uint64_t elems;

        job.model.shape = test_gpt2(12, 256, 4, 1000, 32);
        elems = ds_model_elems(&job.model.shape);
        build(&plan, &job, &set, 0);
        cr_assert_leq(plan.padded_elems - elems, elems / 8, "world %u", world);
        cr_assert_gt(plan.buckets, 1, "world %u", world);
        ds_plan_release(&plan);
    }
}

/* The embedding of both ends of a pipeline, and experts that ranks divide, have buckets of their own
 * however large the others become; with few matrices for many ranks padding stays large, too. */
Test(owner, buckets_that_stay_apart_are_no_reason_to_grow_others, .timeout = 60)
{
    struct setting set = {.world = 24, .local = 24, .stage = 2};

    for (unsigned i = 0; i < 2; i++) {
        struct ds_job job = job_of(&set);
        struct ds_plan plan;
        uint64_t elems = 0;

        job.model.shape =
            i == 0 ? test_gpt2(3, 48, 1, 257, 32) : test_mixtral(2, 64, 4, 2, 96, 113, 32, 4, 2);
        job.parallel.pipeline = i == 0 ? 3 : 1;
        job.parallel.expert = i == 0 ? 1 : 2;
        build(&plan, &job, &set, 0);
        for (size_t k = 0; k < plan.params; k++)
            elems += plan.param[k].param.elems;
        cr_assert_gt(plan.padded_elems - elems, elems / 8);
        cr_assert_eq(plan.buckets, 2, "%u: %zu", i, plan.buckets);
        ds_plan_release(&plan);
    }
}

/* A matrix for each of sixty-four ranks is more than there are: the plan says what that takes. */
Test(owner, padding_counts_in_memory_and_on_the_wire)
{
    struct setting set = {.world = 64, .local = 64, .stage = 2};
    struct ds_job job = job_of(&set);
    struct ds_plan plan;
    uint64_t largest = 4 * 128 * 128;

    build(&plan, &job, &set, 5);
    cr_assert_geq(plan.padded_elems, 64 * largest);
    cr_assert_eq(plan.arena_bytes[DS_ARENA_GRADS], plan.held_elems * sizeof(float));
    cr_assert_eq(plan.traffic[DS_COMM_REDUCE_SCATTER].bytes +
                     plan.traffic[DS_COMM_ALL_GATHER].bytes,
                 plan.padded_elems / 64 * 63 * 2 * sizeof(float));
    cr_assert_geq(plan.arena_bytes[DS_ARENA_ACTIVATIONS],
                  ds_optim_matrix_room(128, 512) * sizeof(float));
    ds_plan_release(&plan);
}
