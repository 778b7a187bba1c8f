/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pattern.c - what a pattern is rewritten to, what is refused, and what it finds.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "runtime/text/pattern.h"

#define SPACES                                                                                     \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"

Test(pattern, rewritten)
{
    static const struct {
        const char *from, *to;
    } cases[] = {
        {"a+b*?c?+", "a+b*?c?+"},
        {"\\s", "[" SPACES "]"},
        {"[^\\s\\p{L}\\p{N}]+", "[^" SPACES "\\p{L}\\p{N}]+"},
        {"\\S", "[^" SPACES "]"},
        {"\\p{^Lu}\\P{^N}\\P{Ll}", "\\P{Lu}\\p{N}\\P{Ll}"},
        {"\\p{Han}", "\\p{sc:Han}"},
        {"\\d\\D[\\d]", "\\p{Nd}\\P{Nd}[\\p{Nd}]"},
        {"\\h+", "[0-9a-fA-F]+"},
        {"\\u4e00\\x{1F600}\\x41", "\\x{4e00}\\x{1f600}\\x{41}"},
        {"(?i:'s|'t)|(?:x)(?=y)(?!z)(?<=a)(?<!b)(?>c)",
         "(?i:'s|'t)|(?:x)(?=y)(?!z)(?<=a)(?<!b)(?>c)"},
        {"x{2}y{1,}z{1,3}{", "x{2}y{1,}z{1,3}{"},
        {"[{}()*+?.|^$]", "[{}()*+?.|^$]"},
        {"(?i)'s|ll", "(?i)'s|ll"},
        {"\xe4\xb8\x80-[\xe4\xb8\x80-\xe9\xbe\xa5]", "\xe4\xb8\x80-[\xe4\xb8\x80-\xe9\xbe\xa5]"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};
        struct ds_buf out;

        ds_buf_init(&out, 4096);
        cr_expect_eq(ds__pattern_rewrite(cases[i].from, &out, &err), 0, "%s: %s", cases[i].from,
                     err.text);
        cr_expect_str_eq(ds_buf_text(&out), cases[i].to);
        ds_buf_release(&out);
    }
}

Test(pattern, refused)
{
    static const struct {
        const char *pattern;
        int code;
        const char *says;
    } cases[] = {
        {"[a-z&&[^q]]", ENOTSUP,
         "an intersection of classes at byte 4 of pattern '[a-z&&[^q]]' is not supported"},
        {"[[:alpha:]]", ENOTSUP, "a class in a class at byte 1"},
        {"[]a]", ENOTSUP, "an empty class at byte 0"},
        {"(a)\\1", ENOTSUP, "this escape at byte 3"},
        {"\\bx", ENOTSUP, "this escape at byte 0"},
        {"[\\S]x", ENOTSUP, "this escape"},
        {"\\pL", ENOTSUP, "a property without braces"},
        {"\\p{Script=Han}", ENOTSUP, "a property of this name"},
        {"\\p{L", ENOTSUP, "a property of this name"},
        {"a{,3}", ENOTSUP, "an interval without a first number"},
        {"a{1,3}+", ENOTSUP, "a quantifier of an interval"},
        {"a{1,3}?b", ENOTSUP, "a quantifier of an interval"},
        {"(?<name>a)", ENOTSUP, "a group of this kind"},
        {"(?x: a )", ENOTSUP, "a group of this kind"},
        {"x(?i)a", ENOTSUP, "a group of this kind"},
        {"(*ACCEPT)", ENOTSUP, "a verb"},
        {"(?i:strasse)", ENOTSUP, "a pair of letters"},
        {"(?i:\xc3\x9f)", ENOTSUP, "a letter beyond ASCII"},
        {"\\xff", ENOTSUP, "a code point written like this"},
        {"\\ud800", ENOTSUP, "a code point written like this"},
        {"a)", ENOTSUP, "a parenthesis that closes nothing"},
        {"a*", ENOTSUP, "pattern 'a*': it can match nothing"},
        {"a|", ENOTSUP, "it can match nothing"},
        {"(a", EINVAL, "pattern '(a': missing closing parenthesis"},
        {"[a", EINVAL, "missing terminating ]"},
        {"\\p{Elvish}", EINVAL, "unknown property"},
        {"", ENOTSUP, "it can match nothing"},
        {"a\\", ENOTSUP, "this escape"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_pattern *pattern = NULL;
        struct ds_error err = {0};

        cr_expect_eq(ds_pattern_new(&pattern, cases[i].pattern, false, &err), -cases[i].code, "%s",
                     cases[i].pattern);
        cr_expect_null(pattern);
        cr_expect(strstr(err.text, cases[i].says) != NULL, "%s: %s", cases[i].pattern, err.text);
        ds_pattern_free(pattern);
    }
}

/* A pattern as long as it may be, and longer. */
Test(pattern, lengths)
{
    char text[2050];
    struct ds_pattern *pattern = NULL;

    memset(text, 'a', sizeof(text));
    text[2048] = '\0';
    cr_assert_eq(ds_pattern_new(&pattern, text, false, NULL), 0);
    ds_pattern_free(pattern);
    text[2048] = 'a';
    text[2049] = '\0';
    cr_assert_eq(ds_pattern_new(&pattern, text, false, NULL), -ENOTSUP);
}

Test(pattern, found)
{
    static const struct {
        const char *pattern;
        bool literal;
        const char *text;
        size_t from;
        bool partial;
        int found;
        size_t begin, end;
    } cases[] = {
        {"b+", false, "aabbb", 0, false, DS_FOUND, 2, 5},
        {"b+", false, "aabbb", 0, true, DS_FOUND_CUT, 2, 5},
        {"b+", false, "aabbbc", 0, true, DS_FOUND, 2, 5},
        {"b+", false, "aaa", 0, false, DS_FOUND_NONE, 0, 0},
        {"b+", false, "aabbbabb", 5, false, DS_FOUND, 6, 8},
        {"\\s+(?!\\S)", false, "  x", 0, false, DS_FOUND, 0, 1},
        {"\\s+(?!\\S)", false, "  ", 0, true, DS_FOUND_CUT, 0, 2},
        {"^b", false, "a\nb", 0, false, DS_FOUND, 2, 3},
        {".+", false, "\n\xc3\xa9\n", 0, false, DS_FOUND, 1, 3},
        {".+", true, "a.+b", 0, false, DS_FOUND, 1, 3},
        {"\xe2\x96\x81", true, "a\xe2\x96\x81", 0, false, DS_FOUND, 1, 4},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_pattern *pattern = NULL;
        struct ds_matcher *matcher = ds_matcher_new();
        size_t begin = 0, end = 0;
        int found;

        cr_assert_eq(ds_pattern_new(&pattern, cases[i].pattern, cases[i].literal, NULL), 0);
        found = ds_pattern_find(pattern, matcher, cases[i].text, strlen(cases[i].text),
                                cases[i].from, cases[i].partial, &begin, &end, NULL);
        cr_expect_eq(found, cases[i].found, "case %zu: %d", i, found);
        if (found == DS_FOUND)
            cr_expect(begin == cases[i].begin && end == cases[i].end, "case %zu: %zu to %zu", i,
                      begin, end);
        ds_pattern_free(pattern);
        ds_matcher_free(matcher);
    }
}

/* A pattern that would take for ever ends in an error. */
Test(pattern, gives_up)
{
    struct ds_pattern *pattern = NULL;
    struct ds_matcher *matcher = ds_matcher_new();
    struct ds_error err = {0};
    size_t begin, end;
    char text[41];

    memset(text, 'a', 40);
    text[40] = '\0';
    cr_assert_eq(ds_pattern_new(&pattern, "(a|aa)+$z|(?:(?:a|aa)+)+b", false, &err), 0, "%s",
                 err.text);
    cr_assert_eq(ds_pattern_find(pattern, matcher, text, 40, 0, false, &begin, &end, &err),
                 -EOVERFLOW);
    cr_assert(strstr(err.text, "a pattern of the tokenizer gave up in this text: ") != NULL, "%s",
              err.text);
    cr_assert(!ds_pattern_looks_behind(pattern));
    ds_pattern_free(pattern);
    cr_assert_eq(ds_pattern_new(&pattern, "(?<=a)b", false, NULL), 0);
    cr_assert(ds_pattern_looks_behind(pattern));
    ds_pattern_free(pattern);
    ds_matcher_free(matcher);
}
