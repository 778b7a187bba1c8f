/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.c - a tokenizer.json becomes tables; the contract is in tokenizer.h.
 */
#include "runtime/text/tokenizer.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json_read.h"
#include "base/utf8.h"
#include "runtime/text/parts.h"
#include "runtime/text/size.h"
#include "runtime/text/unicode.h"

/* --- reading helpers ------------------------------------------------------------------------- */

int ds__read_only(const json_t *object, const char *what, const char *keys, struct ds_error *err)
{
    const char *key;
    const json_t *value;

    if (!json_is_object(object))
        return ds_fail(err, EBADMSG, "%s is not an object", what);
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        const char *at = keys, *found = NULL;
        size_t len = strlen(key);

        while (len > 0 && found == NULL && (at = strstr(at, key)) != NULL) {
            if ((at == keys || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0'))
                found = at;
            at++;
        }
        if (found == NULL)
            return ds_fail(err, ENOTSUP, "key '%.100s' of %s is not supported", key, what);
    }
    return 0;
}

int ds__read_text(const json_t *object, const char *key, char *out, size_t most,
                  struct ds_error *err)
{
    const char *text = json_string_value(json_object_get(object, key));

    if (text == NULL)
        return ds_fail(err, EBADMSG, "'%s' is missing or not a text", key);
    if (strlen(text) > most)
        return ds_fail(err, ENOTSUP, "'%s' is longer than %zu bytes", key, most);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

int ds__read_bool(const json_t *object, const char *key, bool otherwise, bool *out,
                  struct ds_error *err)
{
    const json_t *value = json_object_get(object, key);

    *out = value == NULL || json_is_null(value) ? otherwise : json_is_true(value);
    if (value != NULL && !json_is_null(value) && !json_is_boolean(value))
        return ds_fail(err, EBADMSG, "'%s' is neither true nor false", key);
    return 0;
}

/* --- what follows from the file -------------------------------------------------------------- */

static uint32_t model_id(const struct ds_tokenizer *t, const char *text, size_t len)
{
    uint32_t id = ds_vocab_find(&t->vocab, text, len);

    return id != DS_NO_TOKEN && !t->is_added[id] ? id : DS_NO_TOKEN;
}

static void fill_ids(struct ds_tokenizer *t)
{
    char text[8];

    for (unsigned byte = 0; byte < 256; byte++) {
        size_t len = t->byte_level ? ds__alphabet_text((unsigned char)byte, text)
                                   : (size_t)snprintf(text, sizeof(text), "<0x%02X>", byte);

        t->byte_id[byte] = model_id(t, text, len);
    }
    for (unsigned c = 0; c < 128; c++) {
        text[0] = (char)c;
        t->ascii_id[c] = model_id(t, text, 1);
    }
}

/* Patterns of added tokens that are found in normal form are in normal form, too. */
static int normalize_added(struct ds_tokenizer *t, struct ds_error *err)
{
    struct ds_buf scratch, out;
    int rc = 0;

    ds_buf_init(&scratch, 1 << 20);
    ds_buf_init(&out, 1 << 20);
    for (size_t i = 0; rc == 0 && t->normals > 0 && i < t->normalized.count; i++) {
        struct ds_added *token = &t->normalized.token[i];
        char *text;

        ds_buf_reset(&out);
        ds__normalize(t, token->text, token->len, true, &scratch, &out);
        if (out.len == 0 || out.len > DS_MAX_TOKEN_BYTES) {
            rc = ds_fail(err, out.failed ? ENOMEM : EBADMSG,
                         "added token '%.*s' has no normal form of 1 to %d bytes", (int)token->len,
                         token->text, DS_MAX_TOKEN_BYTES);
            break;
        }
        text = malloc(out.len);
        if (text == NULL) {
            rc = ds_fail(err, ENOMEM, "no memory for an added token");
            break;
        }
        memcpy(text, out.data, out.len);
        free(token->text);
        token->text = text;
        token->len = out.len;
        t->normalized.begins[(unsigned char)text[0]] = true;
    }
    ds_buf_release(&scratch);
    ds_buf_release(&out);
    return rc;
}

/* --- cutting --------------------------------------------------------------------------------- */

static bool is_plain(const char *text)
{
    for (; *text != '\0'; text++)
        if (*text == '\n' || !(*text == ' ' || ispunct((unsigned char)*text)))
            return false;
    return true;
}

/* No added token holds a newline, takes white space beside it that a cut would divide, or begins a
 * stretch at a cut that a prefix belongs to. */
static bool added_cut(const struct ds_tokenizer *t, const struct ds_added_set *set)
{
    bool prefixes = t->prefix != DS__PREFIX_NONE || t->normals > 0;

    for (size_t i = 0; i < set->count; i++) {
        const struct ds_added *token = &set->token[i];

        if (memchr(token->text, '\n', token->len) != NULL || (token->rstrip && prefixes) ||
            (token->lstrip && !ispunct((unsigned char)token->text[0])))
            return false;
    }
    return true;
}

static bool decide_cuts(const struct ds_tokenizer *t)
{
    if (!t->newline_apart && (t->stages == 0 || t->prefix == DS__PREFIX_METASPACE))
        return false; /* no stage divides there, and the model may not */
    for (size_t i = 0; i < t->normals; i++)
        if (t->normal[i].kind == DS__NORMAL_REPLACE && !is_plain(t->normal[i].from))
            return false;
    for (size_t i = 0; i < t->stages; i++)
        if (ds_pattern_looks_behind(t->stage[i].pattern))
            return false;
    return added_cut(t, &t->raw) && added_cut(t, &t->normalized);
}

/* Nothing but the newline itself, which merges with nothing, holds a newline. */
static bool decide_newline(const struct ds_tokenizer *t)
{
    uint32_t newline = t->byte_level ? t->byte_id['\n'] : t->ascii_id['\n'];
    const char *mark = t->byte_level ? "\xc4\x8a" : "\n";

    if (newline == DS_NO_TOKEN && t->byte_fallback)
        newline = t->byte_id['\n'];
    if (newline == DS_NO_TOKEN)
        return false;
    for (uint32_t id = 0; id < t->vocab.size; id++) {
        size_t len, mark_len = strlen(mark);
        const char *text = ds_vocab_text(&t->vocab, id, &len);

        if (text != NULL && !t->is_added[id] && len > mark_len &&
            memmem(text, len, mark, mark_len) != NULL)
            return false;
    }
    for (size_t i = 0; i < t->vocab.merges; i++) {
        const struct ds_merge *merge = &t->vocab.merge[i];

        if (merge->pair != UINT64_MAX &&
            ((uint32_t)merge->pair == newline || (uint32_t)(merge->pair >> 32) == newline))
            return false;
    }
    return true;
}

bool ds_tokenizer_cuts(const struct ds_tokenizer *tokenizer)
{
    return tokenizer->cuts;
}

static bool may_follow(const char *text, size_t len)
{
    size_t bytes = ds_utf8_len(text, len);
    uint32_t c = bytes == 0 ? 0 : ds_unicode_at(text, &bytes);

    return c < 0x80 ? isalnum((int)c) != 0 : !ds_unicode_is_space(c);
}

size_t ds_tokenizer_cut(const char *text, size_t len, size_t most)
{
    for (size_t at = most; at > 0; at--)
        if (text[at - 1] == '\n' && may_follow(text + at, len - at))
            return at;
    return 0;
}

/* --- load ------------------------------------------------------------------------------------ */

static int check_top(const json_t *root, struct ds_error *err)
{
    static const char *const off[] = {"truncation", "padding"};
    int rc = ds__read_only(root, "the tokenizer",
                           "version truncation padding added_tokens normalizer pre_tokenizer "
                           "post_processor decoder model",
                           err);

    for (size_t i = 0; rc == 0 && i < 2; i++) {
        const json_t *value = json_object_get(root, off[i]);

        if (value != NULL && !json_is_null(value))
            rc = ds_fail(err, ENOTSUP, "'%s' is not supported; set it to null", off[i]);
    }
    return rc;
}

static int read_root(struct ds_tokenizer *t, const json_t *root, struct ds_error *err)
{
    int rc = check_top(root, err);

    if (rc == 0)
        rc = ds__read_model(t, json_object_get(root, "model"),
                            json_object_get(root, "added_tokens"), err);
    if (rc == 0)
        rc = ds__read_normalizer(t, json_object_get(root, "normalizer"), err);
    if (rc == 0)
        rc = ds__read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), err);
    if (rc == 0)
        rc = ds__read_post_processor(json_object_get(root, "post_processor"), err);
    if (rc == 0)
        rc = ds__read_decoder(t, json_object_get(root, "decoder"), err);
    if (rc == 0)
        rc = normalize_added(t, err);
    if (rc == 0)
        rc = ds_added_close(&t->raw, err);
    if (rc == 0)
        rc = ds_added_close(&t->normalized, err);
    if (rc != 0)
        return rc;
    fill_ids(t);
    t->newline_apart = decide_newline(t);
    t->cuts = decide_cuts(t);
    return 0;
}

int ds_tokenizer_parse(struct ds_tokenizer **tokenizer, const void *json, size_t len,
                       struct ds_error *err)
{
    struct ds_tokenizer *new;
    json_t *root = ds_json_parse(json, len, err);
    int rc;

    *tokenizer = NULL;
    if (root == NULL)
        return -EBADMSG;
    new = calloc(1, sizeof(*new));
    rc =
        new == NULL ? ds_fail(err, ENOMEM, "no memory for a tokenizer") : read_root(new, root, err);
    json_decref(root);
    if (rc != 0)
        ds_tokenizer_free(new);
    else
        *tokenizer = new;
    return rc;
}

int ds_tokenizer_load(struct ds_tokenizer **tokenizer, const char *path, struct ds_error *err)
{
    struct ds_buf text;
    int rc;

    *tokenizer = NULL;
    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    rc = ds_fs_read(path, DS_MAX_JSON_BYTES, &text, err);
    if (rc == -ENOBUFS)
        rc = ds_fail(err, ENOMEM, "no memory for '%s'", path);
    if (rc == 0)
        rc = ds_error_context(err, ds_tokenizer_parse(tokenizer, ds_buf_text(&text), text.len, err),
                              "tokenizer '%s'", path);
    ds_buf_release(&text);
    return rc;
}

void ds_tokenizer_free(struct ds_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    for (size_t i = 0; i < tokenizer->stages; i++)
        ds_pattern_free(tokenizer->stage[i].pattern);
    ds_added_release(&tokenizer->raw);
    ds_added_release(&tokenizer->normalized);
    ds_vocab_release(&tokenizer->vocab);
    free(tokenizer->is_added);
    free(tokenizer);
}

/* --- asking ---------------------------------------------------------------------------------- */

uint32_t ds_tokenizer_size(const struct ds_tokenizer *tokenizer)
{
    return tokenizer->vocab.size;
}

uint32_t ds_tokenizer_find(const struct ds_tokenizer *tokenizer, const char *text)
{
    return ds_vocab_find(&tokenizer->vocab, text, strlen(text));
}

/* The first of the names, up to NULL, that is a token. */
static uint32_t first_of(const struct ds_tokenizer *tokenizer, const char *const *name)
{
    uint32_t id = DS_NO_TOKEN;

    for (; id == DS_NO_TOKEN && *name != NULL; name++)
        id = ds_tokenizer_find(tokenizer, *name);
    return id;
}

uint32_t ds_tokenizer_separator(const struct ds_tokenizer *tokenizer)
{
    static const char *const names[] = DS_TEXT_SEPARATORS;

    return first_of(tokenizer, names);
}

uint32_t ds_tokenizer_begin(const struct ds_tokenizer *tokenizer)
{
    static const char *const names[] = {"<|begin_of_text|>", "<s>", "<｜begin▁of▁sentence｜>",
                                        "<bos>", NULL};
    uint32_t id = first_of(tokenizer, names);

    return id != DS_NO_TOKEN ? id : ds_tokenizer_separator(tokenizer);
}

uint32_t ds_tokenizer_pad(const struct ds_tokenizer *tokenizer)
{
    static const char *const names[] = {"<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>",
                                        NULL};

    return first_of(tokenizer, names);
}

const char *ds_tokenizer_text(const struct ds_tokenizer *tokenizer, uint32_t id, size_t *len)
{
    return ds_vocab_text(&tokenizer->vocab, id, len);
}
