/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_text.h - text and numbers for a page that is HTML and well-formed XML at once.
 *
 * Tests   tests/cli/test_page.c
 */
#ifndef DS_CLI_PAGE_TEXT_H
#define DS_CLI_PAGE_TEXT_H

#include <stddef.h>

#include "base/buf.h"

enum { DS_NUMBER_TEXT = 40, DS_TICKS = 12 };

/* Append any bytes as text: markup is escaped, and what is no text made visible as for a terminal.
 * Line ends stay. */
void ds_page_text(struct ds_buf *out, const char *text, size_t len);
void ds_page_puts(struct ds_buf *out, const char *text);

/* "0.00123", "12.3k", "4.5M", with `digits` significant digits; returns `out`. */
const char *ds_number_text(double value, int digits, char out[DS_NUMBER_TEXT]);
/* "3.2 s", "5:03 min", "2:05 h", "3 d 4 h". */
const char *ds_duration_text(double seconds, char out[DS_NUMBER_TEXT]);
/* "2026-11-28 04:16:15", UTC; "?" where it is no time. */
const char *ds_time_text(double seconds, char out[DS_NUMBER_TEXT]);

/* Round numbers within lo and hi, at most `most`, their distance 1, 2 or 5 times a power of ten;
 * `*digits` is how many make their texts differ.  Returns how many there are; lo < hi, finite. */
size_t ds_ticks(double lo, double hi, size_t most, double tick[DS_TICKS], int *digits);
/* The same for seconds: whole seconds, minutes, hours or days. */
size_t ds_time_ticks(double hi, size_t most, double tick[DS_TICKS]);

#endif
