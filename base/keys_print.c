/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * keys_print.c - field to text, by the type of a key; the contract is in keys.h.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/keys.h"
#include "base/keys_rows.h"

static void fetch(const struct ds_key *key, const void *base, void *value, size_t bytes)
{
    memcpy(value, (const char *)base + key->offset, bytes);
}

/* The fewest digits that read back to the same double. */
static void print_f64(double value, struct ds_buf *out)
{
    char text[40];

    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    ds_buf_puts(out, text);
}

static void print_numbers(const double *number, size_t count, struct ds_buf *out)
{
    ds_buf_puts(out, "[");
    for (size_t i = 0; i < count; i++) {
        ds_buf_puts(out, i == 0 ? "" : ", ");
        print_f64(number[i], out);
    }
    ds_buf_puts(out, "]");
}

/* Plain where nothing in it could mean anything to YAML, else in double quotes. */
static void print_text(const char *text, struct ds_buf *out)
{
    const char *safe = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-";
    struct ds_yaml node = {.kind = DS_YAML_SCALAR, .plain = true, .text = text};

    if (text[strspn(text, safe)] == '\0' && text[0] != '-' && text[0] != '.' &&
        !ds_yaml_is_null(&node)) {
        ds_buf_puts(out, text);
        return;
    }
    if (ds_yaml_quote(text, out) != 0)
        out->failed = true;
}

static void print_env(const struct ds_strings *list, struct ds_buf *out)
{
    ds_buf_puts(out, "{");
    for (size_t i = 0; i < list->count; i++) {
        const char *equals = strchr(list->item[i], '=');

        assert(equals != NULL);
        ds_buf_puts(out, i == 0 ? "\"" : ", \"");
        ds_buf_put(out, list->item[i], (size_t)(equals - list->item[i]));
        ds_buf_puts(out, "\": ");
        print_text(equals + 1, out);
    }
    ds_buf_puts(out, "}");
}

static void print_list(const struct ds_strings *list, struct ds_buf *out)
{
    ds_buf_puts(out, "[");
    for (size_t i = 0; i < list->count; i++) {
        ds_buf_puts(out, i == 0 ? "" : ", ");
        print_text(list->item[i], out);
    }
    ds_buf_puts(out, "]");
}

static void print_set(const struct ds_key *key, unsigned set, struct ds_buf *out)
{
    const char *comma = "";

    ds_buf_puts(out, "[");
    for (const struct ds_choice *c = key->choices; c->name != NULL; c++) {
        if (!(set & c->value))
            continue;
        ds_buf_printf(out, "%s%s", comma, c->name);
        comma = ", ";
    }
    ds_buf_puts(out, "]");
}

static void print_enum(const struct ds_key *key, unsigned value, struct ds_buf *out)
{
    const struct ds_choice *c = key->choices;

    while (c->name != NULL && c->value != value)
        c++;
    assert(c->name != NULL);
    ds_buf_puts(out, c->name);
}

void ds_key_print(const struct ds_key *key, const void *base, struct ds_buf *out)
{
    union {
        bool flag;
        unsigned word;
        uint64_t number;
        double pair[2];
        const char *text;
        struct ds_strings list;
        struct ds_numbers numbers;
    } v;

    switch (key->type) {
    case DS_KEY_BOOL:
        fetch(key, base, &v.flag, sizeof(v.flag));
        ds_buf_puts(out, v.flag ? "true" : "false");
        break;
    case DS_KEY_U64:
        fetch(key, base, &v.number, sizeof(v.number));
        if ((key->flags & DS_KEY_AUTO) && v.number == 0)
            ds_buf_puts(out, "auto");
        else
            ds_buf_printf(out, "%llu", (unsigned long long)v.number);
        break;
    case DS_KEY_F64:
        fetch(key, base, v.pair, sizeof(v.pair[0]));
        print_f64(v.pair[0], out);
        break;
    case DS_KEY_PAIR:
        fetch(key, base, v.pair, sizeof(v.pair));
        print_numbers(v.pair, 2, out);
        break;
    case DS_KEY_NUMBERS:
        fetch(key, base, &v.numbers, sizeof(v.numbers));
        print_numbers(v.numbers.item, v.numbers.count, out);
        break;
    case DS_KEY_TEXT:
    case DS_KEY_WORD:
        fetch(key, base, &v.text, sizeof(v.text));
        print_text(v.text == NULL ? "" : v.text, out);
        break;
    case DS_KEY_ENUM:
    case DS_KEY_SET:
        fetch(key, base, &v.word, sizeof(v.word));
        if (key->type == DS_KEY_ENUM)
            print_enum(key, v.word, out);
        else
            print_set(key, v.word, out);
        break;
    case DS_KEY_ROWS: ds__key_print_rows(key, base, out); break;
    case DS_KEY_LIST:
    case DS_KEY_ENV:
    default:
        fetch(key, base, &v.list, sizeof(v.list));
        if (key->type == DS_KEY_LIST)
            print_list(&v.list, out);
        else
            print_env(&v.list, out);
        break;
    }
}
