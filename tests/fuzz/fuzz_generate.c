/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_generate.c - any bytes as what a worker is asked to generate, and as an event of one.
 *
 * Beyond "no crash": a refusal has a reason, numbers are within their bounds, and what is accepted
 * is written and read back as the same.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "runtime/generate/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_event(const uint8_t *data)
{
    unsigned char bytes[DS_GENERATE_EVENT_BYTES];
    struct ds_generate_event event;
    struct ds_error err = {0};

    if (ds_generate_event_read(&event, data, &err) != 0) {
        assert(err.text[0] != '\0');
        return;
    }
    ds_generate_event_write(event, bytes);
    assert(memcmp(bytes, data, sizeof(bytes)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ds_generate_request request, again; /* too large for a stack */
    struct ds_error err = {0};
    struct ds_buf out;

    if (size >= DS_GENERATE_EVENT_BYTES)
        read_event(data);
    if (ds_generate_request_parse(&request, (const char *)data, size, &err) != 0) {
        assert(err.text[0] != '\0' && request.prompt == NULL);
        return 0;
    }
    assert(request.count >= 1 && request.count <= DS_MAX_SAMPLES && request.max_tokens >= 1);
    assert(request.top_p > 0.0 && request.top_p <= 1.0 && request.temperature >= 0.0);
    assert(request.prompts >= 1 && request.prompts <= size / 2);
    ds_buf_init(&out, 2 * size + 4096);
    assert(ds_generate_request_write(&request, &out, &err) == 0);
    assert(ds_generate_request_parse(&again, out.data, out.len, &err) == 0);
    assert(again.prompts == request.prompts);
    for (size_t i = 0; i < again.prompts; i++) {
        const struct ds_generate_prompt *one = &again.prompt[i], *other = &request.prompt[i];

        assert(one->count >= 1 && one->count == other->count);
        assert(memcmp(one->ids, other->ids, one->count * sizeof(*one->ids)) == 0);
    }
    ds_generate_request_release(&again);
    ds_generate_request_release(&request);
    assert(strcmp(again.ckpt, request.ckpt) == 0 && again.seed == request.seed);
    assert(again.temperature == request.temperature && again.top_p == request.top_p);
    ds_buf_release(&out);
    return 0;
}
