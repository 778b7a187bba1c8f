/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_memory.c - every allocation of reading and writing a job fails once.
 */
#include <criterion/criterion.h>

#include "tests/faults.h"
#include "tests/job/jobs.h"

static const char text[] = SMALL "seed: 5\n"
                                 "optim: {betas: [0.8, 0.9]}\n"
                                 "launch: {env: {A: b, C: d}}\n"
                                 "log: {sinks: [jsonl]}\n";

/* Read and write; the same work in every round. */
static int round_trip(struct ds_error *err)
{
    static const char *const words[] = {"data.valid=[a, b]", "run_dir=\"x y\"", "log.every=2"};
    struct ds_buf out;
    struct ds_job job;
    int rc;

    ds_buf_init(&out, DS_MAX_YAML_BYTES);
    ds_job_init(&job);
    rc = ds_job_parse(&job, "job.yaml", text, sizeof(text) - 1, words, 3, err);
    if (rc == 0)
        rc = ds_job_write(&job, &out, err);
    if (rc == 0 && ds_job_digest(&job) == 0)
        rc = -ENOMEM;
    ds_job_release(&job);
    ds_buf_release(&out);
    return rc;
}

Test(memory, running_out_is_an_error_and_loses_nothing)
{
    struct faults_round r = {0};

    faults_kinds = FAULT_MEMORY;
    while (faults_round(&r, ENOMEM, round_trip)) {
        cr_expect(r.rc == (r.hit ? -ENOMEM : 0), "round %u: %d %s", r.n, r.rc, r.err.text);
    }
    cr_expect(r.hits > 3, "there is something to fail");
}
