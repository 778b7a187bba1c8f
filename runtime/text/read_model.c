/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * read_model.c - the model of a tokenizer.json, and its added tokens.
 *
 * An added token that is in the model's vocabulary has its id there; the others are numbered on
 * from the number of the model's tokens, and a file that says otherwise is refused: Hugging Face's
 * tokenizers would not give it the id that it says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/parts.h"

/* --- the vocabulary -------------------------------------------------------------------------- */

static int refuse_id(const char *text, json_int_t id, size_t count, struct ds_error *err)
{
    return ds_fail(err, EBADMSG,
                   "token '%.100s' has id %" JSON_INTEGER_FORMAT ", which %zu tokens do not need",
                   text, id, count);
}

/* Ids may have holes, but memory is not taken for a stranger's number. */
static int count_ids(const json_t *tokens, const json_t *added, uint32_t *size,
                     struct ds_error *err)
{
    size_t count = json_object_size(tokens) + json_array_size(added), i;
    json_int_t most = 4 * (json_int_t)count + 1024, largest = -1;
    const char *text;
    const json_t *id;

    if (most > DS_MAX_VOCAB)
        most = DS_MAX_VOCAB;
    json_object_foreach((json_t *)(uintptr_t)tokens, text, id)
    {
        if (!json_is_integer(id))
            return ds_fail(err, EBADMSG, "the id of token '%.100s' is not a number", text);
        if (json_integer_value(id) < 0 || json_integer_value(id) >= most)
            return refuse_id(text, json_integer_value(id), count, err);
        if (json_integer_value(id) > largest)
            largest = json_integer_value(id);
    }
    json_array_foreach(added, i, id)
    {
        json_int_t value = json_integer_value(json_object_get(id, "id"));

        if (value < 0 || value >= most)
            return refuse_id("(added)", value, count, err);
        if (value > largest)
            largest = value;
    }
    if (largest < 0)
        return ds_fail(err, EBADMSG, "the vocabulary is empty");
    *size = (uint32_t)(largest + 1);
    return 0;
}

static int add_tokens(struct ds_tokenizer *t, const json_t *tokens, struct ds_error *err)
{
    const char *text;
    const json_t *id;
    int rc = 0;

    json_object_foreach((json_t *)(uintptr_t)tokens, text, id)
    {
        rc = ds_vocab_add(&t->vocab, text, strlen(text), (uint32_t)json_integer_value(id), err);
        if (rc != 0)
            break;
    }
    return rc;
}

/* --- merges ---------------------------------------------------------------------------------- */

/* "a b", or ["a", "b"]. */
static int read_pair(const json_t *merge, const char **left, size_t *left_len, const char **right,
                     size_t *right_len)
{
    const char *text = json_string_value(merge), *space;

    if (json_is_array(merge) && json_array_size(merge) == 2) {
        *left = json_string_value(json_array_get(merge, 0));
        *right = json_string_value(json_array_get(merge, 1));
        if (*left == NULL || *right == NULL)
            return -EBADMSG;
        *left_len = strlen(*left);
        *right_len = strlen(*right);
        return 0;
    }
    space = text == NULL ? NULL : strchr(text, ' ');
    if (space == NULL || strchr(space + 1, ' ') != NULL)
        return -EBADMSG;
    *left = text;
    *left_len = (size_t)(space - text);
    *right = space + 1;
    *right_len = strlen(*right);
    return 0;
}

static int add_merge(struct ds_tokenizer *t, const json_t *merge, size_t number,
                     struct ds_error *err)
{
    char both[2 * DS_MAX_TOKEN_BYTES];
    const char *left, *right;
    size_t left_len, right_len;
    uint32_t a, b, id;

    if (read_pair(merge, &left, &left_len, &right, &right_len) != 0)
        return ds_fail(err, EBADMSG, "merge %zu is not of two tokens", number);
    if (left_len > DS_MAX_TOKEN_BYTES || right_len > DS_MAX_TOKEN_BYTES)
        return ds_fail(err, EBADMSG, "merge %zu is of tokens that are too long", number);
    memcpy(both, left, left_len);
    memcpy(both + left_len, right, right_len);
    a = ds_vocab_find(&t->vocab, left, left_len);
    b = ds_vocab_find(&t->vocab, right, right_len);
    id = ds_vocab_find(&t->vocab, both, left_len + right_len);
    if (a == DS_NO_TOKEN || b == DS_NO_TOKEN || id == DS_NO_TOKEN)
        return ds_fail(err, EBADMSG,
                       "merge %zu, '%.*s' and '%.100s', is of or makes a token that is not in the "
                       "vocabulary",
                       number, (int)(left_len < 100 ? left_len : 100), left, right);
    ds_vocab_add_merge(&t->vocab, a, b, (uint32_t)number, id);
    return 0;
}

static int add_merges(struct ds_tokenizer *t, const json_t *merges, struct ds_error *err)
{
    size_t i, number = 0;
    const json_t *merge;
    int rc = 0;

    json_array_foreach(merges, i, merge)
    {
        const char *text = json_string_value(merge);

        if (text != NULL && strncmp(text, "#version", 8) == 0)
            continue;
        rc = add_merge(t, merge, number++, err);
        if (rc != 0)
            break;
    }
    return rc;
}

/* --- the model ------------------------------------------------------------------------------- */

/* What would change the ids and is not done must be off. */
static int check_off(const json_t *model, struct ds_error *err)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = json_object_get(model, "dropout");

    if (dropout != NULL && !json_is_null(dropout) && json_number_value(dropout) != 0.0)
        return ds_fail(err, ENOTSUP, "model: 'dropout' is not supported; set it to null");
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);

        if (affix != NULL && !json_is_null(affix) &&
            !(json_is_string(affix) && json_string_length(affix) == 0))
            return ds_fail(err, ENOTSUP, "model: '%s' is not supported", affixes[i]);
    }
    return 0;
}

static int read_unk(struct ds_tokenizer *t, const json_t *model, struct ds_error *err)
{
    const json_t *unk = json_object_get(model, "unk_token");

    t->unk = DS_NO_TOKEN;
    if (unk == NULL || json_is_null(unk))
        return 0;
    if (json_is_string(unk))
        t->unk = ds_vocab_find(&t->vocab, json_string_value(unk), json_string_length(unk));
    return t->unk != DS_NO_TOKEN
               ? 0
               : ds_fail(err, EBADMSG, "model: the 'unk_token' is not in the vocabulary");
}

static int read_switches(struct ds_tokenizer *t, const json_t *model, struct ds_error *err)
{
    int rc = ds__read_bool(model, "byte_fallback", false, &t->byte_fallback, err);

    if (rc == 0)
        rc = ds__read_bool(model, "fuse_unk", false, &t->fuse_unk, err);
    if (rc == 0)
        rc = ds__read_bool(model, "ignore_merges", false, &t->ignore_merges, err);
    return rc == 0 ? read_unk(t, model, err) : rc;
}

/* --- added tokens ---------------------------------------------------------------------------- */

/* `next` is the id of one that is not in the model's vocabulary. */
static int read_added(struct ds_tokenizer *t, const json_t *from, uint32_t *next,
                      struct ds_error *err)
{
    const json_t *content = json_object_get(from, "content");
    struct ds_added token = {0};
    bool normalized, special;
    uint32_t there;
    int rc = ds__read_only(from, "an added token",
                           "id content single_word lstrip rstrip normalized special", err);

    if (rc != 0)
        return rc;
    if (!json_is_string(content) || !json_is_integer(json_object_get(from, "id")))
        return ds_fail(err, EBADMSG, "an added token has no 'content' or no 'id'");
    token.text = (char *)(uintptr_t)json_string_value(content);
    token.len = json_string_length(content);
    token.id = (uint32_t)json_integer_value(json_object_get(from, "id"));
    if ((rc = ds__read_bool(from, "single_word", false, &token.single_word, err)) != 0 ||
        (rc = ds__read_bool(from, "lstrip", false, &token.lstrip, err)) != 0 ||
        (rc = ds__read_bool(from, "rstrip", false, &token.rstrip, err)) != 0 ||
        (rc = ds__read_bool(from, "special", false, &special, err)) != 0 ||
        (rc = ds__read_bool(from, "normalized", !special, &normalized, err)) != 0)
        return ds_error_context(err, rc, "added token '%s'", token.text);
    there = ds_vocab_find(&t->vocab, token.text, token.len);
    if (token.id != (there != DS_NO_TOKEN ? there : *next))
        return ds_fail(err, EBADMSG, "added token '%s' has id %u and should have %u", token.text,
                       token.id, there != DS_NO_TOKEN ? there : *next);
    if (there == DS_NO_TOKEN) {
        rc = ds_vocab_add(&t->vocab, token.text, token.len, token.id, err);
        t->is_added[token.id] = true;
    }
    if (token.id >= *next)
        *next = token.id + 1;
    return rc == 0 ? ds_added_put(normalized ? &t->normalized : &t->raw, &token, err) : rc;
}

static int read_all_added(struct ds_tokenizer *t, const json_t *added, struct ds_error *err)
{
    uint32_t next = t->vocab.count;
    const json_t *token;
    size_t i;
    int rc = 0;

    json_array_foreach(added, i, token)
    {
        rc = read_added(t, token, &next, err);
        if (rc != 0)
            break;
    }
    return rc;
}

int ds__read_model(struct ds_tokenizer *t, const json_t *model, const json_t *added,
                   struct ds_error *err)
{
    const json_t *tokens = json_object_get(model, "vocab"),
                 *merges = json_object_get(model, "merges");
    const char *type = json_string_value(json_object_get(model, "type"));
    uint32_t size = 0;
    int rc;

    if (type == NULL || strcmp(type, "BPE") != 0)
        return ds_fail(err, ENOTSUP, "a model of type '%.100s' is not supported, only 'BPE'",
                       type == NULL ? "" : type);
    rc = ds__read_only(model, "the model",
                       "type dropout unk_token continuing_subword_prefix end_of_word_suffix "
                       "fuse_unk byte_fallback ignore_merges vocab merges",
                       err);
    if (rc == 0)
        rc = check_off(model, err);
    if (rc != 0)
        return rc;
    if (!json_is_object(tokens) || !json_is_array(merges))
        return ds_fail(err, EBADMSG, "model: 'vocab' or 'merges' is missing");
    if (json_array_size(added) > DS_MAX_ADDED_TOKENS)
        return ds_fail(err, ENOTSUP, "%zu added tokens are too many, %d are the most",
                       json_array_size(added), DS_MAX_ADDED_TOKENS);
    rc = count_ids(tokens, added, &size, err);
    if (rc == 0)
        rc = ds_vocab_init(&t->vocab, size, json_array_size(merges), err);
    if (rc == 0) {
        t->is_added = calloc(size, sizeof(*t->is_added));
        rc = t->is_added == NULL ? ds_fail(err, ENOMEM, "no memory for %u tokens", size)
                                 : add_tokens(t, tokens, err);
    }
    if (rc == 0)
        rc = add_merges(t, merges, err);
    if (rc == 0)
        rc = read_switches(t, model, err);
    return rc == 0 ? read_all_added(t, added, err) : rc;
}
