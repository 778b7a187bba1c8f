/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_config.c - the contract is in ssh_config.h.
 */
#include "launcher/remote/ssh_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "launcher/remote/pattern.h"

enum { WORDS = 64 };

struct line {
    const char *file;
    unsigned number;
    char text[DS_MAX_SSH_LINE]; /* words of it, each terminated */
    const char *word[WORDS];
    size_t words;
};

/* --- one line --------------------------------------------------------------------------------- */

static int fail(const struct line *line, struct ds_error *err, const char *what)
{
    return ds_fail(err, EINVAL, "%s:%u: %s", line->file, line->number, what);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\f';
}

/* Cut a line into words: blanks or, after the keyword, one '=' between them; "..." keeps blanks. */
static int split(struct line *line, const char *at, const char *end, struct ds_error *err)
{
    char *out = line->text;

    line->words = 0;
    if ((size_t)(end - at) >= sizeof(line->text))
        return fail(line, err, "a line of this length is not supported");
    if (memchr(at, '\0', (size_t)(end - at)) != NULL)
        return fail(line, err, "a NUL byte");
    for (;;) {
        bool quoted;

        while (at < end && (is_space(*at) || (*at == '=' && line->words == 1)))
            at++;
        if (at == end || *at == '#')
            return 0;
        if (line->words == WORDS)
            return fail(line, err, "too many words");
        quoted = *at == '"';
        at += quoted;
        line->word[line->words++] = out;
        while (at < end &&
               (quoted ? *at != '"' : !is_space(*at) && (*at != '=' || line->words > 1)))
            *out++ = *at++;
        *out++ = '\0';
        if (quoted && at == end)
            return fail(line, err, "a quote is not closed");
        at += quoted;
    }
}

/* --- keywords --------------------------------------------------------------------------------- */

enum key {
    K_HOST,
    K_MATCH,
    K_INCLUDE,
    K_HOSTNAME,
    K_USER,
    K_ALIAS,
    K_AGENT,
    K_JUMP,
    K_PORT,
    K_CONNECT,
    K_IDENTITY,
    K_KNOWN,
    K_GLOBAL,
    K_ONLY,
    K_REFUSED,
    K_OTHER
};

/* clang-format off */
static const struct { const char *name; enum key key; } keywords[] = {
    {"Host", K_HOST}, {"Match", K_MATCH}, {"Include", K_INCLUDE},
    {"HostName", K_HOSTNAME}, {"User", K_USER}, {"Port", K_PORT},
    {"HostKeyAlias", K_ALIAS}, {"IdentityAgent", K_AGENT}, {"ProxyJump", K_JUMP},
    {"ConnectTimeout", K_CONNECT}, {"IdentityFile", K_IDENTITY},
    {"UserKnownHostsFile", K_KNOWN}, {"GlobalKnownHostsFile", K_GLOBAL},
    {"IdentitiesOnly", K_ONLY},
    {"ProxyCommand", K_REFUSED}, {"ProxyUseFdpass", K_REFUSED}, {"PKCS11Provider", K_REFUSED},
    {"SecurityKeyProvider", K_REFUSED}, {"CertificateFile", K_REFUSED},
    {"KnownHostsCommand", K_REFUSED}, {"CanonicalizeHostname", K_REFUSED},
    {"BindAddress", K_REFUSED}, {"BindInterface", K_REFUSED},
};
/* clang-format on */

static enum key find_key(const char *word)
{
    for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
        if (strcasecmp(keywords[i].name, word) == 0)
            return keywords[i].key;
    return K_OTHER;
}

static int keep(struct ds_ssh_reader *reader, const char **field, const char *value,
                struct ds_error *err)
{
    if (*field != NULL)
        return 0;
    *field = ds_arena_printf(reader->arena, "%s", value);
    return *field != NULL ? 0 : ds_fail(err, ENOMEM, "no memory for the ssh config");
}

/* `all`: the words of the line are the value (files); else each line adds one (identities). */
static int keep_list(struct ds_ssh_reader *reader, struct ds_ssh_list *list,
                     const struct line *line, bool all, struct ds_error *err)
{
    if (all && list->set)
        return 0;
    list->set = true;
    for (size_t i = 1; i < (all ? line->words : 2); i++) {
        const char *value = NULL;
        int rc;

        if (strcasecmp(line->word[i], "none") == 0)
            continue;
        if (list->count == DS_MAX_SSH_IDENTITY)
            return fail(line, err, "more than 8 files for one host");
        rc = keep(reader, &value, line->word[i], err);
        if (rc != 0)
            return rc;
        list->item[list->count++] = value;
    }
    return 0;
}

static int keep_number(const struct line *line, uint32_t *field, uint32_t most,
                       struct ds_error *err)
{
    char *end;
    unsigned long value = strtoul(line->word[1], &end, 10);

    if (line->word[1][0] < '0' || line->word[1][0] > '9' || *end != '\0' || value == 0 ||
        value > most)
        return fail(line, err, "not a number in range");
    if (*field == 0)
        *field = (uint32_t)value;
    return 0;
}

static int keep_flag(const struct line *line, struct ds_ssh_config *config, struct ds_error *err)
{
    bool yes = strcasecmp(line->word[1], "yes") == 0;

    if (!yes && strcasecmp(line->word[1], "no") != 0)
        return fail(line, err, "yes or no is expected");
    if (!config->identities_set)
        config->identities_only = yes;
    config->identities_set = true;
    return 0;
}

static int refuse(const struct line *line, struct ds_error *err)
{
    bool off = strcasecmp(line->word[1], "none") == 0 || strcasecmp(line->word[1], "no") == 0;

    return off ? 0
               : ds_fail(err, EINVAL, "%s:%u: '%s' is not supported; use --via openssh", line->file,
                         line->number, line->word[0]);
}

static int take_value(struct ds_ssh_reader *reader, const struct line *line, enum key key,
                      struct ds_error *err)
{
    struct ds_ssh_config *config = reader->config;
    const char *value = line->word[1];

    switch (key) {
    case K_HOSTNAME: return keep(reader, &config->hostname, value, err);
    case K_USER: return keep(reader, &config->user, value, err);
    case K_ALIAS: return keep(reader, &config->alias, value, err);
    case K_AGENT: return keep(reader, &config->agent, value, err);
    case K_PORT: return keep_number(line, &config->port, 65535, err);
    case K_CONNECT: return keep_number(line, &config->connect_s, 3600, err);
    case K_IDENTITY: return keep_list(reader, &config->identity, line, false, err);
    case K_KNOWN: return keep_list(reader, &config->known, line, true, err);
    case K_GLOBAL: return keep_list(reader, &config->global_known, line, true, err);
    case K_ONLY: return keep_flag(line, config, err);
    case K_REFUSED: return refuse(line, err);
    case K_JUMP:
        if (config->jump_set)
            return 0;
        config->jump_set = true;
        return strcasecmp(value, "none") == 0 ? 0 : keep(reader, &config->jump, value, err);
    default: return 0;
    }
}

/* --- blocks ----------------------------------------------------------------------------------- */

static bool host_matches(const struct line *line, const char *host)
{
    bool found = false;

    for (size_t i = 1; i < line->words; i++) {
        const char *pattern = line->word[i];
        bool exclude = pattern[0] == '!';

        pattern += exclude;
        if (!ds_pattern_match(pattern, strlen(pattern), host))
            continue;
        if (exclude)
            return false;
        found = true;
    }
    return found;
}

/* all, host LIST and originalhost LIST; each may begin with '!'. */
static int match_block(const struct ds_ssh_reader *reader, const struct line *line, bool *active,
                       struct ds_error *err)
{
    const char *now = reader->config->hostname != NULL ? reader->config->hostname : reader->host;

    *active = true;
    for (size_t i = 1; i < line->words; i++) {
        const char *word = line->word[i];
        bool negate = word[0] == '!', host, yes = true;

        word += negate;
        host = strcasecmp(word, "host") == 0;
        if (host || strcasecmp(word, "originalhost") == 0) {
            if (++i == line->words)
                return fail(line, err, "a list of hosts is missing");
            yes = ds_pattern_list(line->word[i], strlen(line->word[i]), ',',
                                  host ? now : reader->host);
        } else if (strcasecmp(word, "all") != 0) {
            return ds_fail(err, EINVAL, "%s:%u: 'Match %s' is not supported; use --via openssh",
                           line->file, line->number, word);
        }
        *active = *active && yes != negate;
    }
    return 0;
}

static int take_line(struct ds_ssh_reader *reader, const struct line *line, unsigned depth,
                     bool *active, struct ds_error *err)
{
    enum key key = find_key(line->word[0]);
    int rc = 0;

    if (key == K_OTHER)
        return 0;
    if (line->words < 2)
        return fail(line, err, "a value is missing");
    if (key == K_HOST) {
        *active = host_matches(line, reader->host);
        return 0;
    }
    if (key == K_MATCH)
        return match_block(reader, line, active, err);
    if (!*active)
        return 0;
    if (key != K_INCLUDE)
        return take_value(reader, line, key, err);
    if (depth >= DS_MAX_SSH_INCLUDE)
        return fail(line, err, "files include each other too deeply");
    for (size_t i = 1; rc == 0 && i < line->words; i++)
        rc = reader->include(reader, line->word[i], depth + 1, err);
    return rc;
}

int ds_ssh_config_apply(struct ds_ssh_reader *reader, const char *file, const char *text,
                        size_t len, unsigned depth, struct ds_error *err)
{
    const char *at = text, *end = text + len;
    struct line line = {.file = file};
    bool active = true;
    int rc = 0;

    while (rc == 0 && at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));

        if (stop == NULL)
            stop = end;
        line.number++;
        rc = split(&line, at, stop, err);
        if (rc == 0 && line.words > 0)
            rc = take_line(reader, &line, depth, &active, err);
        at = stop < end ? stop + 1 : end;
    }
    return rc;
}

/* --- values ----------------------------------------------------------------------------------- */

static const char *token(char c, const struct ds_ssh_tokens *tokens, char port[16])
{
    (void)snprintf(port, 16, "%u", tokens->port);
    switch (c) {
    case '%': return "%";
    case 'd': return tokens->home;
    case 'h': return tokens->host;
    case 'n': return tokens->name;
    case 'p': return port;
    case 'r': return tokens->user;
    case 'u': return tokens->local_user;
    default: return NULL;
    }
}

const char *ds_ssh_expand(struct ds_arena *arena, const char *text,
                          const struct ds_ssh_tokens *tokens)
{
    char out[DS_MAX_PATH], port[16];
    size_t len = 0;

    if (text[0] == '~' && (text[1] == '/' || text[1] == '\0')) {
        len = strlen(tokens->home);
        if (len >= sizeof(out))
            return NULL;
        memcpy(out, tokens->home, len);
        text++;
    }
    for (; *text != '\0'; text++) {
        const char *put = text;
        size_t n = 1;

        if (*text == '%') {
            put = token(*++text, tokens, port);
            if (put == NULL)
                return NULL;
            n = strlen(put);
        }
        if (len + n >= sizeof(out))
            return NULL;
        memcpy(out + len, put, n);
        len += n;
    }
    out[len] = '\0';
    return ds_arena_printf(arena, "%s", out);
}

/* One hop, `len` bytes at `text`. */
static int take_hop(struct ds_arena *arena, const char *text, size_t len, struct ds_ssh_hop *hop,
                    struct ds_error *err)
{
    char *copy = ds_arena_printf(arena, "%.*s", (int)len, text), *at, *colon;

    *hop = (struct ds_ssh_hop){0};
    if (copy == NULL)
        return ds_fail(err, ENOMEM, "no memory for ProxyJump");
    at = strrchr(copy, '@');
    if (at != NULL) {
        *at = '\0';
        hop->user = copy;
        copy = at + 1;
    }
    colon = strrchr(copy, ':');
    if (copy[0] == '[') { /* [address]:port */
        char *close = strchr(copy, ']');

        if (close == NULL || (close[1] != '\0' && close[1] != ':'))
            return ds_fail(err, EINVAL, "'%.*s' is no host to jump over", (int)len, text);
        colon = close[1] == ':' ? close + 1 : NULL;
        *close = '\0';
        copy++;
    } else if (colon != NULL && strchr(copy, ':') != colon) {
        colon = NULL; /* an IPv6 address */
    }
    if (colon != NULL) {
        char *end;
        unsigned long port = strtoul(colon + 1, &end, 10);

        if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port == 0 || port > 65535)
            return ds_fail(err, EINVAL, "'%.*s' has no valid port", (int)len, text);
        hop->port = (uint32_t)port;
        *colon = '\0';
    }
    hop->host = copy;
    if (copy[0] == '\0' || strchr(copy, '/') != NULL || (hop->user != NULL && *hop->user == '\0'))
        return ds_fail(err, EINVAL, "'%.*s' is no host to jump over", (int)len, text);
    return 0;
}

int ds_ssh_jumps(struct ds_arena *arena, const char *text, struct ds_ssh_hop *hop, size_t room,
                 struct ds_error *err)
{
    size_t hops = 0;

    for (;;) {
        size_t len = strcspn(text, ",");
        int rc;

        if (hops == room)
            return ds_fail(err, EINVAL, "ProxyJump over more than %zu hosts", room);
        rc = take_hop(arena, text, len, &hop[hops++], err);
        if (rc != 0)
            return rc;
        if (text[len] == '\0')
            return (int)hops;
        text += len + 1;
    }
}
