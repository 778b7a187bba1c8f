/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * utf8.h - is this valid UTF-8?  For text that leaves the program.
 *
 * Source  RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
 * Tests   tests/base/test_json.c, tests/base/test_log.c
 */
#ifndef DS_BASE_UTF8_H
#define DS_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the valid sequence at the start of `text` (1 to 4); 0 when it is not valid or
 * `len` cuts it (or is 0). */
size_t ds_utf8_len(const char *text, size_t len);

/* Bytes of `text` up to the first that begins no valid sequence; `len` where all is valid. */
size_t ds_utf8_valid(const char *text, size_t len);

/* Does `text` begin a valid sequence that `len` cuts?  Then more bytes may complete it. */
bool ds_utf8_is_cut(const char *text, size_t len);

#endif
