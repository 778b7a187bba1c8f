/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * chat.h - messages of roles as one text, in the forms that models are known by, and its ids.
 *
 * A form is a table: what stands before a message of a role, what ends it, and what follows.  The
 * programs that Hugging Face keeps beside a tokenizer (chat_template, in Jinja) are not run: they
 * are a language of their own, and a file from elsewhere is data here, never a program.
 *
 * The ids are those of the text as a whole.  Trained on are those of an assistant's message and of
 * what ends it: from the first id that what stands before the message does not have alone, to the
 * last one of what ends it.
 *
 *     <|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nThat.<|im_end|>\n
 *                                                              ^^^^^^^^^^^^^^^
 *
 * Errors  EBADMSG messages that are none, or whose roles the form has no place for; EDOM a token
 *         that the tokenizer lacks; ENOMEM.
 * Source  chat_template of the tokenizers of Qwen, Meta-Llama-3-Instruct, Mistral-7B-Instruct-v0.2,
 *         gemma-it and zephyr-7b, without their default system messages
 * Tests   tests/data/test_chat.c, tests/e2e/chat.py
 */
#ifndef DS_RUNTIME_DATA_CHAT_H
#define DS_RUNTIME_DATA_CHAT_H

#include <jansson.h>

#include "runtime/text/tokenizer.h"

#define DS_CHATS(X)                                                                                \
    X(CHATML, "chatml")                                                                            \
    X(LLAMA3, "llama3") X(MISTRAL, "mistral") X(GEMMA, "gemma") X(ZEPHYR, "zephyr")

enum ds_chat_form {
#define X(id, name) DS_CHAT_##id,
    DS_CHATS(X)
#undef X
        DS_CHAT_COUNT
};

struct ds_chat;

/* The form of this name, or NULL. */
const struct ds_chat *ds_chat_find(const char *name);

/* Does the tokenizer have the tokens of the form, as tokens?  -EDOM names all that are missing. */
int ds_chat_check(const struct ds_chat *chat, const struct ds_tokenizer *tokenizer,
                  struct ds_error *err) DS_NODISCARD;

struct ds_chat_room { /* that encoding takes; zeroed is empty */
    struct ds_buf text;
    struct ds_ids spans, prefix;
    uint64_t again; /* characters without a token that were met more than once, so far */
};
void ds_chat_room_init(struct ds_chat_room *room);
void ds_chat_room_release(struct ds_chat_room *room);

/* Append the ids of `messages` to `ids`, complements where they are not trained on; of those from
 * `most` on that may be all of them. */
int ds_chat_encode(const struct ds_chat *chat, const json_t *messages, struct ds_encoder *encoder,
                   struct ds_chat_room *room, size_t most, struct ds_ids *ids, struct ds_error *err)
    DS_NODISCARD;

/* Append the ids of `messages` and of what stands before the assistant's next one, which answers
 * them; an assistant's message that is the last is left out.  The text is in `room`. */
int ds_chat_ask(const struct ds_chat *chat, const json_t *messages, struct ds_encoder *encoder,
                struct ds_chat_room *room, struct ds_ids *ids, struct ds_error *err) DS_NODISCARD;
/* The token that ends an assistant's message. */
const char *ds_chat_end(const struct ds_chat *chat);

#endif
