/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * unicode.c - the contract is in unicode.h; what characters are is utf8proc's to know.
 */
#include "runtime/text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

/* Below U+0300 every text is in normal form C: no character composes with one before it. */
enum { COMPOSES_LEAD = 0xcc };

uint32_t ds_unicode_at(const char *text, size_t *bytes)
{
    const unsigned char *at = (const unsigned char *)text;

    if (at[0] < 0x80) {
        *bytes = 1;
        return at[0];
    }
    *bytes = at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    if (*bytes == 2)
        return (at[0] & 0x1fu) << 6 | (at[1] & 0x3fu);
    if (*bytes == 3)
        return (at[0] & 0x0fu) << 12 | (at[1] & 0x3fu) << 6 | (at[2] & 0x3fu);
    return (at[0] & 0x07u) << 18 | (at[1] & 0x3fu) << 12 | (at[2] & 0x3fu) << 6 | (at[3] & 0x3fu);
}

uint32_t ds_unicode_before(const char *text, size_t at)
{
    size_t bytes;

    do
        at--;
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80);
    return ds_unicode_at(text + at, &bytes);
}

bool ds_unicode_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* Letters of circles and squares are Alphabetic without being letters (Other_Alphabetic). */
static bool other_alphabetic(uint32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

bool ds_unicode_is_word(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200c || c == 0x200d || other_alphabetic(c);
    }
}

void ds_unicode_nfc(const char *text, size_t len, struct ds_buf *out)
{
    size_t plain = 0;
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t bytes;

    while (plain < len && (unsigned char)text[plain] < COMPOSES_LEAD)
        plain++;
    if (plain == len) {
        (void)ds_buf_put(out, text, len);
        return;
    }
    bytes = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &composed,
                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (bytes < 0)
        out->failed = true;
    else
        (void)ds_buf_put(out, composed, (size_t)bytes);
    free(composed);
}
