/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pattern.c - the contract is in pattern.h.
 *
 * Where the system lets it, PCRE2 compiles to machine code; else it interprets.  Both count the
 * steps of a match, and a pattern of a stranger that takes too many ends in an error.
 */
#include "runtime/text/pattern.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    PATTERN_BYTES = 16 * 1024, /* the most of one, rewritten */
    MATCH_STEPS = 10 * 1000 * 1000,
    HEAP_KIB = 64 * 1024,
    STACK_BYTES = 32 * 1024,
    STACK_MOST = 8 * 1024 * 1024,
};

struct ds_pattern {
    pcre2_code *code;
    bool looks_behind;
};

struct ds_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static int compile(struct ds_pattern *pattern, const char *text, size_t len, bool literal,
                   struct ds_error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL
                                            : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE |
                                                  PCRE2_NEVER_BACKSLASH_C);
    PCRE2_UCHAR why[128];
    size_t at = 0;
    int code = 0;

    if (context == NULL || pcre2_set_newline(context, PCRE2_NEWLINE_LF) != 0)
        return ds_fail(err, ENOMEM, "no memory for a pattern");
    pattern->code = pcre2_compile((PCRE2_SPTR)text, len, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (pattern->code != NULL)
        return 0;
    if (pcre2_get_error_message(code, why, sizeof(why)) < 0)
        why[0] = '\0';
    return ds_fail(err, EINVAL, "%s", (const char *)why);
}

static int inspect(struct ds_pattern *pattern, struct ds_error *err)
{
    uint32_t empty = 0, behind = 0;

    (void)pcre2_pattern_info(pattern->code, PCRE2_INFO_MATCHEMPTY, &empty);
    (void)pcre2_pattern_info(pattern->code, PCRE2_INFO_MAXLOOKBEHIND, &behind);
    if (empty != 0)
        return ds_fail(err, ENOTSUP, "it can match nothing, which is not supported");
    pattern->looks_behind = behind != 0;
    /* Without machine code it is interpreted. */
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    return 0;
}

int ds_pattern_new(struct ds_pattern **pattern, const char *regex, bool literal,
                   struct ds_error *err)
{
    struct ds_pattern *new = calloc(1, sizeof(*new));
    struct ds_buf text;
    int rc = 0;

    *pattern = NULL;
    if (new == NULL)
        return ds_fail(err, ENOMEM, "no memory for a pattern");
    ds_buf_init(&text, PATTERN_BYTES);
    if (strlen(regex) > PATTERN_BYTES / 8) /* a letter may become several */
        rc = ds_fail(err, ENOTSUP, "a pattern of %zu bytes is too long", strlen(regex));
    else if (!literal)
        rc = ds__pattern_rewrite(regex, &text, err);
    else if (regex[0] == '\0')
        rc = ds_fail(err, ENOTSUP, "an empty pattern is not supported");
    else
        (void)ds_buf_puts(&text, regex);
    if (rc == 0 && text.failed)
        rc = ds_fail(err, ENOMEM, "no memory for a pattern");
    if (rc == 0) {
        rc = compile(new, ds_buf_text(&text), text.len, literal, err);
        if (rc == 0)
            rc = inspect(new, err);
        rc = ds_error_context(err, rc, "pattern '%s'", regex);
    }
    ds_buf_release(&text);
    if (rc != 0)
        ds_pattern_free(new);
    else
        *pattern = new;
    return rc;
}

void ds_pattern_free(struct ds_pattern *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

bool ds_pattern_looks_behind(const struct ds_pattern *pattern)
{
    return pattern->looks_behind;
}

/* --- matching -------------------------------------------------------------------------------- */

struct ds_matcher *ds_matcher_new(void)
{
    struct ds_matcher *new = calloc(1, sizeof(*new));

    if (new == NULL)
        return NULL;
    new->data = pcre2_match_data_create(1, NULL);
    new->context = pcre2_match_context_create(NULL);
    if (new->data == NULL || new->context == NULL) {
        ds_matcher_free(new);
        return NULL;
    }
    (void)pcre2_set_match_limit(new->context, MATCH_STEPS);
    (void)pcre2_set_heap_limit(new->context, HEAP_KIB);
    new->stack = pcre2_jit_stack_create(STACK_BYTES, STACK_MOST, NULL); /* NULL: without JIT */
    if (new->stack != NULL)
        pcre2_jit_stack_assign(new->context, NULL, new->stack);
    return new;
}

void ds_matcher_free(struct ds_matcher *matcher)
{
    if (matcher == NULL)
        return;
    pcre2_jit_stack_free(matcher->stack);
    pcre2_match_context_free(matcher->context);
    pcre2_match_data_free(matcher->data);
    free(matcher);
}

int ds_pattern_find(const struct ds_pattern *pattern, struct ds_matcher *matcher, const char *text,
                    size_t len, size_t from, bool partial, size_t *begin, size_t *end,
                    struct ds_error *err)
{
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(matcher->data);
    int rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, len, from,
                         PCRE2_NO_UTF_CHECK | (partial ? PCRE2_PARTIAL_HARD : 0), matcher->data,
                         matcher->context);

    if (rc == PCRE2_ERROR_NOMATCH)
        return DS_FOUND_NONE;
    if (rc < 0 && rc != PCRE2_ERROR_PARTIAL) {
        PCRE2_UCHAR why[128];

        if (pcre2_get_error_message(rc, why, sizeof(why)) < 0)
            why[0] = '\0';
        return ds_fail(err, EOVERFLOW, "a pattern of the tokenizer gave up in this text: %s",
                       (const char *)why);
    }
    *begin = ends[0];
    *end = ends[1];
    return rc == PCRE2_ERROR_PARTIAL ? DS_FOUND_CUT : DS_FOUND;
}
