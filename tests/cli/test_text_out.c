/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_text_out.c - what of a text is shown when, whatever pieces it comes in.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "cli/text_out.h"

/* What is shown after each piece, followed by '|', and after the end. */
static const char *shown(const char *const *piece, const char *stop, bool terminal)
{
    static char out[512];
    struct ds_text_out text;
    size_t len = 0;

    ds_text_out_init(&text, stop, terminal);
    for (size_t i = 0;; i++) {
        if (piece[i] != NULL)
            cr_assert_eq(ds_text_out_put(&text, piece[i], strlen(piece[i]), NULL), 0);
        else
            cr_assert_eq(ds_text_out_end(&text, NULL), 0);
        memcpy(out + len, ds_buf_text(&text.ready), text.ready.len);
        len += text.ready.len;
        ds_buf_reset(&text.ready);
        if (piece[i] == NULL)
            break;
        out[len++] = '|';
    }
    out[len] = '\0';
    ds_text_out_release(&text);
    return out;
}

#define BAD "\xef\xbf\xbd"

/* clang-format off */
static const struct {
    const char *piece[6], *stop;
    bool terminal;
    const char *want;
} cases[] = {
    {{"ab", "c\n"},                           NULL, false, "ab|c\n|"},
    {{"", "a"},                               NULL, false, "|a|"},
    {{"a\xc3", "\xa9z"},                      NULL, false, "a|\xc3\xa9z|"},        /* cut in two */
    {{"\xf0", "\x9f", "\x98", "\x80"},        NULL, false, "|||\xf0\x9f\x98\x80|"},
    {{"\xe2\x82", "x"},                       NULL, false, "|" BAD BAD "x|"},      /* never completed */
    {{"a\xe2\x82"},                           NULL, false, "a|" BAD BAD},
    {{"\x80" "b\xff"},                        NULL, false, BAD "b" BAD "|"},
    {{"\xed", "\xa0\x80"},                    NULL, false, "|" BAD BAD BAD "|"},   /* a surrogate */
    {{"\x1b[2J\ta\n"},                        NULL, false, "\x1b[2J\ta\n|"},
    {{"\x1b[2J\ta\n\xff"},                    NULL, true,  "\\x1b[2J\ta\n\\xff|"},
    {{"\xc2", "\x9b", "\xe2\x80\xae"},        NULL, true,  "|\\xc2\\x9b|\\xe2\\x80\\xae|"},
    {{"one. two"},                            ". ", false, "one|"},
    {{"one.", " two", "three"},               ". ", false, "one|||"},
    {{"one.", "x. y"},                        ". ", false, "one|.x|"},
    {{"aab", "aac"},                          "aabaac", false, "||"},
    {{"aab", "aab", "aac", "d"},              "aabaac", false, "|aab|||"},
    {{"ab", "ab", "x"},                       "abc", false, "|ab|abx|"},
    {{"x", "END"},                            "END", false, "x||"},
    {{"EN"},                                  "END", false, "|EN"},
    {{"\xc3", "\xa9", "x"},                   "\xc3\xa9", false, "|||"},
};
/* clang-format on */

Test(text_out, pieces)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_str_eq(shown(cases[i].piece, cases[i].stop, cases[i].terminal), cases[i].want,
                         "case %zu", i);
}

Test(text_out, one_after_the_other)
{
    struct ds_text_out text;

    ds_text_out_init(&text, "b", false);
    cr_assert_eq(ds_text_out_put(&text, "abc", 3, NULL), 0);
    cr_assert(text.stopped);
    cr_assert_str_eq(ds_buf_text(&text.text), "a");
    ds_text_out_reset(&text);
    cr_assert_not(text.stopped);
    cr_assert_eq(ds_text_out_put(&text, "cd", 2, NULL), 0);
    cr_assert_str_eq(ds_buf_text(&text.ready), "cd");
    cr_assert_str_eq(ds_buf_text(&text.text), "cd");
    ds_text_out_release(&text);
}
