/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_team - what ranks that share layers take: the products of a narrower model, and sums of
 * activations by the rates of what is between them.
 */
#include <criterion/criterion.h>

#include "runtime/cost/predict.h"
#include "runtime/cost/work.h"
#include "tests/cost/fixture.h"

static struct ds_plan plan_of(unsigned team, unsigned ranks, unsigned local)
{
    struct ds_job job = test_job(test_gpt2(4, 1024, 16, 4000, 512), 8, 2, 512);
    const struct ds_plan_args args = {
        .job = &job, .world = ranks, .threads = 1, .local_world = local};
    struct ds_error err = {0};
    struct ds_plan plan;

    job.parallel.tensor = team;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
    return plan;
}

/* Of the first layer's pass. */
static struct ds_instr pass(enum ds_instr_op op, uint32_t block)
{
    return (struct ds_instr){.op = op, .block = block};
}

/* A sum sends 2 (T - 1) / T of the activations of a micro-batch, in log2 T hops each way. */
static double sum_s(const struct ds_link_rate *link, unsigned team)
{
    const double bytes = 2.0 * 512 * 1024 * sizeof(float), hops = team == 4 ? 2.0 : 1.0;

    return 2.0 * (bytes * (team - 1) / team / link->bandwidth + hops * link->latency_us * 1e-6);
}

Test(team, sums_go_by_what_is_between_the_ranks)
{
    static const struct {
        unsigned team, local;
    } table[] = {{2, 2}, {4, 4}, {2, 1}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const unsigned team = table[i].team, local = table[i].local;
        const struct ds_cluster cluster = test_cluster(team / local, local);
        const struct ds_link_rate *link = local == team ? &cluster.host : &cluster.network;
        struct ds_plan plan = plan_of(team, team, local);
        struct ds_instr forward = pass(DS_INSTR_FORWARD, 1), backward = pass(DS_INSTR_BACKWARD, 1);
        struct ds_instr embed = pass(DS_INSTR_FORWARD, 0), back = pass(DS_INSTR_BACKWARD, 0);
        double each = sum_s(link, team);

        cr_expect_float_eq(ds_work_talk(&cluster, &plan, &forward), 2.0 * each, 1e-9 * each);
        cr_expect_float_eq(ds_work_talk(&cluster, &plan, &backward), 2.0 * each, 1e-9 * each);
        cr_expect_float_eq(ds_work_talk(&cluster, &plan, &embed), each, 1e-9 * each);
        cr_expect_eq(ds_work_talk(&cluster, &plan, &back), 0.0);
        ds_plan_release(&plan);
    }
}

/* The products of a layer are half as many FLOPs; the whole is between half and all of the time. */
Test(team, a_rank_computes_its_part)
{
    const struct ds_cluster alone = test_cluster(1, 1), two = test_cluster(1, 2);
    struct ds_plan whole = plan_of(1, 1, 1), half = plan_of(2, 2, 2);
    struct ds_instr forward = pass(DS_INSTR_FORWARD, 1);
    double all = ds_work_instr(&alone, &whole, &forward);
    double its = ds_work_instr(&two, &half, &forward) - ds_work_talk(&two, &half, &forward);
    double model = ds_model_product_flops_per_token(&whole.model);

    cr_expect_float_eq(ds_model_product_flops_per_token(&half.shape), model / 2.0, 1.0);
    cr_expect(its > all / 2.0 && its < 0.75 * all, "%g of %g", its, all);
    cr_expect_eq(half.flops_per_token, whole.flops_per_token); /* those of the model, for MFU */
    ds_plan_release(&whole);
    ds_plan_release(&half);
}

/* Gradients of keys and values that both have are summed once a step: of a layer those of weights. */
Test(team, keys_and_values_of_several_ranks_are_summed)
{
    const struct ds_cluster cluster = test_cluster(1, 2);
    struct ds_job job = test_job(test_llama(4, 1024, 16, 1, 4096, 4000, 512), 8, 2, 512);
    const struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1, .local_world = 2};
    const double bytes = 4.0 * 2 * 64 * 1024 * sizeof(float), hop = cluster.host.latency_us * 1e-6;
    struct ds_error err = {0};
    double seconds = 0.0;
    struct ds_plan plan;

    job.parallel.tensor = 2;
    cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
    for (size_t i = 0; i < plan.step.count; i++)
        if (plan.step.instr[i].op == DS_INSTR_TIE)
            seconds += ds_work_instr(&cluster, &plan, &plan.step.instr[i]);
    cr_expect_float_eq(seconds, bytes / cluster.host.bandwidth + 4 * 2 * hop, 1e-9, "%g", seconds);
    ds_plan_release(&plan);
}

/* With one head for four ranks rows are wider on their way, and are added up behind it. */
Test(team, keys_and_values_that_go_to_several_ranks_take_longer)
{
    const struct ds_cluster cluster = test_cluster(1, 4);
    double took[2][2];

    for (unsigned few = 0; few < 2; few++) {
        struct ds_job job =
            test_job(test_llama(4, 1024, 16, few ? 1 : 4, 4096, 4000, 512), 8, 2, 512);
        const struct ds_plan_args args = {.job = &job, .world = 4, .threads = 1, .local_world = 4};
        struct ds_instr forward = pass(DS_INSTR_FORWARD, 1), backward = pass(DS_INSTR_BACKWARD, 1);
        struct ds_error err = {0};
        struct ds_plan plan;

        job.parallel.sequence = 4;
        cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
        took[few][0] = ds_work_talk(&cluster, &plan, &forward);
        took[few][1] = ds_work_talk(&cluster, &plan, &backward);
        ds_plan_release(&plan);
    }
    cr_expect(took[1][0] >= took[0][0] && took[1][0] < 1.5 * took[0][0], "%g, %g", took[1][0],
              took[0][0]); /* as many heads: four, each once */
    cr_expect_gt(took[1][1] - took[1][0], took[0][1] - took[0][0]);
}
