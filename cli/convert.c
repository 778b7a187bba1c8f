/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert.c - the contract is in convert.h.
 */
#include "cli/convert.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runtime/job_table.h"

enum { TRY_WORDS = 16, TRY_BYTES = 64 };

static int open_tables(struct ds_convert *c, struct ds_error *err)
{
    struct ds_arena *arena = &c->job.arena;
    size_t rows;

    (void)ds_convert_rows(&rows);
    c->keys = (struct ds_keys){.base = &c->job, .arena = arena, .name = c->name};
    c->keys.key = ds_job_keys(&c->keys.count);
    c->keys.origin = ds_arena_alloc(arena, c->keys.count, sizeof(c->keys.origin[0]));
    c->from = ds_arena_alloc(arena, c->keys.count, sizeof(c->from[0]));
    c->fill = ds_arena_alloc(arena, c->keys.count, sizeof(c->fill[0]));
    c->given = ds_arena_alloc(arena, rows, sizeof(c->given[0]));
    if (c->keys.origin == NULL || c->from == NULL || c->fill == NULL || c->given == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    return ds_keys_defaults(&c->keys, err);
}

int ds_convert_init(struct ds_convert *c, const struct ds_convert_args *args, struct ds_error *err)
{
    int rc;

    *c = (struct ds_convert){.name = args->name, .ranks = args->ranks};
    c->last_note = &c->note;
    ds_job_init(&c->job);
    rc = open_tables(c, err);
    for (size_t i = 0; rc == 0 && i < args->words; i++)
        rc = ds_keys_override(&c->keys, args->word[i], err);
    if (rc == 0)
        rc = ds__convert_read(c, args->text, args->len, err);
    if (rc == 0)
        rc = ds__convert_job(c, err);
    return rc;
}

void ds_convert_release(struct ds_convert *c)
{
    json_decref(c->root);
    json_decref(c->usual);
    ds_job_release(&c->job);
}

/* Is key `path` left to be filled in? */
static bool lacks(const struct ds_convert *c, const char *path)
{
    return c->fill[ds_keys_find(&c->keys, path)] != NULL && !ds_keys_given(&c->keys, path);
}

/* A model of which as many ranks as the job says can share layers and sequences, and divide
 * experts; how many words. */
static size_t try_model(const struct ds_convert *c, char word[][TRY_BYTES], const char **words)
{
    static const struct {
        const char *key;
        unsigned each; /* of them for each such rank */
    } extents[] = {
        {"model.hidden", 64}, {"model.heads", 1}, {"model.context", 64}, {"model.ffn", 64}};
    const bool experts = ds_keys_given(&c->keys, "parallel.expert");
    const uint64_t sharers =
        ds_keys_given(&c->keys, "parallel.sequence") ? c->job.parallel.sequence : 1;
    const uint64_t ranks =
        ds_keys_given(&c->keys, "parallel.tensor") ? sharers * c->job.parallel.tensor : sharers;
    size_t n = 0;

    words[n++] = experts ? "model.arch=mixtral" : "model.arch=gpt2";
    words[n++] = "model.layers=1024";
    words[n++] = "model.vocab=65536";
    for (size_t i = 0; i < sizeof(extents) / sizeof(extents[0]); i++) {
        (void)snprintf(word[n], TRY_BYTES, "%s=%ju", extents[i].key,
                       (uintmax_t)(ranks * extents[i].each));
        words[n] = word[n];
        n++;
    }
    if (experts) {
        (void)snprintf(word[n], TRY_BYTES, "model.experts=%ju", (uintmax_t)c->job.parallel.expert);
        words[n] = word[n];
        n++;
    }
    return n;
}

/* Say where in the configuration the key stands that the message begins with.  Its place in a job
 * file that nobody has seen would help nobody. */
static int place_try(const struct ds_convert *c, int rc, struct ds_error *err)
{
    const char *say = err == NULL ? NULL : strchr(err->text, '\'');
    char path[TRY_BYTES];
    struct ds_error why;
    size_t i;

    if (rc == 0 || say == NULL)
        return rc;
    (void)snprintf(path, sizeof(path), "%.*s", (int)strcspn(say + 1, "'"), say + 1);
    i = ds_keys_find(&c->keys, path);
    why = *err;
    (void)snprintf(err->text, sizeof(err->text), "%s", why.text + (say - err->text));
    if (i < c->keys.count && (c->keys.origin[i].mark.line > 1 || c->keys.origin[i].mark.column > 1))
        return ds_error_context(err, rc, "%s:%u:%u: it becomes no valid job", c->name,
                                c->keys.origin[i].mark.line, c->keys.origin[i].mark.column);
    return ds_error_context(err, rc, "%s: it becomes no valid job", c->name);
}

int ds_convert_try(const struct ds_convert *c, const char *text, size_t len, struct ds_error *err)
{
    char word[TRY_WORDS][TRY_BYTES];
    const char *words[TRY_WORDS];
    struct ds_job job;
    size_t n = 0;
    int rc;

    if (lacks(c, "model.init.from"))
        n = try_model(c, word, words);
    if (lacks(c, "data.train"))
        words[n++] = "data.train=text";
    if (lacks(c, "train.steps") || lacks(c, "train.epochs")) {
        (void)snprintf(word[n], TRY_BYTES, "train.steps=%d", DS_MAX_STEPS);
        words[n] = word[n];
        n++;
    }
    if (lacks(c, "train.micro_batch"))
        words[n++] = "train.micro_batch=1";
    if (lacks(c, "train.global_batch")) {
        (void)snprintf(word[n], TRY_BYTES, "train.global_batch=%ju",
                       (uintmax_t)(lacks(c, "train.micro_batch") ? 1 : c->job.train.micro_batch));
        words[n] = word[n];
        n++;
    }
    ds_job_init(&job);
    rc = ds_job_parse(&job, "job file", text, len, words, n, err);
    ds_job_release(&job);
    return place_try(c, rc, err);
}
