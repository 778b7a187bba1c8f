/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_held - who holds what: shards, slices and ranges of tensors, over worlds, groups and stages.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

enum { MOST_RANKS = 12 };

struct setting {
    unsigned model, world, local, stage;
    uint64_t bucket_mb, replicate_below;
    bool bf16;
    uint64_t rank; /* of adapters */
};

static struct ds_model_shape model(unsigned i)
{
    switch (i) {
    case 0: return test_gpt2(3, 128, 4, 257, 32);
    case 1: return test_mixtral(2, 64, 4, 2, 24, 113, 32, 4, 2);
    default: return test_llama(4, 192, 6, 2, 520, 1009, 64);
    }
}

static void build(struct ds_plan *plan, const struct setting *set, unsigned rank)
{
    struct ds_job job = test_job(model(set->model), set->world, 1, 16);
    struct ds_error err = {0};

    job.zero.stage = set->stage;
    job.zero.bucket_mb = set->bucket_mb;
    job.zero.replicate_below = set->replicate_below;
    job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    job.precision.compute = set->bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
    if (set->rank > 0)
        job.model.shape.lora =
            (struct ds_lora){.rank = set->rank, .alpha = 1.0, .targets = 1U << DS_ADAPTED_PROJ};
    cr_assert_eq(ds_plan_build(plan,
                               &(struct ds_plan_args){.job = &job,
                                                      .world = set->world,
                                                      .rank = rank,
                                                      .threads = 1,
                                                      .local_world = set->local},
                               &err),
                 0, "%s", err.text);
}

static const enum ds_arena_kind lines[] = {DS_ARENA_PARAMS, DS_ARENA_PARAMS_LOW, DS_ARENA_GRADS,
                                           DS_ARENA_MOMENTS, DS_ARENA_HOST_GRADS};

/* Every element of every tensor once, over the slices of all ranks; each inside what is held. */
static void check_slices(const struct ds_plan *plan, unsigned world)
{
    for (size_t i = 0; i < plan[0].params; i++) {
        uint64_t elems = plan[0].param[i].param.elems;
        const bool frozen = plan[0].tensor[plan[0].param[i].tensor].frozen;
        unsigned char *seen = calloc(elems, 1);

        for (unsigned rank = 0; rank < world; rank++) {
            struct ds_held slice = ds_plan_slice_param(&plan[rank], DS_ARENA_MOMENTS, i);
            struct ds_held held = ds_plan_held_param(&plan[rank], DS_ARENA_MOMENTS, i);

            for (uint64_t e = slice.first; e < slice.first + slice.count; e++)
                seen[e]++;
            if (slice.count == 0)
                continue;
            cr_assert_geq(slice.first, held.first);
            cr_assert_leq(slice.first + slice.count, held.first + held.count);
            cr_assert_eq(slice.at - held.at, slice.first - held.first);
        }
        for (uint64_t e = 0; e < elems; e++)
            cr_assert_eq(seen[e], frozen ? 0 : 1, "%s: element %llu is %u times in the slices",
                         plan[0].param[i].param.name, (unsigned long long)e, seen[e]);
        free(seen);
    }
}

/* A shard group holds every element; parts of one rank do not overlap in the arena. */
static void check_shards(const struct ds_plan *plan, unsigned world, unsigned shards)
{
    for (unsigned k = 0; k < sizeof(lines) / sizeof(lines[0]); k++)
        for (unsigned rank = 0; rank < world; rank++) {
            uint64_t at = 0, held = 0;

            for (size_t i = 0; i < plan[rank].buckets; i++) {
                struct ds_held part = ds_plan_held(&plan[rank], lines[k], i);
                const struct ds_bucket *bucket = &plan[rank].bucket[i];
                bool whole = !plan[rank].sharded[lines[k]] || bucket->replicated;
                bool read = lines[k] == (plan[rank].copies ? DS_ARENA_PARAMS_LOW : DS_ARENA_PARAMS);

                if (bucket->frozen && !read) {
                    cr_assert_eq(part.count, 0);
                    continue;
                }
                cr_assert_eq(part.at, at);
                cr_assert_eq(part.count, bucket->padded_elems / (whole ? 1 : shards));
                cr_assert_eq(part.first, whole ? 0 : (rank % shards) * part.count);
                at += part.count;
            }
            cr_assert_eq(at, ds_plan_line_elems(&plan[rank], lines[k]));
            for (size_t i = 0; i < plan[rank].params; i++)
                held += ds_plan_held_param(&plan[rank], lines[k], i).count;
            cr_assert_leq(held, at);
        }
}

static void check(struct setting set)
{
    struct ds_plan plan[MOST_RANKS];

    for (unsigned rank = 0; rank < set.world; rank++)
        build(&plan[rank], &set, rank);
    check_slices(plan, set.world);
    check_shards(plan, set.world, set.local);
    for (unsigned rank = 0; rank < set.world; rank++) {
        cr_assert_eq(plan[rank].hash, plan[0].hash);
        cr_assert_eq(plan[rank].stage, set.local > 1 ? set.stage : 0);
    }
    for (unsigned rank = 0; rank < set.world; rank++)
        ds_plan_release(&plan[rank]);
}

Test(held, slices_are_a_partition_and_shards_hold_them)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 4},  {4, 2},
                                         {6, 3}, {7, 7}, {9, 3}, {12, 4}, {3, 1}};

    for (unsigned model = 0; model < 3; model++)
        for (unsigned group = 0; group < sizeof(groups) / sizeof(groups[0]); group++)
            for (unsigned stage = 0; stage < 4; stage++)
                check((struct setting){.model = model,
                                       .world = groups[group][0],
                                       .local = groups[group][1],
                                       .stage = stage,
                                       .bucket_mb = stage % 2,
                                       .replicate_below = group % 2 ? 400 : 0,
                                       .bf16 = (group + stage) % 2});
}

Test(held, of_what_is_frozen_there_is_what_kernels_read_alone)
{
    struct ds_plan plan;

    for (unsigned stage = 0; stage < 4; stage++)
        for (unsigned i = 0; i < 4; i++) {
            struct setting set = {.model = 2,
                                  .world = 4,
                                  .local = i / 2 == 0 ? 4 : 2,
                                  .stage = stage,
                                  .bucket_mb = 1,
                                  .replicate_below = 2000,
                                  .bf16 = i % 2,
                                  .rank = 8};
            uint64_t adapters = 4 * 8 * (192 + 192), all = 0;

            check(set);
            build(&plan, &set, 1);
            for (size_t k = 0; k < plan.params; k++)
                all += plan.param[k].param.elems;
            cr_assert_eq(all, ds_model_elems(&plan.shape));
            cr_assert_eq(plan.frozen_elems + adapters - (plan.frozen_elems + adapters) % 16,
                         plan.padded_elems - plan.padded_elems % 16);
            cr_assert_leq(plan.arena_bytes[DS_ARENA_MOMENTS], 2 * adapters * sizeof(float) + 4096);
            cr_assert_leq(plan.arena_bytes[DS_ARENA_GRADS], adapters * sizeof(float) + 2048);
            cr_assert_leq(plan.arena_bytes[set.bf16 ? DS_ARENA_PARAMS : DS_ARENA_GRADS],
                          adapters * sizeof(float) + 2048);
            ds_plan_release(&plan);
        }
}

Test(held, small_tensors_are_whole_on_every_rank)
{
    struct setting set = {.world = 4, .local = 4, .stage = 3, .bucket_mb = 1};
    struct ds_plan plan;
    unsigned small = 0;

    set.replicate_below = 400;
    build(&plan, &set, 2);
    for (size_t i = 0; i < plan.params; i++) {
        struct ds_held held = ds_plan_held_param(&plan, DS_ARENA_MOMENTS, i);
        uint64_t elems = plan.param[i].param.elems;

        if (elems >= 400)
            continue;
        small++;
        cr_assert_eq(plan.param[i].bucket, plan.buckets - 1);
        cr_assert_eq(held.first, 0);
        cr_assert_eq(held.count, elems);
    }
    cr_assert_gt(small, 0);
    cr_assert(plan.bucket[plan.buckets - 1].replicated);
    ds_plan_release(&plan);
    set.replicate_below = UINT64_MAX; /* all of them */
    build(&plan, &set, 0);
    cr_assert_eq(plan.buckets, 1);
    cr_assert_eq(ds_plan_line_elems(&plan, DS_ARENA_MOMENTS), plan.padded_elems);
    ds_plan_release(&plan);
}

Test(held, parts_of_one_matrix_are_not_torn_apart)
{
    struct setting set = {.model = 1, .world = 2, .local = 2, .stage = 1};
    struct ds_plan plan;

    set.replicate_below = 64 * 64; /* below it: keys and values alone, but not with the queries */
    build(&plan, &set, 0);
    for (size_t i = 1; i < plan.params; i++)
        if (plan.param[i].param.role == DS_ROLE_K_W || plan.param[i].param.role == DS_ROLE_V_W ||
            plan.param[i].param.role == DS_ROLE_UP_W)
            cr_assert_eq(plan.param[i].offset,
                         plan.param[i - 1].offset + plan.param[i - 1].param.elems, "%s",
                         plan.param[i].param.name);
    ds_plan_release(&plan);
}

Test(held, hosts_of_unequal_size_cannot_be_shard_groups)
{
    struct ds_job job = test_job(model(1), 6, 1, 16);
    struct ds_error err = {0};
    struct ds_plan plan;

    job.zero.shard_group = DS_SHARD_NODE;
    cr_assert_eq(
        ds_plan_build(
            &plan, &(struct ds_plan_args){.job = &job, .world = 6, .threads = 1, .local_world = 4},
            &err),
        -EINVAL);
    cr_assert(strstr(err.text, "zero.shard_group") != NULL, "%s", err.text);
}

Test(held, a_range_within_a_range)
{
    struct ds_held held = {.first = 10, .count = 20, .at = 100};
    struct ds_held cut = ds_held_within(held, 15, 5);

    cr_assert(cut.first == 0 && cut.count == 5 && cut.at == 105);
    cut = ds_held_within(held, 5, 10);
    cr_assert(cut.first == 5 && cut.count == 5 && cut.at == 100);
    cut = ds_held_within(held, 25, 100);
    cr_assert(cut.first == 0 && cut.count == 5 && cut.at == 115);
    cr_assert_eq(ds_held_within(held, 0, 10).count, 0);
    cr_assert_eq(ds_held_within(held, 30, 1).count, 0);
}
