/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_epochs.c - jobs that say train.epochs: how many steps these are once the data are known.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/job/jobs.h"

static void parse(struct ds_job *job, const char *text, const char *override)
{
    struct ds_error err = {0};

    cr_assert_eq(jobs_parse(job, text, override, &err), 0, "%s", err.text);
}

/* Rounded up, and exact: 0.07 x 100 is more than 7 as a double.  What follows from steps follows. */
Test(epochs, are_as_many_steps_as_the_data_have)
{
    static const struct {
        const char *epochs;
        uint64_t sequences, steps, warmup;
    } table[] = {
        {"1", 320, 10, 3},
        {"1", 321, 11, 3},
        {"1", 1, 1, 0},
        {"0.07", 3200, 7, 2},
        {"1.000001", 32000000, 1000001, 300000},
        {"1.5", 320, 15, 4},
        {"0.000001", 320, 1, 0},
        {"3", 1000000007, 93750001, 28125000},
        {"0.5", UINT64_C(63999999999), 1000000000, 300000000},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_error err = {0};
        struct ds_job job;
        char word[40];

        (void)snprintf(word, sizeof(word), "train.epochs=%s", table[i].epochs);
        parse(&job, SMALL "schedule: {kind: one_cycle}\n", word);
        cr_expect_eq(job.train.steps, 0, "the file's steps count for less");
        cr_assert_eq(ds_job_settle_epochs(&job, table[i].sequences, &err), 0, "%s", err.text);
        cr_expect(job.train.steps == table[i].steps && job.schedule.steps == table[i].steps &&
                      job.schedule.warmup == table[i].warmup,
                  "%s x %ju: %ju steps", table[i].epochs, (uintmax_t)table[i].sequences,
                  (uintmax_t)job.train.steps);
        ds_job_release(&job);
    }
}

/* The resolved job says steps, and has the digest of one that did from the beginning. */
Test(epochs, become_steps_for_good)
{
    static const char text[] =
        "name: t\nmodel: {arch: gpt2, layers: 2, hidden: 64, heads: 4, context: 32}\n"
        "data: {train: [a.txt]}\n"
        "train: {epochs: 2.5, global_batch: 32, micro_batch: 8}\n";
    struct ds_job job, again, steps;
    struct ds_error err = {0};
    struct ds_buf out;

    parse(&job, text, NULL);
    cr_assert_eq(ds_job_settle_epochs(&job, 1280, &err), 0, "%s", err.text);
    ds_buf_init(&out, DS_MAX_YAML_BYTES);
    cr_assert_eq(ds_job_write(&job, &out, &err), 0, "%s", err.text);
    cr_expect(strstr(ds_buf_text(&out), "  steps: 100\n") != NULL &&
              strstr(ds_buf_text(&out), "epochs") == NULL);
    parse(&again, ds_buf_text(&out), NULL);
    parse(&steps, SMALL, NULL);
    cr_expect(ds_job_digest(&job) == ds_job_digest(&again));
    cr_expect(ds_job_digest(&job) == ds_job_digest(&steps));
    ds_job_release(&steps);
    parse(&steps, text, "train.steps=7");
    cr_expect(steps.train.steps == 7 && steps.schedule.steps == 7 && steps.train.epochs == 0.0);
    ds_buf_release(&out);
    ds_job_release(&job);
    ds_job_release(&again);
    ds_job_release(&steps);
}

Test(epochs, that_do_not_fit)
{
    struct ds_error err = {0};
    struct ds_job job;

    parse(&job, SMALL "schedule: {warmup: 11}\n", "train.epochs=1");
    cr_expect_eq(ds_job_settle_epochs(&job, 320, &err), -EINVAL);
    cr_expect_str_eq(err.text,
                     "job.yaml:14:20: 'schedule.warmup' must be at most 'train.steps' 10, "
                     "not 11, unless 'schedule.steps' is given");
    ds_job_release(&job);
    parse(&job, SMALL, "train.epochs=10");
    cr_expect_eq(ds_job_settle_epochs(&job, UINT64_C(3200000001), &err), -EINVAL);
    cr_expect_str_eq(err.text,
                     "override 'train.epochs=10': 'train.epochs' 10 of 3200000001 sequences, 32 "
                     "per update, are more than 1000000000 updates");
    ds_job_release(&job);
}
