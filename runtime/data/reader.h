/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reader.h - documents of text, read in stretches of bounded size.
 *
 * A text file is one document; of a file of JSON lines each line is one.  A stretch is part of a
 * text file, or some whole lines.  A text file is cut where its tokenizer may allow it, and a
 * stretch has some of the text behind the cut; where no cut is found, or with a tokenizer that
 * allows none, the stretch is as long as it takes, up to DS_MAX_STRETCH bytes.
 *
 * Errors  ENOENT, EIO, ...; EOVERFLOW: a document or a line is too long; ECANCELED: told not to
 *         go on.  The text names the file.
 * Tests   tests/data/test_corpus.c
 */
#ifndef DS_RUNTIME_DATA_READER_H
#define DS_RUNTIME_DATA_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

enum ds_text_format { DS_TEXT_AUTO, DS_TEXT_PLAIN, DS_TEXT_JSONL };
enum { DS_MAX_STRETCH = 256 * 1024 * 1024 };

struct ds_stretch {
    struct ds_buf text;
    const char *path; /* of the file */
    bool lines;       /* of JSON */
    uint64_t at;      /* byte of the file at which it begins, or the number of its first line */
    size_t end; /* text[end ..] is behind the cut; text.len at the end of a file, and of lines */
    bool continued; /* it begins where another has ended */
};

struct ds_reader {
    const char *const *path; /* borrowed */
    size_t paths, next;
    enum ds_text_format format;
    bool cuts;
    uint64_t stretch_bytes;    /* to aim at; for tests */
    bool (*go_on)(void *user); /* asked while a pipe has nothing to read; or NULL */
    void *user;
    int fd;             /* of path[next - 1]; -1: none is open */
    struct ds_buf rest; /* read, and not yet told */
    bool ended;         /* the file */
    uint64_t at;
    bool continued;
    uint64_t bytes, total_bytes; /* told; of all regular files */
};

/* Are all files there?  `path` must outlive the reader. */
int ds_reader_open(struct ds_reader *reader, const char *const *path, size_t paths,
                   enum ds_text_format format, bool cuts, struct ds_error *err) DS_NODISCARD;
void ds_reader_close(struct ds_reader *reader);

/* The next stretch into `stretch`, whose buffer was initialised; 1, 0 after the last, or -errno. */
int ds_reader_next(struct ds_reader *reader, struct ds_stretch *stretch, struct ds_error *err)
    DS_NODISCARD;

#endif
