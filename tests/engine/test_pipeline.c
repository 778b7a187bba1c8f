/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pipeline - parts of a pipeline train as ranks do that have all layers: to the bit where the
 * embedding is not tied, over families, numbers of parts and of micro-batches, types, dropout,
 * recomputation and optimizers; the same bits at ZeRO stages 0 to 2 and on one host or several; and
 * what is sent is what the plan says.
 */
#include "tests/engine/parts.h"

static struct test_layout of(struct test_layout line)
{
    line.layers = 5;
    return test_layout(line);
}

/* With a tied embedding two gradients are added after all micro-batches, not in each. */
static double tolerance_of(const struct test_layout *line)
{
    if (!line->tied)
        return 0.0;
    return line->fp8 ? 2e-2 : line->compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
}

static void check_line(struct test_layout line)
{
    struct test_pair pair = test_pair_run(of(line), tolerance_of(&line), 257);

    cr_assert_gt(pair.parts.traffic[DS_COMM_PASS].calls, 0);
    test_pair_release(&pair);
}

Test(pipeline, trains_as_all_layers_do)
{
    static const struct test_layout table[] = {
        {.parts = 2, .data = 1, .passes = 1, .micro_batch = 1},
        {.parts = 2, .data = 1, .passes = 4, .micro_batch = 2, .gpt2 = true},
        {.parts = 3, .data = 1, .passes = 2, .micro_batch = 1, .gpt2 = true},
        {.parts = 4, .data = 1, .passes = 3, .micro_batch = 1},
        {.parts = 4, .data = 1, .passes = 6, .micro_batch = 2},
        {.parts = 2, .data = 2, .passes = 3, .micro_batch = 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (enum ds_compute compute = DS_COMPUTE_FP32; compute <= DS_COMPUTE_BF16; compute++)
            for (int tied = 0; tied < 2; tied++) {
                struct test_layout line = table[i];

                line.sharers = 1;
                line.compute = compute;
                line.tied = tied == 1;
                check_line(line);
            }
}

Test(pipeline, goes_with_everything_else)
{
    static const struct test_layout table[] = {
        {.recompute = DS_RECOMPUTE_FULL},
        {.recompute = DS_RECOMPUTE_SELECTIVE, .gpt2 = true},
        {.dropout = true, .gpt2 = true},
        {.dropout = true, .recompute = DS_RECOMPUTE_FULL},
        {.fp8 = true, .compute = DS_COMPUTE_BF16},
        {.fp8 = true, .compute = DS_COMPUTE_BF16, .recompute = DS_RECOMPUTE_SELECTIVE},
        {.compute = DS_COMPUTE_FP16},
        {.optim = DS_OPTIM_LAMB, .tied = true},
        {.optim = DS_OPTIM_MUON},
        {.optim = DS_OPTIM_SGD, .tied = true},
        {.offload = true, .tied = true},
        {.offload = true, .compute = DS_COMPUTE_BF16},
        {.disk = true, .tied = true},
        {.disk = true, .stage = 2, .compute = DS_COMPUTE_BF16},
        {.wire16 = true, .stage = 1},
        {.stage = 2},
        {.stage = 2, .compute = DS_COMPUTE_BF16, .gpt2 = true, .tied = true},
        {.below = 200},
        {.below = 1 << 20, .tied = true},
        {.sharers = 2, .tied = true},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct test_layout line = table[i];

        line.parts = 2;
        line.passes = 3;
        line.micro_batch = 2;
        line.data = line.sharers == 2 ? 1 : 2;
        line.sharers = line.sharers == 2 ? 2 : 1;
        check_line(line);
    }
}

/* LAMB's norms are summed among those who hold a part: one rank here. */
Test(pipeline, has_parts_of_one_rank)
{
    check_line((struct test_layout){.parts = 3,
                                    .data = 1,
                                    .sharers = 1,
                                    .passes = 5,
                                    .micro_batch = 1,
                                    .tied = true,
                                    .optim = DS_OPTIM_LAMB});
}

Test(pipeline, has_the_same_bits_at_every_stage_and_on_any_hosts)
{
    static const struct test_layout others[] = {{.stage = 1},
                                                {.stage = 2},
                                                {.stage = 2, .local = 2},
                                                {.stage = 0, .local = 1},
                                                {.stage = 1, .local = 1},
                                                {.stage = 1, .local = 2, .node = true},
                                                {.stage = 2, .local = 1, .node = true}};
    const struct test_layout first = of((struct test_layout){.parts = 2,
                                                             .data = 2,
                                                             .sharers = 1,
                                                             .passes = 1,
                                                             .micro_batch = 2,
                                                             .tied = true,
                                                             .compute = DS_COMPUTE_BF16});

    test_same_everywhere(&first, others, sizeof(others) / sizeof(others[0]));
}

/* The first tensor that is not finite is named, whoever has it; nothing is updated. */
Test(pipeline, names_what_is_not_finite)
{
    test_poison_told(of((struct test_layout){.parts = 2,
                                             .data = 2,
                                             .sharers = 1,
                                             .passes = 2,
                                             .micro_batch = 1,
                                             .poison = true,
                                             .below = 200}));
}
