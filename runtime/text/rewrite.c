/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rewrite.c - a pattern in Ruby's syntax becomes PCRE2's; see pattern.h.
 *
 * Only what means the same in both, or has another spelling, is let through.  Under (?i) Oniguruma
 * also folds one character to several ("ss" is "ß"), which PCRE2 does not: pairs of letters that
 * such a character could stand for are refused there.
 *
 * Source  Oniguruma, doc/RE; pcre2pattern(3)
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/pattern.h"

enum { MOST_GROUPS = 64, NAME_MOST = 32 };

/* White_Space of Unicode, as members of a class. */
#define SPACES                                                                                     \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"
#define WORDS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

struct rewriter {
    const char *begin, *at;
    struct ds_buf *out;
    struct ds_error *err;
    bool in_class;
    bool fold[MOST_GROUPS]; /* is a group under (?i)? */
    size_t groups;          /* open, the pattern itself among them */
    char letter;            /* the literal letter before, in lower case; 0: none */
};

static int refuse(struct rewriter *r, const char *what)
{
    return ds_fail(r->err, ENOTSUP, "%s at byte %zu of pattern '%s' is not supported", what,
                   (size_t)(r->at - r->begin), r->begin);
}

/* Copy `n` bytes as they are. */
static int keep(struct rewriter *r, size_t n)
{
    (void)ds_buf_put(r->out, r->at, n);
    r->at += n;
    return 0;
}

/* Write `text` for `n` bytes. */
static int become(struct rewriter *r, size_t n, const char *text)
{
    ds_buf_puts(r->out, text);
    r->at += n;
    return 0;
}

/* --- escapes --------------------------------------------------------------------------------- */

/* \p{L}, \P{Han}, \p{^Lu}: a name of up to two letters is a category, a longer one a script. */
static int property(struct rewriter *r)
{
    const char *name = r->at + 3, *close;
    bool negated = r->at[1] == 'P';
    size_t len;

    if (r->at[2] != '{')
        return refuse(r, "a property without braces");
    if (*name == '^') {
        negated = !negated;
        name++;
    }
    close = strchr(name, '}');
    len = close == NULL ? 0 : (size_t)(close - name);
    for (size_t i = 0; i < len; i++)
        if (!isalpha((unsigned char)name[i]) && name[i] != '_')
            len = 0;
    if (len == 0 || len > NAME_MOST)
        return refuse(r, "a property of this name");
    ds_buf_printf(r->out, "\\%c{%s%.*s}", negated ? 'P' : 'p', len > 2 ? "sc:" : "", (int)len,
                  name);
    r->at = close + 1;
    return 0;
}

/* \uHHHH, \xHH or \x{H...} */
static int code_point(struct rewriter *r)
{
    const char *digits = r->at + 2;
    size_t most = r->at[1] == 'u' ? 4 : 2, len, used;
    bool braces = r->at[1] == 'x' && *digits == '{';
    unsigned long value;
    char hex[9] = "";

    digits += braces;
    len = strspn(digits, "0123456789abcdefABCDEF");
    if (braces ? len == 0 || len > 6 || digits[len] != '}' : len < most)
        return refuse(r, "a code point written like this");
    used = braces ? len : most;
    memcpy(hex, digits, used);
    value = strtoul(hex, NULL, 16);
    /* A byte above 0x7f without braces is a byte to Oniguruma, not a character. */
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000) ||
        (r->at[1] == 'x' && !braces && value > 0x7f))
        return refuse(r, "a code point written like this");
    ds_buf_printf(r->out, "\\x{%lx}", value);
    r->at = digits + used + braces;
    return 0;
}

/* What a letter after a backslash becomes, outside of a class and inside; NULL: refused. */
static const struct {
    char letter;
    const char *outside, *inside;
} escapes[] = {
    {'s', "[" SPACES "]", SPACES},
    {'S', "[^" SPACES "]", NULL},
    {'w', "[" WORDS "]", WORDS},
    {'W', "[^" WORDS "]", NULL},
    {'d', "\\p{Nd}", "\\p{Nd}"},
    {'D', "\\P{Nd}", "\\P{Nd}"},
    {'h', "[0-9a-fA-F]", "0-9a-fA-F"},
    {'r', "\\r", "\\r"},
    {'n', "\\n", "\\n"},
    {'t', "\\t", "\\t"},
    {'f', "\\f", "\\f"},
    {'a', "\\a", "\\a"},
    {'e', "\\e", "\\e"},
    {'v', "\\x0b", "\\x0b"},
    {'A', "\\A", NULL},
    {'z', "\\z", NULL},
};

static int escape(struct rewriter *r)
{
    char c = r->at[1];

    if (c == 'p' || c == 'P')
        return property(r);
    if (c == 'u' || c == 'x')
        return code_point(r);
    if (c > 0 && (ispunct((unsigned char)c) || c == ' '))
        return keep(r, 2);
    for (size_t i = 0; i < sizeof(escapes) / sizeof(escapes[0]); i++) {
        const char *text = r->in_class ? escapes[i].inside : escapes[i].outside;

        if (escapes[i].letter == c && text != NULL)
            return become(r, 2, text);
    }
    return refuse(r, "this escape");
}

/* --- groups, classes and literals ------------------------------------------------------------ */

static int open_group(struct rewriter *r)
{
    static const struct {
        const char *text;
        int fold; /* 1 begins, 0 ends, -1 leaves it */
    } kinds[] = {{"(?:", -1},  {"(?=", -1},  {"(?!", -1}, {"(?>", -1},
                 {"(?<=", -1}, {"(?<!", -1}, {"(?i:", 1}, {"(?-i:", 0}};
    bool fold = r->fold[r->groups - 1];
    size_t len = 1;

    if (strncmp(r->at, "(?i)", 4) == 0 && r->at == r->begin) {
        r->fold[0] = true;
        return keep(r, 4);
    }
    if (r->groups == MOST_GROUPS)
        return refuse(r, "a group so deep");
    if (r->at[1] == '?') {
        size_t i = 0, count = sizeof(kinds) / sizeof(kinds[0]);

        while (i < count && strncmp(r->at, kinds[i].text, strlen(kinds[i].text)) != 0)
            i++;
        if (i == count)
            return refuse(r, "a group of this kind");
        len = strlen(kinds[i].text);
        fold = kinds[i].fold < 0 ? fold : kinds[i].fold > 0;
    } else if (r->at[1] == '*') {
        return refuse(r, "a verb");
    }
    r->fold[r->groups++] = fold;
    return keep(r, len);
}

static int close_group(struct rewriter *r)
{
    if (r->groups == 1)
        return refuse(r, "a parenthesis that closes nothing");
    r->groups--;
    return keep(r, 1);
}

static int open_class(struct rewriter *r)
{
    size_t len = r->at[1] == '^' ? 2 : 1;

    if (r->at[len] == ']')
        return refuse(r, "an empty class");
    r->in_class = true;
    return keep(r, len);
}

/* {n}, {n,} or {n,m}; any other brace is itself in both. */
static int brace(struct rewriter *r)
{
    size_t first = strspn(r->at + 1, "0123456789"), len = 1 + first;

    if (r->at[len] == ',')
        len += 1 + strspn(r->at + len + 1, "0123456789");
    if (r->at[len] != '}' || len == 1)
        return keep(r, 1);
    if (first == 0)
        return refuse(r, "an interval without a first number");
    if (r->at[len + 1] == '+' || r->at[len + 1] == '?')
        return refuse(r, "a quantifier of an interval");
    return keep(r, len + 1);
}

static int literal(struct rewriter *r)
{
    static const char pairs[] = "ss st ff fi fl";
    unsigned char c = (unsigned char)*r->at;
    char letter = (char)(isalpha(c) ? tolower(c) : 0), pair[3] = {r->letter, letter, '\0'};

    if (r->fold[r->groups - 1] && !r->in_class) {
        if (c >= 0x80)
            return refuse(r, "a letter beyond ASCII in any case");
        if (strlen(pair) == 2 && strstr(pairs, pair) != NULL)
            return refuse(r, "a pair of letters, that one character may stand for in any case,");
        r->letter = letter;
    }
    return keep(r, 1);
}

static int in_class(struct rewriter *r)
{
    if (*r->at == ']') {
        r->in_class = false;
        return keep(r, 1);
    }
    if (*r->at == '[')
        return refuse(r, "a class in a class");
    if (r->at[0] == '&' && r->at[1] == '&')
        return refuse(r, "an intersection of classes");
    return *r->at == '\\' ? escape(r) : literal(r);
}

static int outside(struct rewriter *r)
{
    if (!isalpha((unsigned char)*r->at))
        r->letter = 0;
    switch (*r->at) {
    case '\\': return escape(r);
    case '(': return open_group(r);
    case ')': return close_group(r);
    case '[': return open_class(r);
    case '{': return brace(r);
    default: return literal(r);
    }
}

int ds__pattern_rewrite(const char *regex, struct ds_buf *out, struct ds_error *err)
{
    struct rewriter r = {.begin = regex, .at = regex, .out = out, .err = err, .groups = 1};
    int rc = 0;

    while (rc == 0 && *r.at != '\0')
        rc = r.in_class ? in_class(&r) : outside(&r);
    if (rc == 0 && out->failed)
        rc = ds_fail(err, ENOMEM, "no memory for pattern '%.100s'", regex);
    return rc;
}
