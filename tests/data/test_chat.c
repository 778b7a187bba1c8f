/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_chat.c - messages in the forms of models: the ids and the mask that transformers has of them,
 * kept in tests/reference/chat/, and messages that a form has no place for.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/data/chat.h"

#define REFERENCE "tests/reference/"

struct bench { /* a form at work */
    const struct ds_chat *chat;
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    struct ds_chat_room room;
    struct ds_ids ids;
};

/* The largest id of the vocabulary and of `added`, and one. */
static json_int_t first_free(const json_t *shape, const json_t *added)
{
    json_t *vocab = json_object_get(json_object_get(shape, "model"), "vocab"), *value;
    json_int_t most = 0;
    const char *key;
    size_t i;

    json_object_foreach(vocab, key, value) most =
        json_integer_value(value) > most ? json_integer_value(value) : most;
    json_array_foreach(added, i, value) most =
        json_integer_value(json_object_get(value, "id")) > most
            ? json_integer_value(json_object_get(value, "id"))
            : most;
    return most + 1;
}

/* The tokenizer of tests/reference/tokenizers/ with the texts of `more` as tokens behind it. */
static struct ds_tokenizer *derive(const char *base, const json_t *more)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};
    json_t *shape, *added, *text;
    char path[200], *json;
    json_int_t next;
    size_t i;

    (void)snprintf(path, sizeof(path), REFERENCE "tokenizers/%s.json", base);
    shape = json_load_file(path, 0, NULL);
    added = json_object_get(shape, "added_tokens");
    next = first_free(shape, added);
    json_array_foreach(more, i, text)(void) json_array_append_new(
        added,
        json_pack("{s:I,s:O,s:b,s:b,s:b,s:b,s:b}", "id", next + (json_int_t)i, "content", text,
                  "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1));
    json = json_dumps(shape, 0);
    cr_assert_not_null(json);
    cr_assert_eq(ds_tokenizer_parse(&tokenizer, json, strlen(json), &err), 0, "%s", err.text);
    free(json);
    json_decref(shape);
    return tokenizer;
}

static void open_bench(struct bench *b, const char *form, const char *base, const json_t *more)
{
    *b = (struct bench){.chat = ds_chat_find(form), .tokenizer = derive(base, more)};
    cr_assert_not_null(b->chat);
    cr_assert_eq(ds_encoder_new(&b->encoder, b->tokenizer, NULL), 0);
    ds_chat_room_init(&b->room);
}

static void close_bench(struct bench *b)
{
    ds_ids_release(&b->ids);
    ds_chat_room_release(&b->room);
    ds_encoder_free(b->encoder);
    ds_tokenizer_free(b->tokenizer);
}

static void check_case(struct bench *b, const char *form, const json_t *one, size_t number)
{
    const json_t *ids = json_object_get(one, "ids"), *mask = json_object_get(one, "mask");
    struct ds_error err = {0};

    b->ids.count = 0;
    cr_assert_eq(ds_chat_encode(b->chat, json_object_get(one, "messages"), b->encoder, &b->room,
                                SIZE_MAX, &b->ids, &err),
                 0, "%s %zu: %s", form, number, err.text);
    cr_assert_eq(b->ids.count, json_array_size(ids), "%s %zu", form, number);
    for (size_t i = 0; i < b->ids.count; i++) {
        uint32_t want = (uint32_t)json_integer_value(json_array_get(ids, i));
        bool target = json_integer_value(json_array_get(mask, i)) != 0;

        cr_assert_eq(b->ids.id[i], target ? want : ~want, "%s %zu: id %zu is %d, not %d", form,
                     number, i, (int32_t)b->ids.id[i], (int32_t)(target ? want : ~want));
    }
}

/* What asks for the assistant's last message of a conversation is what stands before it there; or
 * the whole, where that ends with another's, and what stands before one.  The last id may be a part
 * of one that the message begins with. */
static void check_asked(struct bench *b, const char *form, const json_t *one, size_t number)
{
    const json_t *ids = json_object_get(one, "ids"), *messages = json_object_get(one, "messages");
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const bool answered =
        strcmp(json_string_value(json_object_get(last, "role")), "assistant") == 0;
    char *whole = strdup(ds_buf_text(&b->room.text));
    size_t shorter, alike = 0, text;
    struct ds_error err = {0};

    b->ids.count = 0;
    cr_assert_eq(ds_chat_ask(b->chat, messages, b->encoder, &b->room, &b->ids, &err), 0,
                 "%s %zu: %s", form, number, err.text);
    text = b->room.text.len;
    cr_assert(answered ? text < strlen(whole) : text >= strlen(whole), "%s %zu", form, number);
    cr_assert_eq(memcmp(whole, b->room.text.data, answered ? text : strlen(whole)), 0);
    shorter = b->ids.count < json_array_size(ids) ? b->ids.count : json_array_size(ids);
    while (alike < shorter && b->ids.id[alike] == json_integer_value(json_array_get(ids, alike)))
        alike++;
    cr_assert(alike + 1 >= shorter, "%s %zu: %zu of %zu ids", form, number, alike, shorter);
    free(whole);
}

Test(chat, ids_and_masks_of_transformers)
{
    json_t *all = json_load_file(REFERENCE "chat/cases.json", 0, NULL), *form;
    const char *name;
    size_t forms = 0, cases = 0;

    json_object_foreach(all, name, form)
    {
        json_t *one, *list = json_object_get(form, "cases");
        struct ds_error err = {0};
        struct bench b;
        size_t i;

        open_bench(&b, name, json_string_value(json_object_get(form, "tokenizer")),
                   json_object_get(form, "added"));
        cr_assert_eq(ds_chat_check(b.chat, b.tokenizer, &err), 0, "%s", err.text);
        json_array_foreach(list, i, one)
        {
            check_case(&b, name, one, i);
            check_asked(&b, name, one, i);
        }
        cases += json_array_size(list);
        forms++;
        close_bench(&b);
    }
    cr_assert(forms == DS_CHAT_COUNT && cases > 30, "%zu forms, %zu cases", forms, cases);
    json_decref(all);
}

/* Behind `most` ids nothing is told apart; up to there it is. */
Test(chat, what_is_cut_is_not_looked_at)
{
    json_t *more = json_pack("[s,s]", "<|im_start|>", "<|im_end|>");
    json_t *talk = json_loads("[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                              "\"content\":\"b\"},{\"role\":\"assistant\",\"content\":\"c\"}]",
                              0, NULL);
    struct ds_ids whole = {0};
    struct ds_error err = {0};
    struct bench b;

    open_bench(&b, "chatml", "qwen", more);
    cr_assert_eq(ds_chat_encode(b.chat, talk, b.encoder, &b.room, SIZE_MAX, &whole, &err), 0);
    for (size_t most = 1; most <= whole.count; most++) {
        b.ids.count = 0;
        cr_assert_eq(ds_chat_encode(b.chat, talk, b.encoder, &b.room, most, &b.ids, &err), 0);
        cr_assert_eq(b.ids.count, whole.count);
        cr_assert_arr_eq(b.ids.id, whole.id, most * sizeof(*whole.id), "%zu", most);
    }
    ds_ids_release(&whole);
    close_bench(&b);
    json_decref(talk);
    json_decref(more);
}

Test(chat, errors)
{
    static const struct {
        const char *form, *messages, *says;
    } table[] = {
        {"chatml", "[{\"role\":\"user\"}]", "message 1 must be an object as "},
        {"chatml", "[{\"role\":\"user\",\"content\":[\"a\"]}]", "message 1 must be an object as "},
        {"chatml", "[1]", "message 1 must be an object as "},
        {"chatml", "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":\"a\"}]",
         "message 2: '--chat chatml' has no role 'tool', only system, user, assistant"},
        {"mistral", "[{\"role\":\"system\",\"content\":\"a\"}]",
         "message 1: '--chat mistral' has no role 'system', only user, assistant"},
        {"mistral", "[{\"role\":\"assistant\",\"content\":\"a\"}]",
         "message 1: with '--chat mistral' user and assistant take turns"},
        {"gemma", "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"a\"}]",
         "message 2: with '--chat gemma' user and assistant take turns"},
    };
    struct ds_error err = {0};
    struct bench b;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        json_t *messages = json_loads(table[i].messages, 0, NULL);

        open_bench(&b, table[i].form, "mistral", NULL);
        cr_expect_eq(ds_chat_encode(b.chat, messages, b.encoder, &b.room, SIZE_MAX, &b.ids, &err),
                     -EBADMSG);
        cr_expect(strstr(err.text, table[i].says) == err.text, "%s", err.text);
        close_bench(&b);
        json_decref(messages);
    }
    open_bench(&b, "mistral", "mistral", NULL);
    for (size_t i = 0; i < 2; i++) {
        json_t *nobody =
            json_loads(i == 0 ? "[]" : "[{\"role\":\"assistant\",\"content\":\"a\"}]", 0, NULL);

        cr_expect_eq(ds_chat_ask(b.chat, nobody, b.encoder, &b.room, &b.ids, &err), -EBADMSG);
        cr_expect_str_eq(err.text, "there is no message to answer");
        json_decref(nobody);
    }
    cr_expect_str_eq(ds_chat_end(b.chat), "</s>");
    close_bench(&b);
    open_bench(&b, "chatml", "qwen", NULL);
    cr_expect_eq(ds_chat_check(b.chat, b.tokenizer, &err), -EDOM);
    cr_expect_str_eq(err.text,
                     "'--chat chatml': the tokenizer has no token '<|im_start|>', '<|im_end|>'");
    cr_expect_null(ds_chat_find("jinja"));
    close_bench(&b);
}
