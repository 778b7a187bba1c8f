/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * size.h - how many ids a tokenizer.json has, and nothing else of it.
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

#endif
