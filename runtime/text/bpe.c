/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * bpe.c - byte-pair merges: of all neighbours that merge, those of the lowest rank, the leftmost
 * first, until none is left.
 *
 * Symbols are a list, and candidates a heap by rank and place: n symbols take n log n steps however
 * long the piece is.  A candidate may be out of date when it comes up: its left symbol is gone, or
 * its neighbour has changed.  Then the merge of the two that stand there now is another token, and
 * it is dropped; a new one was put in when the neighbour changed.
 */
#include <errno.h>
#include <stdlib.h>

#include "runtime/text/parts.h"

int ds__bpe_add(struct ds__bpe *bpe, uint32_t id)
{
    if (bpe->count == bpe->cap) {
        size_t cap = bpe->cap == 0 ? 64 : 2 * bpe->cap;
        struct ds__symbol *grown = realloc(bpe->symbol, cap * sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        bpe->symbol = grown;
        bpe->cap = cap;
    }
    bpe->symbol[bpe->count++] = (struct ds__symbol){.id = id};
    return 0;
}

void ds__bpe_release(struct ds__bpe *bpe)
{
    free(bpe->symbol);
    free(bpe->heap);
    *bpe = (struct ds__bpe){0};
}

/* --- the heap -------------------------------------------------------------------------------- */

static bool before(const struct ds__candidate *a, const struct ds__candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

/* There is room: a symbol is a candidate's left one at first, and each merge ends one symbol and
 * makes two candidates. */
static void push(struct ds__bpe *bpe, struct ds__candidate new)
{
    size_t i = bpe->candidates++;

    while (i > 0 && before(&new, &bpe->heap[(i - 1) / 2])) {
        bpe->heap[i] = bpe->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    bpe->heap[i] = new;
}

static struct ds__candidate pop(struct ds__bpe *bpe)
{
    struct ds__candidate top = bpe->heap[0], last = bpe->heap[--bpe->candidates];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < bpe->candidates) {
        if (child + 1 < bpe->candidates && before(&bpe->heap[child + 1], &bpe->heap[child]))
            child++;
        if (!before(&bpe->heap[child], &last))
            break;
        bpe->heap[i] = bpe->heap[child];
        i = child;
    }
    bpe->heap[i] = last;
    return top;
}

/* --- merging --------------------------------------------------------------------------------- */

/* Should symbol `at` and the one after it merge, they are a candidate. */
static void consider(struct ds__bpe *bpe, const struct ds_vocab *vocab, uint32_t at)
{
    uint32_t after = bpe->symbol[at].after;
    const struct ds_merge *merge;

    if (after == DS_NO_TOKEN)
        return;
    merge = ds_vocab_merge(vocab, bpe->symbol[at].id, bpe->symbol[after].id);
    if (merge != NULL)
        push(bpe, (struct ds__candidate){merge->rank, at, merge->id});
}

static void merge_one(struct ds__bpe *bpe, const struct ds_vocab *vocab,
                      const struct ds__candidate *top)
{
    struct ds__symbol *left = &bpe->symbol[top->at], *right;
    const struct ds_merge *now;

    if (left->id == DS_NO_TOKEN || left->after == DS_NO_TOKEN)
        return;
    right = &bpe->symbol[left->after];
    now = ds_vocab_merge(vocab, left->id, right->id);
    if (now == NULL || now->id != top->id)
        return;
    left->id = top->id;
    left->after = right->after;
    right->id = DS_NO_TOKEN;
    if (left->after != DS_NO_TOKEN)
        bpe->symbol[left->after].before = top->at;
    if (left->before != DS_NO_TOKEN)
        consider(bpe, vocab, left->before);
    consider(bpe, vocab, top->at);
}

int ds__bpe_merge(struct ds__bpe *bpe, const struct ds_vocab *vocab, struct ds_ids *ids)
{
    uint32_t count = (uint32_t)bpe->count;
    int rc = 0;

    if (3 * bpe->count > bpe->heap_cap) {
        struct ds__candidate *grown = realloc(bpe->heap, 3 * bpe->cap * sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        bpe->heap = grown;
        bpe->heap_cap = 3 * bpe->cap;
    }
    for (uint32_t i = 0; i < count; i++) {
        bpe->symbol[i].before = i == 0 ? DS_NO_TOKEN : i - 1;
        bpe->symbol[i].after = i + 1 == count ? DS_NO_TOKEN : i + 1;
    }
    for (uint32_t i = 0; i < count; i++)
        consider(bpe, vocab, i);
    while (bpe->candidates > 0) {
        struct ds__candidate top = pop(bpe);

        merge_one(bpe, vocab, &top);
    }
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        if (bpe->symbol[i].id != DS_NO_TOKEN)
            rc = ds_ids_put(ids, bpe->symbol[i].id);
    bpe->count = 0;
    return rc;
}
