/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_convert.c - any bytes as a configuration of DeepSpeed.
 *
 * Beyond "no crash": a refusal has a reason, and what comes out is YAML with keys of the job alone,
 * whatever names the configuration has.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "cli/convert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
{
    (void)shape;
    return ds_fail(err, ENOENT, "'%s' is not there", dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct ds_convert_args args = {
        .name = "config.json", .text = (const char *)data, .len = size, .ranks = size % 3};
    struct ds_error err = {0};
    struct ds_convert c;
    struct ds_buf job;
    int rc = ds_convert_init(&c, &args, &err);

    ds_buf_init(&job, 1 << 24);
    assert(rc == 0 || err.text[0] != '\0');
    if (rc == 0) {
        assert(ds_convert_write(&c, &job, &err) == 0);
        rc = ds_convert_try(&c, ds_buf_text(&job), job.len, &err);
        assert(rc == 0 || job.len > DS_MAX_YAML_BYTES || strstr(err.text, "unknown key") == NULL);
        assert(rc == 0 || job.len > DS_MAX_YAML_BYTES ||
               strstr(err.text, "not valid YAML") == NULL);
    }
    ds_convert_release(&c);
    ds_buf_release(&job);
    return 0;
}
