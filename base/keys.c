/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * keys.c - a table at work: defaults, reading, overrides, writing; the contract is in keys.h.
 *
 * Paths are looked up one by one: tables have tens of rows, files tens of keys.
 */
#include "base/keys.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"
#include "base/utf8.h"

enum { PATH_BYTES = 256 };

/* --- looking up ----------------------------------------------------------------------------------
 */

size_t ds_keys_find(const struct ds_keys *keys, const char *path)
{
    for (size_t i = 0; i < keys->count; i++) {
        if (strcmp(keys->key[i].path, path) == 0)
            return i;
    }
    return keys->count;
}

bool ds_keys_overridden(const struct ds_keys *keys, const char *path)
{
    size_t i = ds_keys_find(keys, path);

    assert(i < keys->count);
    return keys->origin[i].override != NULL;
}

bool ds_keys_given(const struct ds_keys *keys, const char *path)
{
    size_t i = ds_keys_find(keys, path);

    assert(i < keys->count);
    return keys->origin[i].mark.line != 0 || keys->origin[i].override != NULL;
}

/* Does `path` lie in the section `section`, or is it any path for section ""? */
static bool in_section(const char *path, const char *section)
{
    size_t len = strlen(section);

    return len == 0 || (strncmp(path, section, len) == 0 && path[len] == '.');
}

static const struct ds_key *first_in_section(const struct ds_keys *keys, const char *section)
{
    for (size_t i = 0; i < keys->count; i++) {
        if (in_section(keys->key[i].path, section))
            return &keys->key[i];
    }
    return NULL;
}

static const char *last_name(const char *path)
{
    const char *dot = strrchr(path, '.');

    return dot == NULL ? path : dot + 1;
}

/* How far is `path` from what the user wrote?  The same name in another section is one edit away,
 * a name that continues or contains the other one two. */
static unsigned path_distance(const char *wrote, const char *path)
{
    const char *a = last_name(wrote), *b = last_name(path);
    unsigned distance = ds_edit_distance(wrote, path);
    bool together = a - wrote == b - path && strncmp(wrote, path, (size_t)(a - wrote)) == 0;

    if (strcmp(a, b) == 0)
        return distance < 1 ? distance : 1;
    if (together && distance > 2 && strlen(a) > 1 && (strstr(b, a) != NULL || strstr(a, b) == a))
        return 2;
    return distance;
}

/* Copy the key or section nearest to `wrote` into out[PATH_BYTES]; false when none is near. */
static bool nearest_path(const struct ds_keys *keys, const char *wrote, char *out)
{
    unsigned best = DS_NEAREST_FAR;
    char path[PATH_BYTES];

    for (size_t i = 0; i < keys->count; i++) {
        (void)snprintf(path, sizeof(path), "%s", keys->key[i].path);
        for (char *end = path; end != NULL; end = strrchr(path, '.')) { /* the key, its sections */
            unsigned distance;

            if (end != path)
                *end = '\0';
            distance = path_distance(wrote, path);
            if (distance < best) {
                best = distance;
                memcpy(out, path, sizeof(path));
            }
        }
    }
    return ds_edit_close(best, wrote);
}

/* The names one level below `section`, for a message. */
static void section_names(const struct ds_keys *keys, const char *section, char *out, size_t cap)
{
    size_t skip = section[0] == '\0' ? 0 : strlen(section) + 1, used = 0;
    const char *last = "";

    out[0] = '\0';
    for (size_t i = 0; i < keys->count && used < cap; i++) {
        const char *name = keys->key[i].path + skip;
        size_t len;

        if (!in_section(keys->key[i].path, section))
            continue;
        len = strcspn(name, ".");
        if (strncmp(name, last, len) == 0 && (last[len] == '\0' || last[len] == '.'))
            continue;
        used += (size_t)snprintf(out + used, cap - used, "%s%.*s", used == 0 ? "" : ", ", (int)len,
                                 name);
        last = name;
    }
}

static int fail_unknown(const struct ds_keys *keys, const char *path, struct ds_error *err)
{
    char nearest[PATH_BYTES], section[PATH_BYTES], names[512];
    const char *dot = strrchr(path, '.');

    if (nearest_path(keys, path, nearest))
        return ds_fail(err, EINVAL, "unknown key '%s', did you mean '%s'?", path, nearest);
    (void)snprintf(section, sizeof(section), "%.*s", dot == NULL ? 0 : (int)(dot - path), path);
    if (first_in_section(keys, section) == NULL)
        section[0] = '\0';
    section_names(keys, section, names, sizeof(names));
    if (section[0] == '\0')
        return ds_fail(err, EINVAL, "unknown key '%s'; known are %s", path, names);
    return ds_fail(err, EINVAL, "unknown key '%s'; known in '%s' are %s", path, section, names);
}

/* --- places --------------------------------------------------------------------------------------
 */

static int place(const struct ds_keys *keys, struct ds_yaml_mark at, int rc, struct ds_error *err)
{
    return ds_error_context(err, rc, "%s:%u:%u", keys->name, at.line, at.column);
}

/* The deepest section of `path` that is in the file, else its start. */
static struct ds_yaml_mark section_mark(const struct ds_keys *keys, const char *path)
{
    struct ds_yaml_mark at = {1, 1};
    const struct ds_yaml *node = keys->root;
    char name[PATH_BYTES];

    for (const char *dot; node != NULL && (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        (void)snprintf(name, sizeof(name), "%.*s", (int)(dot - path), path);
        node = ds_yaml_get(node, name);
        if (node != NULL)
            at = node->key_mark;
    }
    return at;
}

/* Values of variables may be secrets, which no message shows. */
static int place_override(const struct ds_keys *keys, const char *word, int rc,
                          struct ds_error *err)
{
    size_t len = strcspn(word, "=");

    for (size_t i = 0; i < keys->count; i++)
        if (keys->key[i].type == DS_KEY_ENV && strlen(keys->key[i].path) == len &&
            memcmp(keys->key[i].path, word, len) == 0)
            return ds_error_context(err, rc, "override '%.*s=...'", (int)len, word);
    return ds_error_context(err, rc, "override '%.200s'", word);
}

int ds_keys_place(const struct ds_keys *keys, const char *path, int rc, struct ds_error *err)
{
    size_t i = ds_keys_find(keys, path);
    const struct ds_keys_origin *origin = &keys->origin[i];

    assert(i < keys->count);
    if (origin->override != NULL)
        return place_override(keys, origin->override, rc, err);
    return place(keys, origin->mark.line != 0 ? origin->mark : section_mark(keys, path), rc, err);
}

/* --- reading -------------------------------------------------------------------------------------
 */

/* A value in text: YAML when it starts like a list, a map or a quoted text, else as it stands. */
static int read_value(struct ds_keys *keys, const char *text, struct ds_yaml **node,
                      struct ds_error *err)
{
    if (text[0] != '\0' && strchr("[{\"'", text[0]) != NULL)
        return ds_yaml_parse(keys->arena, "value", text, strlen(text), node, err);
    *node = ds_arena_alloc(keys->arena, 1, sizeof(**node));
    if (*node == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    **node = (struct ds_yaml){.kind = DS_YAML_SCALAR, .plain = true, .text = text};
    return 0;
}

int ds_keys_defaults(struct ds_keys *keys, struct ds_error *err)
{
    for (size_t i = 0; i < keys->count; i++) {
        const struct ds_key *key = &keys->key[i];
        struct ds_yaml *node = NULL;
        int rc;

        if (key->def == NULL || (key->flags & DS_KEY_DERIVED))
            continue;
        rc = read_value(keys, key->def, &node, err);
        if (rc == 0)
            rc = ds_key_set(key, keys->base, keys->arena, node, err);
        if (rc != 0)
            return ds_error_context(err, rc, "default");
    }
    return 0;
}

static int read_section(struct ds_keys *keys, const struct ds_yaml *map, const char *section,
                        struct ds_error *err);

/* One child of a section: a key, a deeper section, or neither. */
static int read_child(struct ds_keys *keys, const struct ds_yaml *node, const char *section,
                      struct ds_error *err)
{
    struct ds_yaml_mark at;
    char path[PATH_BYTES];
    size_t i;
    int rc;

    if (strchr(node->key, '.') != NULL)
        return place(
            keys, node->key_mark,
            ds_fail(err, EINVAL, "key '%.100s' holds a dot; nest the keys instead", node->key),
            err);
    (void)snprintf(path, sizeof(path), "%.120s%s%.120s", section, section[0] == '\0' ? "" : ".",
                   node->key);
    i = ds_keys_find(keys, path);
    if (i < keys->count) {
        rc = ds_key_set_at(&keys->key[i], keys->base, keys->arena, node, &at, err);
        keys->origin[i].mark = node->mark;
        return rc == 0 ? 0 : place(keys, at, rc, err);
    }
    if (first_in_section(keys, path) == NULL)
        return place(keys, node->key_mark, fail_unknown(keys, path, err), err);
    if (node->kind == DS_YAML_MAP)
        return read_section(keys, node, path, err);
    rc = ds_fail(err, EINVAL, "'%s' must be a map of keys such as '%s'", path,
                 first_in_section(keys, path)->path);
    return place(keys, ds_yaml_is_null(node) ? node->key_mark : node->mark, rc, err);
}

/* Recursion ends with the table: its paths have few levels. */
static int read_section(struct ds_keys *keys, const struct ds_yaml *map, const char *section,
                        struct ds_error *err)
{
    int rc = 0;

    for (const struct ds_yaml *c = map->child; rc == 0 && c != NULL; c = c->next)
        rc = read_child(keys, c, section, err);
    return rc;
}

int ds_keys_read(struct ds_keys *keys, const struct ds_yaml *root, struct ds_error *err)
{
    keys->root = root;
    if (root->kind != DS_YAML_MAP)
        return place(keys, root->mark,
                     ds_fail(err, EINVAL, "the document must be a map of keys, not %s",
                             ds_yaml_kind_name(root)),
                     err);
    return read_section(keys, root, "", err);
}

/* --- overrides -----------------------------------------------------------------------------------
 */

static bool is_utf8(const char *text)
{
    size_t left = strlen(text), step;

    for (; left > 0; text += step, left -= step) {
        step = ds_utf8_len(text, left);
        if (step == 0)
            return false;
    }
    return true;
}

static int override(struct ds_keys *keys, const char *word, struct ds_error *err)
{
    const char *equals = strchr(word, '=');
    struct ds_yaml *node = NULL;
    char path[PATH_BYTES];
    size_t i;
    int rc;

    if (equals == NULL || equals == word)
        return ds_fail(err, EINVAL, "not of the form key=value");
    if (!is_utf8(word))
        return ds_fail(err, EINVAL, "not valid UTF-8");
    (void)snprintf(path, sizeof(path), "%.*s", (int)(equals - word < 200 ? equals - word : 200),
                   word);
    i = ds_keys_find(keys, path);
    if (i == keys->count && first_in_section(keys, path) != NULL)
        return ds_fail(err, EINVAL, "'%s' is a section; override one of its keys, such as '%s'",
                       path, first_in_section(keys, path)->path);
    if (i == keys->count)
        return fail_unknown(keys, path, err);
    rc = read_value(keys, equals + 1, &node, err);
    if (rc == 0)
        rc = ds_key_set(&keys->key[i], keys->base, keys->arena, node, err);
    if (rc == 0)
        keys->origin[i].override = word;
    return rc;
}

int ds_keys_override(struct ds_keys *keys, const char *word, struct ds_error *err)
{
    return place_override(keys, word, override(keys, word, err), err);
}

int ds_keys_require(const struct ds_keys *keys, struct ds_error *err)
{
    for (size_t i = 0; i < keys->count; i++) {
        const char *path = keys->key[i].path;

        if ((keys->key[i].flags & DS_KEY_REQUIRED) && !ds_keys_given(keys, path))
            return ds_keys_place(keys, path, ds_fail(err, EINVAL, "'%s' is required", path), err);
    }
    return 0;
}

/* --- writing -------------------------------------------------------------------------------------
 */

/* Print the sections that `path` opens after `last`; returns its depth. */
static size_t open_sections(const char *last, const char *path, struct ds_buf *out)
{
    size_t depth = 0;

    for (const char *name = path, *dot; (dot = strchr(name, '.')) != NULL; name = dot + 1) {
        size_t len = (size_t)(dot + 1 - path);

        if (strncmp(last, path, len) != 0)
            ds_buf_printf(out, "%*s%.*s:\n", (int)(2 * depth), "", (int)(dot - name), name);
        depth++;
    }
    return depth;
}

/* Has the struct nothing to say about `key`? */
static bool left_out(const struct ds_keys *keys, const struct ds_key *key)
{
    const char *text;

    for (size_t i = 0; i < sizeof(keys->skip) / sizeof(keys->skip[0]); i++)
        if (keys->skip[i] != NULL && !strcmp(keys->skip[i], key->path))
            return true;
    if (key->type != DS_KEY_TEXT)
        return false;
    memcpy(&text, (const char *)keys->base + key->offset, sizeof(text));
    return text == NULL;
}

static bool follows(const struct ds_keys *keys, const struct ds_key *key)
{
    return keys->origin != NULL && (key->flags & DS_KEY_BY_RULE) && !ds_keys_given(keys, key->path);
}

void ds_keys_write(const struct ds_keys *keys, struct ds_buf *out)
{
    const char *last = "";

    for (size_t i = 0; i < keys->count; i++) {
        const struct ds_key *key = &keys->key[i];
        size_t depth;

        if (left_out(keys, key))
            continue;
        depth = open_sections(last, key->path, out);
        ds_buf_printf(out, "%*s%s%s: ", (int)(2 * depth), "", follows(keys, key) ? "# " : "",
                      last_name(key->path));
        ds_key_print(key, keys->base, out);
        ds_buf_puts(out, "\n");
        last = key->path;
    }
}
