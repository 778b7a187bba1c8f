/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * encode.c - the way of a text through a tokenizer; the contract is in tokenizer.h.
 *
 * Every step is given a text, its length and a cut: what is behind the cut is looked at, and not
 * encoded.  Where the text is cut in truth, all steps have to see it as they see the end of a
 * stretch:
 *
 *   - a match that ends at the cut, whatever follows, ends a piece in the whole text, too;
 *   - a stretch without a match that goes over the cut is two stretches without one: the next stage
 *     decides, and in the end the model, where nothing merges with the newline before the cut;
 *   - anything else is no cut (-EAGAIN).
 *
 * By induction over the parts of a text, each part then begins where a piece of the whole begins,
 * and a stage that begins there finds what it would have found: no pattern looks behind
 * (ds_tokenizer_cuts()).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/parts.h"

enum { TEXT_BYTES = 1 << 30 }; /* of a text that is rewritten */

int ds_ids_put(struct ds_ids *ids, uint32_t id)
{
    if (ids->count == ids->cap) {
        size_t cap = ids->cap == 0 ? 1024 : 2 * ids->cap;
        uint32_t *grown = realloc(ids->id, cap * sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        ids->id = grown;
        ids->cap = cap;
    }
    ids->id[ids->count++] = id;
    return 0;
}

void ds_ids_release(struct ds_ids *ids)
{
    free(ids->id);
    *ids = (struct ds_ids){0};
}

int ds_encoder_new(struct ds_encoder **encoder, const struct ds_tokenizer *tokenizer,
                   struct ds_error *err)
{
    struct ds_encoder *new = calloc(1, sizeof(*new));

    *encoder = NULL;
    if (new != NULL) {
        new->t = tokenizer;
        new->matcher = ds_matcher_new();
        new->cache = calloc(DS__CACHE_SLOTS, sizeof(*new->cache));
        ds_buf_init(&new->normal, TEXT_BYTES);
        ds_buf_init(&new->scratch, TEXT_BYTES);
        ds_buf_init(&new->prefixed, TEXT_BYTES);
    }
    if (new == NULL || new->matcher == NULL || new->cache == NULL) {
        ds_encoder_free(new);
        return ds_fail(err, ENOMEM, "no memory to encode text");
    }
    *encoder = new;
    return 0;
}

void ds_encoder_free(struct ds_encoder *encoder)
{
    if (encoder == NULL)
        return;
    ds_matcher_free(encoder->matcher);
    free(encoder->cache);
    ds__bpe_release(&encoder->bpe);
    ds_buf_release(&encoder->normal);
    ds_buf_release(&encoder->scratch);
    ds_buf_release(&encoder->prefixed);
    free(encoder);
}

uint64_t ds_encoder_dropped(const struct ds_encoder *encoder)
{
    return encoder->dropped;
}

/* --- splitting ------------------------------------------------------------------------------- */

struct stretch { /* of the text that a stage splits */
    const char *text;
    size_t len, cut; /* cut <= len */
    size_t stage;
    size_t begin, end; /* a stretch that may grow, where `held` */
    bool held;
    bool matched; /* was the last one a match? */
};

static int split(struct ds_encoder *e, size_t stage, const char *text, size_t len, size_t cut);

static int pass(struct ds_encoder *e, const struct stretch *s, size_t begin, size_t end)
{
    size_t cut = end < s->cut ? end : s->cut;

    return begin == end ? 0 : split(e, s->stage + 1, s->text + begin, end - begin, cut - begin);
}

static int flush(struct ds_encoder *e, struct stretch *s)
{
    bool held = s->held;

    s->held = false;
    return held ? pass(e, s, s->begin, s->end) : 0;
}

/* Does a stretch grow by the next one? */
static bool grows(const struct stretch *s, enum ds__behavior behavior, bool match)
{
    switch (behavior) {
    case DS__CONTIGUOUS: return s->held && match == s->matched;
    case DS__MERGED_WITH_PREVIOUS: return s->held && match && !s->matched;
    case DS__MERGED_WITH_NEXT: return s->held && !match && s->matched;
    default: return false;
    }
}

/* The stage found that [begin, end) matches, or does not. */
static int take(struct ds_encoder *e, struct stretch *s, size_t begin, size_t end, bool match)
{
    const struct ds__stage *stage = &e->t->stage[s->stage];
    int rc = 0;

    match = match != stage->invert;
    if (stage->behavior == DS__ISOLATED || (stage->behavior == DS__REMOVED && !match))
        return pass(e, s, begin, end);
    if (stage->behavior == DS__REMOVED)
        return 0;
    if (grows(s, stage->behavior, match)) {
        s->end = end;
    } else {
        rc = flush(e, s);
        s->begin = begin;
        s->end = end;
        s->held = true;
    }
    s->matched = match;
    return rc;
}

/* At the cut ends a match: the end of a piece, unless pieces are joined. */
static int end_at_cut(struct ds_encoder *e, struct stretch *s)
{
    enum ds__behavior behavior = e->t->stage[s->stage].behavior;

    if (s->cut < s->len && behavior != DS__ISOLATED && behavior != DS__REMOVED)
        return -EAGAIN;
    return flush(e, s);
}

static int split_stage(struct ds_encoder *e, struct stretch *s)
{
    const struct ds__stage *stage = &e->t->stage[s->stage];
    bool partial = s->cut < s->len;
    size_t at = 0;
    int rc = 0;

    while (rc == 0 && at < s->cut) {
        size_t begin = s->len, end = begin;
        int found = ds_pattern_find(stage->pattern, e->matcher, s->text, s->len, at, partial,
                                    &begin, &end, e->err);

        if (found < 0)
            return found;
        if (found == DS_FOUND_CUT && begin <= s->cut)
            return -EAGAIN;
        if (found == DS_FOUND_NONE || begin >= s->cut) {
            rc = take(e, s, at, begin, false);
            return rc == 0 && begin == s->cut ? end_at_cut(e, s) : rc == 0 ? flush(e, s) : rc;
        }
        if (begin > at)
            rc = take(e, s, at, begin, false);
        if (rc == 0 && end > s->cut)
            return -EAGAIN;
        if (rc == 0)
            rc = take(e, s, begin, end, true);
        at = end;
    }
    return rc == 0 ? end_at_cut(e, s) : rc;
}

static int split(struct ds_encoder *e, size_t stage, const char *text, size_t len, size_t cut)
{
    struct stretch s = {.text = text, .len = len, .cut = cut, .stage = stage};

    if (stage < e->t->stages)
        return split_stage(e, &s);
    if (cut < len && !e->t->newline_apart)
        return -EAGAIN;
    return ds__encode_piece(e, text, cut);
}

/* --- before it ------------------------------------------------------------------------------- */

/* text[from .. to) with blanks as the mark. */
static void put_marked(struct ds_encoder *e, const char *text, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        size_t plain = i;

        while (i < to && text[i] != ' ')
            i++;
        (void)ds_buf_put(&e->prefixed, text + plain, i - plain);
        if (i < to)
            (void)ds_buf_puts(&e->prefixed, e->t->mark);
    }
}

/* Is there to be a mark in front?  `first`: the text begins here. */
static bool wants_mark(const struct ds_tokenizer *t, const char *text, size_t len, bool first)
{
    size_t mark_len = strlen(t->mark);

    if (t->scheme == DS__SCHEME_NEVER || (t->scheme == DS__SCHEME_FIRST && !first))
        return false;
    return text[0] != ' ' && !(len >= mark_len && memcmp(text, t->mark, mark_len) == 0);
}

/* A stretch without added tokens.  `continued`: it began in another part. */
static int encode_stretch(struct ds_encoder *e, const char *text, size_t len, size_t cut,
                          bool first, bool continued)
{
    const struct ds_tokenizer *t = e->t;

    if (t->prefix == DS__PREFIX_NONE ||
        (t->prefix == DS__PREFIX_SPACE && (continued || text[0] == ' ')))
        return split(e, 0, text, len, cut);
    ds_buf_reset(&e->prefixed);
    if (t->prefix == DS__PREFIX_SPACE) {
        (void)ds_buf_puts(&e->prefixed, " ");
        (void)ds_buf_put(&e->prefixed, text, len);
        cut++;
    } else {
        if (!continued && wants_mark(t, text, len, first))
            (void)ds_buf_puts(&e->prefixed, t->mark);
        put_marked(e, text, 0, cut);
        text += cut;
        len -= cut;
        cut = e->prefixed.len;
        put_marked(e, text, 0, len);
    }
    if (e->prefixed.failed)
        return ds_fail(e->err, ENOMEM, "no memory for a text");
    return split(e, 0, ds_buf_text(&e->prefixed), e->prefixed.len, cut);
}

/* Text between the added tokens that are found in it as it is. */
static int encode_text(struct ds_encoder *e, const char *text, size_t len, size_t cut, bool first,
                       bool continued)
{
    struct ds_added_walk walk = {.set = &e->t->normalized, .text = text, .len = len};
    size_t begin, end;
    uint32_t id;
    int rc = 0;

    if (e->t->normals > 0) {
        ds_buf_reset(&e->normal);
        ds__normalize(e->t, text, cut, !continued, &e->scratch, &e->normal);
        walk.len = e->normal.len;
        ds__normalize(e->t, text + cut, len - cut, false, &e->scratch, &e->normal);
        if (e->normal.failed || e->scratch.failed)
            return ds_fail(e->err, ENOMEM, "no memory for a text in normal form");
        cut = walk.len;
        walk.len = e->normal.len;
        walk.text = ds_buf_text(&e->normal);
    }
    while (rc == 0 && ds_added_next(&walk, &begin, &end, &id) && begin < cut) {
        if (id == DS_NO_TOKEN)
            rc = encode_stretch(e, walk.text + begin, end - begin, (end < cut ? end : cut) - begin,
                                first && begin == 0, continued && begin == 0);
        else if (end > cut)
            rc = -EAGAIN;
        else if (ds_ids_put(e->ids, id) != 0)
            rc = ds_fail(e->err, ENOMEM, "no memory for the tokens of a text");
    }
    return rc;
}

int ds_encode(struct ds_encoder *e, const struct ds_encode_args *args, struct ds_ids *ids,
              struct ds_error *err)
{
    struct ds_added_walk walk = {.set = &e->t->raw, .text = args->text, .len = args->len};
    size_t begin, end, cut = args->end;
    uint32_t id;
    int rc = 0;

    e->ids = ids;
    e->err = err;
    while (rc == 0 && ds_added_next(&walk, &begin, &end, &id) && begin < cut) {
        bool first = begin == 0;

        if (id == DS_NO_TOKEN)
            rc = encode_text(e, args->text + begin, end - begin, (end < cut ? end : cut) - begin,
                             first && !args->continued, first && args->continued);
        else if (end > cut)
            rc = -EAGAIN;
        else if (ds_ids_put(e->ids, id) != 0)
            rc = ds_fail(err, ENOMEM, "no memory for the tokens of a text");
    }
    e->ids = NULL;
    e->err = NULL;
    return rc;
}
