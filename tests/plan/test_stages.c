/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_stages - the instruction lists of every stage in any order of the queues; bytes by the formulas.
 */
#include <errno.h>

#include "tests/plan/orders.h"

Test(stages, no_order_of_the_queues_reads_early_or_writes_over)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 2}};

    for (unsigned i = 0; i < 3 * 4 * 4 * 4; i++)
        for (unsigned stage = 0; stage < 4; stage++)
            check(&(struct setting){.model = i % 3,
                                    .world = groups[i / 3 % 4][0],
                                    .local = groups[i / 3 % 4][1],
                                    .stage = stage,
                                    .passes = i / 12 % 2 == 0 ? 1 : 3,
                                    .recompute = i / 24 % 2,
                                    .bucket_mb = i / 48 % 2 == 0 ? 1 : 4,
                                    .replicate_below = i / 96 % 2 == 0 ? 0 : 2000,
                                    .bf16 = i % 5 == 0});
}

Test(stages, nothing_is_updated_or_read_before_it_has_been_copied)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {4, 2}};

    for (unsigned i = 0; i < 3 * 3 * 2 * 2 * 2; i++)
        for (unsigned stage = 0; stage < 4; stage++)
            check(&(struct setting){.model = i % 3,
                                    .world = groups[i / 3 % 3][0],
                                    .local = groups[i / 3 % 3][1],
                                    .stage = stage,
                                    .passes = i / 9 % 2 == 0 ? 1 : 2,
                                    .recompute = i % 2,
                                    .bucket_mb = 1,
                                    .replicate_below = i / 18 % 2 == 0 ? 0 : 2000,
                                    .bf16 = i / 36 % 2,
                                    .offload = true});
}

/* Whoever shares them, one rank included: all comes from the host, what every rank keeps, too. */
Test(stages, parameters_of_the_host_come_for_each_use)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {4, 2}, {2, 1}, {3, 3}};
    static const char *const frozen[][3] = {{NULL, "*.h.[1-3].*", "*.w?e.*"},
                                            {NULL, "model.layers.[1-3].*", "*embed*"},
                                            {NULL, NULL, NULL}};

    for (unsigned i = 0; i < 5 * 3 * 2 * 2 * 2 * 2; i++)
        check(&(struct setting){.model = i / 5 % 3,
                                .world = groups[i % 5][0],
                                .local = groups[i % 5][1],
                                .stage = 3,
                                .params = true,
                                .offload = i / 15 % 2 == 0 || i / 30 % 2 == 0,
                                .bf16 = i / 30 % 2,
                                .passes = i / 60 % 2 == 0 ? 1 : 3,
                                .recompute = i / 120 % 2,
                                .bucket_mb = 1,
                                .freeze = frozen[i / 5 % 3][i / 7 % 3],
                                .replicate_below = i / 11 % 2 == 0 ? 0 : 2000});
    for (unsigned i = 0; i < 3 * 2 * 2; i++)
        check(&(struct setting){.model = 4,
                                .world = 4,
                                .local = 4,
                                .divide = 1U << i % 3,
                                .stage = 3,
                                .params = true,
                                .offload = true,
                                .once = true,
                                .passes = i / 3 % 2 == 0 ? 1 : 3,
                                .rank = i / 6 * 8,
                                .bucket_mb = 1,
                                .replicate_below = i % 2 == 0 ? 0 : 2000});
}

/* Experts that ranks divide are in buckets of their own, of which some hold a shard, or all. */
Test(stages, what_is_frozen_is_gathered_and_nothing_else)
{
    static const struct {
        unsigned model;
        uint64_t rank, below;
        const char *freeze;
        bool offload, bf16;
        unsigned divide;
    } cases[] = {
        {.model = 1, .rank = 8},
        {.model = 0, .rank = 4, .below = 3000, .bf16 = true},
        {.model = 1, .rank = 16, .offload = true, .below = 5000, .bf16 = true},
        {.model = 1, .freeze = "model.layers.[1-3].*", .offload = true},
        {.model = 0, .freeze = "*.w?e.*", .below = 400},
        {.model = 4, .freeze = "*experts*", .divide = 2},
        {.model = 4, .freeze = "*self_attn*", .divide = 4, .bf16 = true},
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (unsigned stage = 0; stage < 4; stage++)
            for (unsigned passes = 1; passes < 4; passes += 2)
                for (unsigned local = 2; local <= 4; local += 2)
                    check(&(struct setting){.model = cases[i].model,
                                            .world = 4,
                                            .local = local,
                                            .stage = stage,
                                            .passes = passes,
                                            .bucket_mb = 1,
                                            .replicate_below = cases[i].below,
                                            .recompute = passes == 3,
                                            .bf16 = cases[i].bf16,
                                            .offload = cases[i].offload,
                                            .divide = cases[i].divide,
                                            .rank = cases[i].rank,
                                            .freeze = cases[i].freeze});
}

Test(stages, divided_experts_come_and_go_like_the_rest)
{
    static const unsigned groups[][3] = {{2, 2, 2}, {4, 4, 2}, {4, 4, 4}, {4, 2, 2},
                                         {4, 2, 4}, {8, 4, 2}, {6, 3, 3}};

    for (unsigned i = 0; i < 7 * 2 * 2 * 2 * 2; i++)
        for (unsigned stage = 0; stage < 4; stage++)
            check(&(struct setting){.model = 4,
                                    .world = groups[i % 7][0],
                                    .local = groups[i % 7][1],
                                    .divide = groups[i % 7][2],
                                    .stage = stage,
                                    .passes = i / 7 % 2 == 0 ? 1 : 3,
                                    .recompute = i / 14 % 2,
                                    .bucket_mb = i / 28 % 2 == 0 ? 1 : 2,
                                    .replicate_below = i / 7 % 3 == 0 ? 2000 : 0,
                                    .bf16 = i % 5 == 0,
                                    .offload = i / 56 % 2});
}

/* --- what is held once ------------------------------------------------------------------------- */

static void check_alike(struct setting set)
{
    struct ds_plan plan[2];
    struct ds_buf list[2];

    for (unsigned i = 0; i < 2; i++) {
        set.stage = 2 + i;
        build(&plan[i], &set);
        ds_buf_init(&list[i], 1 << 24);
        ds_plan_print_schedule(&plan[i], &list[i]);
    }
    cr_assert_str_eq(ds_buf_text(&list[0]), ds_buf_text(&list[1]));
    cr_assert_eq(memcmp(plan[0].arena_bytes, plan[1].arena_bytes, sizeof(plan[0].arena_bytes)), 0);
    cr_assert(plan[1].stage == 3 && !plan[1].ahead && plan[1].prefetch == 0);
    cr_assert_eq(plan[0].common_bytes, plan[1].common_bytes);
    cr_assert_eq(plan[0].wire_bytes_per_step, plan[1].wire_bytes_per_step);
    cr_assert_neq(plan[0].hash, plan[1].hash, "the stages are told apart");
    for (unsigned i = 0; i < 2; i++) {
        ds_buf_release(&list[i]);
        ds_plan_release(&plan[i]);
    }
}

/* The shards of all ranks are what stage 3 would gather: nothing is left to do but to wait. */
Test(stages, stage_3_is_stage_2_where_parameters_are_held_once)
{
    static const unsigned groups[][2] = {{2, 2}, {3, 3}, {4, 2}};

    for (unsigned i = 0; i < 3 * 3 * 8; i++)
        check_alike((struct setting){.model = i % 3,
                                     .world = groups[i / 3 % 3][0],
                                     .local = groups[i / 3 % 3][1],
                                     .passes = i / 9 % 2 == 0 ? 1 : 3,
                                     .bf16 = i / 18 % 2,
                                     .offload = i / 36 % 2,
                                     .recompute = i % 2,
                                     .replicate_below = i % 5 == 0 ? 2000 : 0,
                                     .bucket_mb = 1,
                                     .once = true});
}

/* --- bytes -------------------------------------------------------------------------------------*/

/* 2, 2, G + 1 in units of parameters x 4 bytes x (N - 1) / N; bf16 gathers half of that. */
Test(stages, bytes_on_the_wire_follow_the_formulas)
{
    for (unsigned i = 0; i < 3 * 2 * 4 * 3; i++) {
        struct setting set = {.model = i % 3,
                              .bf16 = i / 3 % 2,
                              .world = i / 6 % 4 + 1,
                              .passes = i / 24 + 1,
                              .bucket_mb = 1};

        set.local = set.world;
        for (set.stage = 0; set.stage < 3; set.stage++) {
            struct ds_plan plan;
            uint64_t unit, gathered, want;

            build(&plan, &set);
            unit = plan.padded_elems / set.world * (set.world - 1) * sizeof(float);
            gathered = set.bf16 ? unit / 2 : unit;
            want = set.stage == 0   ? 2 * unit
                   : set.stage == 1 ? unit + gathered
                                    : set.passes * unit + gathered;
            cr_assert_eq(plan.wire_bytes_per_step, want, "stage %u", set.stage);
            ds_plan_release(&plan);
        }
    }
}

/* 3 G less what need not come again: with one layer a bucket, in every pass the embedding is
 * gathered for itself and for the tied classifier, the last layer stays at the turn; the first one
 * stays from one pass to the next. */
Test(stages, stage_3_gathers_what_it_must_and_no_more)
{
    for (uint64_t passes = 1; passes < 4; passes++) {
        struct setting set = {
            .model = 3, .world = 2, .local = 2, .stage = 3, .passes = passes, .bucket_mb = 1};
        struct ds_plan plan;
        uint64_t gathers[64] = {0}, elems = 0;

        build(&plan, &set);
        cr_assert_eq(plan.buckets, 13);
        cr_assert_eq(plan.prefetch, 1);
        for (size_t i = 0; i < plan.step.count; i++)
            if (plan.step.instr[i].op == DS_INSTR_GATHER)
                gathers[plan.step.instr[i].bucket]++;
        cr_assert_eq(gathers[0], 2 * passes);
        cr_assert_eq(gathers[1], passes + 1);
        for (unsigned i = 2; i < 12; i++)
            cr_assert_eq(gathers[i], 2 * passes, "bucket %u", i);
        cr_assert_eq(gathers[12], passes);
        for (unsigned i = 0; i < 13; i++)
            elems += (gathers[i] + passes) * plan.bucket[i].padded_elems;
        cr_assert_eq(plan.wire_bytes_per_step, elems / 2 * sizeof(float));
        cr_assert_leq(plan.wire_bytes_per_step, 3 * passes * plan.padded_elems / 2 * sizeof(float));
        ds_plan_release(&plan);
    }
}

/* Memory per rank by stage: 16, 12 + 4 / N ... bytes per parameter of fp32, and the rooms. */
Test(stages, a_higher_stage_holds_less)
{
    struct setting set = {.model = 3, .world = 4, .local = 4, .passes = 1};
    uint64_t line, bytes[4];

    for (set.stage = 0; set.stage < 4; set.stage++) {
        struct ds_plan plan;
        uint64_t *arena = plan.arena_bytes;

        build(&plan, &set);
        line = plan.padded_elems * sizeof(float);
        bytes[set.stage] = arena[DS_ARENA_PARAMS] + arena[DS_ARENA_GRADS] +
                           arena[DS_ARENA_MOMENTS] + arena[DS_ARENA_GATHERED] +
                           arena[DS_ARENA_STAGED];
        cr_assert_eq(arena[DS_ARENA_PARAMS], set.stage < 3 ? line : line / 4);
        cr_assert_eq(arena[DS_ARENA_GRADS], set.stage < 2 ? line : line / 4);
        cr_assert_eq(arena[DS_ARENA_MOMENTS], set.stage < 1 ? 2 * line : line / 2);
        cr_assert_lt(arena[DS_ARENA_GATHERED] + arena[DS_ARENA_STAGED], 2 * line);
        cr_assert(set.stage == 0 || bytes[set.stage] < bytes[set.stage - 1], "stage %u", set.stage);
        ds_plan_release(&plan);
    }
}
