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
    char names[200] = "";
    size_t at = 0;

    for (size_t i = 0; i < table->count && at < sizeof(names); i++)
        at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i == 0 ? "" : ", ",
                               table->key[i].path);
    return ds_fail(err, EINVAL, "unknown key '%.100s'; known are %s", name, names);
}

static int set_row(const struct ds_key_rows *table, void *row, struct ds_arena *arena,
                   const struct ds_yaml *node, struct ds_error *err)
{
    int rc = set_defaults(table, row, arena, err);

    for (const struct ds_yaml *c = node->child; rc == 0 && c != NULL; c = c->next) {
        const struct ds_key *key = find(table, c->key);

        rc = key == NULL ? fail_unknown(table, c->key, err) : ds_key_set(key, row, arena, c, err);
    }
    for (size_t i = 0; rc == 0 && i < table->count; i++)
        if ((table->key[i].flags & DS_KEY_REQUIRED) &&
            ds_yaml_get(node, table->key[i].path) == NULL)
            rc = ds_fail(err, EINVAL, "'%s' is required", table->key[i].path);
    return rc;
}

int ds__key_set_rows(const struct ds_key *key, void *base, struct ds_arena *arena,
                     const struct ds_yaml *node, struct ds_error *err)
{
    const struct ds_key_rows *table = key->rows;
    struct ds_rows rows = {.count = node->count};
    size_t n = 0;
    int rc = 0;

    if (node->kind != DS_YAML_SEQUENCE)
        return ds_fail(err, EINVAL, "'%s' must be a list of maps, not %s", key->path,
                       ds_yaml_kind_name(node));
    if ((double)node->count > key->max)
        return ds_fail(err, EINVAL, "'%s' must have at most %.0f items, not %zu", key->path,
                       key->max, node->count);
    rows.row = ds_arena_alloc(arena, node->count, table->row_bytes);
    if (rows.row == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    for (const struct ds_yaml *c = node->child; rc == 0 && c != NULL; c = c->next) {
        char *row = (char *)rows.row + n++ * table->row_bytes;

        rc = c->kind == DS_YAML_MAP
                 ? set_row(table, row, arena, c, err)
                 : ds_fail(err, EINVAL, "must be a map of keys, not %s", ds_yaml_kind_name(c));
        rc = ds_error_context(err, rc, "'%s' item %zu", key->path, n);
    }
    if (rc == 0)
        memcpy((char *)base + key->offset, &rows, sizeof(rows));
    return rc;
}

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

void ds__key_print_rows(const struct ds_key *key, const void *base, struct ds_buf *out)
{
    const struct ds_key_rows *table = key->rows;
    struct ds_rows rows;

    memcpy(&rows, (const char *)base + key->offset, sizeof(rows));
    ds_buf_puts(out, "[");
    for (size_t i = 0; i < rows.count; i++) {
        const char *row = (const char *)rows.row + i * table->row_bytes, *comma = "{";

        ds_buf_puts(out, i == 0 ? "" : ", ");
        for (size_t k = 0; k < table->count; k++) {
            if (is_none(&table->key[k], row))
                continue;
            ds_buf_printf(out, "%s%s: ", comma, table->key[k].path);
            ds_key_print(&table->key[k], row, out);
            comma = ", ";
        }
        ds_buf_puts(out, "}");
    }
    ds_buf_puts(out, "]");
}
