/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_seen - tokens that see the last ones only, or those of their document, beyond the reference
 * case of test_engine.c: the same with ranks that share sequences, layers or parts of them, whatever
 * is computed again; a window that hides nothing is none.
 */
#include "tests/engine/parts.h"

enum { KINDS = 11 /* of ids: a document of each that ends with one has as many tokens in mean */ };

static void check(struct test_layout layout)
{
    const double tolerance = layout.compute == DS_COMPUTE_FP32 ? 2e-6 : 4e-3;
    struct test_pair pair = test_pair_run(test_layout(layout), tolerance, KINDS);

    test_pair_release(&pair);
}

Test(seen, parts_train_as_whole_layers_do)
{
    static const struct test_layout table[] = {
        {.window = 5, .tensor = 2},
        {.window = 1, .sharers = 2},
        {.window = 7, .separator = 3, .sharers = 4, .micro_batch = 1},
        {.separator = 3, .sharers = 2, .data = 2, .stage = 3, .passes = 1},
        {.separator = 3, .parts = 2, .passes = 3},
        {.window = 3, .parts = 3, .passes = 4, .recompute = DS_RECOMPUTE_FULL},
        {.window = 6, .separator = 3, .data = 2, .stage = 2, .compute = DS_COMPUTE_BF16},
        {.window = 6, .separator = 3, .tensor = 2, .sharers = 2, .dropout = true},
        {.separator = 3, .gpt2 = true, .tensor = 2, .compute = DS_COMPUTE_FP16},
        {.window = 4, .experts = 4, .each = 2, .data = 2, .divide = 2},
        {.separator = 3, .gemma3 = true, .tensor = 2, .sharers = 2},
        {.separator = 3, .gemma3 = true, .parts = 2, .passes = 3},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        check(table[i]);
}

/* A run of two passes of two sequences. */
static struct test_run run_of(struct test_layout layout, const char *ids)
{
    struct test_run run;

    layout = test_layout(layout);
    run = test_layout_run(&layout, ids);
    test_layout_ok(&run, test_layout_text(&layout));
    return run;
}

static bool has_lows(const struct ds_plan *plan)
{
    for (size_t i = 0; i < plan->buffers; i++)
        if (plan->buffer[i].buffer == DS_BUFFER_LOW)
            return true;
    return false;
}

Test(seen, what_hides_nothing_is_nothing)
{
    const char *ids = test_ids_below(TEST_IDS, KINDS);
    struct test_run all = run_of((struct test_layout){.window = 0}, ids);
    struct test_run wide = run_of((struct test_layout){.window = TEST_SEQUENCE}, ids);
    struct test_run none = run_of((struct test_layout){.separator = 256}, ids); /* is not there */
    struct test_run less = run_of((struct test_layout){.window = TEST_SEQUENCE - 1}, ids);

    cr_assert(!has_lows(&all.plan) && !has_lows(&wide.plan));
    cr_assert(has_lows(&none.plan) && has_lows(&less.plan));
    cr_assert(test_same(&all, &wide));
    test_compare(&none, &all, 2e-6, "no document ends");
    cr_assert(!test_same(&all, &less), "the last token of a sequence does not see the first");
    test_run_release(&all);
    test_run_release(&wide);
    test_run_release(&none);
    test_run_release(&less);
    (void)unlink(ids);
}

Test(seen, bits_do_not_depend_on_what_is_kept)
{
    const char *ids = test_ids_below(TEST_IDS, KINDS);
    struct test_layout layout = {.window = 6, .separator = 3, .dropout = true};
    struct test_run kept = run_of(layout, ids), again;

    layout.recompute = DS_RECOMPUTE_FULL;
    again = run_of(layout, ids);
    cr_assert(test_same(&kept, &again));
    test_run_release(&kept);
    test_run_release(&again);
    (void)unlink(ids);
}
