/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * envfile.c - the contract is in envfile.h.
 */
#include "cli/envfile.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/keys.h"

struct reader {
    const char *at, *end, *line_start;
    unsigned line;
    const char *name; /* of the file */
    char *out;        /* the entry that is being made; as long as the text at most */
    size_t len;
    struct ds_error *err;
};

static int fail_at(const struct reader *in, const char *where, const char *what)
{
    return ds_fail(in->err, EINVAL, "%s:%u:%u: %s", in->name, in->line,
                   (unsigned)(where - in->line_start) + 1, what);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static void skip_blanks(struct reader *in)
{
    while (in->at < in->end && is_blank(*in->at))
        in->at++;
}

static void take(struct reader *in, char c)
{
    in->out[in->len++] = c;
}

static void next_line(struct reader *in)
{
    in->at++;
    in->line++;
    in->line_start = in->at;
}

/* "NAME=", with an optional "export " before it. */
static int read_name(struct reader *in)
{
    const char *begin;
    size_t len;

    if (in->end - in->at > 7 && memcmp(in->at, "export", 6) == 0 && is_blank(in->at[6])) {
        in->at += 6;
        skip_blanks(in);
    }
    begin = in->at;
    while (in->at < in->end && *in->at != '=' && *in->at != '\n' && !is_blank(*in->at))
        in->at++;
    len = (size_t)(in->at - begin);
    if (!ds_key_is_env_name(begin, len) || in->at == in->end || *in->at != '=')
        return fail_at(in, begin, "expected NAME=value");
    memcpy(in->out, begin, len);
    in->len = len;
    take(in, '=');
    in->at++;
    return 0;
}

/* What a backslash and `c` stand for between double quotes; 0: nothing. */
static char unescape(char c)
{
    switch (c) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    case '"':
    case '\\':
    case '$':
    case '`': return c;
    default: return 0;
    }
}

static int read_quoted(struct reader *in, char quote)
{
    const struct reader open = *in;

    for (in->at++; in->at < in->end && *in->at != quote; in->at++) {
        char c = *in->at;

        if (c == '\\' && quote == '"') {
            c = in->at + 1 < in->end ? unescape(in->at[1]) : 0;
            if (c == 0)
                return fail_at(in, in->at,
                               "an unknown escape; there are \\n \\t \\r \\\" \\\\ \\$ \\`");
            in->at++;
        }
        take(in, c);
        if (*in->at == '\n') {
            in->line++;
            in->line_start = in->at + 1;
        }
    }
    if (in->at == in->end)
        return fail_at(&open, open.at, "the quote is not closed");
    in->at++;
    skip_blanks(in);
    if (in->at < in->end && *in->at != '\n' && *in->at != '#')
        return fail_at(in, in->at, "expected the end of the line after the closing quote");
    return 0;
}

static void read_plain(struct reader *in)
{
    size_t kept = in->len;

    for (; in->at < in->end && *in->at != '\n'; in->at++) {
        if (*in->at == '#' && is_blank(in->at[-1]))
            break;
        take(in, *in->at);
        if (!is_blank(*in->at))
            kept = in->len;
    }
    in->len = kept;
}

static int read_entry(struct reader *in)
{
    int rc = read_name(in);

    if (rc != 0)
        return rc;
    skip_blanks(in);
    if (in->at < in->end && (*in->at == '"' || *in->at == '\''))
        return read_quoted(in, *in->at);
    read_plain(in);
    return 0;
}

/* One line, or what a quoted value makes of several.  1: an entry is in out. */
static int read_line(struct reader *in)
{
    int rc = 0;

    skip_blanks(in);
    in->len = 0;
    if (in->at < in->end && *in->at != '\n' && *in->at != '#')
        rc = read_entry(in);
    while (rc == 0 && in->at < in->end && *in->at != '\n') /* the comment */
        in->at++;
    if (rc == 0 && in->at < in->end)
        next_line(in);
    return rc == 0 ? in->len > 0 : rc;
}

int ds_envfile_parse(struct ds_envfile *env, const char *name, const char *text, size_t len,
                     struct ds_arena *arena, struct ds_error *err)
{
    struct reader in = {.at = text,
                        .end = text + len,
                        .line_start = text,
                        .line = 1,
                        .name = name,
                        .out = ds_arena_alloc(arena, len + 1, 1),
                        .err = err};
    int rc;

    *env = (struct ds_envfile){.item = ds_arena_alloc(arena, DS_MAX_SPEC_STRINGS, sizeof(char *))};
    if (in.out == NULL || env->item == NULL)
        return ds_fail(err, ENOMEM, "no memory for '%s'", name);
    if (memchr(text, '\0', len) != NULL)
        return ds_fail(err, EINVAL, "%s: there is a NUL byte in it", name);
    while (in.at < in.end) {
        unsigned line = in.line;

        rc = read_line(&in);
        if (rc < 0)
            return rc;
        if (rc == 0)
            continue;
        if (env->count == DS_MAX_SPEC_STRINGS)
            return ds_fail(err, EINVAL, "%s:%u:1: more than %d variables", name, line,
                           DS_MAX_SPEC_STRINGS);
        env->item[env->count] = ds_arena_strndup(arena, in.out, in.len);
        if (env->item[env->count++] == NULL)
            return ds_fail(err, ENOMEM, "no memory for '%s'", name);
    }
    return 0;
}
