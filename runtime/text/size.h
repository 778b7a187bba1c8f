/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * size.h - how many ids a tokenizer.json has, which of them ends a document, and nothing else.
 *
 * For who reads a job: this part needs jansson alone, and no regular expressions.
 *
 * Tests   tests/text/test_tokenizer.c
 */
#ifndef DS_RUNTIME_TEXT_SIZE_H
#define DS_RUNTIME_TEXT_SIZE_H

#include <stdint.h>

#include "base/error.h"

/* The largest id + 1, added tokens counted, as ds_tokenizer_size() has it for a file that can be
 * read.  -ENOENT, -EBADMSG: no ids are there, or more than DS_MAX_VOCAB. */
int ds_text_size(const char *path, uint64_t *size, struct ds_error *err) DS_NODISCARD;

/* The names in use of the token that ends a document, up to NULL; the first that is there is. */
#define DS_TEXT_SEPARATORS                                                                         \
    {                                                                                              \
        "<|endoftext|>", "<|end_of_text|>", "</s>", "<｜end▁of▁sentence｜>", "<eos>", "<|eos|>",   \
            NULL                                                                                   \
    }
/* Its id, as ds_tokenizer_separator() has it.  -ENOENT, -EBADMSG; -EINVAL: there is none. */
int ds_text_separator(const char *path, uint64_t *id, struct ds_error *err) DS_NODISCARD;

#endif
