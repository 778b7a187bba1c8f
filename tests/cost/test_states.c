/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_states - the predicted step of a plan whose optimizer states are on a disk.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

#include "runtime/cost/predict.h"
#include "tests/plan/fixture.h"

/* A disk that is fast enough adds next to nothing; of a slow one a step takes what it moves, each
 * piece once in and once out, one after the other; one that is not described is none. */
Test(predict, states_on_a_disk_are_waited_for_as_long_as_they_move)
{
    static const char text[] =
        "device: {flops: {fp32: 1e12}, bandwidth: 1e11}\ndisk: {read: 1e15}\noverlap: 0\n";
    struct ds_cluster cluster;
    struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), 32, 8, 1024);
    const struct ds_plan_args args = {.job = &job, .world = 1, .threads = 1, .local_world = 1};
    struct ds_prediction here, there;
    struct ds_error err = {0};
    struct ds_plan plan;
    double moved;

    ds_cluster_init(&cluster);
    cr_assert_eq(ds_cluster_parse(&cluster, "cluster.yaml", text, sizeof(text) - 1, &err), 0, "%s",
                 err.text);
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_eq(ds_predict(&here, &cluster, &plan, NULL), 0);
    cr_assert(here.disk_s == 0.0);
    ds_plan_release(&plan);
    job.offload.optim = DS_OFFLOAD_NVME;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_eq(ds_predict(&there, &cluster, &plan, &err), -EINVAL);
    cr_assert(strstr(err.text, "'disk.read' and 'disk.write'") != NULL, "%s", err.text);
    cluster.disk.write = 1e15;
    cr_assert_eq(ds_predict(&there, &cluster, &plan, NULL), 0);
    cr_assert(there.step_s >= here.step_s && there.step_s < 1.01 * here.step_s, "%g and %g",
              there.step_s, here.step_s);
    ds_prediction_release(&there);
    cluster.disk.read = 1e8;
    cluster.disk.write = 0.5e8;
    moved = (double)plan.disk_bytes * (1.0 / 1e8 + 1.0 / 0.5e8);
    cr_assert_eq(ds_predict(&there, &cluster, &plan, NULL), 0);
    cr_assert_lt(fabs(there.disk_s / moved - 1.0), 1e-9, "%g and %g", there.disk_s, moved);
    cr_assert(there.step_s > 0.99 * moved && there.step_s < moved + here.step_s, "%g and %g",
              there.step_s, moved);
    ds_prediction_release(&there);
    ds_prediction_release(&here);
    ds_plan_release(&plan);
    ds_cluster_release(&cluster);
}
