/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_refused.c - every part of a tokenizer.json that is not done or not right is refused by name.
 */
#include "tests/text/oracle.h"

#include <errno.h>

/* A whole file, with one key of it replaced. */
#define MODEL                                                                                      \
    "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<u>\":3},\"merges\":[\"a b\"]}"

static const struct {
    const char *key, *value;
    int code;
    const char *says;
} cases[] = {
    {"model", "{\"type\":\"Unigram\"}", ENOTSUP,
     "a model of type 'Unigram' is not supported, only 'BPE'"},
    {"model", "{\"type\":\"WordPiece\"}", ENOTSUP, "a model of type 'WordPiece' is not supported"},
    {"model", "null", ENOTSUP, "a model of type ''"},
    {"model", "{\"type\":\"BPE\"}", EBADMSG, "'vocab' or 'merges' is missing"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}", EBADMSG, "the vocabulary is empty"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}", EBADMSG,
     "the id of token 'a' is not a number"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}", EBADMSG,
     "token 'a' has id -1"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":16000000},\"merges\":[]}", EBADMSG,
     "token 'a' has id 16000000, which 1 tokens do not need"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}", EBADMSG,
     "two tokens have id 1"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"\":1},\"merges\":[]}", EBADMSG,
     "token 1 has 0 bytes"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}", EBADMSG,
     "duplicate object key"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}", EBADMSG,
     "merge 0, 'a' and 'b', is of or makes a token"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}", EBADMSG,
     "merge 0 is not of two tokens"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}", EBADMSG,
     "merge 0 is not of two tokens"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}", EBADMSG,
     "merge 0 is not of two tokens"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}", EBADMSG,
     "merge 0 is not of two tokens"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}", ENOTSUP,
     "model: 'dropout' is not supported"},
    {"model",
     "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}",
     ENOTSUP, "model: 'end_of_word_suffix' is not supported"},
    {"model",
     "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\"}",
     ENOTSUP, "'continuing_subword_prefix'"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"<unk>\"}",
     EBADMSG, "the 'unk_token' is not in the vocabulary"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"fuse_unk\":3}", EBADMSG,
     "'fuse_unk' is neither true nor false"},
    {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"novel\":1}", ENOTSUP,
     "key 'novel' of the model is not supported"},
    {"normalizer", "{\"type\":\"NFKC\"}", ENOTSUP,
     "normalizer 'NFKC' is not supported, only Sequence, Prepend, Replace and NFC"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}", ENOTSUP,
     "normalizer Sequence: normalizer 'Lowercase' is not supported"},
    {"normalizer", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" +\"},\"content\":\"_\"}",
     ENOTSUP, "normalizer Replace: only a 'String'"},
    {"normalizer", "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"_\"}",
     ENOTSUP, "only a 'String' of 1 to"},
    {"normalizer", "{\"type\":\"Prepend\"}", EBADMSG, "'prepend' is missing"},
    {"normalizer", "{}", EBADMSG, "a normalizer has no 'type'"},
    {"pre_tokenizer", "{\"type\":\"Whitespace\"}", ENOTSUP,
     "pre-tokenizer 'Whitespace' is not supported, only Sequence, ByteLevel, Split, Digits and "
     "Metaspace"},
    {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Torn\"}",
     EBADMSG, "'behavior' is 'Torn', which is none"},
    {"pre_tokenizer", "{\"type\":\"Split\",\"behavior\":\"Removed\"}", EBADMSG,
     "'pattern' is neither"},
    {"pre_tokenizer",
     "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a*\"},\"behavior\":\"Removed\"}", ENOTSUP,
     "pre-tokenizer Split: pattern 'a*': it can match nothing"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}",
     ENOTSUP, "Digits: it is not supported after ByteLevel"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":\"Metaspace\","
     "\"replacement\":\"_\"}]}",
     ENOTSUP, "Metaspace: it is supported where it comes first only"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":\"ByteLevel\","
     "\"add_prefix_space\":true}]}",
     ENOTSUP, "'add_prefix_space' is supported where it comes first only"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Sequence\",\"pretokenizers\":[]}]}",
     ENOTSUP, "pre-tokenizer 'Sequence' is not supported"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"often\"}",
     EBADMSG, "'prepend_scheme' is none"},
    {"pre_tokenizer",
     "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false,\"prepend_scheme\":"
     "\"always\"}",
     EBADMSG, "says other than"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_____\"}", ENOTSUP,
     "'replacement' is longer than 4 bytes"},
    {"decoder", "{\"type\":\"WordPiece\"}", ENOTSUP, "decoder 'WordPiece' is not supported"},
    {"decoder", "{\"type\":\"Strip\",\"content\":\" \",\"start\":2,\"stop\":0}", ENOTSUP,
     "only 'start' 1 and 'stop' 0"},
    {"post_processor", "{\"type\":\"Novel\"}", ENOTSUP, "post-processor 'Novel' is not known"},
    {"post_processor", "5", ENOTSUP, "post-processor '' is not known"},
    {"truncation", "{\"max_length\":512}", ENOTSUP,
     "'truncation' is not supported; set it to null"},
    {"padding", "{\"pad_id\":0}", ENOTSUP, "'padding' is not supported"},
    {"", "1", ENOTSUP, "key '' of the tokenizer is not supported"},
    {"novel", "1", ENOTSUP, "key 'novel' of the tokenizer is not supported"},
    {"added_tokens", "[{\"id\":9,\"content\":\"<e>\"}]", EBADMSG,
     "added token '<e>' has id 9 and should have 4"},
    {"added_tokens", "[{\"id\":1,\"content\":\"a\"}]", EBADMSG,
     "added token 'a' has id 1 and should have 0"},
    {"added_tokens", "[{\"id\":4,\"content\":\"\"}]", EBADMSG, "token 4 has 0 bytes"},
    {"added_tokens", "[{\"id\":4}]", EBADMSG, "an added token has no 'content'"},
    {"added_tokens", "[5]", EBADMSG, "an added token is not an object"},
    {"added_tokens", "[{\"id\":0,\"content\":\"a\"},{\"id\":0,\"content\":\"a\"}]", EBADMSG,
     "added token 'a' is there twice"},
    {"added_tokens", "[{\"id\":4,\"content\":\"x\",\"lstrip\":1}]", EBADMSG,
     "added token 'x': 'lstrip' is neither true nor false"},
};

Test(text_refused, by_name)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_tokenizer *tokenizer = NULL;
        struct ds_error err = {0};
        char text[2000];
        int rc;

        if (strcmp(cases[i].key, "model") == 0)
            (void)snprintf(text, sizeof(text), "{\"model\":%s}", cases[i].value);
        else
            (void)snprintf(text, sizeof(text), "{\"model\":" MODEL ",\"%s\":%s}", cases[i].key,
                           cases[i].value);
        rc = ds_tokenizer_parse(&tokenizer, text, strlen(text), &err);
        cr_expect_eq(rc, -cases[i].code, "%s: %d %s", text, rc, err.text);
        cr_expect_null(tokenizer);
        cr_expect(strstr(err.text, cases[i].says) != NULL, "%s: %s", text, err.text);
        ds_tokenizer_free(tokenizer);
    }
}

/* What is known and off is no reason to refuse. */
Test(text_refused, not_what_is_off)
{
    static const char text[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
        "\"normalizer\":null,"
        "\"pre_tokenizer\":null,\"decoder\":null,\"post_processor\":{\"type\":"
        "\"TemplateProcessing\"},"
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_"
        "prefix\":\"\","
        "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":"
        "false,"
        "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"#version: 0.2\",\"a b\"]}}";
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};

    cr_assert_eq(ds_tokenizer_parse(&tokenizer, text, sizeof(text) - 1, &err), 0, "%s", err.text);
    cr_assert_eq(ds_tokenizer_size(tokenizer), 3);
    cr_assert_eq(ds_tokenizer_separator(tokenizer), DS_NO_TOKEN);
    cr_assert_eq(ds_tokenizer_begin(tokenizer), DS_NO_TOKEN);
    ds_tokenizer_free(tokenizer);
}

Test(text_refused, files)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};

    cr_assert_eq(ds_tokenizer_load(&tokenizer, "/nonexistent/tokenizer.json", &err), -ENOENT);
    cr_assert_eq(ds_tokenizer_load(&tokenizer, ORACLE_FOLDER "cases.json", &err), -EBADMSG);
    cr_assert(strstr(err.text, "tokenizer '" ORACLE_FOLDER "cases.json': ") != NULL, "%s",
              err.text);
    cr_assert_null(tokenizer);
}
