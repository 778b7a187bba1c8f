/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * vocab.c - the contract is in vocab.h: two hash tables with open addressing, half full at most.
 */
#include "runtime/text/vocab.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define FREE_PAIR UINT64_MAX
/* Pairs of small numbers spread over the upper bits (Knuth, volume 3, 6.4). */
#define SPREAD UINT64_C(0x9e3779b97f4a7c15)

static size_t places_for(size_t count)
{
    size_t places = 16;

    while (places < 2 * count)
        places *= 2;
    return places;
}

int ds_vocab_init(struct ds_vocab *vocab, uint32_t size, size_t merges, struct ds_error *err)
{
    *vocab = (struct ds_vocab){.size = size, .slots = places_for(size)};
    ds_buf_init(&vocab->bytes, DS_MAX_JSON_BYTES);
    vocab->text = malloc((size + (size_t)1) * sizeof(*vocab->text));
    vocab->slot = malloc(vocab->slots * sizeof(*vocab->slot));
    vocab->merges = places_for(merges);
    vocab->merge = malloc(vocab->merges * sizeof(*vocab->merge));
    if (vocab->text == NULL || vocab->slot == NULL || vocab->merge == NULL) {
        ds_vocab_release(vocab);
        return ds_fail(err, ENOMEM, "no memory for a vocabulary of %u tokens", size);
    }
    for (uint32_t i = 0; i < size; i++)
        vocab->text[i] = (struct ds_vocab_text){.len = DS_NO_TOKEN};
    for (size_t i = 0; i < vocab->slots; i++)
        vocab->slot[i] = DS_NO_TOKEN;
    for (size_t i = 0; i < vocab->merges; i++)
        vocab->merge[i] = (struct ds_merge){.pair = FREE_PAIR};
    return 0;
}

void ds_vocab_release(struct ds_vocab *vocab)
{
    ds_buf_release(&vocab->bytes);
    free(vocab->text);
    free(vocab->slot);
    free(vocab->merge);
    *vocab = (struct ds_vocab){0};
}

/* --- texts ----------------------------------------------------------------------------------- */

/* Where the text is, or would be. */
static size_t slot_of(const struct ds_vocab *vocab, const char *text, size_t len)
{
    size_t i = XXH3_64bits(text, len) & (vocab->slots - 1);

    while (vocab->slot[i] != DS_NO_TOKEN) {
        const struct ds_vocab_text *there = &vocab->text[vocab->slot[i]];

        if (there->len == len && memcmp(vocab->bytes.data + there->at, text, len) == 0)
            break;
        i = (i + 1) & (vocab->slots - 1);
    }
    return i;
}

int ds_vocab_add(struct ds_vocab *vocab, const char *text, size_t len, uint32_t id,
                 struct ds_error *err)
{
    size_t slot;

    assert(id < vocab->size);
    if (len == 0 || len > DS_MAX_TOKEN_BYTES)
        return ds_fail(err, EBADMSG, "token %u has %zu bytes, not 1 to %d", id, len,
                       DS_MAX_TOKEN_BYTES);
    slot = slot_of(vocab, text, len);
    if (vocab->slot[slot] != DS_NO_TOKEN)
        return ds_fail(err, EBADMSG, "tokens %u and %u are both '%.*s'", vocab->slot[slot], id,
                       (int)(len < 100 ? len : 100), text);
    if (vocab->text[id].len != DS_NO_TOKEN)
        return ds_fail(err, EBADMSG, "two tokens have id %u", id);
    vocab->text[id] = (struct ds_vocab_text){(uint32_t)vocab->bytes.len, (uint32_t)len};
    if (ds_buf_put(&vocab->bytes, text, len) != 0)
        return ds_fail(err, ENOMEM, "no memory for the texts of %u tokens", vocab->size);
    vocab->slot[slot] = id;
    vocab->count++;
    return 0;
}

uint32_t ds_vocab_find(const struct ds_vocab *vocab, const char *text, size_t len)
{
    return vocab->slot[slot_of(vocab, text, len)];
}

const char *ds_vocab_text(const struct ds_vocab *vocab, uint32_t id, size_t *len)
{
    if (id >= vocab->size || vocab->text[id].len == DS_NO_TOKEN)
        return NULL;
    *len = vocab->text[id].len;
    return vocab->bytes.data + vocab->text[id].at;
}

/* --- merges ---------------------------------------------------------------------------------- */

static size_t place_of(const struct ds_vocab *vocab, uint64_t pair)
{
    size_t i = (size_t)((pair * SPREAD) >> 32) & (vocab->merges - 1);

    while (vocab->merge[i].pair != pair && vocab->merge[i].pair != FREE_PAIR)
        i = (i + 1) & (vocab->merges - 1);
    return i;
}

void ds_vocab_add_merge(struct ds_vocab *vocab, uint32_t left, uint32_t right, uint32_t rank,
                        uint32_t id)
{
    uint64_t pair = (uint64_t)left << 32 | right;

    vocab->merge[place_of(vocab, pair)] = (struct ds_merge){pair, rank, id};
}

const struct ds_merge *ds_vocab_merge(const struct ds_vocab *vocab, uint32_t left, uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    const struct ds_merge *found = &vocab->merge[place_of(vocab, pair)];

    return found->pair == pair ? found : NULL;
}
