/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_logits.c - what the plan has of logits: one chunk, of the activations' type.
 */
#include <criterion/criterion.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

enum { SEQUENCE = 256 };

static uint64_t bytes_of(const struct ds_plan *plan, enum ds_buffer buffer, enum ds_pass pass)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < plan->buffers; i++)
        if (plan->buffer[i].buffer == buffer && plan->buffer[i].pass == pass)
            bytes += plan->buffer[i].bytes;
    return bytes;
}

/* The rows of a chunk, whose logits take `bytes_each`. */
static uint64_t chunk(enum ds_compute compute, bool apart, uint64_t micro_batch, size_t bytes_each)
{
    struct ds_job job =
        test_job(test_gpt2(2, 64, 4, 50257, SEQUENCE), micro_batch, micro_batch, SEQUENCE);
    struct ds_plan_args args = {.job = &job, .world = 1, .threads = 1, .apart = apart};
    struct ds_plan plan;
    uint64_t rows, bytes;

    job.precision.compute = compute;
    job.train.micro_batch = micro_batch;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    rows = plan.logit_rows;
    bytes = rows * plan.logit_ld * bytes_each;
    cr_assert_eq(bytes_of(&plan, DS_BUFFER_LOGITS, DS_PASS_TRAIN), bytes);
    cr_assert_eq(bytes_of(&plan, DS_BUFFER_LOGITS, DS_PASS_EVAL), bytes);
    cr_assert(apart || bytes <= (uint64_t)80 << 20);
    ds_plan_release(&plan);
    return rows;
}

Test(logits, are_one_chunk_of_the_activations_type)
{
    uint64_t wide = chunk(DS_COMPUTE_FP32, false, 32, 4);
    uint64_t low = chunk(DS_COMPUTE_BF16, false, 32, 2);

    cr_assert(wide > 256 && low > wide + wide / 2 && low < 3 * wide, "%llu and %llu rows",
              (unsigned long long)wide, (unsigned long long)low);
    cr_assert_eq(chunk(DS_COMPUTE_FP16, false, 32, 2), low);
    /* A GPU has the bytes, but not the time for small chunks. */
    cr_assert_eq(chunk(DS_COMPUTE_FP32, true, 32, 4), (uint64_t)2048);
    cr_assert_eq(chunk(DS_COMPUTE_BF16, true, 32, 2), (uint64_t)4096);
}
