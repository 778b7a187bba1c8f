/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_oracle.c - the ids of Hugging Face's tokenizers, for the parts of eleven families; and back.
 */
#include "tests/text/oracle.h"

#include "base/log.h"

Test(text_oracle, ids)
{
    json_t *cases = oracle_cases();

    for (size_t n = 0; n < ORACLE_NAMES; n++) {
        struct ds_tokenizer *tokenizer = oracle_load(oracle_names[n]);
        struct ds_encoder *encoder = NULL;

        cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
        for (int round = 0; round < 2; round++) /* the second time pieces are remembered */
            for (size_t i = 0; i < json_array_size(cases); i++) {
                const json_t *one = json_array_get(cases, i), *text = json_object_get(one, "text");
                const json_t *want = json_object_get(json_object_get(one, "ids"), oracle_names[n]);
                struct ds_ids ids =
                    oracle_encode(encoder, json_string_value(text), json_string_length(text));

                cr_expect(oracle_same(&ids, want), "%s: case %zu '%s': %zu ids, not %zu",
                          oracle_names[n], i, json_string_value(text), ids.count,
                          json_array_size(want));
                ds_ids_release(&ids);
            }
        ds_encoder_free(encoder);
        ds_tokenizer_free(tokenizer);
    }
    json_decref(cases);
}

/* What works on bytes keeps every byte, but where a normalizer or a pre-tokenizer changes text. */
Test(text_oracle, back)
{
    static const char *const names[] = {"gpt2",     "llama3",    "o200k",
                                        "deepseek", "starcoder", "llama2"};
    json_t *cases = oracle_cases();

    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
        struct ds_tokenizer *tokenizer = oracle_load(names[n]);
        struct ds_encoder *encoder = NULL;

        cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *text = json_object_get(json_array_get(cases, i), "text");
            const char *want = json_string_value(text);
            struct ds_ids ids;
            struct ds_buf out;

            /* The mark itself is a blank then, and blanks between added tokens are theirs. */
            if (strcmp(names[n], "llama2") == 0 &&
                (strstr(want, "\xe2\x96\x81") != NULL || strchr(want, '<') != NULL))
                continue;
            ids = oracle_encode(encoder, want, json_string_length(text));
            ds_buf_init(&out, 1 << 16);
            ds_decode(tokenizer, ids.id, ids.count, true, &out);
            cr_expect(out.len == json_string_length(text) &&
                          memcmp(ds_buf_text(&out), want, out.len) == 0,
                      "%s: case %zu '%s' is '%s'", names[n], i, want, ds_buf_text(&out));
            ds_buf_release(&out);
            ds_ids_release(&ids);
        }
        ds_encoder_free(encoder);
        ds_tokenizer_free(tokenizer);
    }
    json_decref(cases);
}
