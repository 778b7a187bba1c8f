/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_norms - families whose norms stand elsewhere than Llama's, and those whose halves of layers
 * have factors or stand side by side, beyond the reference cases of test_engine.c: ranks that share sequences, or have parts of the layers, train as ranks do that
 * have all; the same bits whatever is kept and at every ZeRO stage.
 */
#include "tests/engine/parts.h"

static double tolerance_of(const struct test_layout *layout)
{
    if (layout->fp8)
        return 2e-2;
    return layout->compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
}

static void check(struct test_layout layout)
{
    struct test_pair pair = test_pair_run(test_layout(layout), tolerance_of(&layout), 257);

    test_pair_release(&pair);
}

Test(norms, parts_train_as_whole_layers_do)
{
    static const struct test_layout table[] = {
        {.sharers = 2},
        {.sharers = 4, .micro_batch = 1, .tied = true},
        {.sharers = 2, .data = 2, .stage = 3, .recompute = DS_RECOMPUTE_FULL},
        {.sharers = 2, .compute = DS_COMPUTE_BF16, .dropout = true},
        {.sharers = 2, .fp8 = true, .compute = DS_COMPUTE_BF16},
        {.parts = 2, .passes = 3},
        {.parts = 2, .recompute = DS_RECOMPUTE_FULL, .dropout = true},
        {.parts = 3, .passes = 4, .tied = true, .compute = DS_COMPUTE_FP16},
        {.parts = 2, .sharers = 2, .clip = 0.5, .recompute = DS_RECOMPUTE_SELECTIVE},
        {.parts = 2, .data = 2, .stage = 2, .optim = DS_OPTIM_MUON},
        {.parts = 2, .data = 2, .stage = 1, .offload = true, .compute = DS_COMPUTE_BF16},
        {.sharers = 2, .data = 2, .stage = 2, .disk = true},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        for (int family = 0; family < 4; family++) {
            struct test_layout layout = table[i];

            layout.olmo2 = family == 0;
            layout.gemma3 = family == 1;
            layout.granite = family == 2;
            layout.neox = family == 3;
            check(layout);
        }
}

/* What is behind a team's sum every rank of it norms alike. */
Test(norms, teams_train_as_whole_layers_do)
{
    static const struct test_layout table[] = {
        {.tensor = 2},
        {.tensor = 4, .tied = true, .recompute = DS_RECOMPUTE_FULL},
        {.tensor = 2, .data = 2, .stage = 2, .compute = DS_COMPUTE_BF16},
        {.tensor = 2, .sharers = 2, .dropout = true},
        {.tensor = 2, .parts = 2, .recompute = DS_RECOMPUTE_SELECTIVE},
        {.tensor = 2, .fp8 = true, .compute = DS_COMPUTE_BF16},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (int family = 0; family < 3; family++) {
            struct test_layout layout = table[i];

            layout.gemma3 = family == 0;
            layout.granite = family == 1;
            layout.neox = family == 2;
            check(layout);
        }
}

Test(norms, bits_do_not_depend_on_what_is_kept)
{
    static const struct {
        enum ds_recompute recompute;
        uint64_t layers;
    } ways[] = {{DS_RECOMPUTE_SELECTIVE, 0}, {DS_RECOMPUTE_FULL, 1}, {DS_RECOMPUTE_FULL, 0}};

    for (unsigned i = 0; i < 3 * (TEST_CASES - TEST_NORMS); i++) {
        const enum ds_compute compute = (enum ds_compute)(i % 3);
        const unsigned ref = TEST_NORMS + i / 3;
        struct test_run kept = test_reference_run(ref, 2, 2);

        kept.job.precision.compute = compute;
        kept.job.model.dropout = compute == DS_COMPUTE_FP32 ? 0.0 : 0.1;
        test_run_ok(&kept);
        for (size_t k = 0; k < sizeof(ways) / sizeof(ways[0]); k++) {
            struct test_run again = test_reference_run(ref, 2, 2);

            again.job.precision.compute = compute;
            again.job.model.dropout = kept.job.model.dropout;
            again.job.activation.recompute = ways[k].recompute;
            again.job.activation.layers = ways[k].layers;
            test_run_ok(&again);
            cr_assert(test_same(&kept, &again), "case %u, type %d, way %zu", ref, (int)compute, k);
            test_run_release(&again);
        }
        test_run_release(&kept);
    }
}

Test(norms, have_the_same_bits_at_every_stage)
{
    static const struct test_layout others[] = {
        {.stage = 1}, {.stage = 2}, {.stage = 3}, {.stage = 3, .local = 1}};
    const struct test_layout first =
        test_layout((struct test_layout){.olmo2 = true, .data = 2, .passes = 1});

    test_same_everywhere(&first, others, sizeof(others) / sizeof(others[0]));
}
