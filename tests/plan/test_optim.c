/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_optim - learning rates and clipping against their formulas; the job text sent to workers.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

#include "kernels/verdict.h"
#include "runtime/optim.h"
#include "tests/plan/fixture.h"

Test(optim, rates_follow_the_schedule)
{
    static const struct {
        enum ds_schedule_kind kind;
        uint64_t step;
        double lr;
    } cases[] = {
        /* lr 3e-3, min 3e-4, warm-up 2 of 12, decay 2 */
        {DS_SCHEDULE_COSINE, 0, 1.5e-3}, {DS_SCHEDULE_COSINE, 1, 3e-3},
        {DS_SCHEDULE_COSINE, 2, 3e-3},   {DS_SCHEDULE_COSINE, 7, 1.65e-3},
        {DS_SCHEDULE_COSINE, 12, 3e-4},  {DS_SCHEDULE_COSINE, 1000, 3e-4},
        {DS_SCHEDULE_LINEAR, 2, 3e-3},   {DS_SCHEDULE_LINEAR, 7, 1.65e-3},
        {DS_SCHEDULE_LINEAR, 12, 3e-4},  {DS_SCHEDULE_CONSTANT, 0, 1.5e-3},
        {DS_SCHEDULE_CONSTANT, 5, 3e-3}, {DS_SCHEDULE_CONSTANT, 99, 3e-3},
        {DS_SCHEDULE_WSD, 2, 3e-3},      {DS_SCHEDULE_WSD, 10, 3e-3},
        {DS_SCHEDULE_WSD, 11, 1.65e-3},  {DS_SCHEDULE_WSD, 12, 3e-4},
    };
    struct ds_job job = test_job(test_gpt2(1, 8, 1, 3, 5), 1, 1, 4);

    job.schedule.steps = 12;
    job.schedule.decay = 2;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        double lr;

        job.schedule.kind = cases[i].kind;
        lr = ds_optim_lr(&job, cases[i].step);
        cr_assert(fabs(lr - cases[i].lr) < 1e-12, "case %zu: %.17g", i, lr);
    }
    job.schedule.warmup = 0;
    job.schedule.steps = 0; /* nothing to divide by */
    job.schedule.kind = DS_SCHEDULE_COSINE;
    cr_assert(fabs(ds_optim_lr(&job, 0) - 3e-4) < 1e-12);
}

Test(optim, clipping_scales_only_what_is_too_long)
{
    cr_assert_eq(ds_clip_scale(2.0, 1.0), 1.0 / (2.0 + 1e-6));
    cr_assert_eq(ds_clip_scale(0.5, 1.0), 1.0);
    cr_assert_eq(ds_clip_scale(1e9, 0.0), 1.0);
    cr_assert_lt(ds_clip_scale(1.0, 1.0), 1.0);
}
