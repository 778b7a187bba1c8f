/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_offload - what states and parameters of the host's memory cost over the link to the device.
 */
#include "runtime/cost/predict.h"
#include "tests/cost/fixture.h"

/* With memory apart the host works beside the device, so that a link and a host that are fast
 * enough add next to nothing; a slow link or host is waited for, and no longer than it takes. */
Test(offload, is_hidden_as_far_as_it_can_be)
{
    struct ds_cluster cluster = test_cluster(1, 4);
    struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), 32, 8, 1024);
    const struct ds_plan_args args = {
        .job = &job, .world = 4, .threads = 1, .local_world = 4, .apart = true};
    const double rates[][2] = {{1e15, 1e15}, {50e9, 100e9}, {5e9, 100e9}, {50e9, 10e9}};
    struct ds_prediction here, there[4];
    struct ds_plan plan;
    double held = 0.0;

    job.precision.compute = DS_COMPUTE_BF16;
    job.zero.stage = 2;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_eq(ds_predict(&here, &cluster, &plan, NULL), 0);
    cr_assert(here.copy_s == 0.0 && here.host_s == 0.0);
    ds_plan_release(&plan);
    job.offload.optim = DS_OFFLOAD_CPU;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    for (size_t i = 0; i < plan.buckets; i++)
        held += (double)ds_plan_shard(&plan, DS_ARENA_MOMENTS, i).count;
    for (unsigned i = 0; i < 4; i++) {
        cluster.pcie.bandwidth = rates[i][0];
        cluster.main.update = rates[i][1];
        cr_assert_eq(ds_predict(&there[i], &cluster, &plan, NULL), 0);
        close_to(there[i].copy_s, held * 6.0 / rates[i][0], "copies");
        close_to(there[i].host_s, held * 30.0 / rates[i][1], "updates");
        cr_assert_geq(there[i].step_s, there[i].compute_s + there[i].update_s);
        cr_assert_leq(there[i].step_s, here.step_s + there[i].copy_s + there[i].host_s);
        cr_assert(i < 2 || there[i].step_s > there[1].step_s, "%u", i);
    }
    cr_assert_lt(there[0].step_s, here.step_s);
    cluster.pcie.bandwidth = 0.0; /* one memory: updates are the device's */
    ds_prediction_release(&there[0]);
    cr_assert_eq(ds_predict(&there[0], &cluster, &plan, NULL), 0);
    cr_assert(there[0].host_s == 0.0 && there[0].copy_s > 0.0);
    cr_assert_gt(there[0].step_s, here.step_s);
    ds_plan_release(&plan);
    ds_prediction_release(&here);
    for (unsigned i = 0; i < 4; i++)
        ds_prediction_release(&there[i]);
}

/* What a rank has of a bucket comes over the link before the others complete it, and sums go back over
 * it, with what they are added to. */
Test(offload, parameters_of_the_host_come_over_its_link)
{
    struct ds_cluster cluster = test_cluster(1, 2);
    struct ds_job job = test_job(test_gpt2(4, 256, 4, 997, 64), 8, 1, 64);
    const struct ds_plan_args args = {
        .job = &job, .world = 2, .threads = 1, .local_world = 2, .apart = true};
    struct ds_prediction slow, fast;
    struct ds_plan plan;
    double moved = 0.0;

    job.precision.compute = DS_COMPUTE_BF16;
    job.zero.stage = 3;
    job.offload.optim = job.offload.params = DS_OFFLOAD_CPU;
    cluster.pcie.bandwidth = 20e9;
    cluster.pcie.latency_us = 7.0;
    cluster.main.update = 100e9;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    for (size_t i = 0; i < plan.step.count; i++) {
        const struct ds_instr *instr = &plan.step.instr[i];
        double elems =
            instr->bucket == UINT32_MAX ? 0.0 : (double)plan.bucket[instr->bucket].padded_elems;

        if (instr->op == DS_INSTR_GATHER) {
            close_to(ds_work_talk(&cluster, &plan, instr),
                     elems / 20e9 + 7e-6 +
                         ds_work_collective(&cluster, (struct ds_ring){2, 2}, elems * 2.0, 1),
                     "up, and from the other");
            moved += elems;
        } else if (instr->op == DS_INSTR_REDUCE) {
            close_to(ds_work_end(&cluster, &plan, instr),
                     elems * (instr->accumulate ? 4.0 : 2.0) / 20e9 + 7e-6, "down");
            moved += elems * (instr->accumulate ? 4.0 : 2.0);
        }
    }
    cr_assert_eq(ds_predict(&fast, &cluster, &plan, NULL), 0);
    cluster.pcie.bandwidth = 1e8;
    cr_assert_eq(ds_predict(&slow, &cluster, &plan, NULL), 0);
    cr_assert(slow.step_s > moved / 2.0 / 1e8 && slow.step_s > 2.0 * fast.step_s,
              "%g and %g for %g", fast.step_s, slow.step_s, moved);
    ds_prediction_release(&fast);
    ds_prediction_release(&slow);
    ds_plan_release(&plan);
    ds_cluster_release(&cluster);
}
