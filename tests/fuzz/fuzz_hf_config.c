/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_hf_config.c - any bytes as a config.json of Hugging Face.
 *
 * Beyond "no crash": a refusal has a reason, and a shape that is taken is written and read back as
 * the same.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "runtime/ckpt/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_model_shape shape = {0}, again = {0};
    struct ds_error err = {0};
    struct ds_buf text;
    int rc = ds__hf_parse_config(data, size, &shape, &err);

    assert(rc == 0 || err.text[0] != '\0');
    if (rc != 0)
        return 0;
    assert(ds_model_check(&shape, NULL) == 0);
    ds_buf_init(&text, 1 << 16);
    rc = ds__hf_write_config(&shape, DS_F32, NULL, &text, &err);
    assert(rc == 0);
    rc = ds__hf_parse_config(text.data, text.len, &again, &err);
    assert(rc == 0);
    assert(again.arch == shape.arch && again.layers == shape.layers && again.heads == shape.heads);
    assert(again.kv_heads == shape.kv_heads && again.hidden == shape.hidden);
    assert(again.ffn == shape.ffn && again.vocab == shape.vocab && again.context == shape.context);
    assert(again.tie_embeddings == shape.tie_embeddings && again.norm_eps == shape.norm_eps);
    ds_buf_release(&text);
    return 0;
}
