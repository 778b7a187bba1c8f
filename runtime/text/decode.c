/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * decode.c - ids back to the bytes that they stand for; the contract is in tokenizer.h.
 */
#include <string.h>

#include "runtime/text/parts.h"
#include "runtime/text/unicode.h"

/* The bytes of a text in the alphabet; a text with any other character is its own. */
static void put_bytes(const char *text, size_t len, struct ds_buf *out)
{
    char bytes[DS_MAX_TOKEN_BYTES];
    size_t count = 0, used;

    for (size_t at = 0; at < len; at += used) {
        int byte = ds__alphabet_byte(ds_unicode_at(text + at, &used));

        if (byte < 0) {
            (void)ds_buf_put(out, text, len);
            return;
        }
        bytes[count++] = (char)byte;
    }
    (void)ds_buf_put(out, bytes, count);
}

/* "<0x0A>": the byte; -1 for any other text. */
static int fallen_byte(const char *text, size_t len)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *high, *low;

    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    high = memchr(digits, text[3], 16);
    low = memchr(digits, text[4], 16);
    return high == NULL || low == NULL ? -1 : (int)(16 * (high - digits) + (low - digits));
}

static void put_replaced(const struct ds__decoder *d, const char *text, size_t len,
                         struct ds_buf *out)
{
    const char *end = text + len, *found;
    size_t from = strlen(d->from);

    while (from > 0 && (found = memmem(text, (size_t)(end - text), d->from, from)) != NULL) {
        (void)ds_buf_put(out, text, (size_t)(found - text));
        (void)ds_buf_puts(out, d->to);
        text = found + from;
    }
    (void)ds_buf_put(out, text, (size_t)(end - text));
}

static void put_token(const struct ds_tokenizer *t, uint32_t id, struct ds_buf *out)
{
    size_t len;
    const char *text = ds_vocab_text(&t->vocab, id, &len);
    int byte;

    if (text == NULL)
        return;
    if (t->is_added[id]) {
        (void)ds_buf_put(out, text, len);
    } else if (t->decoder.bytes) {
        put_bytes(text, len, out);
    } else if (t->decoder.fallback && (byte = fallen_byte(text, len)) >= 0) {
        char one = (char)byte;

        (void)ds_buf_put(out, &one, 1);
    } else {
        put_replaced(&t->decoder, text, len, out);
    }
}

void ds_decode(const struct ds_tokenizer *tokenizer, const uint32_t *ids, size_t count, bool begins,
               struct ds_buf *out)
{
    const char *strip = tokenizer->decoder.strip;
    size_t strip_len = strlen(strip), base = out->len;

    for (size_t i = 0; i < count; i++)
        put_token(tokenizer, ids[i], out);
    if (begins && strip_len > 0 && out->len - base >= strip_len && !out->failed &&
        memcmp(out->data + base, strip, strip_len) == 0) {
        memmove(out->data + base, out->data + base + strip_len, out->len - base - strip_len);
        out->len -= strip_len;
        out->data[out->len] = '\0';
    }
}
