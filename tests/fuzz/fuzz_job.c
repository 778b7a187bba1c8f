/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_job.c - any bytes as a job file, and as an override of a good one.
 *
 * A job that is taken must be written and read back as the same job.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "runtime/job.h"
#include "tests/job/small.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* config.json without a file: the folder "hf" exists. */
int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
{
    if (strcmp(dir, "hf") != 0)
        return ds_fail(err, ENOENT, "'%s' does not exist", dir);
    *shape = (struct ds_model_shape){.arch = DS_ARCH_LLAMA,
                                     .layers = 2,
                                     .hidden = 64,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .head_size = 16,
                                     .ffn = 96,
                                     .vocab = 300,
                                     .context = 32,
                                     .norm_eps = 1e-6,
                                     .rope_theta = 10000,
                                     .rope_scale = {.factor = 1,
                                                    .low = 1,
                                                    .high = 4,
                                                    .original = 8192,
                                                    .slow = 1,
                                                    .fast = 32,
                                                    .attention = 1}};
    return 0;
}

static void check_round_trip(const struct ds_job *job)
{
    struct ds_error err = {0};
    struct ds_buf first, second;
    struct ds_job again;
    int rc;

    ds_buf_init(&first, 4 * DS_MAX_YAML_BYTES);
    ds_buf_init(&second, 4 * DS_MAX_YAML_BYTES);
    rc = ds_job_write(job, &first, &err);
    assert(rc == 0);
    ds_job_init(&again);
    if (first.len <= DS_MAX_YAML_BYTES) { /* escapes may make it larger than what was read */
        rc = ds_job_parse(&again, "again", ds_buf_text(&first), first.len, NULL, 0, &err);
        assert(rc == 0);
        rc = ds_job_write(&again, &second, &err);
        assert(rc == 0 && strcmp(ds_buf_text(&first), ds_buf_text(&second)) == 0);
        assert(ds_job_digest(job) == ds_job_digest(&again));
    }
    ds_job_release(&again);
    ds_buf_release(&first);
    ds_buf_release(&second);
}

static void try_job(const char *text, size_t len, const char *override)
{
    struct ds_error err = {0};
    struct ds_job job;
    int rc;

    ds_job_init(&job);
    rc = ds_job_parse(&job, "job.yaml", text, len, &override, override != NULL, &err);
    assert(rc == 0 || err.text[0] != '\0');
    if (rc == 0 && job.train.steps == 0) {
        rc = ds_job_settle_epochs(&job, 1 + len, &err);
        assert(rc == 0 || err.text[0] != '\0');
    }
    if (rc == 0) {
        check_round_trip(&job);
        rc = ds_job_check_world(&job, 3, &err);
        assert(rc == 0 || err.text[0] != '\0');
    }
    ds_job_release(&job);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char word[256];

    try_job((const char *)data, size, NULL);
    if (size < sizeof(word)) {
        memcpy(word, data, size);
        word[size] = '\0';
        try_job(SMALL, strlen(SMALL), word);
    }
    return 0;
}
