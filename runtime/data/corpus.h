/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * corpus.h - files of text become one stream of token ids, or samples, by several threads.
 *
 * The calling thread reads stretches (reader.h) and writes their ids in the order of the text; the
 * others encode.  The ids are those of each document as a whole, whatever the number of threads: a
 * stretch whose end turns out to be no place to cut is encoded again together with the next one.
 *
 * A sample is what one JSON line has: the ids of the prompt, if there is one, those of the text, as
 * the text goes on from the prompt, and the separator; cut at the end, or filled up there.  Targets
 * are those of text and separator.  A line of which no target is left behind the first id is passed
 * over.
 *
 * Messages become a sample of which their assistant's are the targets (chat.h); a separator that
 * follows is none.
 *
 * Packed samples are not filled up: a sequence has several, each with a separator at its end unless
 * it was cut, and the first id of each is no target.
 *
 *     reader ─► ring of stretches ─► threads ─► in order ─► (pack) ─► writer
 *
 * Errors  EBADMSG, with file and line or byte, for text that is no UTF-8 and lines that are no JSON
 *         object with a text at `key`; EINVAL for samples of plain text; those of reader.h,
 *         write.h and tokenizer.h; ECANCELED.  The first one in the order of the text is told.
 * Tests   tests/data/test_corpus.c, tests/data/test_prompts.c, tests/e2e/tokenizer.py
 */
#ifndef DS_RUNTIME_DATA_CORPUS_H
#define DS_RUNTIME_DATA_CORPUS_H

#include "runtime/data/chat.h"
#include "runtime/data/reader.h"
#include "runtime/data/write.h"
#include "runtime/text/tokenizer.h"

struct ds_corpus_count {               /* so far */
    uint64_t documents, tokens;        /* of samples without what fills them up */
    uint64_t targets;                  /* of samples: of those tokens */
    uint64_t cut, passed;              /* documents, of samples: cut, and passed over */
    uint64_t inside;                   /* samples with a separator before their end */
    uint64_t sequences;                /* of samples: what was written */
    uint64_t text_bytes;               /* of documents */
    uint64_t dropped;                  /* characters without a token */
    uint64_t input_bytes, total_bytes; /* read, and of all files where that is known */
};

struct ds_corpus_args {
    const struct ds_tokenizer *tokenizer;
    const char *const *path;
    size_t paths;
    enum ds_text_format format;
    const char *key;            /* of JSON lines */
    const char *prompt;         /* (optional) the key of the prompt */
    const struct ds_chat *chat; /* (optional) of samples: at `key` are messages, in this form */
    uint64_t length;            /* ids of a sample; 0: one stream, without prompts */
    uint32_t separator;         /* after each document; DS_NO_TOKEN: none */
    bool pack;        /* samples, which have a separator: as many as fit in a sequence (pack.h) */
    unsigned threads; /* that encode, 1 to DS_MAX_THREADS */
    size_t stretch_bytes; /* 0: as reader.h has it */
    /* After each stretch; false stops.  May be NULL. */
    bool (*go_on)(void *user, const struct ds_corpus_count *count);
    void *user;
};

/* Put the ids of all files into `writer`, which stays open. */
int ds_corpus_tokenize(const struct ds_corpus_args *args, struct ds_token_writer *writer,
                       struct ds_corpus_count *count, struct ds_error *err) DS_NODISCARD;

#endif
