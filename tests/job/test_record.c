/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_record.c - job.yaml of a run directory: what in it was given, and what only followed.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/job/jobs.h"

static void parse(struct ds_job *job, const char *text, const char *override)
{
    struct ds_error err = {0};

    cr_assert_eq(jobs_parse(job, text, override, &err), 0, "%s", err.text);
}

/* The record of a job is an equal job, and given another key it is what the job would have been. */
Test(record, job_takes_another_key)
{
    static const char *const table[][2] = {
        {"seed=2", "train.steps=5000"},
        {"schedule.steps=77", "train.steps=5000"},
        {"schedule.kind=one_cycle", "optim.lr=0.5"},
        {"schedule.kind=wsd", "train.steps=5000"},
        {"seed=2", "optim.name=muon"},
        {"optim.name=lamb", "optim.name=sgd"},
        {"optim.weight_decay=0.5", "optim.name=adam"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_job first, again, other, want;
        struct ds_error err = {0};
        struct ds_buf record;

        parse(&first, SMALL, table[i][0]);
        ds_buf_init(&record, DS_MAX_YAML_BYTES);
        cr_assert(ds_job_record(&first, &record, &err) == 0, "%s", err.text);
        parse(&again, ds_buf_text(&record), NULL);
        cr_expect(ds_job_digest(&again) == ds_job_digest(&first), "case %zu", i);
        parse(&other, ds_buf_text(&record), table[i][1]);
        ds_job_init(&want);
        cr_assert(ds_job_parse(&want, "job.yaml", SMALL, strlen(SMALL), table[i], 2, &err) == 0,
                  "%s", err.text);
        cr_expect(ds_job_digest(&other) == ds_job_digest(&want), "case %zu", i);
        ds_buf_release(&record);
        ds_job_release(&first);
        ds_job_release(&again);
        ds_job_release(&other);
        ds_job_release(&want);
    }
}
