/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_experts - layers with experts, beyond the reference case of test_engine.c: the same bits
 * whatever is kept, however many threads there are and at every ZeRO stage; and ranks that share
 * layers, sequences or parts of them train as ranks do that have all of each.
 *
 * A choice between experts that hangs on rounding makes another model.  Where what is compared is
 * rounded in another way, all experts of a layer have every token, unless it is in F32.
 */
#include "tests/engine/parts.h"

static double tolerance_of(const struct test_layout *layout)
{
    return layout->compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
}

/* The busiest expert has its part at least, and at most what all pairs of its tokens are; where
 * sequences are whole it has the same in any layout. */
static void check_loads(const struct test_run *parts, const struct test_run *whole,
                        const char *what)
{
    const struct ds_model_shape *shape = &parts->job.model.shape;
    const double most = (double)shape->experts / (double)shape->experts_each;

    for (unsigned i = 0; shape->experts > 0 && i < parts->steps; i++) {
        double load = parts->result[i].expert_load;

        cr_assert(load >= 1.0 && load <= most, "%s: step %u: %.17g", what, i, load);
        if (parts->job.parallel.sequence == 1)
            cr_assert_float_eq(load, whole->result[i].expert_load, 1e-12, "%s: %.17g", what, load);
    }
}

/* Against ranks of data alone, each with all layers. */
static void check(struct test_layout layout)
{
    struct test_pair pair = test_pair_run(test_layout(layout), tolerance_of(&layout), 257);

    check_loads(&pair.parts, &pair.whole, pair.what);
    test_pair_release(&pair);
}

Test(experts, parts_train_as_whole_layers_do)
{
    static const struct test_layout table[] = {
        {.tensor = 2, .experts = 4, .each = 2},
        {.tensor = 4, .experts = 3, .each = 1, .micro_batch = 1},
        {.tensor = 2, .data = 2, .passes = 1, .stage = 2, .experts = 5, .each = 2},
        {.tensor = 2, .experts = 3, .each = 3, .compute = DS_COMPUTE_BF16, .dropout = true},
        {.sharers = 2, .experts = 4, .each = 2},
        {.sharers = 4, .micro_batch = 1, .experts = 4, .each = 2},
        {.sharers = 2, .tensor = 2, .experts = 3, .each = 2, .recompute = DS_RECOMPUTE_FULL},
        {.sharers = 2, .experts = 2, .each = 2, .compute = DS_COMPUTE_FP16},
        {.parts = 2, .passes = 3, .experts = 4, .each = 2},
        {.parts = 3,
         .passes = 4,
         .tied = true,
         .experts = 2,
         .each = 2,
         .compute = DS_COMPUTE_BF16},
        {.parts = 2, .tensor = 2, .data = 2, .stage = 2, .clip = 0.5, .experts = 4, .each = 2},
        {.tensor = 2, .optim = DS_OPTIM_LAMB, .experts = 3, .each = 2},
        {.data = 2, .stage = 2, .optim = DS_OPTIM_LAMB, .experts = 4, .each = 2},
        {.tensor = 2, .offload = true, .data = 2, .stage = 1, .experts = 3, .each = 2},
        {.qwen3 = true, .sharers = 2, .data = 2, .stage = 3, .experts = 4, .each = 2},
        {.qwen3 = true, .parts = 2, .recompute = DS_RECOMPUTE_FULL, .experts = 4, .each = 2},
        {.qwen3 = true, .tensor = 2, .data = 2, .stage = 1, .experts = 4, .each = 2},
        {.qwen3 = true, .tensor = 4, .recompute = DS_RECOMPUTE_SELECTIVE},
        {.qwen3 = true, .sharers = 2, .compute = DS_COMPUTE_BF16, .dropout = true},
        {.qwen3 = true, .parts = 2, .tied = true, .recompute = DS_RECOMPUTE_SELECTIVE},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        check(table[i]);
}

/* What is sent for experts beside the rest of a step: of a team the gradients of weights, of those
 * who share sequences how many tokens experts have. */
Test(experts, say_no_more_than_they_must)
{
    const char *ids = test_ids_file(TEST_IDS);
    const struct test_layout alike[] = {
        test_layout((struct test_layout){.tensor = 2, .experts = 4, .each = 2}),
        test_layout((struct test_layout){.sharers = 2, .experts = 4, .each = 2})};
    const uint64_t pairs = 2 * TEST_SEQUENCE * 2, loads = 2 * 4, passes = 2 * 3 /* layers */;

    for (int i = 0; i < 2; i++) {
        struct test_run run = test_layout_run(&alike[i], ids), quiet = run;
        uint64_t bytes = i == 0 ? pairs * sizeof(float) : loads * sizeof(float);

        quiet.job.model.shape.balance = 0.0;
        test_layout_ok(&run, "balanced");
        test_layout_ok(&quiet, "not balanced");
        cr_expect_eq(run.plan.traffic[DS_COMM_ALL_REDUCE_F32].bytes -
                         quiet.plan.traffic[DS_COMM_ALL_REDUCE_F32].bytes,
                     i == 0 ? 0 : passes * ds_comm_wire_bytes(DS_COMM_ALL_REDUCE_F32, bytes, 2));
        quiet.job.model.shape = test_llama(3, 32, 8, 4, 24, 257, TEST_SEQUENCE);
        test_run_release(&quiet);
        test_layout_ok(&quiet, "no experts");
        cr_expect_eq(run.plan.traffic[DS_COMM_ALL_REDUCE_F32].calls -
                         quiet.plan.traffic[DS_COMM_ALL_REDUCE_F32].calls,
                     passes);
        test_traffic_planned(&run, "balanced");
        test_run_release(&run);
        test_run_release(&quiet);
    }
    (void)unlink(ids);
}

Test(experts, have_the_same_bits_at_every_stage_and_on_any_hosts)
{
    static const struct test_layout others[] = {{.stage = 1},
                                                {.stage = 2},
                                                {.stage = 3},
                                                {.stage = 2, .local = 2},
                                                {.stage = 3, .local = 1},
                                                {.stage = 3, .local = 2, .node = true}};
    const struct test_layout first = test_layout(
        (struct test_layout){.data = 4, .tied = true, .passes = 1, .experts = 5, .each = 2});

    test_same_everywhere(&first, others, sizeof(others) / sizeof(others[0]));
}

/* Muon updates every expert's matrices by themselves; who owns them changes no bit. */
Test(experts, are_orthogonalized_one_by_one)
{
    static const struct test_layout others[] = {{.stage = 1}, {.stage = 3}};
    const struct test_layout first = test_layout((struct test_layout){
        .data = 3, .passes = 1, .optim = DS_OPTIM_MUON, .experts = 4, .each = 2});

    test_same_everywhere(&first, others, sizeof(others) / sizeof(others[0]));
}

Test(experts, bits_do_not_depend_on_what_is_kept)
{
    static const struct {
        enum ds_recompute recompute;
        uint64_t layers;
    } ways[] = {{DS_RECOMPUTE_SELECTIVE, 0}, {DS_RECOMPUTE_FULL, 1}, {DS_RECOMPUTE_FULL, 0}};

    for (enum ds_compute compute = DS_COMPUTE_FP32; compute <= DS_COMPUTE_FP16; compute++) {
        struct test_run kept = test_reference_run(TEST_EXPERTS, 2, 2);

        kept.job.precision.compute = compute;
        kept.job.model.dropout = 0.1;
        test_run_ok(&kept);
        for (size_t k = 0; k < sizeof(ways) / sizeof(ways[0]); k++) {
            struct test_run again = test_reference_run(TEST_EXPERTS, 2, 2);

            again.job.precision.compute = compute;
            again.job.model.dropout = 0.1;
            again.job.activation.recompute = ways[k].recompute;
            again.job.activation.layers = ways[k].layers;
            test_run_ok(&again);
            cr_assert_lt(again.plan.arena_bytes[DS_ARENA_ACTIVATIONS],
                         kept.plan.arena_bytes[DS_ARENA_ACTIVATIONS] + (ways[k].layers == 1));
            cr_assert(test_same(&kept, &again), "type %d, way %zu", (int)compute, k);
            test_run_release(&again);
        }
        test_run_release(&kept);
    }
}

/* The loss that asks for balance is a part of the gradient: without it the reference is missed. */
Test(experts, balance_is_in_the_gradient)
{
    struct test_run run = test_reference_run(TEST_EXPERTS, 1, 4), none = run;

    none.job.model.shape.balance = 0.0;
    test_run_ok(&run);
    test_run_ok(&none);
    cr_assert_eq(run.result[0].loss, none.result[0].loss); /* and not of the loss */
    cr_assert(fabs(run.result[0].grad_norm - none.result[0].grad_norm) > 1e-4);
    test_run_release(&run);
    test_run_release(&none);
}
