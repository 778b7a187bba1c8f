/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_encode.c - any text through tokenizers of bytes.
 *
 * The first byte chooses the tokenizer, the second where the text is cut; the rest is text, up to the
 * first byte that is no UTF-8.  Decoding gives the text again, and where the text may be cut, the
 * ids of its two parts are those of the whole.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/utf8.h"
#include "runtime/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Letters that merge, a newline that does, a token that is found in the text, and the alphabet. */
#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{%s\"ab\":256,\"abab\":257,\"\xc4\xa0"                  \
    "a\":258,"                                                                                     \
    "\"aa\":259,\"\xc4\x8a\xc4\x8a\":260,\"aaa\":261,\"\xc3\xa4\xc2\xbd\":262},\"merges\":["       \
    "\"a b\",\"ab ab\",\"\xc4\xa0 a\",\"a a\",\"\xc4\x8a \xc4\x8a\",\"aa a\","                     \
    "\"\xc3\xa4 \xc2\xbd\"]},\"added_tokens\":[{\"id\":263,\"content\":\"<|x|>\"},"                \
    "{\"id\":264,\"content\":\"<|\"}]"

static const char *const pre_tokenizers[] = {
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}"
    "\\\\p{N}]?"
    "\\\\p{L}+|\\\\p{N}{1,3}| "
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
    "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":"
    "false}]}",
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a-c]+"
    "\"},"
    "\"behavior\":\"MergedWithNext\"},{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+\"},"
    "\"behavior\":"
    "\"Contiguous\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}",
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}",
};
enum { TOKENIZERS = sizeof(pre_tokenizers) / sizeof(pre_tokenizers[0]) };

/* "\"!\":33," for each byte, in the alphabet of GPT-2. */
static void put_alphabet(struct ds_buf *out)
{
    unsigned next = 0x100;

    for (unsigned byte = 0; byte < 256; byte++) {
        bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);

        ds_buf_printf(out, "\"\\u%04x\":%u,", prints ? byte : next++, byte);
    }
}

static struct ds_encoder *encoder_of(unsigned which, const struct ds_tokenizer **tokenizer)
{
    static struct ds_tokenizer *made[TOKENIZERS];
    static struct ds_encoder *encoder[TOKENIZERS];

    if (made[which] == NULL) {
        struct ds_error err = {0};
        struct ds_buf alphabet, json;
        int rc;

        ds_buf_init(&alphabet, 1 << 16);
        ds_buf_init(&json, 1 << 16);
        put_alphabet(&alphabet);
        ds_buf_printf(&json, "{\"pre_tokenizer\":%s," MODEL "}", pre_tokenizers[which],
                      ds_buf_text(&alphabet));
        rc = ds_tokenizer_parse(&made[which], json.data, json.len, &err);
        assert(rc == 0);
        rc = ds_encoder_new(&encoder[which], made[which], &err);
        assert(rc == 0);
        ds_buf_release(&alphabet);
        ds_buf_release(&json);
    }
    *tokenizer = made[which];
    return encoder[which];
}

static struct ds_ids encode(struct ds_encoder *encoder, const char *text, size_t len)
{
    struct ds_encode_args args = {.text = text, .len = len, .end = len};
    struct ds_error err = {0};
    struct ds_ids ids = {0};
    int rc = ds_encode(encoder, &args, &ids, &err);

    assert(rc == 0);
    return ids;
}

static void cut(struct ds_encoder *encoder, const char *text, size_t len, size_t most,
                const struct ds_ids *whole)
{
    size_t at = most == 0 || most >= len ? 0 : ds_tokenizer_cut(text, len, most);
    struct ds_encode_args first = {.text = text, .len = len, .end = at};
    struct ds_encode_args second = {
        .text = text + at, .len = len - at, .end = len - at, .continued = true};
    struct ds_ids ids = {0};
    int rc = at == 0 ? -1 : ds_encode(encoder, &first, &ids, NULL);

    if (rc == 0) {
        rc = ds_encode(encoder, &second, &ids, NULL);
        assert(rc == 0 && ids.count == whole->count);
        assert(memcmp(ids.id, whole->id, ids.count * sizeof(*ids.id)) == 0);
    }
    ds_ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    const char *text = (const char *)data + 2;
    struct ds_ids ids;
    struct ds_buf out;
    size_t len;

    if (size < 3)
        return 0;
    len = ds_utf8_valid(text, size - 2);
    encoder = encoder_of(data[0] % TOKENIZERS, &tokenizer);
    ids = encode(encoder, text, len);
    ds_buf_init(&out, 1 << 24);
    ds_decode(tokenizer, ids.id, ids.count, true, &out);
    assert(out.len == len && memcmp(ds_buf_text(&out), text, len) == 0);
    if (ds_tokenizer_cuts(tokenizer))
        cut(encoder, text, len, data[1], &ids);
    ds_buf_release(&out);
    ds_ids_release(&ids);
    return 0;
}
