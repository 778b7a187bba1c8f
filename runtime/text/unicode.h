/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * unicode.h - characters of valid UTF-8, and what they are.
 *
 * White space is White_Space of Unicode; a word is of letters, marks, decimal digits, connecting
 * punctuation and joiners, as \w is in Rust's regular expressions.
 *
 * Tests   tests/text/test_unicode.c
 */
#ifndef DS_RUNTIME_TEXT_UNICODE_H
#define DS_RUNTIME_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* The character at the start of `text`, and its bytes. */
uint32_t ds_unicode_at(const char *text, size_t *bytes);
/* The character that ends before text[at]; at > 0. */
uint32_t ds_unicode_before(const char *text, size_t at);

bool ds_unicode_is_space(uint32_t c);
bool ds_unicode_is_word(uint32_t c);

/* Append the normal form C of `text`; buf->failed when memory ran out. */
void ds_unicode_nfc(const char *text, size_t len, struct ds_buf *out);

#endif
