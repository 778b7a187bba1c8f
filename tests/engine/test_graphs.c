/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_graphs - which instructions are recorded together, in plans of all stages; what becomes of a
 * device that records nothing.
 */
#include <criterion/criterion.h>

#include "runtime/graphs.h"
#include "tests/plan/fixture.h"

enum { LAYERS = 3, PASSES = 4 };

static struct ds_plan plan_of(enum ds_recompute recompute, unsigned stage, unsigned world)
{
    struct ds_job job = test_job(test_gpt2(LAYERS, 16, 2, 40, 8), (uint64_t)PASSES * world, 1, 8);
    const struct ds_plan_args args = {.job = &job, .world = world, .threads = 1};
    struct ds_error err = {0};
    struct ds_plan plan;

    job.zero.stage = stage;
    job.activation.recompute = recompute;
    cr_assert(ds_plan_build(&plan, &args, &err) == 0, "%s", err.text);
    return plan;
}

static bool passes(const struct ds_instr *instr)
{
    return instr->op == DS_INSTR_FORWARD || instr->op == DS_INSTR_BACKWARD;
}

/* A run waits for nothing but before its first instruction, and nobody waits for its middle. */
static void check_run(const struct ds_plan *plan, const struct ds_graph_run *run)
{
    for (size_t i = run->first; i < run->first + run->count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i];

        cr_assert(passes(instr) && instr->queue == DS_QUEUE_COMPUTE);
        cr_assert(i == run->first ||
                  (instr->waits_for == DS_NO_EVENT && instr->room_after == DS_NO_EVENT));
        cr_assert(i + 1 == run->first + run->count || instr->signals == DS_NO_EVENT);
        cr_assert(i == run->first || instr->block != 0 || instr->op == DS_INSTR_BACKWARD ||
                  instr->recompute);
    }
}

Test(graphs, every_pass_is_in_one_run)
{
    for (unsigned stage = 0; stage <= 3; stage++) {
        struct ds_plan plan = plan_of(DS_RECOMPUTE_FULL, stage, stage > 0 ? 2 : 1);
        size_t covered = 0, all = 0;
        struct ds_graphs graphs;

        cr_assert(ds_graphs_open(&graphs, &plan, NULL, NULL, NULL) == 0);
        for (size_t i = 0; i < plan.step.count; i++)
            all += passes(&plan.step.instr[i]);
        for (size_t i = 0; i < graphs.runs; i++) {
            const struct ds_graph_run *run = &graphs.run[i];

            cr_assert(run->like <= i && graphs.run[run->like].like == run->like);
            cr_assert(ds_graphs_at(&graphs, run->first) == run);
            check_run(&plan, run);
            covered += run->count;
        }
        cr_assert(covered == all, "stage %u: %zu of %zu", stage, covered, all);
        ds_graphs_close(&graphs);
        ds_plan_release(&plan);
    }
}

Test(graphs, a_pass_that_adds_is_another_recording)
{
    struct ds_plan plan = plan_of(DS_RECOMPUTE_NONE, 0, 1);
    struct ds_graphs graphs;

    cr_assert(ds_graphs_open(&graphs, &plan, NULL, NULL, NULL) == 0);
    cr_assert(graphs.runs == PASSES, "%zu", graphs.runs);
    for (size_t i = 0; i < graphs.runs; i++)
        cr_assert(graphs.run[i].like == (i > 0) && graphs.run[i].count == 2 * (LAYERS + 2));
    ds_graphs_close(&graphs);
    ds_plan_release(&plan);
}

Test(graphs, none_where_there_is_a_reason)
{
    struct ds_plan plan = plan_of(DS_RECOMPUTE_NONE, 0, 1);
    struct ds_graphs graphs;

    cr_assert(ds_graphs_open(&graphs, &plan, NULL, "it rains", NULL) == 0);
    cr_assert(ds_graphs_at(&graphs, 0) == NULL);
    cr_assert_str_eq(ds_graphs_note(&graphs), "without CUDA graphs: it rains");
    cr_assert(ds_graphs_note(&graphs) == NULL, "once");
    ds_graphs_close(&graphs);
    cr_assert(ds_graphs_open(&graphs, &plan, NULL, "", NULL) == 0);
    cr_assert(ds_graphs_at(&graphs, 0) == NULL && ds_graphs_note(&graphs) == NULL);
    ds_graphs_close(&graphs);
    ds_plan_release(&plan);
}

struct counted {
    unsigned works;
};

static int work(void *user, size_t first, size_t count, struct ds_error *err)
{
    struct counted *counted = user;

    (void)first;
    (void)count;
    (void)err;
    counted->works++;
    return 0;
}

/* The CPU keeps no recording: said once, and every run is done. */
Test(graphs, a_device_that_records_nothing)
{
    const struct ds_device_args args = {.name = "cpu", .threads = 1};
    struct ds_plan plan = plan_of(DS_RECOMPUTE_NONE, 0, 1);
    struct counted counted = {0};
    const struct ds_graph_work job = {.work = work, .user = &counted, .factor = {1.0f, 1.0f}};
    struct ds_device *device = NULL;
    struct ds_graphs graphs;

    cr_assert(ds_device_open(&device, &args, NULL) == 0);
    cr_assert(ds_graphs_open(&graphs, &plan, device, NULL, NULL) == 0);
    for (unsigned i = 0; i < 3; i++)
        cr_assert(ds_graphs_do(&graphs, &graphs.run[0], &job, NULL) == 0);
    cr_assert(counted.works == 3, "%u", counted.works);
    cr_assert(strstr(ds_graphs_note(&graphs), "records nothing") != NULL);
    cr_assert(ds_graphs_at(&graphs, 0) == NULL);
    ds_graphs_close(&graphs);
    ds_device_close(device);
    ds_plan_release(&plan);
}
