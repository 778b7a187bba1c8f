/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * normal.c - the normalizers of a tokenizer, one after the other.
 */
#include <string.h>

#include "runtime/text/parts.h"
#include "runtime/text/unicode.h"

static void replace(const struct ds__normal *step, const char *text, size_t len, struct ds_buf *out)
{
    size_t from_len = strlen(step->from), to_len = strlen(step->to);
    const char *end = text + len;

    while (text < end) {
        const char *found = memmem(text, (size_t)(end - text), step->from, from_len);

        (void)ds_buf_put(out, text, (size_t)((found == NULL ? end : found) - text));
        if (found == NULL)
            return;
        (void)ds_buf_put(out, step->to, to_len);
        text = found + from_len;
    }
}

static void apply(const struct ds__normal *step, const char *text, size_t len, bool begins,
                  struct ds_buf *out)
{
    switch (step->kind) {
    case DS__NORMAL_PREPEND:
        if (begins && len > 0)
            (void)ds_buf_puts(out, step->to);
        (void)ds_buf_put(out, text, len);
        break;
    case DS__NORMAL_REPLACE: replace(step, text, len, out); break;
    case DS__NORMAL_NFC: ds_unicode_nfc(text, len, out); break;
    }
}

void ds__normalize(const struct ds_tokenizer *t, const char *text, size_t len, bool begins,
                   struct ds_buf *scratch, struct ds_buf *out)
{
    size_t base = out->len;

    (void)ds_buf_put(out, text, len);
    for (size_t i = 0; i < t->normals && !out->failed; i++) {
        ds_buf_reset(scratch);
        (void)ds_buf_put(scratch, ds_buf_text(out) + base, out->len - base);
        out->len = base;
        if (scratch->failed)
            out->failed = true;
        else
            apply(&t->normal[i], ds_buf_text(scratch), scratch->len, begins, out);
    }
}
