/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * added.h - tokens that are found in the text itself, before the model sees it.
 *
 * Of several that begin at one place the longest counts, and what has matched is not looked at
 * again.  Then the token's own conditions hold, as in Hugging Face's tokenizers: single_word drops
 * a match beside a letter, digit or the like, lstrip and rstrip take the white space beside it.
 *
 * Owner   ds_added_release() frees; a zeroed set is an empty one.
 * Tests   tests/text/test_tokenizer.c
 */
#ifndef DS_RUNTIME_TEXT_ADDED_H
#define DS_RUNTIME_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/text/vocab.h" /* DS_NO_TOKEN, DS_MAX_TOKEN_BYTES */

enum { DS_MAX_ADDED_TOKENS = 65536 };

struct ds_added {
    char *text;
    size_t len; /* 1 to DS_MAX_TOKEN_BYTES */
    uint32_t id;
    bool single_word, lstrip, rstrip;
};

struct ds_added_set {
    struct ds_added *token; /* sorted by text, once ds_added_close() was called */
    size_t count;
    bool begins[256]; /* does one begin with this byte? */
};

/* Copies the text.  -EINVAL: its length; -ENOMEM. */
int ds_added_put(struct ds_added_set *set, const struct ds_added *token, struct ds_error *err)
    DS_NODISCARD;
/* No more come.  -EBADMSG: two have the same text. */
int ds_added_close(struct ds_added_set *set, struct ds_error *err) DS_NODISCARD;
void ds_added_release(struct ds_added_set *set);

/* A walk over a text: begin with {set, text, len}. */
struct ds_added_walk {
    const struct ds_added_set *set;
    const char *text;
    size_t len;
    size_t at;   /* searched up to here */
    size_t done; /* told up to here */
    size_t token_begin, token_end;
    uint32_t token; /* found, and not yet told */
    bool found, ended;
};

/* The next stretch [*begin, *end): text, *id is DS_NO_TOKEN, or a token.  False at the end. */
bool ds_added_next(struct ds_added_walk *walk, size_t *begin, size_t *end, uint32_t *id);

#endif
