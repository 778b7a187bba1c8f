/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * vocab.h - the tokens of a tokenizer by text and by id, and which two of them merge into which.
 *
 * Both tables are filled once and then only read.  Texts are bytes of valid UTF-8 as tokenizer.json
 * has them: where a tokenizer works on bytes, each stands for one by the alphabet of GPT-2.
 *
 * Owner   the strings are copied.  ds_vocab_release() frees; a zeroed one is fine.
 * Errors  EBADMSG, ENOMEM
 * Tests   tests/text/test_vocab.c
 */
#ifndef DS_RUNTIME_TEXT_VOCAB_H
#define DS_RUNTIME_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

#define DS_NO_TOKEN UINT32_MAX
enum { DS_MAX_TOKEN_BYTES = 1024 }; /* of the text of one */

struct ds_vocab_text {
    uint32_t at, len; /* len DS_NO_TOKEN: no token has this id */
};

struct ds_merge {
    uint64_t pair; /* left id in the upper half; UINT64_MAX: free */
    uint32_t rank; /* 0 merges first */
    uint32_t id;   /* what the two become */
};

struct ds_vocab {
    struct ds_buf bytes; /* all texts, end to end */
    struct ds_vocab_text *text;
    uint32_t size;  /* the largest id + 1 */
    uint32_t count; /* ids that are taken */
    uint32_t *slot; /* ids, by the hash of their text */
    size_t slots;   /* a power of two */
    struct ds_merge *merge;
    size_t merges; /* places, a power of two, or 0 */
};

/* Room for ids below `size` and for `merges` merges, all at once. */
int ds_vocab_init(struct ds_vocab *vocab, uint32_t size, size_t merges, struct ds_error *err)
    DS_NODISCARD;
void ds_vocab_release(struct ds_vocab *vocab);

/* A text or an id (below size) that another token has, an empty text and one that is longer than
 * DS_MAX_TOKEN_BYTES are -EBADMSG. */
int ds_vocab_add(struct ds_vocab *vocab, const char *text, size_t len, uint32_t id,
                 struct ds_error *err) DS_NODISCARD;
/* `left` and `right` become `id`; the last one said of a pair counts.  At most as many as there is
 * room for. */
void ds_vocab_add_merge(struct ds_vocab *vocab, uint32_t left, uint32_t right, uint32_t rank,
                        uint32_t id);

/* The id of a text, or DS_NO_TOKEN. */
uint32_t ds_vocab_find(const struct ds_vocab *vocab, const char *text, size_t len);
/* The text of an id; NULL where none has it.  Borrowed. */
const char *ds_vocab_text(const struct ds_vocab *vocab, uint32_t id, size_t *len);
/* The merge of two ids, or NULL. */
const struct ds_merge *ds_vocab_merge(const struct ds_vocab *vocab, uint32_t left, uint32_t right);

#endif
