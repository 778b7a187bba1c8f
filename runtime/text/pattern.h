/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pattern.h - the regular expressions of a tokenizer, matched by PCRE2 with the meaning that they
 * have in Hugging Face's tokenizers.
 *
 * There they are Oniguruma's in the syntax of Ruby: ^ and $ are ends of lines, \s is White_Space,
 * \h a hexadecimal digit, a script is what its name says without extensions.  A pattern becomes one
 * of PCRE2 token by token, and what the two do not share (intersections of classes, references,
 * verbs, possessive intervals, ...) is refused by name.  So is a pattern that can match nothing.
 *
 * Which characters are letters follows the Unicode version of the library.
 *
 * Threads   a pattern is shared; each thread has a matcher of its own.
 * Errors    ENOTSUP not supported, EINVAL no pattern at all, ENOMEM; EOVERFLOW of a match that
 *           took more steps or memory than it may.
 * Tests     tests/text/test_pattern.c, tests/fuzz/fuzz_tokenizer.c
 */
#ifndef DS_RUNTIME_TEXT_PATTERN_H
#define DS_RUNTIME_TEXT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"

struct ds_pattern;
struct ds_matcher;

/* `regex` is valid UTF-8; with `literal` it is the text to find. */
int ds_pattern_new(struct ds_pattern **pattern, const char *regex, bool literal,
                   struct ds_error *err) DS_NODISCARD;
void ds_pattern_free(struct ds_pattern *pattern);

/* Does it look at what stands before a match? */
bool ds_pattern_looks_behind(const struct ds_pattern *pattern);

struct ds_matcher *ds_matcher_new(void); /* NULL: no memory */
void ds_matcher_free(struct ds_matcher *matcher);

enum ds_found { DS_FOUND_NONE, DS_FOUND, DS_FOUND_CUT };

/* The first match in text[from .. len), which is valid UTF-8: DS_FOUND with its ends.  With
 * `partial` more text follows, and DS_FOUND_CUT is a match from *begin on that may depend on it.  A
 * negative errno: see above. */
int ds_pattern_find(const struct ds_pattern *pattern, struct ds_matcher *matcher, const char *text,
                    size_t len, size_t from, bool partial, size_t *begin, size_t *end,
                    struct ds_error *err) DS_NODISCARD;

/* The pattern as PCRE2 has it; for tests. */
int ds__pattern_rewrite(const char *regex, struct ds_buf *out, struct ds_error *err) DS_NODISCARD;

#endif
