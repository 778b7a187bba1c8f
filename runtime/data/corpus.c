/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * corpus.c - the contract is in corpus.h.
 */
#include "runtime/data/corpus.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "runtime/data/pack.h"

struct work { /* one place of the ring */
    struct ds_stretch in;
    struct ds_ids ids;
    struct ds_ids lengths; /* of samples that are packed */
    struct ds_chat_room chat;
    struct ds_corpus_count made;
    int rc; /* -EAGAIN: it cannot be cut at its end */
    struct ds_error err;
    bool done;
};

struct corpus {
    const struct ds_corpus_args *args;
    struct ds_reader reader;
    struct ds_token_writer *writer;
    struct ds_pack pack;
    struct ds_corpus_count *count;
    struct ds_encoder *own; /* of the calling thread */
    struct work held;       /* stretches that were no whole, joined; text empty: none */
    size_t enough;          /* bytes of it that are tried again */
    struct work *ring;
    size_t places;
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    uint64_t filled, taken, written; /* stretches so far; written by the calling thread alone */
    bool over;
};

struct helper {
    struct corpus *corpus;
    struct ds_encoder *encoder;
    pthread_t thread;
};

/* --- one stretch ----------------------------------------------------------------------------- */

static int end_document(const struct ds_corpus_args *args, struct work *w)
{
    w->made.documents++;
    if (args->separator == DS_NO_TOKEN || ds_ids_put(&w->ids, args->separator) == 0)
        return 0;
    return ds_fail(&w->err, ENOMEM, "no memory for the tokens of a document");
}

static int encode_text(const struct ds_corpus_args *args, struct ds_encoder *encoder,
                       struct work *w)
{
    struct ds_encode_args text = {.text = ds_buf_text(&w->in.text),
                                  .len = w->in.text.len,
                                  .end = w->in.end,
                                  .continued = w->in.continued};
    bool last = w->in.end == w->in.text.len;
    int rc;

    text.len = ds_utf8_valid(text.text, text.len); /* what is behind the cut may be cut itself */
    if (text.len < text.end)
        return ds_fail(&w->err, EBADMSG,
                       "'%s': byte %ju is not valid UTF-8; convert the file, with iconv say",
                       w->in.path, (uintmax_t)w->in.at + text.len);
    rc = ds_encode(encoder, &text, &w->ids, &w->err);
    if (rc != 0 && rc != -EAGAIN)
        return ds_error_context(&w->err, rc, "'%s' from byte %ju on", w->in.path,
                                (uintmax_t)w->in.at);
    w->made.text_bytes = text.end;
    return rc == 0 && last ? end_document(args, w) : rc;
}

static bool is_blank(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r')
            return false;
    return true;
}

/* The text at a key, which `option` names; `continued`: it goes on from another. */
static int encode_value(struct ds_encoder *encoder, struct work *w, const json_t *root,
                        const char *key, const char *option, bool continued)
{
    const json_t *value = json_object_get(root, key);
    struct ds_encode_args text = {.text = json_string_value(value),
                                  .len = json_string_length(value),
                                  .end = json_string_length(value),
                                  .continued = continued};

    if (!json_is_string(value))
        return value == NULL
                   ? ds_fail(&w->err, EBADMSG, "there is no key '%s'; name the right one with %s",
                             key, option)
                   : ds_fail(&w->err, EBADMSG, "key '%s' is not a text", key);
    w->made.text_bytes += text.len;
    return ds_encode(encoder, &text, &w->ids, &w->err);
}

/* What samples and sequences are filled up with; no target. */
static uint32_t filling(const struct ds_corpus_args *args)
{
    return args->separator == DS_NO_TOKEN ? ~UINT32_C(0) : ~args->separator;
}

static uint64_t count_targets(const uint32_t *ids, size_t count)
{
    uint64_t targets = 0;

    for (size_t i = 0; i < count; i++)
        targets += (ids[i] & DS_NOT_TARGET) == 0;
    return targets;
}

/* Does a separator stand before the last id? */
static bool has_inside(const struct ds_corpus_args *args, const uint32_t *ids, size_t count)
{
    for (size_t i = 0; i + 1 < count; i++)
        if (ids[i] == args->separator || ids[i] == ~args->separator)
            return true;
    return false;
}

static int end_sample(const struct ds_corpus_args *args, struct work *w, size_t begin)
{
    const size_t end = begin + (size_t)args->length;
    int rc = args->pack ? ds_ids_put(&w->lengths, (uint32_t)(w->ids.count - begin)) : 0;

    while (rc == 0 && !args->pack && w->ids.count < end)
        rc = ds_ids_put(&w->ids, filling(args));
    return rc == 0 ? 0 : ds_fail(&w->err, ENOMEM, "no memory for the tokens of a document");
}

/* The ids from `begin` on, of which some are complements, become a sample. */
static int make_sample(const struct ds_corpus_args *args, struct work *w, size_t begin)
{
    const size_t all = w->ids.count - begin;
    const size_t count = all < args->length ? all : (size_t)args->length;
    uint32_t *ids = w->ids.id + begin;
    uint64_t targets;

    if (count > 0)
        ids[0] = ids[0] & DS_NOT_TARGET ? ids[0] : ~ids[0]; /* nothing is in front of it */
    targets = count_targets(ids, count);
    w->ids.count = begin + (targets > 0 ? count : 0);
    if (targets == 0) {
        w->made.passed++;
        return 0;
    }
    w->made.cut += count < all;
    w->made.tokens += count;
    w->made.targets += targets;
    w->made.inside += args->separator != DS_NO_TOKEN && has_inside(args, ids, count);
    return end_sample(args, w, begin);
}

/* The separator, which no message asks for, unless one has just ended so. */
static int end_messages(const struct ds_corpus_args *args, struct work *w, size_t begin)
{
    const struct ds_ids *ids = &w->ids;
    const uint32_t last = ids->count > begin ? ids->id[ids->count - 1] : DS_NO_TOKEN;

    w->made.documents++;
    w->made.text_bytes += w->chat.text.len;
    if (args->separator == DS_NO_TOKEN || last == args->separator || last == ~args->separator ||
        ds_ids_put(&w->ids, ~args->separator) == 0)
        return 0;
    return ds_fail(&w->err, ENOMEM, "no memory for the tokens of a document");
}

static int encode_messages(const struct ds_corpus_args *args, struct ds_encoder *encoder,
                           struct work *w, const json_t *root, size_t begin)
{
    const json_t *messages = json_object_get(root, args->key);
    int rc;

    if (messages == NULL)
        return ds_fail(&w->err, EBADMSG, "there is no key '%s'; name the right one with --key",
                       args->key);
    if (!json_is_array(messages))
        return ds_fail(&w->err, EBADMSG, "key '%s' is not a list of messages", args->key);
    rc = ds_chat_encode(args->chat, messages, encoder, &w->chat, (size_t)args->length, &w->ids,
                        &w->err);
    return rc == 0 ? end_messages(args, w, begin) : rc;
}

static int encode_texts(const struct ds_corpus_args *args, struct ds_encoder *encoder,
                        struct work *w, const json_t *root, size_t begin)
{
    size_t target;
    int rc = 0;

    if (args->prompt != NULL)
        rc = encode_value(encoder, w, root, args->prompt, "--prompt-key", false);
    target = w->ids.count;
    if (rc == 0)
        rc = encode_value(encoder, w, root, args->key, "--key", target > begin);
    for (size_t i = begin; i < target; i++)
        w->ids.id[i] = ~w->ids.id[i];
    return rc == 0 ? end_document(args, w) : rc;
}

static int encode_line(const struct ds_corpus_args *args, struct ds_encoder *encoder,
                       struct work *w, const char *line, size_t len)
{
    const size_t begin = w->ids.count;
    json_error_t why;
    json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    int rc;

    if (root == NULL)
        return ds_fail(&w->err, EBADMSG, "column %d: %s", why.column, why.text);
    if (!json_is_object(root))
        rc = ds_fail(&w->err, EBADMSG, "a line must be an object, as {\"%s\": \"...\"}", args->key);
    else if (args->chat != NULL)
        rc = encode_messages(args, encoder, w, root, begin);
    else
        rc = encode_texts(args, encoder, w, root, begin);
    if (rc == 0 && args->length > 0)
        rc = make_sample(args, w, begin);
    json_decref(root);
    return rc;
}

static int encode_lines(const struct ds_corpus_args *args, struct ds_encoder *encoder,
                        struct work *w)
{
    const char *at = ds_buf_text(&w->in.text), *end = at + w->in.text.len;
    int rc = 0;

    for (uint64_t number = w->in.at; rc == 0 && at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline == NULL ? end : newline) - at);

        if (!is_blank(at, len))
            rc = ds_error_context(&w->err, encode_line(args, encoder, w, at, len), "'%s':%ju",
                                  w->in.path, (uintmax_t)number);
        at += len + 1;
    }
    return rc;
}

static void encode(const struct ds_corpus_args *args, struct ds_encoder *encoder, struct work *w)
{
    uint64_t dropped = ds_encoder_dropped(encoder);

    w->ids.count = w->lengths.count = 0;
    w->chat.again = 0;
    w->made = (struct ds_corpus_count){0};
    w->err = (struct ds_error){0};
    if (args->length > 0 && !w->in.lines)
        w->rc = ds_fail(&w->err, EINVAL,
                        "'%s' is text, and samples are of JSON lines; say '--format jsonl' where "
                        "it has them",
                        w->in.path);
    else
        w->rc = w->in.lines ? encode_lines(args, encoder, w) : encode_text(args, encoder, w);
    w->made.tokens = args->length > 0 ? w->made.tokens : w->ids.count;
    w->made.dropped = ds_encoder_dropped(encoder) - dropped - w->chat.again;
}

/* --- threads --------------------------------------------------------------------------------- */

static void *help(void *arg)
{
    const struct helper *me = arg;
    struct corpus *c = me->corpus;

    (void)pthread_mutex_lock(&c->lock);
    for (;;) {
        struct work *w;

        while (c->taken == c->filled && !c->over)
            (void)pthread_cond_wait(&c->more, &c->lock);
        if (c->over)
            break;
        w = &c->ring[c->taken++ % c->places];
        (void)pthread_mutex_unlock(&c->lock);
        encode(c->args, me->encoder, w);
        (void)pthread_mutex_lock(&c->lock);
        w->done = true;
        (void)pthread_cond_signal(&c->done);
    }
    (void)pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* Fill the ring; 1, or 0 where the files have ended, or -errno. */
static int feed(struct corpus *c, struct ds_error *err)
{
    int rc = 1;

    while (rc > 0 && c->filled - c->written < c->places) {
        struct work *w = &c->ring[c->filled % c->places];

        rc = ds_reader_next(&c->reader, &w->in, err);
        if (rc <= 0)
            break;
        w->done = false;
        (void)pthread_mutex_lock(&c->lock);
        c->filled++;
        (void)pthread_cond_signal(&c->more);
        (void)pthread_mutex_unlock(&c->lock);
    }
    return rc;
}

/* --- in order -------------------------------------------------------------------------------- */

/* Keep what cannot be cut at its end, without what is behind that. */
static int hold(struct corpus *c, const struct work *w, struct ds_error *err)
{
    struct ds_stretch *held = &c->held.in;

    if (w != &c->held) {
        *held = (struct ds_stretch){
            .text = held->text, .path = w->in.path, .at = w->in.at, .continued = w->in.continued};
        c->enough = 0;
        if (ds_buf_put(&held->text, w->in.text.data, w->in.end) != 0)
            return ds_fail(err, ENOMEM, "no memory for a stretch of '%s'", w->in.path);
    }
    held->end = w->in.end;
    held->text.len = w->in.end;
    return 0;
}

/* The stretch behind the one that is held: the two together are encoded here.  Where this was
 * in vain it is done when twice as much is there, so that it costs in proportion to the text. */
static int join(struct corpus *c, const struct work *w, struct ds_error *err)
{
    struct ds_stretch *held = &c->held.in;
    bool last = w->in.end == w->in.text.len;

    if (held->text.len + w->in.text.len > DS_MAX_STRETCH ||
        ds_buf_put(&held->text, w->in.text.data, w->in.text.len) != 0)
        return ds_fail(err, EOVERFLOW,
                       "'%s': %zu bytes from byte %ju on cannot be cut; divide the file, or make "
                       "JSON lines of it",
                       held->path, held->text.len, (uintmax_t)held->at);
    held->end += w->in.end;
    if (last || held->end >= c->enough)
        encode(c->args, c->own, &c->held);
    else
        c->held.rc = -EAGAIN;
    if (held->end >= c->enough)
        c->enough = 2 * held->end;
    return 0;
}

/* Ids as they are, or sample by sample. */
static int write_ids(struct corpus *c, const struct work *w, struct ds_error *err)
{
    const uint32_t *ids = w->ids.id;
    int rc = 0;

    if (!c->args->pack)
        return ds_token_writer_put(c->writer, ids, w->ids.count, err);
    for (size_t i = 0; rc == 0 && i < w->lengths.count; ids += w->lengths.id[i++])
        rc = ds_pack_put(&c->pack, ids, w->lengths.id[i], err);
    return rc;
}

static int put(struct corpus *c, const struct work *w, struct ds_error *err)
{
    int rc = write_ids(c, w, err);

    c->count->documents += w->made.documents;
    c->count->tokens += w->made.tokens;
    c->count->targets += w->made.targets;
    c->count->cut += w->made.cut;
    c->count->passed += w->made.passed;
    c->count->inside += w->made.inside;
    c->count->text_bytes += w->made.text_bytes;
    c->count->dropped += w->made.dropped;
    return rc;
}

static int collect(struct corpus *c, struct work *w, struct ds_error *err)
{
    bool joined = c->held.in.text.len > 0;
    int rc = 0;

    if (joined && (w->rc == 0 || w->rc == -EAGAIN)) {
        rc = join(c, w, err);
        w = &c->held;
    }
    if (rc != 0)
        return rc;
    if (w->rc == -EAGAIN)
        return hold(c, w, err);
    if (w->rc != 0) {
        if (err != NULL)
            *err = w->err;
        return w->rc;
    }
    rc = put(c, w, err);
    ds_buf_reset(&c->held.in.text);
    return rc;
}

static bool still_wanted(void *user)
{
    const struct corpus *c = user;

    return c->args->go_on(c->args->user, c->count);
}

/* What was read before an error of the reader comes first, and may have one of its own. */
static int run(struct corpus *c, struct ds_error *err)
{
    const struct ds_corpus_args *args = c->args;
    struct ds_error reading = {0};
    int fed = 1, rc = 0;

    while (rc == 0) {
        struct work *w = &c->ring[c->written % c->places];

        if (fed > 0)
            fed = feed(c, &reading);
        if (c->written == c->filled) {
            if (fed < 0 && err != NULL)
                *err = reading;
            return fed;
        }
        (void)pthread_mutex_lock(&c->lock);
        while (!w->done)
            (void)pthread_cond_wait(&c->done, &c->lock);
        (void)pthread_mutex_unlock(&c->lock);
        rc = collect(c, w, err);
        c->written++;
        c->count->input_bytes = c->reader.bytes;
        if (rc == 0 && args->go_on != NULL && !args->go_on(args->user, c->count))
            rc = ds_fail(err, ECANCELED, "stopped");
    }
    return rc;
}

/* --- beginning and end ----------------------------------------------------------------------- */

static int open_places(struct corpus *c, struct ds_error *err)
{
    size_t most = 2 * (size_t)DS_MAX_STRETCH;

    c->places = 2 * (size_t)c->args->threads + 2;
    c->ring = calloc(c->places, sizeof(*c->ring));
    if (c->ring == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u threads", c->args->threads);
    for (size_t i = 0; i < c->places; i++) {
        ds_buf_init(&c->ring[i].in.text, most);
        ds_chat_room_init(&c->ring[i].chat);
    }
    ds_buf_init(&c->held.in.text, most);
    ds_chat_room_init(&c->held.chat);
    if (c->args->pack &&
        ds_pack_open(&c->pack, c->args->length, filling(c->args), c->writer, err) != 0)
        return -ENOMEM;
    return ds_encoder_new(&c->own, c->args->tokenizer, err);
}

static int start(struct corpus *c, struct helper *helpers, unsigned *started, struct ds_error *err)
{
    for (*started = 0; *started < c->args->threads; ++*started) {
        struct helper *helper = &helpers[*started];
        int rc;

        helper->corpus = c;
        rc = ds_encoder_new(&helper->encoder, c->args->tokenizer, err);
        if (rc != 0)
            return rc;
        rc = pthread_create(&helper->thread, NULL, help, helper);
        if (rc != 0) {
            ds_encoder_free(helper->encoder);
            return ds_fail(err, rc, "cannot start thread %u: %s", *started + 1, strerror(rc));
        }
    }
    return 0;
}

static void stop(struct corpus *c, struct helper *helpers, unsigned started)
{
    (void)pthread_mutex_lock(&c->lock);
    c->over = true;
    (void)pthread_cond_broadcast(&c->more);
    (void)pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < started; i++) {
        (void)pthread_join(helpers[i].thread, NULL);
        ds_encoder_free(helpers[i].encoder);
    }
}

static void release(struct corpus *c)
{
    for (size_t i = 0; c->ring != NULL && i < c->places; i++) {
        ds_buf_release(&c->ring[i].in.text);
        ds_ids_release(&c->ring[i].ids);
        ds_ids_release(&c->ring[i].lengths);
        ds_chat_room_release(&c->ring[i].chat);
    }
    free(c->ring);
    ds_buf_release(&c->held.in.text);
    ds_ids_release(&c->held.ids);
    ds_ids_release(&c->held.lengths);
    ds_chat_room_release(&c->held.chat);
    ds_pack_close(&c->pack);
    ds_encoder_free(c->own);
    ds_reader_close(&c->reader);
    (void)pthread_mutex_destroy(&c->lock);
    (void)pthread_cond_destroy(&c->more);
    (void)pthread_cond_destroy(&c->done);
}

int ds_corpus_tokenize(const struct ds_corpus_args *args, struct ds_token_writer *writer,
                       struct ds_corpus_count *count, struct ds_error *err)
{
    struct corpus c = {.args = args, .writer = writer, .count = count};
    struct helper *helpers = calloc(args->threads, sizeof(*helpers));
    unsigned started = 0;
    int rc;

    *count = (struct ds_corpus_count){0};
    (void)pthread_mutex_init(&c.lock, NULL);
    (void)pthread_cond_init(&c.more, NULL);
    (void)pthread_cond_init(&c.done, NULL);
    rc = ds_reader_open(&c.reader, args->path, args->paths, args->format,
                        ds_tokenizer_cuts(args->tokenizer), err);
    if (args->go_on != NULL) {
        c.reader.go_on = still_wanted;
        c.reader.user = &c;
    }
    if (rc == 0 && args->stretch_bytes > 0)
        c.reader.stretch_bytes = args->stretch_bytes;
    count->total_bytes = c.reader.total_bytes;
    if (rc == 0 && helpers == NULL)
        rc = ds_fail(err, ENOMEM, "no memory for %u threads", args->threads);
    if (rc == 0)
        rc = open_places(&c, err);
    if (rc == 0)
        rc = start(&c, helpers, &started, err);
    if (rc == 0)
        rc = run(&c, err);
    if (rc == 0 && args->pack)
        rc = ds_pack_finish(&c.pack, err);
    count->sequences = args->pack ? c.pack.written : count->documents - count->passed;
    stop(&c, helpers, started);
    release(&c);
    free(helpers);
    return rc;
}
