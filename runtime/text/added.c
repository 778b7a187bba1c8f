/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * added.c - the contract is in added.h.
 *
 * Sorted texts are a tree that needs no nodes: those that begin with the same bytes are a range,
 * and each further byte narrows it by bisection.
 */
#include "runtime/text/added.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/unicode.h"

int ds_added_put(struct ds_added_set *set, const struct ds_added *token, struct ds_error *err)
{
    struct ds_added *grown = set->token;
    char *text;

    if (token->len == 0 || token->len > DS_MAX_TOKEN_BYTES)
        return ds_fail(err, EINVAL, "an added token has %zu bytes, not 1 to %d", token->len,
                       DS_MAX_TOKEN_BYTES);
    if ((set->count & (set->count - 1)) == 0) /* full at every power of two */
        grown = realloc(set->token, (set->count == 0 ? 1 : 2 * set->count) * sizeof(*grown));
    text = grown == NULL ? NULL : malloc(token->len);
    if (grown != NULL)
        set->token = grown;
    if (text == NULL)
        return ds_fail(err, ENOMEM, "no memory for %zu added tokens", set->count + 1);
    memcpy(text, token->text, token->len);
    grown[set->count] = *token;
    grown[set->count++].text = text;
    set->begins[(unsigned char)text[0]] = true;
    return 0;
}

static int compare(const void *left, const void *right)
{
    const struct ds_added *a = left, *b = right;
    int order = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);

    return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

int ds_added_close(struct ds_added_set *set, struct ds_error *err)
{
    if (set->count > 0)
        qsort(set->token, set->count, sizeof(*set->token), compare);
    for (size_t i = 1; i < set->count; i++)
        if (compare(&set->token[i - 1], &set->token[i]) == 0)
            return ds_fail(err, EBADMSG, "added token '%.*s' is there twice",
                           (int)set->token[i].len, set->token[i].text);
    return 0;
}

void ds_added_release(struct ds_added_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->token[i].text);
    free(set->token);
    *set = (struct ds_added_set){0};
}

/* --- finding --------------------------------------------------------------------------------- */

/* The first token of [low, high), which agree before byte `k`, whose byte k is not below `c`. */
static size_t bisect(const struct ds_added_set *set, size_t low, size_t high, size_t k, int c)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct ds_added *token = &set->token[middle];

        if (token->len <= k || (unsigned char)token->text[k] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token at the start of `text`, or NULL. */
static const struct ds_added *longest(const struct ds_added_set *set, const char *text, size_t len)
{
    const struct ds_added *best = NULL;
    size_t low = 0, high = set->count;

    for (size_t k = 0; k < len && low < high; k++) {
        int c = (unsigned char)text[k];

        low = bisect(set, low, high, k, c);
        high = bisect(set, low, high, k, c + 1);
        if (low < high && set->token[low].len == k + 1)
            best = &set->token[low];
    }
    return best;
}

static bool word_before(const char *text, size_t at)
{
    return at > 0 && ds_unicode_is_word(ds_unicode_before(text, at));
}

static bool word_after(const char *text, size_t len, size_t at)
{
    size_t used;

    return at < len && ds_unicode_is_word(ds_unicode_at(text + at, &used));
}

/* Start of the white space that ends at `at`. */
static size_t spaces_before(const char *text, size_t at)
{
    while (at > 0 && ds_unicode_is_space(ds_unicode_before(text, at)))
        do
            at--;
        while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

static size_t spaces_after(const char *text, size_t len, size_t at)
{
    size_t used;

    while (at < len && ds_unicode_is_space(ds_unicode_at(text + at, &used)))
        at += used;
    return at;
}

/* Look on from walk->at; false: no more. */
static bool find(struct ds_added_walk *w)
{
    for (; w->at < w->len; w->at++) {
        const struct ds_added *token;
        size_t begin = w->at, end;

        if (!w->set->begins[(unsigned char)w->text[w->at]])
            continue;
        token = longest(w->set, w->text + w->at, w->len - w->at);
        if (token == NULL)
            continue;
        end = begin + token->len;
        w->at = end;
        if (token->single_word &&
            (word_before(w->text, begin) || word_after(w->text, w->len, end))) {
            w->at--; /* the loop adds it */
            continue;
        }
        if (token->lstrip) {
            size_t left = spaces_before(w->text, begin);

            begin = left > w->done ? left : w->done;
        }
        if (token->rstrip)
            end = spaces_after(w->text, w->len, end);
        w->token = token->id;
        w->token_begin = begin;
        w->token_end = end;
        return true;
    }
    return false;
}

bool ds_added_next(struct ds_added_walk *w, size_t *begin, size_t *end, uint32_t *id)
{
    if (!w->found && !w->ended) {
        w->found = w->set->count > 0 && find(w);
        w->ended = !w->found;
    }
    *id = DS_NO_TOKEN;
    *begin = w->done;
    if (w->found && w->done < w->token_begin) {
        *end = w->done = w->token_begin;
        return true;
    }
    if (w->found) {
        w->found = false;
        *id = w->token;
        *begin = w->token_begin;
        *end = w->done = w->token_end;
        return true;
    }
    *end = w->len;
    w->done = w->len;
    return *begin < *end;
}
