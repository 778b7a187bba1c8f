/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_offload - where lines lie that the host updates, and which optimizers cannot do so.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

/* GPT-2 124M on four ranks. */
static void build(struct ds_plan *plan, unsigned stage, bool bf16, enum ds_offload offload)
{
    struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), 4, 1, 64);
    const struct ds_plan_args args = {.job = &job, .world = 4, .threads = 1, .local_world = 4};
    struct ds_error err = {0};

    job.zero.stage = stage;
    job.offload.optim = offload;
    job.precision.compute = bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
    cr_assert_eq(ds_plan_build(plan, &args, &err), 0, "%s", err.text);
}

/* LAMB's norms come before any update, Muon's products are for the device. */
Test(offload, of_whole_tensors_is_refused_on_devices_apart)
{
    static const enum ds_optim_kind optim[] = {DS_OPTIM_ADAMW, DS_OPTIM_LAMB, DS_OPTIM_MUON};

    for (unsigned i = 0; i < 6; i++) {
        struct ds_job job = test_job(test_gpt2(6, 256, 4, 997, 64), 8, 1, 64);
        const struct ds_plan_args args = {
            .job = &job, .world = 2, .threads = 1, .local_world = 2, .apart = i / 3 == 1};
        int want = args.apart && i % 3 > 0 ? -EINVAL : 0;
        struct ds_error err = {0};
        struct ds_plan plan;

        job.optim.kind = optim[i % 3];
        job.offload.optim = DS_OFFLOAD_CPU;
        cr_assert_eq(ds_plan_build(&plan, &args, &err), want, "%u: %s", i, err.text);
        cr_assert_eq(want != 0,
                     strstr(err.text, "needs a device that computes in the host's") != NULL);
        if (want == 0)
            ds_plan_release(&plan);
    }
}

/* Offload moves parameters and states out of the device's memory and adds gradients and a room of
 * two buckets there; where both are one memory it is more, where they are apart it is less. */
Test(offload, divides_memory_in_two)
{
    for (unsigned i = 0; i < 8; i++) {
        const bool bf16 = i % 2 == 1;
        struct ds_plan here, there;
        struct ds_error err = {0};
        uint64_t held, host, most = 0;

        build(&here, i / 2, bf16, DS_OFFLOAD_NONE);
        build(&there, i / 2, bf16, DS_OFFLOAD_CPU);
        held = ds_plan_line_elems(&there, DS_ARENA_MOMENTS);
        for (size_t k = 0; k < there.buckets; k++) {
            uint64_t shard = ds_plan_shard(&there, DS_ARENA_MOMENTS, k).count;

            most = shard > most ? shard : most;
        }
        host = held * 16 + (bf16 ? 2 * most * 2 : 0);
        cr_assert_eq(ds_plan_host_bytes(&here), 0);
        cr_assert_eq(ds_plan_host_bytes(&there), host, "%u", i);
        cr_assert_gt(ds_plan_total_bytes(&there), ds_plan_total_bytes(&here));
        there.apart = true;
        cr_assert_leq(ds_plan_total_bytes(&there) + held * 8, ds_plan_total_bytes(&here));
        cr_assert_eq(ds_plan_check_host(&there, 4, 4 * host, &err), 0);
        cr_assert_eq(ds_plan_check_host(&there, 4, 4 * host - 1, &err), -ENOMEM);
        cr_assert(strstr(err.text, "on the host") != NULL, "%s", err.text);
        ds_plan_release(&here);
        ds_plan_release(&there);
    }
}

/* A device keeps rooms and activations alone; gradients, where it updates.  What is said of a plan that
 * does not fit leads there. */
Test(offload, of_parameters_leaves_rooms)
{
    for (unsigned i = 0; i < 4; i++) {
        const bool optim = i % 2 == 1;
        const unsigned world = i / 2 == 0 ? 1 : 4;
        struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), 4, 1, 64);
        const struct ds_plan_args args = {
            .job = &job, .world = world, .threads = 1, .local_world = world, .apart = true};
        struct ds_error err = {0};
        struct ds_plan plan;
        uint64_t elems, held;

        job.zero.stage = 3;
        job.precision.compute = DS_COMPUTE_BF16;
        job.offload.params = DS_OFFLOAD_CPU;
        job.offload.optim = optim ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
        cr_assert_eq(ds_plan_build(&plan, &args, &err), 0, "%s", err.text);
        elems = ds_plan_line_elems(&plan, DS_ARENA_MOMENTS);
        held = plan.arena_bytes[DS_ARENA_GATHERED] + plan.arena_bytes[DS_ARENA_STAGED] +
               plan.arena_bytes[DS_ARENA_ACTIVATIONS] + plan.arena_bytes[DS_ARENA_STAGING] +
               plan.arena_bytes[DS_ARENA_RUNTIME];
        cr_assert_geq(elems * world, ds_model_elems(&plan.model));
        cr_assert_eq(ds_plan_host_bytes(&plan), elems * (optim ? 2 + 4 + 4 + 8 : 2));
        cr_assert_eq(ds_plan_total_bytes(&plan), held + (optim ? 0 : elems * (4 + 4 + 8)));
        cr_assert_eq(ds_plan_check_fit(&plan, 1, 1, &err), -ENOMEM);
        cr_assert_eq(strstr(err.text, "'offload.optim' to cpu") != NULL, !optim, "%s", err.text);
        cr_assert_null(strstr(err.text, "'offload.params'"), "%s", err.text);
        ds_plan_release(&plan);
        job.offload.params = DS_OFFLOAD_NONE;
        cr_assert_eq(ds_plan_build(&plan, &args, &err), 0);
        cr_assert_eq(ds_plan_check_fit(&plan, 1, 1, &err), -ENOMEM);
        cr_assert_not_null(strstr(err.text, !optim ? ", 'offload.optim' to cpu"
                                            : world == 1
                                                ? ", 'zero.stage' to 3 and 'offload.params' to cpu"
                                                : ", 'offload.params' to cpu"),
                           "%s", err.text);
        ds_plan_release(&plan);
    }
}
