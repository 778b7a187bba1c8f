/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_fp8 - what products of FP8 change in a plan: room for codes, and the peak of MFU.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

/* Codes of rows and weights forward; backward gradients twice, and one of the two: of the product
 * that needs most.  On a CPU both operands become bf16 in the scratch memory. */
Test(fp8, codes_have_their_place)
{
    struct ds_job job = test_job(test_gpt2(2, 64, 4, 256, 32), 4, 2, 32);
    struct ds_plan_args args = {.job = &job, .world = 1, .threads = 2};
    const uint64_t tokens = 64, fc = 64 * 256;
    const uint64_t largest = 128; /* 4 bytes for 3 operands of 4 products of 2 layers, aligned */
    uint64_t found[DS_PASS_COUNT] = {0};
    struct ds_plan plain, fp8, device;
    struct ds_error err = {0};

    job.precision.compute = DS_COMPUTE_BF16;
    cr_assert_eq(ds_plan_build(&plain, &args, NULL), 0);
    job.precision.matmul = DS_MATMUL_FP8;
    cr_assert_eq(ds_plan_build(&fp8, &args, NULL), 0);
    for (size_t i = 0; i < fp8.buffers; i++)
        if (fp8.buffer[i].buffer == DS_BUFFER_CODES)
            found[fp8.buffer[i].pass] += fp8.buffer[i].bytes;
    for (size_t i = 0; i < fp8.buffers; i++)
        if (fp8.buffer[i].buffer == DS_BUFFER_LARGEST)
            cr_assert(fp8.buffer[i].first == 0 && fp8.buffer[i].bytes == largest);
    cr_assert_eq(found[DS_PASS_TRAIN], 64 + 2 * tokens * 256 + fc);
    cr_assert_eq(found[DS_PASS_EVAL], 64 + tokens * 256 + fc);
    cr_assert_eq(fp8.arena_bytes[DS_ARENA_ACTIVATIONS],
                 plain.arena_bytes[DS_ARENA_ACTIVATIONS] + found[DS_PASS_TRAIN] + largest);
    cr_assert_neq(fp8.hash, plain.hash);
    cr_assert_gt(fp8.scratch_bytes, plain.scratch_bytes);
    cr_assert_geq(fp8.scratch_bytes - plain.scratch_bytes, 2 * (tokens * 256 + fc));
    args.apart = true;
    cr_assert_eq(ds_plan_build(&device, &args, NULL), 0);
    cr_assert_eq(device.arena_bytes[DS_ARENA_ACTIVATIONS], fp8.arena_bytes[DS_ARENA_ACTIVATIONS]);
    cr_assert_eq(device.scratch_bytes, (size_t)64 << 20);
    ds_plan_release(&device);
    job.train.sequence = 4;
    job.train.micro_batch = 1;
    cr_assert_eq(ds_plan_build(&device, &args, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "must be a multiple of 16 for 'precision.matmul' fp8"));
    ds_plan_release(&plain);
    ds_plan_release(&fp8);
}

/* All FLOPs, each at the peak of its type, take as long as at the one peak. */
Test(fp8, the_peak_of_two_types)
{
    struct ds_job job = test_job(test_gpt2(2, 64, 4, 256, 32), 4, 2, 32);
    struct ds_plan_args args = {.job = &job, .world = 1, .threads = 1};
    struct ds_plan plan;
    double flops, products;

    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_eq(ds_plan_peak(&plan, 5.0, 10.0), 5.0);
    ds_plan_release(&plan);
    job.precision.compute = DS_COMPUTE_BF16;
    job.precision.matmul = DS_MATMUL_FP8;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    flops = plan.flops_per_token;
    products = plan.fp8_flops_per_token;
    cr_assert_eq(products, 6.0 * 2 * (64 * 192 + 64 * 64 + 2 * 64 * 256));
    cr_assert_lt(products, flops);
    cr_assert_float_eq(flops / ds_plan_peak(&plan, 5.0, 10.0),
                       products / 10.0 + (flops - products) / 5.0, 1e-9 * flops);
    cr_assert_eq(ds_plan_peak(&plan, 5.0, 0.0), 5.0);
    ds_plan_release(&plan);
}
