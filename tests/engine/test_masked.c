/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_masked - a loss over the targets that a mask leaves: losses and gradients are those of runs in
 * which only these tokens exist, whatever ranks share and however unequal their parts are; without a
 * mask, or with one of ones, the bits are what they were.
 */
#include "tests/engine/apart.h"
#include "tests/engine/parts.h"

enum { SAMPLES = 48 };

/* Of a sample's places behind its first the targets are those above `prompt` and up to `end`.  Every
 * sixth sample has none. */
struct part {
    uint64_t prompt, end;
};

static struct part part_of(uint64_t sample)
{
    uint64_t prompt = sample * 7 % 13, end = prompt + sample * 5 % 6;

    return (struct part){prompt, end < TEST_SEQUENCE ? end : TEST_SEQUENCE};
}

static uint8_t some(uint64_t sample, uint64_t place)
{
    struct part part = part_of(sample);

    return place > part.prompt ? place <= part.end : place == 0 && sample % 2 == 0;
}

static uint8_t all(uint64_t sample, uint64_t place)
{
    (void)sample;
    (void)place;
    return 1;
}

static struct test_samples file_of(uint8_t (*counts)(uint64_t, uint64_t))
{
    struct test_samples file = {
        .samples = SAMPLES, .sequence = TEST_SEQUENCE, .vocab = 257, .counts = counts};

    (void)test_samples_write(&file);
    return file;
}

/* --- the tokens that count alone --------------------------------------------------------------- */

/* *loss and grads[] += by times the sums over the first `length` targets of one sample, which are
 * those of a run that has nothing else. */
static void add_sums(const struct test_layout *layout, uint64_t sample, uint64_t length, double by,
                     double *loss, double *grads)
{
    struct test_samples one = {.samples = sample + 1, .sequence = TEST_SEQUENCE, .vocab = 257};
    struct test_samples cut = {.samples = 1, .sequence = length, .vocab = 257};
    struct test_run run;
    float *line;
    FILE *out;

    if (length == 0)
        return;
    (void)test_samples_write(&cut); /* of other ids */
    out = fopen(cut.path, "r+b");
    cr_assert_not_null(out);
    cr_assert_eq(fseek(out, -(long)(2 * (length + 1)), SEEK_END), 0);
    for (uint64_t i = 0; i <= length; i++) {
        uint16_t id = test_sample_id(&one, sample, i);

        (void)fputc(id & 255, out);
        (void)fputc(id >> 8, out);
    }
    cr_assert_eq(fclose(out), 0);
    run = test_layout_run(layout, cut.path);
    run.job.train.sequence = length;
    run.job.train.global_batch = run.job.train.micro_batch = 1;
    run.steps = 1;
    test_run_ok(&run);
    line = test_in_order(&run, run.first_grads);
    *loss += by * (double)length * run.result[0].loss;
    for (uint64_t i = 0; i < ds_model_elems(&run.plan.model); i++)
        grads[i] += by * (double)length * (double)line[i];
    free(line);
    test_run_release(&run);
    (void)unlink(cut.path);
}

static void check_sums(struct test_layout layout)
{
    struct test_samples file = file_of(some);
    struct test_run run;
    double loss = 0.0, count = 0.0, squares = 0.0, diff = 0.0, *grads;
    uint64_t elems;
    float *line;

    layout = test_layout(layout);
    run = test_layout_run(&layout, file.path);
    run.steps = 1;
    test_run_ok(&run);
    elems = ds_model_elems(&run.plan.model);
    line = test_in_order(&run, run.first_grads);
    grads = calloc(elems, sizeof(*grads));
    cr_assert_not_null(grads);
    for (uint64_t sample = 0; sample < run.job.train.global_batch; sample++) {
        struct part part = part_of(sample);

        add_sums(&layout, sample, part.end, 1.0, &loss, grads);
        add_sums(&layout, sample, part.prompt, -1.0, &loss, grads);
        count += (double)(part.end - part.prompt);
    }
    for (uint64_t i = 0; i < elems; i++) {
        double want = grads[i] / count;

        squares += want * want;
        diff += ((double)line[i] - want) * ((double)line[i] - want);
    }
    cr_assert_float_eq(run.result[0].loss, loss / count, 2e-6 * loss / count, "%.9g, not %.9g",
                       run.result[0].loss, loss / count);
    cr_assert_float_eq(run.result[0].grad_norm, sqrt(squares), 1e-5 * sqrt(squares));
    cr_assert_lt(sqrt(diff / squares), 2e-5, "gradients off by %.3g", sqrt(diff / squares));
    free(grads);
    free(line);
    test_run_release(&run);
    (void)unlink(file.path);
}

Test(masked, losses_and_gradients_are_those_of_the_targets_alone)
{
    check_sums((struct test_layout){.gpt2 = true, .tied = true});
    check_sums((struct test_layout){.passes = 4, .micro_batch = 1});
    check_sums((struct test_layout){.qwen2 = true, .passes = 1, .micro_batch = 5});
}

/* --- ranks ------------------------------------------------------------------------------------- */

static void check_alike(struct test_layout layout)
{
    struct test_samples file = file_of(some);
    struct test_layout alone;
    struct test_run parts, whole;
    const char *what;

    layout = test_layout(layout);
    alone = test_whole(layout);
    alone.passes *= alone.data; /* by one rank, one after the other */
    alone.data = 1;
    alone.stage = 0;
    what = test_layout_text(&layout);
    parts = test_layout_run(&layout, file.path);
    whole = test_layout_run(&alone, file.path);
    test_layout_ok(&parts, what);
    test_layout_ok(&whole, what);
    test_compare(&parts, &whole, layout.compute == DS_COMPUTE_FP32 ? 2e-6 : 8e-3, what);
    test_traffic_planned(&parts, what);
    test_run_release(&parts);
    test_run_release(&whole);
    (void)unlink(file.path);
}

Test(masked, trains_alike_however_ranks_share)
{
    static const struct test_layout table[] = {
        {.data = 2, .gpt2 = true},
        {.data = 4, .stage = 1, .micro_batch = 1, .clip = 0.5},
        {.data = 4, .stage = 2, .passes = 1},
        {.data = 2, .stage = 3, .passes = 3, .micro_batch = 1},
        {.tensor = 2, .gpt2 = true, .tied = true},
        {.tensor = 2, .data = 2, .stage = 2, .clip = 0.5},
        {.sharers = 2},
        {.sharers = 4, .gpt2 = true, .micro_batch = 1, .passes = 3},
        {.sharers = 2, .data = 2, .stage = 3, .compute = DS_COMPUTE_BF16},
        {.parts = 2, .passes = 3, .micro_batch = 1},
        {.parts = 2, .passes = 3, .data = 2, .tied = true, .gpt2 = true, .stage = 1},
        {.tensor = 2, .sharers = 2, .recompute = DS_RECOMPUTE_FULL},
        {.tensor = 2, .parts = 2, .micro_batch = 1, .compute = DS_COMPUTE_BF16},
        {.optim = DS_OPTIM_LAMB, .data = 2, .stage = 2, .gpt2 = true},
        {.optim = DS_OPTIM_MUON, .data = 2, .stage = 1},
        {.optim = DS_OPTIM_SGD, .tensor = 2},
        {.offload = true, .data = 2, .stage = 2},
        {.wire16 = true, .data = 2, .compute = DS_COMPUTE_BF16},
        {.experts = 4, .each = 2, .data = 2, .stage = 2},
        {.experts = 4, .each = 2, .sharers = 2},
        {.experts = 4, .each = 2, .data = 2, .divide = 2, .stage = 1},
        {.window = 5, .separator = 3, .sharers = 2, .data = 2, .passes = 1},
        {.separator = 3, .parts = 2, .tensor = 2},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i += TEST_EVERY)
        check_alike(table[i]);
}

Test(masked, has_the_same_bits_at_every_stage)
{
    struct test_samples file = file_of(some);
    struct test_layout layout =
        test_layout((struct test_layout){.data = 4, .passes = 1, .clip = 0.5});
    struct test_run first = test_layout_run(&layout, file.path);

    test_run_ok(&first);
    for (layout.stage = 1; layout.stage < 4; layout.stage++) {
        struct test_run run = test_layout_run(&layout, file.path);

        test_run_ok(&run);
        cr_assert(test_same(&first, &run), "stage %u", layout.stage);
        test_run_release(&run);
    }
    test_run_release(&first);
    (void)unlink(file.path);
}

/* The loss of the evaluation, which comes behind no step at all, is the first step's. */
Test(masked, an_evaluation_counts_what_a_step_does)
{
    struct test_samples file = file_of(some);
    const struct test_layout layout = test_layout((struct test_layout){.data = 2});
    struct test_run one = test_layout_run(&layout, file.path), none = one;

    none.steps = 0;
    test_run_ok(&one);
    test_run_ok(&none);
    cr_assert_float_eq(none.eval, one.result[0].loss, 1e-12);
    test_run_release(&one);
    test_run_release(&none);
    (void)unlink(file.path);
}

/* --- where all count, and where none do --------------------------------------------------------- */

Test(masked, a_mask_of_ones_is_none)
{
    struct test_samples ones = file_of(all), none = file_of(NULL);

    for (unsigned i = 0; i < 4; i++) {
        const struct test_layout layout = test_layout(
            (struct test_layout){.data = 2,
                                 .stage = i,
                                 .clip = 0.5,
                                 .experts = i == 3 ? 4 : 0,
                                 .each = 2,
                                 .compute = i % 2 == 0 ? DS_COMPUTE_FP32 : DS_COMPUTE_BF16});
        struct test_run with = test_layout_run(&layout, ones.path);
        struct test_run without = test_layout_run(&layout, none.path);

        test_run_ok(&with);
        test_run_ok(&without);
        cr_assert(test_same(&with, &without), "stage %u", i);
        test_run_release(&with);
        test_run_release(&without);
    }
    (void)unlink(ones.path);
    (void)unlink(none.path);
}

/* Of the steps of 4 sequences the second has no target; without it the other file has the same. */
static uint8_t none_in_the_second(uint64_t sample, uint64_t place)
{
    return sample / 4 != 1 && some(sample, place);
}

static uint8_t first_and_third(uint64_t sample, uint64_t place)
{
    return some(sample < 4 ? sample : sample + 4, place);
}

/* The same file with the ids of the samples behind the second step from there on. */
static struct test_samples without_the_second(void)
{
    struct test_samples file = file_of(first_and_third);
    FILE *out = fopen(file.path, "r+b");
    const uint64_t row = TEST_SEQUENCE + 1;

    cr_assert_not_null(out);
    cr_assert_eq(fseek(out, -(long)(3 * SAMPLES * row - 2 * 4 * row), SEEK_END), 0);
    for (uint64_t i = 4 * row; i < (SAMPLES - 4) * row; i++) {
        uint16_t id = test_sample_id(&file, i / row + 4, i % row);

        (void)fputc(id & 255, out);
        (void)fputc(id >> 8, out);
    }
    cr_assert_eq(fclose(out), 0);
    return file;
}

static void set_apart(void *user, struct ds_device *device)
{
    (void)user;
    apart_begin(device, true, APART_NEVER, 0);
}

/* `away`: on a device that decides by itself, a step ahead. */
static void check_empty(struct test_layout layout, bool away)
{
    struct test_samples file = file_of(none_in_the_second), other = without_the_second();
    struct test_run run, want;

    layout = test_layout(layout);
    run = test_layout_run(&layout, file.path);
    run.job.schedule.kind = DS_SCHEDULE_CONSTANT;
    if (away) {
        run.apart = true;
        run.ahead = 1;
        run.opened = set_apart;
    }
    want = test_layout_run(&layout, other.path);
    want.job.schedule.kind = DS_SCHEDULE_CONSTANT;
    want.steps = run.steps - 1;
    test_run_ok(&run);
    test_run_ok(&want);
    for (unsigned i = 0; i < run.steps; i++) {
        const struct ds_step_result *got = &run.result[i], *same = &want.result[i - (i > 0)];

        cr_assert(got->empty == (i == 1) && got->nonfinite == 0 && got->bad == NULL, "step %u", i);
        if (i == 1)
            cr_assert(got->loss == 0.0 && got->grad_norm == 0.0, "%g, %g", got->loss,
                      got->grad_norm);
        else
            cr_assert(got->loss == same->loss && got->grad_norm == same->grad_norm, "step %u", i);
    }
    cr_assert_eq(memcmp(run.params, want.params, run.elems * sizeof(float)), 0);
    cr_assert_eq(memcmp(run.exp_avg, want.exp_avg, run.elems * sizeof(float)), 0);
    test_run_release(&run);
    test_run_release(&want);
    (void)unlink(file.path);
    (void)unlink(other.path);
}

Test(masked, a_step_without_targets_is_as_if_it_were_not_there)
{
    check_empty((struct test_layout){.clip = 0.5}, false);
    check_empty((struct test_layout){.data = 2, .micro_batch = 1, .stage = 2}, false);
    check_empty((struct test_layout){.data = 2, .passes = 1, .optim = DS_OPTIM_LAMB}, false);
    check_empty((struct test_layout){.optim = DS_OPTIM_MUON, .gpt2 = true}, false);
    check_empty((struct test_layout){.offload = true, .tied = true}, false);
    check_empty((struct test_layout){.clip = 0.5}, true);
    check_empty((struct test_layout){.optim = DS_OPTIM_LAMB, .compute = DS_COMPUTE_BF16}, true);
}

/* --- the rest ---------------------------------------------------------------------------------- */

static float *balance_of(uint8_t (*counts)(uint64_t, uint64_t), double balance, uint64_t *elems)
{
    struct test_samples file = file_of(counts);
    const struct test_layout layout = test_layout((struct test_layout){.experts = 4, .each = 2});
    struct test_run run = test_layout_run(&layout, file.path);
    float *line;

    run.job.model.shape.balance = balance;
    run.steps = 1;
    test_run_ok(&run);
    line = test_in_order(&run, run.first_grads);
    *elems = ds_model_elems(&run.plan.model);
    test_run_release(&run);
    (void)unlink(file.path);
    return line;
}

/* Experts are balanced over all tokens, for all go through them: the mask does not change that part
 * of the gradient. */
Test(masked, experts_are_balanced_over_all_tokens)
{
    uint64_t elems;
    float *line[4];

    for (unsigned i = 0; i < 4; i++)
        line[i] = balance_of(i < 2 ? some : NULL, i % 2 == 0 ? 2.0 : 0.0, &elems);
    for (unsigned i = 0; i < 4; i += 2)
        for (uint64_t k = 0; k < elems; k++)
            line[i][k] -= line[i + 1][k];
    cr_assert_lt(test_l2(line[0], line[2], elems), 1e-3, "%g", test_l2(line[0], line[2], elems));
    for (unsigned i = 0; i < 4; i++)
        free(line[i]);
}

static uint8_t wrong(uint64_t sample, uint64_t place)
{
    return sample == 13 && place == 9 ? 3 : 1;
}

/* Every rank says so, before it does anything of that step. */
Test(masked, a_wrong_mask_ends_the_run)
{
    struct test_samples file = file_of(wrong);
    const struct test_layout layout = test_layout((struct test_layout){.data = 2, .stage = 2});
    struct test_run run = test_layout_run(&layout, file.path);

    test_run(&run);
    for (unsigned i = 0; i < run.world; i++) {
        cr_assert_eq(run.rc[i], -EBADMSG, "rank %u: %d", i, run.rc[i]);
        cr_assert_not_null(strstr(run.err[i].text, "neither 0 nor 1"), "%s", run.err[i].text);
        cr_assert_not_null(strstr(run.err[i].text, file.path), "%s", run.err[i].text);
    }
    cr_assert(run.result[0].loss > 0.0 && !(run.result[1].loss > 0.0), "the first step was done");
    test_run_release(&run);
    (void)unlink(file.path);
}
