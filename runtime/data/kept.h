/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * kept.h - the token ids of a job's text, made once and kept.
 *
 * They lie in FOLDER/NAME-HASH.bin, where HASH is of the tokenizer's file and of all texts, byte by
 * byte: what has changed has another name, and what is there is whole (write.h).  So a second start
 * makes nothing, and two at once make the same.  The separator is the one that the tokenizer is
 * known for; files of text and JSON lines (at the key "text") go by their names.
 *
 * Errors  those of corpus.h; ENOENT, where they are only looked for; EINVAL a file that is none, a
 *         vocabulary that is too small, or no separator.
 * Tests   tests/data/test_kept.c, tests/e2e/tokenizer.py
 */
#ifndef DS_RUNTIME_DATA_KEPT_H
#define DS_RUNTIME_DATA_KEPT_H

#include "base/keys.h"
#include "runtime/data/corpus.h"

struct ds_kept_args {
    const char *tokenizer; /* path of a tokenizer.json */
    const char *folder;    /* made where it is missing */
    const char *name;
    const struct ds_strings *paths; /* as data.h expands them */
    uint64_t vocab;                 /* of the model; the tokenizer's is at most that */
    unsigned threads;
    bool look; /* none are made: what is not there is -ENOENT */
    bool (*go_on)(void *user, const struct ds_corpus_count *count); /* as corpus.h has it */
    void *user;
};

/* The file of the ids into path[DS_MAX_PATH].  `*made`: it was not there; then `count` is what it
 * came to. */
int ds_kept_ids(const struct ds_kept_args *args, char *path, bool *made,
                struct ds_corpus_count *count, struct ds_error *err) DS_NODISCARD;

#endif
