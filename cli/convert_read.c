/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert_read.c - from JSON to values by row; the contract is in convert.h.
 *
 * jansson says whether it is JSON, and does not say where a key stood.  Its objects keep the order
 * of the text, so the n-th key of a walk in that order is the n-th string before a colon: the text
 * is gone through once for the places of these.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json_read.h"
#include "base/log.h"
#include "base/nearest.h"
#include "cli/convert.h"
#include "runtime/job_table.h"

enum { PATH_BYTES = 256 };

/* --- notes and places ------------------------------------------------------------------------ */

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

static int add_note(struct ds_convert *c, enum ds_convert_kind kind, struct ds_yaml_mark at,
                    const char *path, const char *text, struct ds_error *err)
{
    struct ds_convert_note *note = ds_arena_alloc(&c->job.arena, 1, sizeof(*note));
    char safe[2 * DS_MAX_ERROR_TEXT]; /* it becomes a comment, which a line end would end */

    if (note == NULL)
        return out_of_memory(err);
    *note = (struct ds_convert_note){.kind = kind, .at = at};
    note->path = ds_arena_strdup(&c->job.arena, path);
    (void)ds_escape_control(safe, sizeof(safe), text, strlen(text));
    note->text = ds_arena_strdup(&c->job.arena, safe);
    if (note->path == NULL || note->text == NULL)
        return out_of_memory(err);
    *c->last_note = note;
    c->last_note = &note->next;
    return 0;
}

static const struct ds_convert_given *given(const struct ds_convert *c, const char *path)
{
    static const struct ds_convert_given none;
    size_t rows, i = ds_convert_find(path);

    (void)ds_convert_rows(&rows);
    return i < rows ? &c->given[i] : &none;
}

int ds__convert_note(struct ds_convert *c, enum ds_convert_kind kind, const char *path,
                     struct ds_error *err, const char *fmt, ...)
{
    char text[DS_MAX_ERROR_TEXT];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return add_note(c, kind, given(c, path)->at, path, text, err);
}

static int place(const struct ds_convert *c, struct ds_yaml_mark at, int rc, struct ds_error *err)
{
    return at.line == 0 ? ds_error_context(err, rc, "%s", c->name)
                        : ds_error_context(err, rc, "%s:%u:%u", c->name, at.line, at.column);
}

int ds__convert_place(const struct ds_convert *c, const char *path, int rc, struct ds_error *err)
{
    return place(c, given(c, path)->at, rc, err);
}

/* --- values ---------------------------------------------------------------------------------- */

static int fail_type(const struct ds_convert *c, const char *path, const char *type,
                     struct ds_error *err)
{
    return ds__convert_place(c, path, ds_fail(err, EINVAL, "'%s' must be %s", path, type), err);
}

bool ds__convert_has(const struct ds_convert *c, const char *path)
{
    return given(c, path)->value != NULL;
}

int ds__convert_u64(const struct ds_convert *c, const char *path, uint64_t fallback, uint64_t *out,
                    struct ds_error *err)
{
    const json_t *value = given(c, path)->value;

    *out = fallback;
    if (value == NULL)
        return 0;
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *out = (uint64_t)json_integer_value(value);
        return 0;
    }
    /* 5e8 is a usual way to write a size */
    if (json_is_real(value) && json_real_value(value) >= 0.0 && json_real_value(value) < 1e15 &&
        json_real_value(value) == (double)(uint64_t)json_real_value(value)) {
        *out = (uint64_t)json_real_value(value);
        return 0;
    }
    return fail_type(c, path, "a whole number", err);
}

int ds__convert_f64(const struct ds_convert *c, const char *path, double fallback, double *out,
                    struct ds_error *err)
{
    const json_t *value = given(c, path)->value;

    *out = fallback;
    if (value == NULL)
        return 0;
    if (!json_is_number(value))
        return fail_type(c, path, "a number", err);
    *out = json_number_value(value);
    return 0;
}

int ds__convert_bool(const struct ds_convert *c, const char *path, bool fallback, bool *out,
                     struct ds_error *err)
{
    const json_t *value = given(c, path)->value;

    *out = fallback;
    if (value == NULL)
        return 0;
    if (!json_is_boolean(value))
        return fail_type(c, path, "true or false", err);
    *out = json_is_true(value);
    return 0;
}

int ds__convert_text(const struct ds_convert *c, const char *path, const char *fallback,
                     const char **out, struct ds_error *err)
{
    const json_t *value = given(c, path)->value;

    *out = fallback;
    if (value == NULL)
        return 0;
    if (!json_is_string(value))
        return fail_type(c, path, "text", err);
    *out = json_string_value(value);
    return 0;
}

/* --- places of keys -------------------------------------------------------------------------- */

struct scan {
    const char *at, *end;
    struct ds_yaml_mark here;
};

static void step(struct scan *s)
{
    if (*s->at == '\n')
        s->here = (struct ds_yaml_mark){s->here.line + 1, 1};
    else if (((unsigned char)*s->at & 0xC0) != 0x80) /* a character, not its further bytes */
        s->here.column++;
    s->at++;
}

/* Past the string that begins here.  The text is JSON, so it ends. */
static void skip_string(struct scan *s)
{
    for (step(s); s->at < s->end && *s->at != '"'; step(s))
        if (*s->at == '\\' && s->at + 1 < s->end)
            step(s);
    if (s->at < s->end)
        step(s);
}

/* Count the keys of the text; with `mark`, note where each stands. */
static size_t find_keys(const char *text, size_t len, struct ds_yaml_mark *mark)
{
    struct scan s = {text, text + len, {1, 1}};
    size_t n = 0;

    while (s.at < s.end) {
        struct ds_yaml_mark start = s.here;

        if (*s.at != '"') {
            step(&s);
            continue;
        }
        skip_string(&s);
        while (s.at < s.end && strchr(" \t\r\n", *s.at) != NULL)
            step(&s);
        if (s.at == s.end || *s.at != ':')
            continue;
        if (mark != NULL)
            mark[n] = start;
        n++;
    }
    return n;
}

/* The keys inside of a value, which are not looked up. */
static size_t count_keys(json_t *value)
{
    size_t n = 0, i;
    const char *key;
    json_t *child;

    if (json_is_array(value))
        for (i = 0; i < json_array_size(value); i++)
            n += count_keys(json_array_get(value, i));
    else
        json_object_foreach(value, key, child) n += 1 + count_keys(child);
    return n;
}

/* --- the walk -------------------------------------------------------------------------------- */

/* Does the value ask for anything?  Of a section its "enabled" says so. */
static bool asks(json_t *value)
{
    const json_t *enabled = json_object_get(value, "enabled");
    const char *key;
    json_t *child;

    if (json_is_boolean(enabled))
        return json_is_true(enabled);
    if (json_is_object(value)) {
        json_object_foreach(value, key, child) if (asks(child)) return true;
        return false;
    }
    if (json_is_number(value))
        return json_number_value(value) != 0.0;
    if (json_is_string(value))
        return json_string_length(value) > 0 && strcasecmp(json_string_value(value), "none") != 0;
    return json_is_true(value) || json_array_size(value) > 0;
}

static int unknown(struct ds_convert *c, struct ds_yaml_mark at, const char *path,
                   const char *shown, size_t parent_len, struct ds_error *err)
{
    const struct ds_convert_row *row;
    const char *nearest = NULL;
    unsigned best = DS_NEAREST_FAR;
    char text[PATH_BYTES];
    size_t rows;

    row = ds_convert_rows(&rows);
    for (size_t i = 0; path != NULL && i < rows; i++) {
        unsigned distance = DS_NEAREST_FAR;

        if (strncmp(row[i].path, path, parent_len) == 0)
            distance = ds_edit_distance(path + parent_len, row[i].path + parent_len);
        if (distance < best) {
            best = distance;
            nearest = row[i].path;
        }
    }
    if (nearest != NULL && ds_edit_close(best, path + parent_len))
        (void)snprintf(text, sizeof(text),
                       "DeepSpeed passes over what it does not know; did you mean '%s'?", nearest);
    else
        (void)snprintf(text, sizeof(text), "no key of DeepSpeed; left out");
    return add_note(c, DS_NOTE_UNKNOWN, at, shown, text, err);
}

/* "auto" becomes the Trainer's default. */
static int take_auto(struct ds_convert *c, const struct ds_convert_row *row,
                     struct ds_convert_given *g, struct ds_error *err)
{
    json_t *usual;

    if (row->trainer == NULL)
        return place(c, g->at, ds_fail(err, EINVAL, "'%s' cannot be auto", row->path), err);
    c->trainer = g->is_auto = true;
    g->value = NULL;
    if (row->usual == NULL)
        return row->act == DS_CONVERT_SAME ? 0
                                           : ds__convert_note(c, DS_NOTE_NOTHING, row->path, err,
                                                              "auto: from %s", row->trainer);
    usual = json_loads(row->usual, JSON_DECODE_ANY, NULL);
    if (usual == NULL || json_array_append_new(c->usual, usual) != 0)
        return out_of_memory(err);
    g->value = usual;
    return ds__convert_note(c, DS_NOTE_CHANGED, row->path, err,
                            "auto is what the Trainer was given as %s; taken as %s, its default",
                            row->trainer, row->usual);
}

static int take_value(struct ds_convert *c, const struct ds_convert_row *row,
                      struct ds_convert_given *g, struct ds_error *err)
{
    if (json_is_string(g->value) && strcmp(json_string_value(g->value), "auto") == 0) {
        int rc = take_auto(c, row, g, err);

        if (rc != 0)
            return rc;
    }
    if (row->act == DS_CONVERT_SAME)
        return ds__convert_note(c, DS_NOTE_NOTHING, row->path, err, "%s", row->say);
    if (row->act == DS_CONVERT_NONE && g->value != NULL && asks(g->value))
        return ds__convert_note(c, DS_NOTE_WITHOUT, row->path, err, "%s", row->say);
    if (row->act == DS_CONVERT_NONE)
        return ds__convert_note(c, DS_NOTE_NOTHING, row->path, err, "off, there and here");
    return 0;
}

static int walk(struct ds_convert *c, json_t *object, const char *parent, struct ds_error *err);

static int take_key(struct ds_convert *c, const char *key, json_t *value, const char *parent,
                    struct ds_error *err)
{
    struct ds_yaml_mark at = c->mark[c->next_mark++];
    char path[PATH_BYTES], shown[PATH_BYTES], name[PATH_BYTES / 2];
    const struct ds_convert_row *row;
    size_t rows, i;
    bool plain = strlen(key) < sizeof(name) && strchr(key, '.') == NULL;

    row = ds_convert_rows(&rows);
    (void)ds_escape_control(name, sizeof(name), key, strlen(key));
    (void)snprintf(shown, sizeof(shown), "%s%.*s", parent, (int)sizeof(name), name);
    (void)snprintf(path, sizeof(path), "%s%.*s", parent, (int)sizeof(name), plain ? key : "");
    i = plain ? ds_convert_find(path) : rows;
    if (i == rows ||
        (row[i].act == DS_CONVERT_SECTION && !json_is_object(value) && !json_is_null(value))) {
        c->next_mark += count_keys(value);
        if (i < rows)
            return place(c, at, ds_fail(err, EINVAL, "'%s' must be an object", path), err);
        return unknown(c, at, plain ? path : NULL, shown, strlen(parent), err);
    }
    c->given[i].at = at;
    if (json_is_null(value))
        return 0;
    c->given[i].value = value;
    if (row[i].act == DS_CONVERT_SECTION) {
        (void)snprintf(path, sizeof(path), "%s.", row[i].path);
        return walk(c, value, path, err);
    }
    c->next_mark += count_keys(value);
    return take_value(c, &row[i], &c->given[i], err);
}

static int walk(struct ds_convert *c, json_t *object, const char *parent, struct ds_error *err)
{
    const char *key;
    json_t *value;
    int rc = 0;

    json_object_foreach(object, key, value)
    {
        rc = take_key(c, key, value, parent, err);
        if (rc != 0)
            break;
    }
    return rc;
}

int ds__convert_read(struct ds_convert *c, const char *text, size_t len, struct ds_error *err)
{
    json_error_t why;

    c->root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (c->root == NULL) {
        struct ds_yaml_mark at = {(unsigned)(why.line < 1 ? 1 : why.line),
                                  (unsigned)(why.column < 1 ? 1 : why.column)};

        return place(c, at, ds_fail(err, EBADMSG, "not valid JSON: %s", why.text), err);
    }
    if (!json_is_object(c->root))
        return place(c, (struct ds_yaml_mark){1, 1},
                     ds_fail(err, EBADMSG, "a DeepSpeed configuration is an object, { ... }"), err);
    c->usual = json_array();
    c->marks = find_keys(text, len, NULL);
    c->mark = ds_arena_alloc(&c->job.arena, c->marks + 1, sizeof(c->mark[0]));
    if (c->usual == NULL || c->mark == NULL)
        return out_of_memory(err);
    (void)find_keys(text, len, c->mark);
    return walk(c, c->root, "", err);
}
