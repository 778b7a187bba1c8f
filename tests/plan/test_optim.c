/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_optim - learning rates and clipping against their formulas; the job text sent to workers.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

#include "runtime/optim.h"
#include "runtime/spec.h"
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
    cr_assert_eq(ds_optim_clip_scale(2.0, 1.0), 1.0 / (2.0 + 1e-6));
    cr_assert_eq(ds_optim_clip_scale(0.5, 1.0), 1.0);
    cr_assert_eq(ds_optim_clip_scale(1e9, 0.0), 1.0);
    cr_assert_lt(ds_optim_clip_scale(1.0, 1.0), 1.0);
}

Test(spec, what_is_written_is_read)
{
    struct ds_run_spec spec = {
        .run_dir = "/a b/run", .cwd = "/c", .attempt = 12, .job_text = "x: 1\n", .job_bytes = 5};
    struct ds_run_spec back;
    struct ds_buf out;
    struct ds_error err = {0};

    ds_buf_init(&out, 4096);
    cr_assert_eq(ds_run_spec_write(&spec, &out, &err), 0);
    cr_assert_eq(ds_run_spec_parse(&back, out.data, out.len, &err), 0, "%s", err.text);
    cr_assert_str_eq(back.run_dir, "/a b/run");
    cr_assert_str_eq(back.cwd, "/c");
    cr_assert_eq(back.attempt, 12);
    cr_assert_eq(back.job_bytes, 5);
    cr_assert_eq(memcmp(back.job_text, "x: 1\n", 5), 0);
    for (size_t cut = 0; cut < out.len - 5; cut++) /* every cut within the first lines */
        cr_assert_eq(ds_run_spec_parse(&back, out.data, cut, NULL), -EPROTO, "cut at %zu", cut);
    spec.cwd[1] = '\n';
    cr_assert_eq(ds_run_spec_write(&spec, &out, &err), -EINVAL);
    ds_buf_release(&out);
}

Test(spec, other_text_is_refused)
{
    static const char *const texts[] = {
        "",
        "dsrun-job 2\nrun_dir /a\ncwd /b\n\n",
        "dsrun-job 1\nrun_dir /a\n\n",
        "dsrun-job 1\nrun_dir /a\ncwd /b\nattempt x\n\n",
        "dsrun-job 1\nrun_dir /a\ncwd /b\nattempt 99999999999\n\n",
        "dsrun-job 1\nrun_dir\ncwd /b\n\n",
        "dsrun-job 1\nrun_dir /a\ncwd /b\ncolour red\n\n",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct ds_run_spec spec;

        cr_assert_eq(ds_run_spec_parse(&spec, texts[i], strlen(texts[i]), NULL), -EPROTO,
                     "case %zu", i);
    }
}
