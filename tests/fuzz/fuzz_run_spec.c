/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_run_spec.c - any bytes as what a worker is told to run.
 *
 * Beyond "no crash": a refusal has a reason, the job lies inside the text, and what is accepted is
 * written and read back as the same.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "runtime/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ds_run_spec spec, again; /* too large for a stack */
    const char *text = (const char *)data;
    struct ds_error err = {0};
    struct ds_buf out;

    if (ds_run_spec_parse(&spec, text, size, &err) != 0) {
        assert(err.text[0] != '\0');
        return 0;
    }
    assert(spec.job_text >= text && spec.job_bytes <= size - (size_t)(spec.job_text - text));
    assert(spec.trials <= DS_MAX_TRIALS);
    ds_buf_init(&out, 2 * size + 4096);
    assert(ds_run_spec_write(&spec, &out, &err) == 0);
    assert(ds_run_spec_parse(&again, out.data, out.len, &err) == 0);
    assert(strcmp(again.run_dir, spec.run_dir) == 0 && strcmp(again.cwd, spec.cwd) == 0);
    assert(again.attempt == spec.attempt && again.trials == spec.trials);
    assert(again.job_bytes == spec.job_bytes);
    assert(memcmp(again.job_text, spec.job_text, spec.job_bytes) == 0);
    ds_buf_release(&out);
    return 0;
}
