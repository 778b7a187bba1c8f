/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_unicode.c - characters forward and back, what they are by two libraries, and normal form C.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "base/utf8.h"
#include "runtime/text/pattern.h"
#include "runtime/text/unicode.h"

static size_t put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

Test(unicode, characters)
{
    char text[8] = "x";
    size_t bytes;

    for (uint32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 77) {
        size_t len;

        if (c >= 0xd800 && c < 0xe000)
            continue;
        len = put(c, text + 1);
        cr_assert_eq(ds_utf8_valid(text, len + 1), len + 1);
        cr_assert_eq(ds_unicode_at(text + 1, &bytes), c);
        cr_assert_eq(bytes, len);
        cr_assert_eq(ds_unicode_before(text, len + 1), c);
        cr_assert_eq(ds_unicode_before(text, 1), 'x');
    }
}

/* Does the pattern match the character alone? */
static bool matches(const struct ds_pattern *pattern, struct ds_matcher *matcher, uint32_t c)
{
    char text[4];
    size_t begin, end;

    return ds_pattern_find(pattern, matcher, text, put(c, text), 0, false, &begin, &end, NULL) ==
           DS_FOUND;
}

/* The tables of utf8proc may be of a newer Unicode than those of PCRE2: a character that only one of
 * them knows is passed over. */
Test(unicode, classes)
{
    struct ds_pattern *word, *space, *known;
    struct ds_matcher *matcher = ds_matcher_new();
    size_t words = 0, spaces = 0, other = 0;

    cr_assert_eq(ds_pattern_new(&word, "[\\w\\u200c\\u200d]", false, NULL), 0);
    cr_assert_eq(ds_pattern_new(&space, "\\s", false, NULL), 0);
    cr_assert_eq(ds_pattern_new(&known, "\\P{Cn}", false, NULL), 0);
    for (uint32_t c = 0; c < 0x110000; c++) {
        if ((c >= 0xd800 && c < 0xe000) || !matches(known, matcher, c))
            continue;
        cr_assert_eq(ds_unicode_is_space(c), matches(space, matcher, c), "U+%04X", c);
        spaces += ds_unicode_is_space(c);
        words += ds_unicode_is_word(c);
        other += ds_unicode_is_word(c) != matches(word, matcher, c);
    }
    cr_assert_eq(spaces, 25);
    cr_assert(words > 130000, "%zu", words);
    cr_assert_eq(other, 0, "%zu words for one alone", other);
    ds_pattern_free(word);
    ds_pattern_free(space);
    ds_pattern_free(known);
    ds_matcher_free(matcher);
}

Test(unicode, normal_form)
{
    static const struct {
        const char *from, *to;
    } cases[] = {
        {"", ""},
        {"plain \xc3\xa9 \xcb\xbf", "plain \xc3\xa9 \xcb\xbf"},
        {"e\xcc\x81", "\xc3\xa9"},
        {"q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87"},
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"},
        {"\xe2\x84\xab", "\xc3\x85"},
        {"\xe4\xbd\xa0\n\xcc\x81x", "\xe4\xbd\xa0\n\xcc\x81x"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_buf out;

        ds_buf_init(&out, 100);
        ds_unicode_nfc(cases[i].from, strlen(cases[i].from), &out);
        cr_expect_str_eq(ds_buf_text(&out), cases[i].to, "case %zu: %s", i, ds_buf_text(&out));
        ds_buf_release(&out);
    }
}
