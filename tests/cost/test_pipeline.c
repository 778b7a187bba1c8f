/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pipeline - what a step of a pipeline takes: each part its blocks, all of them the slowest one
 * for every micro-batch and the others once; and what they pass to each other.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "runtime/cost/predict.h"
#include "runtime/cost/work.h"
#include "tests/cost/fixture.h"

struct case_of {
    uint64_t hosts, ranks, layers, passes;
    unsigned parts;
};

static struct ds_job job_of(const struct case_of *c)
{
    struct ds_job job = test_job(test_gpt2(c->layers, 1024, 16, 4000, 512),
                                 2 * c->passes * c->hosts * c->ranks / c->parts, 2, 512);

    job.parallel.pipeline = c->parts;
    return job;
}

static void predict(const struct case_of *c, unsigned part, struct ds_plan *plan,
                    struct ds_prediction *prediction)
{
    const struct ds_cluster cluster = test_cluster(c->hosts, c->ranks);
    const struct ds_job job = job_of(c);
    const unsigned world = (unsigned)(c->hosts * c->ranks);
    const struct ds_plan_args args = {.job = &job,
                                      .world = world,
                                      .rank = part * (world / c->parts),
                                      .threads = 1,
                                      .local_world = (unsigned)c->ranks};
    struct ds_error err = {0};

    cr_assert_eq(ds_plan_build(plan, &args, &err), 0, "%s", err.text);
    cr_assert_eq(ds_predict(prediction, &cluster, plan, &err), 0, "%s", err.text);
}

/* Every part predicts the same time for compute and what is waited for together. */
Test(pipeline, all_parts_take_as_long_as_the_slowest)
{
    static const struct case_of cases[] = {
        {1, 2, 8, 4, 2}, {1, 4, 9, 16, 4}, {2, 4, 5, 3, 2}, {4, 1, 4, 1, 4}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct case_of *c = &cases[i];
        double each[4], slowest = 0.0, all = 0.0;

        for (unsigned part = 0; part < c->parts; part++) {
            struct ds_prediction p;
            struct ds_plan plan;

            predict(c, part, &plan, &p);
            each[part] = p.compute_s / (double)c->passes;
            slowest = fmax(slowest, each[part]);
            all += each[part];
            ds_prediction_release(&p);
            ds_plan_release(&plan);
        }
        for (unsigned part = 0; part < c->parts; part++) {
            double want = all + (double)(c->passes - 1) * slowest;
            struct ds_prediction p;
            struct ds_plan plan;

            predict(c, part, &plan, &p);
            cr_expect_float_eq(p.compute_s + p.bubble_s, want, 1e-9 * want, "case %zu, part %u", i,
                               part);
            cr_expect_gt(p.step_s, want);
            ds_prediction_release(&p);
            ds_plan_release(&plan);
        }
    }
}

/* Inside a host and between hosts; where all ranks of a host pass something out, the network is
 * theirs together.  A RECV that is paired takes nothing more. */
Test(pipeline, what_is_passed_goes_over_the_link_between)
{
    static const struct {
        struct case_of c;
        double bandwidth, latency_s;
    } cases[] = {{{1, 4, 4, 4, 2}, 400e9, 5e-6},
                 {{4, 1, 4, 4, 2}, 50e9, 10e-6},
                 {{2, 4, 4, 4, 2}, 50e9 / 4, 10e-6}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct ds_cluster cluster = test_cluster(cases[i].c.hosts, cases[i].c.ranks);
        double bytes = 2.0 * 512 * 1024 * sizeof(float);
        double want = bytes / cases[i].bandwidth + 2.0 * cases[i].latency_s;
        struct ds_prediction p;
        struct ds_plan plan;
        unsigned seen = 0;

        predict(&cases[i].c, 1, &plan, &p);
        for (size_t k = 0; k < plan.step.count; k++) {
            const struct ds_instr *instr = &plan.step.instr[k];
            bool taken = instr->op == DS_INSTR_RECV && instr->paired;

            if (instr->op != DS_INSTR_SEND && instr->op != DS_INSTR_RECV)
                continue;
            seen++;
            cr_expect_float_eq(ds_work_instr(&cluster, &plan, instr), taken ? 0.0 : want,
                               1e-9 * want, "case %zu", i);
        }
        cr_expect_eq(seen, 2 * cases[i].c.passes);
        ds_prediction_release(&p);
        ds_plan_release(&plan);
    }
}
