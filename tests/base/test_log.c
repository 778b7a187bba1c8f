/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_log.c - what may reach a terminal: escaping, levels, one line per call.
 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>

#include <string.h>

#include "base/log.h"
#include "base/utf8.h"

/* clang-format off */
static const struct {
    const char *in, *out;
} escapes[] = {
    {"", ""},
    {"plain 'text' \\ \"quoted\"", "plain 'text' \\ \"quoted\""},
    {"tab\tstays", "tab\tstays"},
    {"two\nlines\r", "two\\x0alines\\x0d"},
    {"\x1b[31mred\x07", "\\x1b[31mred\\x07"},
    {"\x7f", "\\x7f"},
    {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80", "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"},
    {"\xc2\x9b" "1m", "\\xc2\\x9b1m"},           /* C1: an escape sequence in one character */
    {"\xc2\xa0", "\xc2\xa0"},
    {"a\xe2\x80\xae" "b\xe2\x81\xa9", "a\\xe2\\x80\\xaeb\\xe2\\x81\\xa9"}, /* turned round */
    {"\xe2\x80\xa8\xe2\x80\xa7\xe2\x80\xaf\xe2\x81\xa5\xe2\x81\xaa",
     "\\xe2\\x80\\xa8\xe2\x80\xa7\xe2\x80\xaf\xe2\x81\xa5\xe2\x81\xaa"},
    {"\xff\xfe", "\\xff\\xfe"},
    {"\xc3", "\\xc3"},                           /* cut */
    {"\xc3(", "\\xc3("},
    {"\xc0\xaf", "\\xc0\\xaf"},                  /* overlong */
    {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},
    {"\xed\xa0\x80", "\\xed\\xa0\\x80"},         /* surrogate */
    {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"} /* above U+10FFFF */,
};
/* clang-format on */

Test(log, escape)
{
    char out[256];

    for (size_t i = 0; i < sizeof(escapes) / sizeof(escapes[0]); i++) {
        unsigned long len =
            ds_escape_control(out, sizeof(out), escapes[i].in, strlen(escapes[i].in));

        cr_assert_str_eq(out, escapes[i].out, "case %zu", i);
        cr_assert_eq(len, strlen(escapes[i].out), "case %zu", i);
    }
}

Test(log, escape_shows_nul)
{
    char out[16];

    cr_assert_eq(ds_escape_control(out, sizeof(out), "a\0b", 3), 6);
    cr_assert_str_eq(out, "a\\x00b");
}

/* Cut at every capacity: terminated, within bounds, no half escape and no half character. */
Test(log, escape_never_overruns)
{
    static const char in[] = "ab\x1b\xc3\xbc\xe2\x82\xac!";
    static const size_t whole[] = {0, 1, 2, 6, 8, 11, 12}; /* lengths at which a cut may fall */
    char out[32];

    for (unsigned long cap = 0; cap <= 16; cap++) {
        unsigned long len, want = 0;

        memset(out, '#', sizeof(out));
        len = ds_escape_control(out, cap, in, strlen(in));
        for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++)
            if (whole[i] < cap)
                want = whole[i];
        cr_assert_eq(len, want, "cap %lu: %lu", cap, len);
        if (cap > 0)
            cr_assert_eq(out[len], '\0');
        for (size_t i = cap; i < sizeof(out); i++)
            cr_assert_eq(out[i], '#', "cap %lu wrote at %zu", cap, i);
    }
}

/* The first and the last sequence of each kind, and what lies next to them. */
Test(log, utf8_borders)
{
    static const struct {
        const char *text;
        size_t len;
    } cases[] = {
        {"\x7f", 1},
        {"\xc1\xbf", 0},
        {"\xc2\x80", 2},
        {"\xdf\xbf", 2},
        {"\xdf\xc0", 0},
        {"\xe0\x9f\xbf", 0},
        {"\xe0\xa0\x80", 3},
        {"\xe0\xbf\xbf", 3},
        {"\xe1\x80\x80", 3},
        {"\xe1\x7f\x80", 0},
        {"\xec\xbf\xbf", 3},
        {"\xed\x80\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xed\xa0\x80", 0},
        {"\xee\x80\x80", 3},
        {"\xef\xbf\xbf", 3},
        {"\xef\xbf\x7f", 0},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf0\x90\x80\x80", 4},
        {"\xf1\x80\x80\x80", 4},
        {"\xf3\xbf\xbf\xbf", 4},
        {"\xf3\xbf\xbf\xc0", 0},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(ds_utf8_len(cases[i].text, strlen(cases[i].text)), cases[i].len, "case %zu",
                     i);
}

Test(log, utf8_lengths)
{
    cr_assert_eq(ds_utf8_len("", 0), 0);
    cr_assert_eq(ds_utf8_len("", 1), 1); /* NUL is a character */
    cr_assert_eq(ds_utf8_len("\xe2\x82\xac", 3), 3);
    cr_assert_eq(ds_utf8_len("\xe2\x82\xac", 2), 0);
    cr_assert_eq(ds_utf8_len("\xf0\x9f\x98\x80", 3), 0);
    cr_assert_eq(ds_utf8_len("\x80", 1), 0);
}

Test(log, utf8_that_more_bytes_may_complete)
{
    static const struct {
        const char *text;
        bool cut;
    } cases[] = {
        {"", false},
        {"a", false},
        {"\x80", false},
        {"\xc1", false},
        {"\xc2", true},
        {"\xc2\x80", false},
        {"\xc2z", false},
        {"\xe0", true},
        {"\xe0\x9f", false},
        {"\xe0\xa0", true},
        {"\xed\x9f", true},
        {"\xed\xa0", false},
        {"\xef\xbf", true},
        {"\xef"
         "a",
         false},
        {"\xf0", true},
        {"\xf0\x8f", false},
        {"\xf0\x90", true},
        {"\xf0\x90\x80", true},
        {"\xf4", true},
        {"\xf4\x90", false},
        {"\xf0\x90\x80\x80", false},
        {"\xf0\x90z", false},
        {"\xf5", false},
        {"\xff", false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(ds_utf8_is_cut(cases[i].text, strlen(cases[i].text)), cases[i].cut, "case %zu",
                     i);
}

Test(log, one_escaped_line_at_or_above_the_level, .init = cr_redirect_stderr)
{
    ds_log_init("dsrun-test", DS_LOG_INFO);
    ds_log(DS_LOG_ERROR, "file '%s'", "a\nb");
    ds_log(DS_LOG_INFO, "step %d", 7);
    ds_log(DS_LOG_DEBUG, "never");
    cr_assert_stderr_eq_str("dsrun-test: error: file 'a\\x0ab'\ndsrun-test: info: step 7\n");
}

Test(log, long_text_is_cut_to_one_line, .init = cr_redirect_stderr)
{
    static char text[3 * DS_MAX_ERROR_TEXT], want[4 * DS_MAX_ERROR_TEXT + 64];
    size_t at;

    memset(text, 0x1b, sizeof(text) - 1);
    at = (size_t)snprintf(want, sizeof(want), "p: warning: ");
    for (int i = 0; i < DS_MAX_ERROR_TEXT - 1; i++, at += 4)
        memcpy(want + at, "\\x1b", 4);
    want[at] = '\n';
    ds_log_init("p", DS_LOG_WARNING);
    ds_log(DS_LOG_WARNING, "%s", text);
    cr_assert_stderr_eq_str(want);
}
