/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * jobs.h - job texts and a stand-in for config.json, for the tests of the job room.
 */
#ifndef DS_TESTS_JOBS_H
#define DS_TESTS_JOBS_H

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/job.h"
#include "tests/job/small.h"

/* What ds_hf_read_config() of these tests says: the folder "hf" holds this, no other exists. */
static const struct ds_model_shape jobs_config = {
    .arch = DS_ARCH_LLAMA,
    .layers = 2,
    .hidden = 64,
    .heads = 4,
    .kv_heads = 2,
    .head_size = 16,
    .ffn = 96,
    .vocab = 113,
    .context = 32,
    .norm_eps = 1e-6,
    .rope_theta = 50000,
    .rope_scale = {.kind = DS_ROPE_PLAIN,
                   .factor = 1,
                   .low = 1,
                   .high = 4,
                   .original = 8192,
                   .slow = 1,
                   .fast = 32,
                   .attention = 1},
};

int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
{
    if (strcmp(dir, "hf") != 0)
        return ds_fail(err, ENOENT, "'%s/config.json' does not exist", dir);
    *shape = jobs_config;
    return 0;
}

/* Parse `text` as "job.yaml" with up to one override (NULL: none). */
static inline int jobs_parse(struct ds_job *job, const char *text, const char *override,
                             struct ds_error *err)
{
    ds_job_init(job);
    return ds_job_parse(job, "job.yaml", text, strlen(text), &override, override != NULL, err);
}

/* A job that cannot be, and the sentence that it ends with. */
struct jobs_wrong {
    const char *text, *override; /* override: or NULL */
    int code;
    const char *message;
};

static inline void jobs_expect_wrong(const struct jobs_wrong *wrong, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct ds_error err = {0};
        struct ds_job job;

        cr_expect_eq(jobs_parse(&job, wrong[i].text, wrong[i].override, &err), -wrong[i].code);
        cr_expect_str_eq(err.text, wrong[i].message);
        ds_job_release(&job);
    }
}

#endif
