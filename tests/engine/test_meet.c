/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_meet - ranks that divide the experts of each layer train as ranks do that have all of them:
 * with every stage, type and optimizer, beside teams, shared sequences and pipelines; the bits do
 * not depend on the stage, and what is sent is what the plan says.
 *
 * As in test_experts.c, a choice between experts that hangs on rounding is kept out of what is
 * rounded in another way.
 */
#include "tests/engine/parts.h"

/* What routers are told comes from those who have the experts.  Of all parameters theirs are few. */
static void check_routers(const struct test_run *parts, const struct test_run *whole,
                          double tolerance, const char *what)
{
    float *want = test_in_order(whole, whole->exp_avg);
    uint64_t at = 0;

    for (size_t i = 0; i < whole->plan.tensors; i++) {
        const struct ds_param *param = &whole->plan.tensor[i].param;

        if (param->role == DS_ROLE_ROUTER_W)
            cr_assert_lt(test_l2(parts->exp_avg + at, want + at, param->elems), 100.0 * tolerance,
                         "%s: %s", what, param->name);
        at += param->elems;
    }
    free(want);
}

static void check(struct test_layout layout)
{
    const double tolerance = layout.compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
    struct test_pair pair = test_pair_run(test_layout(layout), tolerance, 257);

    check_routers(&pair.parts, &pair.whole, tolerance, pair.what);
    for (unsigned i = 0; i < pair.parts.steps && pair.parts.job.parallel.sequence == 1; i++)
        cr_assert_float_eq(pair.parts.result[i].expert_load, pair.whole.result[i].expert_load,
                           1e-12, "%s", pair.what);
    test_pair_release(&pair);
}

Test(meet, divided_experts_train_as_whole_layers_do)
{
    static const struct test_layout table[] = {
        {.data = 2, .divide = 2, .experts = 4, .each = 2},
        {.data = 4, .divide = 4, .experts = 4, .each = 3, .passes = 1},
        {.data = 4, .divide = 2, .experts = 6, .each = 1, .stage = 1, .passes = 1},
        {.data = 4, .divide = 2, .experts = 4, .each = 2, .stage = 2, .clip = 0.5},
        {.data = 4, .divide = 2, .experts = 4, .each = 2, .stage = 3, .passes = 1},
        {.data = 2, .divide = 2, .experts = 2, .each = 2, .stage = 3, .below = 200},
        {.data = 3, .divide = 3, .experts = 3, .each = 3, .compute = DS_COMPUTE_BF16},
        {.data = 2, .divide = 2, .experts = 2, .each = 2, .compute = DS_COMPUTE_FP16, .stage = 2},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .recompute = DS_RECOMPUTE_SELECTIVE},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .recompute = DS_RECOMPUTE_FULL},
        {.data = 4, .divide = 2, .experts = 4, .each = 2, .stage = 2, .local = 2, .node = true},
        {.data = 4, .divide = 4, .experts = 4, .each = 2, .stage = 3, .local = 2, .node = true},
        {.data = 4, .divide = 2, .experts = 4, .each = 2, .stage = 1, .local = 1},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .tensor = 2, .stage = 1},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .sharers = 2, .passes = 1},
        {.data = 1, .divide = 2, .experts = 4, .each = 2, .sharers = 2, .micro_batch = 1},
        {.data = 2, .divide = 4, .experts = 4, .each = 2, .sharers = 2, .stage = 3},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .parts = 2, .passes = 3, .stage = 2},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .parts = 2, .tensor = 2, .tied = true},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .offload = true},
        {.data = 4, .divide = 2, .experts = 4, .each = 2, .offload = true, .stage = 2},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .offload = true, .stage = 3, .below = 99},
        {.data = 4, .divide = 4, .experts = 4, .each = 2, .disk = true, .stage = 1, .passes = 1},
        {.data = 2, .divide = 2, .experts = 4, .each = 2, .optim = DS_OPTIM_LAMB},
        {.data = 4, .divide = 2, .experts = 4, .each = 2, .optim = DS_OPTIM_LAMB, .stage = 2},
        {.data = 4, .divide = 2, .experts = 4, .each = 2, .optim = DS_OPTIM_MUON, .stage = 1},
        {.data = 2, .divide = 2, .experts = 2, .each = 2, .dropout = true, .tied = true},
        {.qwen3 = true, .data = 2, .divide = 2, .experts = 4, .each = 2, .stage = 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        check(table[i]);
}

Test(meet, the_stage_and_the_hosts_do_not_show_in_the_bits)
{
    static const struct test_layout others[] = {{.stage = 1},
                                                {.stage = 2},
                                                {.stage = 3},
                                                {.stage = 1, .local = 2},
                                                {.stage = 3, .local = 1}};
    static const struct test_layout grouped[] = {{.stage = 1, .local = 2, .node = true},
                                                 {.stage = 3, .local = 2, .node = true}};
    struct test_layout first = test_layout(
        (struct test_layout){.data = 4, .divide = 2, .passes = 1, .experts = 4, .each = 2});

    test_same_everywhere(&first, others, sizeof(others) / sizeof(others[0]));
    first.local = 2;
    first.node = true; /* the norm's parts are other ranks' */
    test_same_everywhere(&first, grouped, sizeof(grouped) / sizeof(grouped[0]));
}

/* What is kept differs; experts' rows are computed again anyway. */
Test(meet, bits_do_not_depend_on_what_is_kept)
{
    const char *ids = test_ids_file(TEST_IDS);
    const struct test_layout kept = test_layout(
        (struct test_layout){.data = 2, .divide = 2, .experts = 4, .each = 2, .dropout = true});
    struct test_run one = test_layout_run(&kept, ids);

    test_layout_ok(&one, "kept");
    for (enum ds_recompute how = DS_RECOMPUTE_SELECTIVE; how <= DS_RECOMPUTE_FULL; how++) {
        struct test_layout again = kept;
        struct test_run run;

        again.recompute = how;
        run = test_layout_run(&again, ids);
        test_layout_ok(&run, test_layout_text(&again));
        cr_assert(test_same(&one, &run), "%s", test_layout_text(&again));
        test_run_release(&run);
    }
    test_run_release(&one);
    (void)unlink(ids);
}

/* A gradient that is not finite is that of the tensor that it would be with all experts here, also
 * where the rank that tells has other ones. */
Test(meet, what_is_not_finite_is_found_where_it_is)
{
    test_poison_told(test_layout((struct test_layout){
        .data = 4, .divide = 4, .experts = 4, .each = 2, .passes = 1, .poison = true}));
}
