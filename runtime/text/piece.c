/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * piece.c - the ids of one piece: remembered, a token as a whole, or merged.
 *
 * Most pieces of a text are few words that come again: a table of fixed size, in which a new one
 * takes the place of an old one, remembers the short ones.
 */
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "runtime/text/parts.h"
#include "runtime/text/unicode.h"

static int no_memory(struct ds_encoder *e)
{
    return ds_fail(e->err, ENOMEM, "no memory for the tokens of a text");
}

/* --- symbols --------------------------------------------------------------------------------- */

static int add_bytes(struct ds_encoder *e, const char *piece, size_t len)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < len; i++) {
        uint32_t id = e->t->byte_id[(unsigned char)piece[i]];

        if (id != DS_NO_TOKEN)
            rc = ds__bpe_add(&e->bpe, id);
        else
            e->dropped++;
    }
    return rc;
}

/* All bytes of a character have a token of their own? */
static bool falls_back(const struct ds_tokenizer *t, const char *text, size_t len)
{
    for (size_t i = 0; t->byte_fallback && i < len; i++)
        if (t->byte_id[(unsigned char)text[i]] == DS_NO_TOKEN)
            return false;
    return t->byte_fallback;
}

/* The model's token of this text, or DS_NO_TOKEN. */
static uint32_t model_id(const struct ds_tokenizer *t, const char *text, size_t len)
{
    uint32_t id = ds_vocab_find(&t->vocab, text, len);

    return id != DS_NO_TOKEN && !t->is_added[id] ? id : DS_NO_TOKEN;
}

static uint32_t character_id(const struct ds_tokenizer *t, const char *text, size_t len)
{
    return len == 1 ? t->ascii_id[(unsigned char)*text] : model_id(t, text, len);
}

/* An unknown character waits, so that the next one can be fused with it; what falls back to bytes
 * does not end the wait, as in Hugging Face's tokenizers. */
static int add_characters(struct ds_encoder *e, const char *piece, size_t len)
{
    const struct ds_tokenizer *t = e->t;
    bool waiting = false;
    size_t bytes;
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < len; at += bytes) {
        uint32_t id;

        (void)ds_unicode_at(piece + at, &bytes);
        id = character_id(t, piece + at, bytes);
        if (id == DS_NO_TOKEN && falls_back(t, piece + at, bytes)) {
            rc = add_bytes(e, piece + at, bytes);
            continue;
        }
        e->dropped += id == DS_NO_TOKEN && t->unk == DS_NO_TOKEN;
        if (id == DS_NO_TOKEN && (t->unk == DS_NO_TOKEN || (waiting && t->fuse_unk)))
            continue;
        if (waiting)
            rc = ds__bpe_add(&e->bpe, t->unk);
        waiting = id == DS_NO_TOKEN;
        if (rc == 0 && !waiting)
            rc = ds__bpe_add(&e->bpe, id);
    }
    if (rc == 0 && waiting)
        rc = ds__bpe_add(&e->bpe, t->unk);
    return rc;
}

static int merge(struct ds_encoder *e, const char *piece, size_t len)
{
    int rc;

    if (len > DS__MAX_PIECE)
        return ds_fail(e->err, EOVERFLOW,
                       "%zu bytes of text without a place to divide them; %d are the most", len,
                       DS__MAX_PIECE);
    rc = e->t->byte_level ? add_bytes(e, piece, len) : add_characters(e, piece, len);
    if (rc == 0)
        rc = ds__bpe_merge(&e->bpe, &e->t->vocab, e->ids);
    e->bpe.count = 0;
    return rc == 0 ? 0 : no_memory(e);
}

/* The id of a piece that is a token as a whole, or DS_NO_TOKEN. */
static uint32_t whole(const struct ds_tokenizer *t, const char *piece, size_t len)
{
    char text[2 * DS_MAX_TOKEN_BYTES + 3];
    size_t used = 0;

    if (len > DS_MAX_TOKEN_BYTES) /* no token is as long */
        return DS_NO_TOKEN;
    if (!t->byte_level)
        return model_id(t, piece, len);
    for (size_t i = 0; i < len; i++)
        used += ds__alphabet_text((unsigned char)piece[i], text + used);
    return model_id(t, text, used);
}

/* --- remembering ----------------------------------------------------------------------------- */

static int put_cached(struct ds_encoder *e, const struct ds__cached *slot)
{
    for (size_t i = 0; i < slot->count; i++)
        if (ds_ids_put(e->ids, slot->id[i]) != 0)
            return no_memory(e);
    return 0;
}

int ds__encode_piece(struct ds_encoder *e, const char *piece, size_t len)
{
    uint64_t hash = 0, dropped = e->dropped;
    struct ds__cached *slot = NULL;
    size_t first = e->ids->count;
    uint32_t id;
    int rc = 0;

    if (len <= DS__CACHE_BYTES) {
        hash = XXH3_64bits(piece, len);
        slot = &e->cache[hash & (DS__CACHE_SLOTS - 1)];
        if (slot->hash == hash && slot->len == len && memcmp(slot->bytes, piece, len) == 0)
            return put_cached(e, slot);
    }
    id = e->t->ignore_merges ? whole(e->t, piece, len) : DS_NO_TOKEN;
    if (id == DS_NO_TOKEN)
        rc = merge(e, piece, len);
    else if (ds_ids_put(e->ids, id) != 0)
        rc = no_memory(e);
    if (rc != 0 || slot == NULL || e->ids->count - first > DS__CACHE_IDS || e->dropped != dropped)
        return rc;
    slot->hash = hash;
    slot->len = (uint8_t)len;
    slot->count = (uint8_t)(e->ids->count - first);
    memcpy(slot->bytes, piece, len);
    if (slot->count > 0)
        memcpy(slot->id, e->ids->id + first, slot->count * sizeof(*slot->id));
    return 0;
}
