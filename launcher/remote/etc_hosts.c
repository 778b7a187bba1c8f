/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * etc_hosts.c - the contract is in etc_hosts.h.
 */
#include "launcher/remote/etc_hosts.h"

#include <string.h>
#include <strings.h>

#include "base/fsio.h"

enum { NSSWITCH_BYTES = 64 * 1024 };

struct span { /* of a text that is taken apart */
    const char *at;
    size_t len;
};

static bool is(struct span word, const char *text)
{
    return word.len == strlen(text) && strncasecmp(word.at, text, word.len) == 0;
}

/* The next line, without its comment, off the front of `text`. */
static bool take_line(struct span *text, struct span *line)
{
    const char *end;
    size_t len;

    if (text->len == 0)
        return false;
    end = memchr(text->at, '\n', text->len);
    len = end != NULL ? (size_t)(end - text->at) : text->len;
    *line = (struct span){text->at, len};
    text->at += len + (end != NULL);
    text->len -= len + (end != NULL);
    end = memchr(line->at, '#', line->len);
    if (end != NULL)
        line->len = (size_t)(end - line->at);
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* The next word off the front of `line`. */
static bool take_word(struct span *line, struct span *word)
{
    size_t from = 0, to;

    while (from < line->len && is_blank(line->at[from]))
        from++;
    for (to = from; to < line->len && !is_blank(line->at[to]);)
        to++;
    *word = (struct span){line->at + from, to - from};
    line->at += to;
    line->len -= to;
    return word->len > 0;
}

/* `hosts: files`, and nothing in brackets behind it. */
static bool files_first(const struct ds_buf *nsswitch)
{
    struct span text = {ds_buf_text(nsswitch), nsswitch->len}, line, word;
    unsigned lines = 0;
    bool first = false;

    while (take_line(&text, &line)) {
        if (!take_word(&line, &word) || !is(word, "hosts:"))
            continue;
        lines++;
        first = take_word(&line, &word) && is(word, "files") &&
                (!take_word(&line, &word) || word.at[0] != '[');
    }
    return lines == 1 && first;
}

void ds_etc_hosts_read(struct ds_etc_hosts *hosts, const char *nsswitch, const char *path)
{
    struct ds_buf text;
    bool used;

    ds_buf_init(&hosts->text, DS_ETC_HOSTS_BYTES + 1);
    ds_buf_init(&text, NSSWITCH_BYTES + 1);
    used = ds_fs_read(nsswitch, NSSWITCH_BYTES, &text, NULL) == 0 && files_first(&text);
    ds_buf_release(&text);
    if (used && ds_fs_read(path, DS_ETC_HOSTS_BYTES, &hosts->text, NULL) != 0)
        ds_buf_release(&hosts->text);
}

void ds_etc_hosts_release(struct ds_etc_hosts *hosts)
{
    ds_buf_release(&hosts->text);
}

bool ds_etc_hosts_find(const struct ds_etc_hosts *hosts, const char *name,
                       char out[DS_ETC_HOSTS_ADDRESS])
{
    struct span text = {ds_buf_text(&hosts->text), hosts->text.len}, line, word;
    struct span found = {NULL, 0};

    while (take_line(&text, &line)) {
        struct span address;
        bool named = false;

        if (!take_word(&line, &address))
            continue;
        while (!named && take_word(&line, &word))
            named = is(word, name);
        if (named && found.at != NULL)
            return false;
        if (named)
            found = address;
    }
    if (found.at == NULL || found.len >= DS_ETC_HOSTS_ADDRESS)
        return false;
    memcpy(out, found.at, found.len);
    out[found.len] = '\0';
    return true;
}
