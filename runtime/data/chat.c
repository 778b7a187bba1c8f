/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * chat.c - the contract is in chat.h.
 */
#include "runtime/data/chat.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"

enum { SYSTEM, USER, ASSISTANT, ROLES, TOKENS = 4, TEXT_BYTES = 1 << 30 };

static const char *const roles[ROLES] = {"system", "user", "assistant"};

struct turn {
    const char *before, *end, *after; /* before NULL: the form has no such role */
};

struct ds_chat {
    const char *begin; /* of the text */
    struct turn turn[ROLES];
    const char *token[TOKENS]; /* that must be one in the tokenizer */
    bool trim;                 /* messages, of white space at both ends */
    bool alternate;            /* user, assistant, user, ... */
};

/* clang-format off */
static const struct ds_chat chats[DS_CHAT_COUNT] = {
    [DS_CHAT_CHATML] = {"", {
        [SYSTEM]    = {"<|im_start|>system\n",    "<|im_end|>", "\n"},
        [USER]      = {"<|im_start|>user\n",      "<|im_end|>", "\n"},
        [ASSISTANT] = {"<|im_start|>assistant\n", "<|im_end|>", "\n"},
        }, {"<|im_start|>", "<|im_end|>"}, false, false},
    [DS_CHAT_LLAMA3] = {"<|begin_of_text|>", {
        [SYSTEM]    = {"<|start_header_id|>system<|end_header_id|>\n\n",    "<|eot_id|>", ""},
        [USER]      = {"<|start_header_id|>user<|end_header_id|>\n\n",      "<|eot_id|>", ""},
        [ASSISTANT] = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", ""},
        }, {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
        true, false},
    [DS_CHAT_MISTRAL] = {"<s>", {
        [USER]      = {"[INST] ", " [/INST]", ""},
        [ASSISTANT] = {"",        "</s>",     ""},
        }, {"<s>", "</s>"}, false, true},
    [DS_CHAT_GEMMA] = {"<bos>", {
        [USER]      = {"<start_of_turn>user\n",  "<end_of_turn>", "\n"},
        [ASSISTANT] = {"<start_of_turn>model\n", "<end_of_turn>", "\n"},
        }, {"<bos>", "<start_of_turn>", "<end_of_turn>"}, true, true},
    [DS_CHAT_ZEPHYR] = {"", {
        [SYSTEM]    = {"<|system|>\n",    "</s>", "\n"},
        [USER]      = {"<|user|>\n",      "</s>", "\n"},
        [ASSISTANT] = {"<|assistant|>\n", "</s>", "\n"},
        }, {"</s>"}, false, false},
};
/* clang-format on */

static const char *const names[] = {
#define X(id, name) name,
    DS_CHATS(X)
#undef X
};

const struct ds_chat *ds_chat_find(const char *name)
{
    for (size_t i = 0; i < DS_CHAT_COUNT; i++)
        if (strcmp(names[i], name) == 0)
            return &chats[i];
    return NULL;
}

static const char *name_of(const struct ds_chat *chat)
{
    return names[chat - chats];
}

/* --- tokens ---------------------------------------------------------------------------------- */

/* Does its text become this one token? */
static int is_token(struct ds_encoder *encoder, const struct ds_tokenizer *tokenizer,
                    const char *text, bool *is, struct ds_error *err)
{
    const struct ds_encode_args args = {.text = text, .len = strlen(text), .end = strlen(text)};
    uint32_t id = ds_tokenizer_find(tokenizer, text);
    struct ds_ids ids = {0};
    int rc = ds_encode(encoder, &args, &ids, err);

    *is = rc == 0 && id != DS_NO_TOKEN && ids.count == 1 && ids.id[0] == id;
    ds_ids_release(&ids);
    return rc;
}

int ds_chat_check(const struct ds_chat *chat, const struct ds_tokenizer *tokenizer,
                  struct ds_error *err)
{
    struct ds_encoder *encoder = NULL;
    char missing[256] = "";
    size_t at = 0;
    int rc = ds_encoder_new(&encoder, tokenizer, err);

    for (size_t i = 0; rc == 0 && i < TOKENS && chat->token[i] != NULL; i++) {
        bool is = false;

        rc = is_token(encoder, tokenizer, chat->token[i], &is, err);
        if (rc == 0 && !is)
            at += (size_t)snprintf(missing + at, sizeof(missing) - at, "%s'%s'", at > 0 ? ", " : "",
                                   chat->token[i]);
    }
    ds_encoder_free(encoder);
    if (rc == 0 && at > 0)
        return ds_fail(err, EDOM, "'--chat %s': the tokenizer has no token %s", name_of(chat),
                       missing);
    return rc;
}

/* --- the text -------------------------------------------------------------------------------- */

/* Bytes of the white space that begins `text`, as Python has it; 0: none does. */
static size_t white(const char *text, size_t len)
{
    static const char *const wide[] = {
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
        "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

    if (len > 0 && (text[0] == ' ' || (text[0] >= '\t' && text[0] <= '\r') ||
                    (text[0] >= 0x1c && text[0] <= 0x1f)))
        return 1;
    for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
        if (len >= strlen(wide[i]) && memcmp(text, wide[i], strlen(wide[i])) == 0)
            return strlen(wide[i]);
    return 0;
}

static void trim(const char **text, size_t *len)
{
    size_t n;

    for (; (n = white(*text, *len)) > 0; *len -= n)
        *text += n;
    for (n = 1; n <= 3 && n <= *len;) {
        bool is = white(*text + *len - n, n) == n;

        *len -= is ? n : 0;
        n = is ? 1 : n + 1;
    }
}

static int fail_role(const struct ds_chat *chat, size_t number, const char *role,
                     struct ds_error *err)
{
    char known[64] = "";
    size_t at = 0;

    for (size_t i = 0; i < ROLES; i++)
        if (chat->turn[i].before != NULL)
            at += (size_t)snprintf(known + at, sizeof(known) - at, "%s%s", at > 0 ? ", " : "",
                                   roles[i]);
    return ds_fail(err, EBADMSG, "message %zu: '--chat %s' has no role '%.40s', only %s", number,
                   name_of(chat), role, known);
}

/* The role of message `number`, from 1, and its text. */
static int read_message(const struct ds_chat *chat, const json_t *message, size_t number,
                        size_t *role, const char **text, size_t *len, struct ds_error *err)
{
    const json_t *content = json_object_get(message, "content");
    const char *name = json_string_value(json_object_get(message, "role"));

    if (name == NULL || !json_is_string(content))
        return ds_fail(
            err, EBADMSG,
            "message %zu must be an object as {\"role\": \"user\", \"content\": \"...\"}", number);
    for (*role = 0; *role < ROLES && strcmp(roles[*role], name) != 0;)
        ++*role;
    if (*role == ROLES || chat->turn[*role].before == NULL)
        return fail_role(chat, number, name, err);
    if (chat->alternate && (*role == USER) != (number % 2 == 1))
        return ds_fail(err, EBADMSG, "message %zu: with '--chat %s' user and assistant take turns",
                       number, name_of(chat));
    *text = json_string_value(content);
    *len = json_string_length(content);
    if (chat->trim)
        trim(text, len);
    return 0;
}

/* The first `count` messages: room->text, and in room->spans where what is trained on begins and
 * ends. */
static int render(const struct ds_chat *chat, const json_t *messages, size_t count,
                  struct ds_chat_room *room, struct ds_error *err)
{
    struct ds_buf *out = &room->text;
    int rc;

    ds_buf_reset(out);
    room->spans.count = 0;
    rc = ds_buf_puts(out, chat->begin);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const char *text = NULL;
        size_t role = ROLES, len = 0;

        rc = read_message(chat, json_array_get(messages, i), i + 1, &role, &text, &len, err);
        if (rc != 0)
            return rc;
        (void)ds_buf_puts(out, chat->turn[role].before);
        if (role == ASSISTANT && ds_ids_put(&room->spans, (uint32_t)out->len) != 0)
            rc = -ENOMEM;
        (void)ds_buf_put(out, text, len);
        (void)ds_buf_puts(out, chat->turn[role].end);
        if (role == ASSISTANT && ds_ids_put(&room->spans, (uint32_t)out->len) != 0)
            rc = -ENOMEM;
        (void)ds_buf_puts(out, chat->turn[role].after);
    }
    return rc == 0 && !out->failed ? 0 : ds_fail(err, ENOMEM, "no memory for the text of messages");
}

/* --- ids ------------------------------------------------------------------------------------- */

void ds_chat_room_init(struct ds_chat_room *room)
{
    *room = (struct ds_chat_room){.again = 0};
    ds_buf_init(&room->text, TEXT_BYTES);
}

void ds_chat_room_release(struct ds_chat_room *room)
{
    ds_buf_release(&room->text);
    ds_ids_release(&room->spans);
    ds_ids_release(&room->prefix);
}

/* How many of the ids[count] of the text are those of its first `bytes` bytes alone. */
static int count_alike(struct ds_chat_room *room, struct ds_encoder *encoder, size_t bytes,
                       const uint32_t *ids, size_t count, size_t *alike, struct ds_error *err)
{
    const struct ds_encode_args args = {
        .text = ds_buf_text(&room->text), .len = bytes, .end = bytes};
    uint64_t dropped = ds_encoder_dropped(encoder);
    int rc;

    room->prefix.count = 0;
    rc = ds_encode(encoder, &args, &room->prefix, err);
    room->again += ds_encoder_dropped(encoder) - dropped;
    for (*alike = 0;
         *alike < count && *alike < room->prefix.count && room->prefix.id[*alike] == ids[*alike];)
        ++*alike;
    return rc;
}

/* room->spans from bytes to numbers of ids; those behind `most` are told apart no more. */
static int place_spans(struct ds_chat_room *room, struct ds_encoder *encoder, const uint32_t *ids,
                       size_t count, size_t most, struct ds_error *err)
{
    size_t alike = 0;
    int rc = 0;

    for (size_t s = 0; rc == 0 && s < room->spans.count; s++) {
        if (alike < most)
            rc = count_alike(room, encoder, room->spans.id[s], ids, count, &alike, err);
        room->spans.id[s] = (uint32_t)alike;
    }
    return rc;
}

/* Its text. */
static int encode_room(const struct ds_chat_room *room, struct ds_encoder *encoder,
                       struct ds_ids *ids, struct ds_error *err)
{
    const struct ds_encode_args args = {
        .text = ds_buf_text(&room->text), .len = room->text.len, .end = room->text.len};

    return ds_encode(encoder, &args, ids, err);
}

int ds_chat_encode(const struct ds_chat *chat, const json_t *messages, struct ds_encoder *encoder,
                   struct ds_chat_room *room, size_t most, struct ds_ids *ids, struct ds_error *err)
{
    const size_t begin = ids->count;
    const uint32_t *spans;
    int rc = render(chat, messages, json_array_size(messages), room, err);

    if (rc == 0)
        rc = encode_room(room, encoder, ids, err);
    if (rc == 0)
        rc = place_spans(room, encoder, ids->id + begin, ids->count - begin, most, err);
    for (size_t i = begin; rc == 0 && i < ids->count; i++)
        ids->id[i] = ~ids->id[i];
    spans = room->spans.id;
    for (size_t s = 0; rc == 0 && s < room->spans.count; s += 2)
        for (size_t i = spans[s]; i < spans[s + 1]; i++)
            ids->id[begin + i] = ~ids->id[begin + i];
    return rc;
}

static bool is_of_assistant(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));

    return role != NULL && strcmp(role, roles[ASSISTANT]) == 0;
}

int ds_chat_ask(const struct ds_chat *chat, const json_t *messages, struct ds_encoder *encoder,
                struct ds_chat_room *room, struct ds_ids *ids, struct ds_error *err)
{
    size_t count = json_array_size(messages);
    int rc;

    if (count > 0 && is_of_assistant(json_array_get(messages, count - 1)))
        count--;
    if (count == 0)
        return ds_fail(err, EBADMSG, "there is no message to answer");
    rc = render(chat, messages, count, room, err);
    if (rc == 0 && ds_buf_puts(&room->text, chat->turn[ASSISTANT].before) != 0)
        rc = ds_fail(err, ENOMEM, "no memory for the text of messages");
    return rc == 0 ? encode_room(room, encoder, ids, err) : rc;
}

const char *ds_chat_end(const struct ds_chat *chat)
{
    return chat->turn[ASSISTANT].end;
}
