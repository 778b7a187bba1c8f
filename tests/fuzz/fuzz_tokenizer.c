/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_tokenizer.c - any bytes as a tokenizer.json.
 *
 * A refusal has a reason; what is taken encodes a text with ids below its size.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "runtime/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] =
    "One 2 three,\n\n  f\xc3\xa9w  <l> \xe4\xbd\xa0 <|end|> \xf0\x9f\x98\x80 don't\n";

static void use(const struct ds_tokenizer *tokenizer)
{
    struct ds_encode_args args = {.text = text, .len = sizeof(text) - 1, .end = sizeof(text) - 1};
    struct ds_encoder *encoder;
    struct ds_error err = {0};
    struct ds_ids ids = {0};
    struct ds_buf out;
    int rc = ds_encoder_new(&encoder, tokenizer, NULL);

    assert(rc == 0);
    rc = ds_encode(encoder, &args, &ids, &err);
    assert(rc == 0 || err.text[0] != '\0');
    for (size_t i = 0; i < ids.count; i++)
        assert(ids.id[i] < ds_tokenizer_size(tokenizer));
    ds_buf_init(&out, 1 << 20);
    ds_decode(tokenizer, ids.id, ids.count, true, &out);
    ds_buf_release(&out);
    (void)ds_tokenizer_separator(tokenizer);
    ds_ids_release(&ids);
    ds_encoder_free(encoder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};
    int rc = ds_tokenizer_parse(&tokenizer, data, size, &err);

    assert(rc == 0 || err.text[0] != '\0');
    assert((tokenizer != NULL) == (rc == 0));
    if (rc == 0)
        use(tokenizer);
    ds_tokenizer_free(tokenizer);
    return 0;
}
