/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * keys_rows.c - lists of maps, each by a table of its own; the contract is in keys.h.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/keys_rows.h"
#include "base/nearest.h"

/* A DERIVED number that was not given is NaN, so that its reader can tell. */
static int set_defaults(const struct ds_key_rows *table, void *row, struct ds_arena *arena,
                        struct ds_error *err)
{
    const double none = (double)NAN;

    for (size_t i = 0; i < table->count; i++) {
        const struct ds_key *key = &table->key[i];
        int rc = 0;

        if (key->type == DS_KEY_F64 && (key->flags & DS_KEY_DERIVED))
            memcpy((char *)row + key->offset, &none, sizeof(none));
        else if (key->def != NULL)
            rc = ds_key_set_text(key, row, arena, key->def, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static const struct ds_key *find(const struct ds_key_rows *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->key[i].path, name) == 0)
            return &table->key[i];
    return NULL;
}

static int fail_unknown(const struct ds_key_rows *table, const char *name, struct ds_error *err)
{
    unsigned best = DS_NEAREST_FAR;
    const char *nearest = "";
    char names[200] = "";
    size_t at = 0;

    for (size_t i = 0; i < table->count && at < sizeof(names); i++) {
        unsigned distance = ds_edit_distance(name, table->key[i].path);

        if (distance < best) {
            best = distance;
            nearest = table->key[i].path;
        }
        at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i == 0 ? "" : ", ",
                               table->key[i].path);
    }
    if (ds_edit_close(best, name))
        return ds_fail(err, EINVAL, "unknown key '%.100s', did you mean '%s'?", name, nearest);
    return ds_fail(err, EINVAL, "unknown key '%.100s'; known are %s", name, names);
}

static int set_map(const struct ds_key_rows *table, void *row, struct ds_arena *arena,
                   const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    for (const struct ds_yaml *c = node->child; c != NULL; c = c->next) {
        const struct ds_key *key = find(table, c->key);
        int rc =
            key == NULL ? fail_unknown(table, c->key, err) : ds_key_set(key, row, arena, c, err);

        *at = key == NULL ? c->key_mark : c->mark;
        if (rc != 0)
            return rc;
    }
    *at = node->mark;
    for (size_t i = 0; i < table->count; i++)
        if ((table->key[i].flags & DS_KEY_REQUIRED) &&
            ds_yaml_get(node, table->key[i].path) == NULL)
            return ds_fail(err, EINVAL, "'%s' is required", table->key[i].path);
    return 0;
}

static int set_row(const struct ds_key *key, void *row, struct ds_arena *arena,
                   const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    bool texts = (key->flags & DS_KEY_SHORT) != 0;
    int rc = set_defaults(key->rows, row, arena, err);

    *at = node->mark;
    if (rc != 0)
        return rc;
    if (node->kind == DS_YAML_MAP)
        return set_map(key->rows, row, arena, node, at, err);
    if (texts && node->kind == DS_YAML_SCALAR)
        return ds_key_set(&key->rows->key[0], row, arena, node, err);
    return ds_fail(err, EINVAL, "must be a %smap of keys, not %s", texts ? "text or a " : "",
                   ds_yaml_kind_name(node));
}

/* Is there nothing but texts, though not nothing? */
static bool is_texts(const struct ds_yaml *node)
{
    if (node->kind != DS_YAML_SEQUENCE)
        return node->kind == DS_YAML_SCALAR;
    for (const struct ds_yaml *c = node->child; c != NULL; c = c->next)
        if (c->kind == DS_YAML_MAP)
            return false;
    return node->count > 0;
}

/* One row whose first key is the whole node; messages speak of the outer key then. */
static int set_texts(const struct ds_key *key, void *row, struct ds_arena *arena,
                     const struct ds_yaml *node, struct ds_error *err)
{
    struct ds_key first = key->rows->key[0];
    int rc = set_defaults(key->rows, row, arena, err);

    first.path = key->path;
    return rc == 0 ? ds_key_set(&first, row, arena, node, err) : rc;
}

static int set_items(const struct ds_key *key, struct ds_rows *rows, struct ds_arena *arena,
                     const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    bool list = node->kind == DS_YAML_SEQUENCE;
    size_t n = 0;

    for (const struct ds_yaml *c = list ? node->child : node; c != NULL;
         c = list ? c->next : NULL) {
        char *row = (char *)rows->row + n++ * key->rows->row_bytes;
        int rc = set_row(key, row, arena, c, at, err);

        if (rc != 0)
            return ds_error_context(err, rc, "'%s' item %zu", key->path, n);
    }
    return 0;
}

/* How many rows a node is, which is no map of names. */
static size_t count_rows(const struct ds_key *key, const struct ds_yaml *node)
{
    bool texts = (key->flags & DS_KEY_SHORT) != 0 && is_texts(node);

    return node->kind == DS_YAML_SEQUENCE && !texts ? node->count : 1;
}

/* As many rows as that from `row` on. */
static int set_plain(const struct ds_key *key, void *row, struct ds_arena *arena,
                     const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    struct ds_rows rows = {.count = count_rows(key, node), .row = row};

    if ((key->flags & DS_KEY_SHORT) != 0 && is_texts(node))
        return set_texts(key, row, arena, node, err);
    return set_items(key, &rows, arena, node, at, err);
}

/* --- with names ------------------------------------------------------------------------------- */

/* A map none of whose keys is one of a row. */
static bool is_named(const struct ds_key *key, const struct ds_yaml *node)
{
    if (!(key->flags & DS_KEY_NAMED) || node->kind != DS_YAML_MAP)
        return false;
    for (const struct ds_yaml *c = node->child; c != NULL; c = c->next)
        if (find(key->rows, c->key) != NULL)
            return false;
    return true;
}

/* The rows below one name, which have no other. */
static int set_named(const struct ds_key *key, char *row, struct ds_arena *arena,
                     const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    struct ds_key_rows nameless = *key->rows;
    const struct ds_key *name = &key->rows->key[--nameless.count];
    struct ds_key inner = *key;
    size_t count = count_rows(key, node);
    int rc;

    inner.rows = &nameless;
    *at = node->mark;
    rc = count == 0 ? ds_fail(err, EINVAL, "'%s' names nothing", key->path)
                    : set_plain(&inner, row, arena, node, at, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        *at = node->key_mark;
        rc = ds_key_set_text(name, row + i * key->rows->row_bytes, arena, node->key, err);
    }
    return ds_error_context(err, rc, "'%.100s'", node->key);
}

static int set_all_named(const struct ds_key *key, char *row, struct ds_arena *arena,
                         const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    int rc = 0;

    for (const struct ds_yaml *c = node->child; rc == 0 && c != NULL; c = c->next) {
        rc = set_named(key, row, arena, c, at, err);
        row += count_rows(key, c) * key->rows->row_bytes;
    }
    return rc;
}

static size_t count_named(const struct ds_key *key, const struct ds_yaml *node)
{
    size_t count = 0;

    for (const struct ds_yaml *c = node->child; c != NULL; c = c->next)
        count += count_rows(key, c);
    return count;
}

/* --- all -------------------------------------------------------------------------------------- */

int ds__key_set_rows(const struct ds_key *key, void *base, struct ds_arena *arena,
                     const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    bool named = is_named(key, node);
    struct ds_rows rows = {.count = named ? count_named(key, node) : count_rows(key, node)};
    int rc;

    *at = node->mark;
    if (node->kind != DS_YAML_SEQUENCE && (key->flags & DS_KEY_SHORT) == 0)
        return ds_fail(err, EINVAL, "'%s' must be a list of maps, not %s", key->path,
                       ds_yaml_kind_name(node));
    if ((double)rows.count > key->max)
        return ds_fail(err, EINVAL, "'%s' must have at most %.0f items, not %zu", key->path,
                       key->max, rows.count);
    rows.row = ds_arena_alloc(arena, rows.count, key->rows->row_bytes);
    if (rows.row == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    rc = named ? set_all_named(key, rows.row, arena, node, at, err)
               : set_plain(key, rows.row, arena, node, at, err);
    if (rc == 0)
        memcpy((char *)base + key->offset, &rows, sizeof(rows));
    return rc;
}

/* --- and out --------------------------------------------------------------------------------- */

/* Was the key never given?  As set_defaults() leaves it. */
static bool is_none(const struct ds_key *key, const void *row)
{
    double number;
    const char *text;

    if (key->type == DS_KEY_F64 && (key->flags & DS_KEY_DERIVED)) {
        memcpy(&number, (const char *)row + key->offset, sizeof(number));
        return isnan(number);
    }
    if (key->type != DS_KEY_TEXT)
        return false;
    memcpy(&text, (const char *)row + key->offset, sizeof(text));
    return text == NULL;
}

/* Does the key have its default? */
static bool is_default(const struct ds_key *key, const void *row, struct ds_buf *out)
{
    struct ds_buf text;
    bool same;

    if (is_none(key, row))
        return true;
    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    ds_key_print(key, row, &text);
    same = key->def != NULL && strcmp(ds_buf_text(&text), key->def) == 0;
    out->failed |= text.failed;
    ds_buf_release(&text);
    return same;
}

/* Is the one row as texts would give it? */
static bool is_short(const struct ds_key *key, const struct ds_rows *rows, struct ds_buf *out)
{
    if (!(key->flags & DS_KEY_SHORT) || rows->count != 1)
        return false;
    for (size_t k = 1; k < key->rows->count; k++)
        if (!is_default(&key->rows->key[k], rows->row, out))
            return false;
    return true;
}

static void print_row(const struct ds_key_rows *table, const void *row, struct ds_buf *out)
{
    const char *comma = "{";

    for (size_t k = 0; k < table->count; k++) {
        if (is_none(&table->key[k], row))
            continue;
        ds_buf_printf(out, "%s%s: ", comma, table->key[k].path);
        ds_key_print(&table->key[k], row, out);
        comma = ", ";
    }
    ds_buf_puts(out, "}");
}

void ds__key_print_rows(const struct ds_key *key, const void *base, struct ds_buf *out)
{
    struct ds_rows rows;

    memcpy(&rows, (const char *)base + key->offset, sizeof(rows));
    if (is_short(key, &rows, out)) {
        ds_key_print(&key->rows->key[0], rows.row, out);
        return;
    }
    ds_buf_puts(out, "[");
    for (size_t i = 0; i < rows.count; i++) {
        ds_buf_puts(out, i == 0 ? "" : ", ");
        print_row(key->rows, (const char *)rows.row + i * key->rows->row_bytes, out);
    }
    ds_buf_puts(out, "]");
}
