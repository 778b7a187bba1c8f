/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert_write.c - the job file, and what it lacks; the contract is in convert.h.
 *
 * Keys are written as the table of the job has them.  A key that is to be filled in is a comment at
 * the place where it belongs: without the '#' before it, it is the key.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/convert.h"
#include "runtime/job_table.h"

enum { WIDTH = 100, COMMENT_AT = 36 };

static bool has(const struct ds_convert *c, size_t i)
{
    return ds_keys_given(&c->keys, c->keys.key[i].path);
}

/* Will a line of section `section` of `len` bytes, its dot included, be no comment? */
static bool alive(const struct ds_convert *c, const char *section, size_t len)
{
    for (size_t i = 0; i < c->keys.count; i++)
        if (strncmp(c->keys.key[i].path, section, len) == 0 && has(c, i))
            return true;
    return false;
}

static size_t open_sections(const struct ds_convert *c, const char *last, const char *path,
                            struct ds_buf *out)
{
    size_t depth = 0;

    for (const char *name = path, *dot; (dot = strchr(name, '.')) != NULL; name = dot + 1) {
        size_t len = (size_t)(dot + 1 - path);

        if (strncmp(last, path, len) != 0)
            ds_buf_printf(out, "%s%*s%.*s:\n", alive(c, path, len) ? "" : "#", (int)(2 * depth), "",
                          (int)(dot - name), name);
        depth++;
    }
    return depth;
}

static void write_key(const struct ds_convert *c, size_t i, const char *last, struct ds_buf *out)
{
    const struct ds_key *key = &c->keys.key[i];
    const char *dot = strrchr(key->path, '.'), *name = dot == NULL ? key->path : dot + 1;
    int depth = (int)open_sections(c, last, key->path, out);
    size_t start = out->len;

    if (c->fill[i] != NULL && !has(c, i)) {
        ds_buf_printf(out, "#%*s%s: FILL IN  # %s\n", 2 * depth, "", name, c->fill[i]);
        return;
    }
    ds_buf_printf(out, "%*s%s: ", 2 * depth, "", name);
    ds_key_print(key, &c->job, out);
    if (c->from[i] != NULL) {
        size_t used = out->len - start;

        ds_buf_printf(out, "%*s  # %s", used < COMMENT_AT ? (int)(COMMENT_AT - used) : 0, "",
                      c->from[i]);
    }
    ds_buf_puts(out, "\n");
}

/* A sentence as a comment, broken at spaces. */
static void write_wrapped(const char *text, struct ds_buf *out)
{
    size_t used = 0;

    while (*text != '\0') {
        size_t len = strcspn(text, " ");

        if (used == 0 || used + len + 1 > WIDTH) {
            ds_buf_printf(out, "%s#%s", used == 0 ? "" : "\n", used == 0 ? " " : "    ");
            used = used == 0 ? 2 : 5;
        } else {
            ds_buf_puts(out, " ");
            used++;
        }
        (void)ds_buf_put(out, text, len);
        used += len;
        text += len;
        text += *text == ' ';
    }
    ds_buf_puts(out, "\n");
}

static void write_notes(const struct ds_convert *c, enum ds_convert_kind kind, const char *title,
                        struct ds_buf *out)
{
    bool first = true;

    for (const struct ds_convert_note *n = c->note; n != NULL; n = n->next) {
        char line[2 * DS_MAX_ERROR_TEXT];

        if (n->kind != kind)
            continue;
        if (first)
            ds_buf_printf(out, "#\n# %s\n#\n", title);
        first = false;
        (void)snprintf(line, sizeof(line), "%s%s%s", n->path, n->path[0] == '\0' ? "" : ": ",
                       n->text);
        write_wrapped(line, out);
    }
}

size_t ds_convert_fills(const struct ds_convert *c)
{
    size_t n = 0;

    for (size_t i = 0; i < c->keys.count; i++)
        n += c->fill[i] != NULL && !has(c, i);
    return n;
}

int ds_convert_write(const struct ds_convert *c, struct ds_buf *out, struct ds_error *err)
{
    char name[DS_MAX_PATH];
    const char *last = "";

    (void)ds_escape_control(name, sizeof(name), c->name, strlen(c->name));
    ds_buf_printf(out, "# Made from %s by dsrun convert.\n", name);
    if (ds_convert_fills(c) > 0)
        ds_buf_puts(out, "# FILL IN is what a DeepSpeed configuration does not say: write it and "
                         "take the '#' before it away.\n");
    for (size_t i = 0; i < c->keys.count; i++) {
        if (!has(c, i) && c->fill[i] == NULL)
            continue;
        write_key(c, i, last, out);
        last = c->keys.key[i].path;
    }
    write_notes(c, DS_NOTE_CHANGED, "Not quite the same here:", out);
    write_notes(c, DS_NOTE_WITHOUT, "Without a counterpart, and what to do instead:", out);
    write_notes(c, DS_NOTE_UNKNOWN, "Not known to DeepSpeed either:", out);
    write_notes(c, DS_NOTE_NOTHING, "Nothing to do for:", out);
    return out->failed ? ds_fail(err, ENOMEM, "the job file does not fit in memory") : 0;
}
