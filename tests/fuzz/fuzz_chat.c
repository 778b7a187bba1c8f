/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_chat.c - any JSON as the messages of a conversation.
 *
 * The first byte chooses the form, the second how many ids are wanted; the rest is JSON.  What is
 * refused is explained; else the ids, complements as what they complement, are those of the text,
 * and those that are wanted do not depend on how many are.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "runtime/data/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Characters of which some merge over what begins a message, and the tokens of all forms. */
static const char tokenizer_json[] =
    "{\"pre_tokenizer\":null,\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,"
    "\"a\":1,\"b\":2,\"\\n\":3,\" \":4,\"]\":5,\"ab\":6,\"\\n\\n\":7,\"]a\":8,\"\\na\":9},"
    "\"merges\":[\"a b\",\"\\n \\n\",\"] a\",\"\\n a\"]},\"added_tokens\":["
    "{\"id\":10,\"content\":\"<|im_start|>\"},{\"id\":11,\"content\":\"<|im_end|>\"},"
    "{\"id\":12,\"content\":\"<s>\"},{\"id\":13,\"content\":\"</s>\"},"
    "{\"id\":14,\"content\":\"<bos>\"},{\"id\":15,\"content\":\"<start_of_turn>\"},"
    "{\"id\":16,\"content\":\"<end_of_turn>\"},{\"id\":17,\"content\":\"<|begin_of_text|>\"},"
    "{\"id\":18,\"content\":\"<|start_header_id|>\"},{\"id\":19,\"content\":\"<|end_header_id|>\"},"
    "{\"id\":20,\"content\":\"<|eot_id|>\"}]}";

static const char *const forms[] = {
#define X(id, name) name,
    DS_CHATS(X)
#undef X
};

static struct ds_encoder *encoder_of_all(void)
{
    static struct ds_tokenizer *tokenizer;
    static struct ds_encoder *encoder;
    struct ds_error err = {0};
    int rc;

    if (encoder == NULL) {
        rc = ds_tokenizer_parse(&tokenizer, tokenizer_json, sizeof(tokenizer_json) - 1, &err);
        assert(rc == 0);
        rc = ds_encoder_new(&encoder, tokenizer, &err);
        assert(rc == 0);
        for (size_t i = 0; i < DS_CHAT_COUNT; i++) {
            rc = ds_chat_check(ds_chat_find(forms[i]), tokenizer, &err);
            assert(rc == 0);
        }
    }
    return encoder;
}

static void check(const struct ds_ids *ids, struct ds_chat_room *room)
{
    const struct ds_encode_args args = {
        .text = ds_buf_text(&room->text), .len = room->text.len, .end = room->text.len};
    struct ds_ids want = {0};
    int rc = ds_encode(encoder_of_all(), &args, &want, NULL);

    assert(rc == 0 && want.count == ids->count);
    for (size_t i = 0; i < want.count; i++)
        assert(ids->id[i] == want.id[i] || ids->id[i] == ~want.id[i]);
    ds_ids_release(&want);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_encoder *encoder = encoder_of_all();
    struct ds_ids all = {0}, some = {0};
    const struct ds_chat *chat;
    struct ds_chat_room room;
    struct ds_error err = {0};
    json_t *messages;
    int rc;

    if (size < 3)
        return 0;
    messages = json_loadb((const char *)data + 2, size - 2, JSON_ALLOW_NUL, NULL);
    if (messages == NULL)
        return 0;
    chat = ds_chat_find(forms[data[0] % DS_CHAT_COUNT]);
    ds_chat_room_init(&room);
    rc = ds_chat_encode(chat, messages, encoder, &room, SIZE_MAX, &all, &err);
    assert(rc == 0 || err.text[0] != '\0');
    if (rc == 0) {
        size_t wanted = data[1] < all.count ? data[1] : all.count;

        check(&all, &room);
        rc = ds_chat_encode(chat, messages, encoder, &room, wanted, &some, &err);
        assert(rc == 0 && some.count == all.count);
        assert(wanted == 0 || memcmp(some.id, all.id, wanted * sizeof(*all.id)) == 0);
    }
    ds_ids_release(&all);
    ds_ids_release(&some);
    ds_chat_room_release(&room);
    json_decref(messages);
    return 0;
}
