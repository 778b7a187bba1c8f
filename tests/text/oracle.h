/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * oracle.h - the tokenizers of tests/reference/tokenizers/, and what Hugging Face's tokenizers made of
 * the texts of its cases.json.
 */
#ifndef DS_TESTS_TEXT_ORACLE_H
#define DS_TESTS_TEXT_ORACLE_H

#include <criterion/criterion.h>

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "runtime/text/tokenizer.h"

#define ORACLE_FOLDER "tests/reference/tokenizers/"

static const char *const oracle_names[] = {"gpt2",    "prefix",   "llama3",    "qwen",
                                           "o200k",   "deepseek", "starcoder", "llama2",
                                           "mistral", "unknown",  "odd"};
enum { ORACLE_NAMES = sizeof(oracle_names) / sizeof(oracle_names[0]) };

static inline struct ds_tokenizer *oracle_load(const char *name)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};
    char path[200];

    (void)snprintf(path, sizeof(path), ORACLE_FOLDER "%s.json", name);
    cr_assert_eq(ds_tokenizer_load(&tokenizer, path, &err), 0, "%s", err.text);
    return tokenizer;
}

static inline json_t *oracle_cases(void)
{
    json_t *cases = json_load_file(ORACLE_FOLDER "cases.json", JSON_ALLOW_NUL, NULL);

    cr_assert(json_array_size(cases) > 50);
    return cases;
}

/* The ids of `text` in one piece; the caller releases them. */
static inline struct ds_ids oracle_encode(struct ds_encoder *encoder, const char *text, size_t len)
{
    struct ds_encode_args args = {.text = text, .len = len, .end = len};
    struct ds_ids ids = {0};
    struct ds_error err = {0};

    cr_assert_eq(ds_encode(encoder, &args, &ids, &err), 0, "%s", err.text);
    return ids;
}

/* Are they those of the case? */
static inline bool oracle_same(const struct ds_ids *ids, const json_t *want)
{
    bool same = ids->count == json_array_size(want);

    for (size_t i = 0; same && i < ids->count; i++)
        same = ids->id[i] == (uint32_t)json_integer_value(json_array_get(want, i));
    return same;
}

#endif
