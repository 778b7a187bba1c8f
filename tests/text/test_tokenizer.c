/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_tokenizer.c - a long piece, parts of a text, decoding, and what a tokenizer says of itself.
 */
#include "tests/text/oracle.h"

#include <errno.h>
#include <stdlib.h>

#include "runtime/text/size.h"

/* The texts of all cases, newlines between them: ids of the whole, and of parts. */
static char *all_texts(size_t *len)
{
    json_t *cases = oracle_cases();
    size_t i;
    json_t *one;
    struct ds_buf out;
    char *text;

    ds_buf_init(&out, 1 << 20);
    json_array_foreach(cases, i, one)
    {
        const json_t *from = json_object_get(one, "text");

        (void)ds_buf_put(&out, json_string_value(from), json_string_length(from));
        ds_buf_puts(&out, i % 3 == 0 ? "\n\n" : "\n");
    }
    ds_buf_puts(&out, "\n\xe4\xbd\xa0\xe5\xa5\xbd\nend");
    json_decref(cases);
    *len = out.len;
    text = malloc(out.len);
    memcpy(text, out.data, out.len);
    ds_buf_release(&out);
    return text;
}

/* Encode text[at ..) up to `end`, with `behind` bytes of what follows. */
static int part(struct ds_encoder *encoder, const char *text, size_t len, size_t at, size_t end,
                size_t behind, struct ds_ids *ids)
{
    size_t to = len - end < behind ? len : end + behind;
    struct ds_encode_args args = {.text = text + at, .end = end - at, .continued = at > 0};

    while (to < len && ((unsigned char)text[to] & 0xc0) == 0x80)
        to--;
    args.len = to - at;
    return ds_encode(encoder, &args, ids, NULL);
}

/* Wherever a tokenizer lets a text be cut, the ids are those of the whole. */
Test(text_tokenizer, parts)
{
    size_t len;
    char *text = all_texts(&len);

    for (size_t n = 0; n < ORACLE_NAMES; n++) {
        struct ds_tokenizer *tokenizer = oracle_load(oracle_names[n]);
        struct ds_encoder *encoder = NULL;
        struct ds_ids whole, ids = {0};
        size_t cuts = 0, refused = 0;

        cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
        whole = oracle_encode(encoder, text, len);
        for (size_t end = 1; ds_tokenizer_cuts(tokenizer) && end < len; end++) {
            int rc;

            if (ds_tokenizer_cut(text, len, end) != end)
                continue;
            ids.count = 0;
            rc = part(encoder, text, len, 0, end, 40, &ids);
            cr_assert(rc == 0 || rc == -EAGAIN);
            refused += rc != 0;
            if (rc != 0)
                continue;
            cuts++;
            cr_assert_eq(part(encoder, text, len, end, len, 0, &ids), 0);
            cr_assert_eq(ids.count, whole.count, "%s: cut at %zu: %zu ids, not %zu",
                         oracle_names[n], end, ids.count, whole.count);
            cr_assert_eq(memcmp(ids.id, whole.id, ids.count * sizeof(*ids.id)), 0, "%s: cut at %zu",
                         oracle_names[n], end);
        }
        if (ds_tokenizer_cuts(tokenizer) &&
            strcmp(oracle_names[n], "starcoder") != 0) /* \\s*\\w+ */
            cr_assert(cuts > 30 && refused * 4 < cuts, "%s: %zu cuts, %zu refused", oracle_names[n],
                      cuts, refused);
        ds_ids_release(&whole);
        ds_ids_release(&ids);
        ds_encoder_free(encoder);
        ds_tokenizer_free(tokenizer);
    }
    free(text);
}

Test(text_tokenizer, cuts)
{
    static const struct {
        const char *name;
        bool cuts;
    } cases[] = {{"gpt2", true},     {"prefix", true},  {"llama3", true}, {"qwen", true},
                 {"deepseek", true}, {"mistral", true}, {"llama2", true}, {"odd", false},
                 {"unknown", false}}; /* <l> takes white space, <r> after a normalizer */

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_tokenizer *tokenizer = oracle_load(cases[i].name);

        cr_expect_eq(ds_tokenizer_cuts(tokenizer), cases[i].cuts, "%s", cases[i].name);
        ds_tokenizer_free(tokenizer);
    }
    cr_expect_eq(ds_tokenizer_cut("ab\ncd\n e", 9, 8), 3);
    cr_expect_eq(ds_tokenizer_cut("ab\n\xe3\x80\x80x", 7, 6), 0, "an ideographic space");
    cr_expect_eq(ds_tokenizer_cut("ab\n\xe4\xbd\xa0", 6, 5), 3);
    cr_expect_eq(ds_tokenizer_cut("ab\n\xe4\xbd", 5, 4), 0, "a character that is cut");
    cr_expect_eq(ds_tokenizer_cut("abc", 3, 2), 0);
}

/* A piece of half a million characters takes no more than a moment, and is right. */
Test(text_tokenizer, long_piece)
{
    enum { LONG = 500 * 1000 };
    struct ds_tokenizer *tokenizer = oracle_load("gpt2");
    struct ds_encoder *encoder = NULL;
    char *text = malloc(LONG);
    struct ds_ids once, ids;
    struct ds_buf out;

    cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
    for (size_t i = 0; i < LONG; i++)
        text[i] = "thequickbrownfoxjumpsoverthelazydog"[i * i % 35];
    ids = oracle_encode(encoder, text, LONG);
    once = oracle_encode(encoder, text, LONG / 2);
    ds_buf_init(&out, LONG + 1);
    ds_decode(tokenizer, ids.id, ids.count, true, &out);
    cr_assert(out.len == LONG && memcmp(out.data, text, LONG) == 0);
    cr_assert(ids.count > once.count && ids.count < LONG);
    ds_buf_release(&out);
    ds_ids_release(&ids);
    ds_ids_release(&once);
    ds_encoder_free(encoder);
    ds_tokenizer_free(tokenizer);
    free(text);
}

Test(text_tokenizer, piece_too_long)
{
    enum { LONG = 16 * 1024 * 1024 + 1 };
    struct ds_tokenizer *tokenizer = oracle_load("gpt2");
    struct ds_encoder *encoder = NULL;
    char *text = malloc(LONG);
    struct ds_encode_args args = {.text = text, .len = LONG, .end = LONG};
    struct ds_ids ids = {0};
    struct ds_error err = {0};

    memset(text, 'a', LONG);
    cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
    cr_assert_eq(ds_encode(encoder, &args, &ids, &err), -EOVERFLOW);
    cr_assert(strstr(err.text, "16777217 bytes of text without a place to divide them") != NULL,
              "%s", err.text);
    ds_ids_release(&ids);
    ds_encoder_free(encoder);
    ds_tokenizer_free(tokenizer);
    free(text);
}

/* The size alone, and which token ends a document, as one who reads a job asks for them. */
Test(text_tokenizer, size)
{
    for (size_t n = 0; n < ORACLE_NAMES; n++) {
        struct ds_tokenizer *tokenizer = oracle_load(oracle_names[n]);
        struct ds_error err = {0};
        uint64_t size = 0;
        char path[200];
        int rc;

        (void)snprintf(path, sizeof(path), ORACLE_FOLDER "%s.json", oracle_names[n]);
        cr_expect_eq(ds_text_size(path, &size, &err), 0, "%s", err.text);
        cr_expect_eq(size, ds_tokenizer_size(tokenizer), "%s", oracle_names[n]);
        rc = ds_text_separator(path, &size, &err);
        cr_expect_eq(rc == 0, ds_tokenizer_separator(tokenizer) != DS_NO_TOKEN, "%s", path);
        cr_expect(rc != 0 || size == ds_tokenizer_separator(tokenizer), "%s", oracle_names[n]);
        ds_tokenizer_free(tokenizer);
    }
}

Test(text_tokenizer, tells)
{
    struct ds_tokenizer *tokenizer = oracle_load("llama3");
    size_t len = 0;
    uint32_t id = ds_tokenizer_find(tokenizer, "<|end_of_text|>");

    cr_assert_eq(ds_tokenizer_size(tokenizer), 703);
    cr_assert_eq(id, 701);
    cr_assert_eq(ds_tokenizer_separator(tokenizer), id);
    cr_assert_eq(ds_tokenizer_begin(tokenizer), ds_tokenizer_find(tokenizer, "<|begin_of_text|>"));
    cr_assert_neq(ds_tokenizer_begin(tokenizer), id);
    cr_assert_eq(ds_tokenizer_pad(tokenizer), DS_NO_TOKEN);
    cr_assert_str_eq(ds_tokenizer_text(tokenizer, 702, &len) != NULL && len == 10 ? "<|eot_id|>"
                                                                                  : "",
                     "<|eot_id|>");
    cr_assert_null(ds_tokenizer_text(tokenizer, 703, &len));
    cr_assert_eq(ds_tokenizer_find(tokenizer, "no such token"), DS_NO_TOKEN);
    ds_tokenizer_free(tokenizer);
}

/* Characters for which there is no token are counted; those that have one, or an unknown one, are not. */
Test(text_tokenizer, dropped)
{
    static const char text[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_encoder *encoder = NULL;
    struct ds_ids ids;

    cr_assert_eq(ds_tokenizer_parse(&tokenizer, text, sizeof(text) - 1, NULL), 0);
    cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
    ids = oracle_encode(encoder, "ab c\xc3\xa9 a", 8);
    cr_assert(ids.count == 2 && ids.id[0] == 2 && ids.id[1] == 0);
    cr_assert_eq(ds_encoder_dropped(encoder), 4);
    ds_ids_release(&ids);
    ds_encoder_free(encoder);
    ds_tokenizer_free(tokenizer);
}

/* A byte that is no token's is passed over, and ids beyond the last add nothing. */
Test(text_tokenizer, decode)
{
    static const uint32_t ids[] = {72, 5000000, DS_NO_TOKEN};
    struct ds_tokenizer *tokenizer = oracle_load("llama2");
    uint32_t some[3];
    struct ds_buf out;

    ds_buf_init(&out, 100);
    ds_decode(tokenizer, ids + 1, 2, false, &out);
    cr_assert_eq(out.len, 0);
    some[0] = ds_tokenizer_find(tokenizer, "\xe2\x96\x81");
    some[1] = ds_tokenizer_find(tokenizer, "<0xC3>");
    some[2] = ds_tokenizer_find(tokenizer, "</s>");
    cr_assert(some[0] != DS_NO_TOKEN && some[1] != DS_NO_TOKEN);
    ds_decode(tokenizer, some, 3, true, &out);
    cr_assert_str_eq(ds_buf_text(&out), "\xc3</s>");
    ds_buf_reset(&out);
    ds_decode(tokenizer, some, 2, false, &out);
    cr_assert_str_eq(ds_buf_text(&out), " \xc3");
    ds_buf_release(&out);
    ds_tokenizer_free(tokenizer);
}
