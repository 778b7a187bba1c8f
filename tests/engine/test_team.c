/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_team - ranks that share layers train as ranks do that have all of each: up to the order of
 * sums, over families, sizes of teams, types, dropout, recomputation and optimizers; the same bits at
 * ZeRO stages 0 to 3 and on one host or several; and what is sent is what the plan says.  So do
 * those of which several have the same heads of keys and values, whose weights are one on all.
 */
#include "tests/engine/parts.h"

static double tolerance_of(const struct test_layout *team)
{
    if (team->fp8)
        return 2e-2;
    return team->compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
}

static enum ds_comm_op sum_op(enum ds_compute compute)
{
    return compute == DS_COMPUTE_FP32   ? DS_COMM_ALL_REDUCE_F32
           : compute == DS_COMPUTE_BF16 ? DS_COMM_ALL_REDUCE_BF16
                                        : DS_COMM_ALL_REDUCE_F16;
}

/* Against ranks of data alone, each with all layers. */
static void check_team(struct test_layout team)
{
    struct test_pair pair;

    team.tensor = team.tensor > 0 ? team.tensor : 2;
    pair = test_pair_run(test_layout(team), tolerance_of(&team), 257);
    cr_assert_gt(pair.parts.traffic[sum_op(team.compute)].calls, 0);
    test_pair_release(&pair);
}

Test(team, trains_as_whole_layers_do)
{
    static const struct test_layout table[] = {
        {.tensor = 2},
        {.tensor = 4, .micro_batch = 1},
        {.tensor = 2, .data = 2, .passes = 1},
        {.tensor = 4, .vocab = 300, .passes = 3},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (enum ds_compute compute = DS_COMPUTE_FP32; compute <= DS_COMPUTE_FP16; compute++)
            for (int family = 0; family < 3; family++) {
                struct test_layout team = table[i];

                team.gpt2 = family < 2;
                team.tied = family == 1;
                team.compute = compute;
                check_team(team);
            }
}

Test(team, goes_with_everything_else)
{
    static const struct test_layout table[] = {
        {.recompute = DS_RECOMPUTE_FULL},
        {.recompute = DS_RECOMPUTE_SELECTIVE, .gpt2 = true},
        {.dropout = true, .gpt2 = true},
        {.dropout = true, .recompute = DS_RECOMPUTE_FULL, .tensor = 4},
        {.dropout = true, .sharers = 2},
        {.fp8 = true, .compute = DS_COMPUTE_BF16},
        {.fp8 = true,
         .compute = DS_COMPUTE_BF16,
         .recompute = DS_RECOMPUTE_SELECTIVE,
         .gpt2 = true},
        {.optim = DS_OPTIM_SGD, .tied = true},
        {.optim = DS_OPTIM_LION, .data = 2, .stage = 2},
        {.optim = DS_OPTIM_LAMB, .gpt2 = true, .tied = true},
        {.optim = DS_OPTIM_LAMB, .data = 2, .stage = 2, .tensor = 4},
        {.optim = DS_OPTIM_LAMB, .data = 2, .stage = 1, .parts = 2, .tied = true},
        {.offload = true, .tied = true},
        {.offload = true, .compute = DS_COMPUTE_BF16, .data = 2, .stage = 1},
        {.disk = true, .data = 2, .stage = 2, .compute = DS_COMPUTE_BF16},
        {.wire16 = true, .data = 2, .stage = 1},
        {.clip = 0.5, .data = 2, .stage = 3, .tied = true, .gpt2 = true},
        {.sharers = 2, .gpt2 = true, .tied = true},
        {.sharers = 2, .data = 2, .stage = 3, .compute = DS_COMPUTE_BF16},
        {.parts = 2, .passes = 3},
        {.parts = 2, .passes = 3, .data = 2, .tied = true, .gpt2 = true, .clip = 0.5, .stage = 2},
        {.parts = 3, .passes = 4, .tied = true, .compute = DS_COMPUTE_BF16},
        {.qwen2 = true, .tied = true, .data = 2, .stage = 2},
        {.qwen2 = true, .sharers = 2, .compute = DS_COMPUTE_BF16},
        {.qwen2 = true, .fp8 = true, .compute = DS_COMPUTE_BF16},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        check_team(table[i]);
}

/* Matrices of which each has rows, columns or, packed, runs of columns are updated as a whole. */
Test(team, gathers_matrices_that_are_updated_as_a_whole)
{
    static const struct test_layout table[] = {
        {.gpt2 = true},
        {.gpt2 = true, .tensor = 4, .tied = true, .data = 2, .stage = 2},
        {.tensor = 4, .passes = 3, .clip = 0.5},
        {.tensor = 4, .kv = 2, .data = 2, .stage = 1},
        {.tensor = 4, .kv = 1, .qwen2 = true},
        {.tensor = 8, .kv = 2, .passes = 1, .recompute = DS_RECOMPUTE_FULL},
        {.kv = 1, .sharers = 2, .data = 2, .stage = 3},
        {.kv = 4, .compute = DS_COMPUTE_BF16, .data = 2, .stage = 3},
        {.gpt2 = true, .compute = DS_COMPUTE_FP16, .parts = 2, .tied = true},
        {.offload = true, .data = 2, .stage = 1},
        {.disk = true, .data = 2, .stage = 2, .kv = 1},
        {.experts = 4, .each = 2, .data = 2, .divide = 2, .stage = 2},
        {.experts = 4, .each = 2, .qwen3 = true, .tensor = 4, .kv = 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY) {
        struct test_layout team = table[i];

        team.optim = DS_OPTIM_MUON;
        check_team(team);
    }
}

Test(team, has_the_same_bits_at_every_stage_and_on_any_hosts)
{
    static const struct test_layout others[] = {{.stage = 1},
                                                {.stage = 2},
                                                {.stage = 3},
                                                {.stage = 2, .local = 2},
                                                {.stage = 0, .local = 1},
                                                {.stage = 3, .local = 1},
                                                {.stage = 1, .local = 4, .node = true},
                                                {.stage = 2, .local = 2, .node = true},
                                                {.stage = 3, .local = 4, .node = true}};
    const struct test_layout first = test_layout(
        (struct test_layout){.tensor = 2, .data = 4, .tied = true, .gpt2 = true, .passes = 1});

    test_same_everywhere(&first, others, sizeof(others) / sizeof(others[0]));
}

/* --- fewer heads of keys and values ----------------------------------------------------------- */

/* Has everybody who has a head the same weights for it? */
static void check_doubled(const struct test_run *run, const char *what)
{
    uint64_t copies = 0;

    for (unsigned rank = 0; rank < run->plan.kv_ranks; rank++)
        for (uint64_t i = 0; i < run->elems; i++) {
            const float *mine = &run->doubled[rank * run->elems + i];

            copies += *mine != 0.0f;
            cr_assert(*mine == 0.0f || memcmp(mine, &run->params[i], sizeof(*mine)) == 0,
                      "%s: place %u has %.9g at %llu, not %.9g", what, rank, (double)*mine,
                      (unsigned long long)i, (double)run->params[i]);
        }
    cr_assert(run->plan.kv_ranks == 1 || copies > run->plan.kv_ranks * 100, "%s: %llu copies", what,
              (unsigned long long)copies);
}

static void check_kv(struct test_layout layout)
{
    struct test_layout team = test_layout(layout);
    double tolerance = team.wire16 ? 1e-4 : tolerance_of(&team); /* parts of a sum are rounded */
    struct test_pair pair = test_pair_run(team, tolerance, 257);

    cr_assert(team.tensor * team.sharers > team.kv);
    cr_assert_eq(pair.parts.plan.kv_ranks, team.tensor > team.kv ? team.tensor / team.kv : 1);
    check_doubled(&pair.parts, pair.what);
    test_pair_release(&pair);
}

Test(team, of_more_ranks_than_heads_of_keys_and_values)
{
    static const struct test_layout table[] = {
        {.tensor = 2, .kv = 1},
        {.tensor = 4, .kv = 1, .data = 2, .stage = 2},
        {.tensor = 4, .kv = 2, .passes = 3},
        {.tensor = 8, .kv = 2, .micro_batch = 1, .passes = 1},
        {.tensor = 8, .kv = 4, .passes = 1, .stage = 1},
        {.sharers = 2, .kv = 1},
        {.sharers = 4, .kv = 2, .micro_batch = 1},
        {.sharers = 4, .kv = 1, .data = 2, .stage = 3},
        {.sharers = 8, .kv = 2, .micro_batch = 3},
        {.tensor = 2, .sharers = 2, .kv = 2},
        {.tensor = 2, .sharers = 2, .kv = 1, .data = 2, .stage = 2},
        {.tensor = 4, .sharers = 2, .kv = 2, .passes = 1},
        {.tensor = 2, .sharers = 4, .kv = 4, .passes = 1},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        for (enum ds_compute compute = DS_COMPUTE_FP32; compute <= DS_COMPUTE_FP16; compute++) {
            struct test_layout team = table[i];

            team.compute = compute;
            check_kv(team);
        }
}

Test(team, of_few_heads_goes_with_everything_else)
{
    static const struct test_layout table[] = {
        {.recompute = DS_RECOMPUTE_FULL},
        {.recompute = DS_RECOMPUTE_SELECTIVE, .sharers = 2, .tensor = 2},
        {.dropout = true, .recompute = DS_RECOMPUTE_FULL},
        {.dropout = true, .sharers = 4, .tensor = 1},
        {.fp8 = true, .compute = DS_COMPUTE_BF16, .head = 8},
        {.fp8 = true, .compute = DS_COMPUTE_BF16, .head = 8, .kv = 1, .tensor = 2, .sharers = 2},
        {.optim = DS_OPTIM_SGD, .tied = true},
        {.optim = DS_OPTIM_LION, .tensor = 2, .kv = 1, .data = 2, .stage = 2},
        {.optim = DS_OPTIM_LAMB, .tied = true},
        {.optim = DS_OPTIM_LAMB, .data = 2, .stage = 2},
        {.optim = DS_OPTIM_LAMB, .tensor = 2, .kv = 1, .data = 2, .stage = 1, .parts = 2},
        {.optim = DS_OPTIM_MUON, .tensor = 1, .sharers = 4, .stage = 2},
        {.optim = DS_OPTIM_MUON, .tensor = 8, .passes = 1},
        {.offload = true, .tied = true},
        {.offload = true, .compute = DS_COMPUTE_BF16, .data = 2, .stage = 1},
        {.disk = true, .data = 2, .stage = 2, .compute = DS_COMPUTE_BF16},
        {.wire16 = true, .data = 2, .stage = 1},
        {.clip = 0.5, .data = 2, .stage = 3, .tied = true},
        {.parts = 2, .passes = 3, .tied = true, .clip = 0.5},
        {.parts = 2, .passes = 3, .sharers = 2, .tensor = 2, .kv = 1, .offload = true},
        {.qwen2 = true, .tied = true, .data = 2, .stage = 2},
        {.qwen2 = true, .sharers = 2, .tensor = 2, .compute = DS_COMPUTE_BF16},
        {.qwen2 = true, .optim = DS_OPTIM_LAMB, .kv = 1},
        {.qwen3 = true, .data = 2, .stage = 1},
        {.qwen3 = true, .sharers = 4, .tensor = 1},
        {.experts = 4, .each = 2, .tensor = 2, .kv = 1, .sharers = 2},
        {.experts = 4, .each = 2, .data = 2, .divide = 2, .stage = 2},
        {.experts = 4, .each = 2, .data = 2, .divide = 2, .qwen3 = true, .optim = DS_OPTIM_LAMB},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY) {
        struct test_layout team = table[i];

        team.tensor = team.tensor > 0 ? team.tensor : 4;
        team.kv = team.kv > 0 ? team.kv : 2;
        check_kv(team);
    }
}

Test(team, of_few_heads_has_the_same_bits_at_every_stage_and_on_any_hosts)
{
    static const struct test_layout others[] = {{.stage = 1},
                                                {.stage = 2},
                                                {.stage = 3},
                                                {.stage = 2, .local = 4},
                                                {.stage = 0, .local = 1},
                                                {.stage = 3, .local = 2}};
    static const struct test_layout firsts[] = {
        {.tensor = 4, .kv = 2, .data = 2, .passes = 1, .qwen2 = true},
        {.tensor = 2, .kv = 1, .sharers = 2, .data = 2, .passes = 1, .compute = DS_COMPUTE_BF16},
        {.tensor = 4, .kv = 2, .data = 2, .passes = 1, .optim = DS_OPTIM_MUON}};

    for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++) {
        const struct test_layout first = test_layout(firsts[i]);

        test_same_everywhere(&first, others, sizeof(others) / sizeof(others[0]));
    }
}

/* As many numbers of keys and values are not finite as there are, however many have them. */
Test(team, of_few_heads_tells_of_a_poisoned_tensor)
{
    test_poison_told(test_layout((struct test_layout){.tensor = 4,
                                                      .kv = 2,
                                                      .data = 2,
                                                      .stage = 1,
                                                      .layers = 4,
                                                      .vocab = 4 * 72,
                                                      .poison = true}));
}
