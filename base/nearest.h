/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nearest.h - which known word did the user mean?
 *
 * Tests   tests/base/test_keys.c
 */
#ifndef DS_BASE_NEAREST_H
#define DS_BASE_NEAREST_H

#include <stddef.h>

/* Edits (insert, delete, replace, swap neighbours) that turn `a` into `b`; words
 * longer than DS_NEAREST_MAX are as far from everything as DS_NEAREST_FAR. */
enum { DS_NEAREST_MAX = 63, DS_NEAREST_FAR = 1000 };
unsigned ds_edit_distance(const char *a, const char *b);

/* Is `distance` close enough to `word` to be worth saying: a third of its length, at least 2,
 * and never the whole word. */
int ds_edit_close(unsigned distance, const char *word);

#endif
