/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * keys_value.c - text to field, by the type of a key; the contract is in keys.h, the way back in
 * keys_print.c.
 *
 * What a number looks like is decided here, not by strtod(): no hexadecimal,
 * no octal, no infinity, no separators, no sign on whole numbers.
 */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/keys.h"
#include "base/keys_rows.h"

_Static_assert(sizeof(enum ds_key_type) == sizeof(unsigned), "enums are stored as unsigned");

/* Enough of a value to recognise it in a message. */
#define SHOWN "%.100s"

static void store(const struct ds_key *key, void *base, const void *value, size_t bytes)
{
    memcpy((char *)base + key->offset, value, bytes);
}

/* --- numbers --------------------------------------------------------------------------------- */

static const char *skip_digits(const char *s)
{
    while (isdigit((unsigned char)*s))
        s++;
    return s;
}

/* [-]digits[.digits][e[+-]digits]; several leading zeros are not a number. */
static bool is_number(const char *s)
{
    const char *digits = s + (*s == '-'), *end = skip_digits(digits);

    if (end == digits || (digits[0] == '0' && end - digits > 1))
        return false;
    if (*end == '.') {
        digits = end + 1;
        end = skip_digits(digits);
        if (end == digits)
            return false;
    }
    if (*end == 'e' || *end == 'E') {
        digits = end + 1 + (end[1] == '+' || end[1] == '-');
        end = skip_digits(digits);
        if (end == digits)
            return false;
    }
    return *end == '\0';
}

/* The words for what a number must be: "between 1 and 8", "at least 0 and below 1". */
static void bounds_text(const struct ds_key *key, char *out, size_t cap)
{
    (void)snprintf(out, cap,
                   key->flags & DS_KEY_BELOW ? "at least %.16g and below %.16g"
                                             : "between %.16g and %.16g",
                   key->min, key->max);
}

static bool in_bounds(const struct ds_key *key, double value)
{
    return value >= key->min && (key->flags & DS_KEY_BELOW ? value < key->max : value <= key->max);
}

static int fail_number(const struct ds_key *key, const char *text, struct ds_error *err)
{
    char bounds[80];

    bounds_text(key, bounds, sizeof(bounds));
    return ds_fail(err, EINVAL, "'%s' must be %s%s %s, not '" SHOWN "'", key->path,
                   key->flags & DS_KEY_AUTO ? "'auto' or " : "",
                   key->type == DS_KEY_U64 ? "a whole number" : "a number", bounds, text);
}

/* Numbers as other readers of YAML take them: .5, 1., +3.  Not by name, not in hex, and not with
 * leading zeros, which are octal for some. */
static bool is_loose_number(const char *text, double *value)
{
    const char *digits = text + strspn(text, "+-");
    char *end;

    if (text[strspn(text, "+-.0123456789eE")] != '\0' ||
        (digits[0] == '0' && isdigit((unsigned char)digits[1])))
        return false;
    *value = strtod(text, &end);
    return end > text && *end == '\0';
}

/* Whole numbers in other clothes (1e6, 10.0) are told how to dress. */
static int read_u64(const struct ds_key *key, const char *text, uint64_t *number,
                    struct ds_error *err)
{
    double value;

    if ((!is_number(text) && !is_loose_number(text, &value)) || text[0] == '-')
        return fail_number(key, text, err);
    value = strtod(text, NULL);
    if (!in_bounds(key, value))
        return fail_number(key, text, err);
    if (!is_number(text) || *skip_digits(text) != '\0') {
        if (value > floor(value))
            return fail_number(key, text, err);
        return ds_fail(err, EINVAL, "'%s' must be written in plain digits: %.0f, not '" SHOWN "'",
                       key->path, value, text);
    }
    *number = strtoull(text, NULL, 10); /* in bounds, so it fits; 2^53 + 1 has rounded down above */
    return *number > (uint64_t)key->max ? fail_number(key, text, err) : 0;
}

static int set_u64(const struct ds_key *key, void *base, const char *text, struct ds_error *err)
{
    uint64_t number = 0;
    int rc = 0;

    if (!(key->flags & DS_KEY_AUTO) || strcmp(text, "auto") != 0)
        rc = read_u64(key, text, &number, err);
    if (rc == 0)
        store(key, base, &number, sizeof(number));
    return rc;
}

static int read_f64(const struct ds_key *key, const char *text, double *value, struct ds_error *err)
{
    if (!is_number(text)) {
        if (is_loose_number(text, value) && in_bounds(key, *value))
            return ds_fail(err, EINVAL, "'%s' must be written as %.9g, not '" SHOWN "'", key->path,
                           *value, text);
        return fail_number(key, text, err);
    }
    *value = strtod(text, NULL);
    if (!in_bounds(key, *value)) /* overflow is infinite and so out of bounds */
        return fail_number(key, text, err);
    return 0;
}

static int set_f64(const struct ds_key *key, void *base, const char *text, struct ds_error *err)
{
    double value = 0;
    int rc = read_f64(key, text, &value, err);

    if (rc == 0)
        store(key, base, &value, sizeof(value));
    return rc;
}

static int set_bool(const struct ds_key *key, void *base, const char *text, struct ds_error *err)
{
    bool value = strcmp(text, "true") == 0;

    if (!value && strcmp(text, "false") != 0)
        return ds_fail(err, EINVAL, "'%s' must be true or false, not '" SHOWN "'", key->path, text);
    store(key, base, &value, sizeof(value));
    return 0;
}

/* --- words ----------------------------------------------------------------------------------- */

/* "'a', 'b' or 'c'" of the choices. */
static void choices_text(const struct ds_key *key, char *out, size_t cap)
{
    size_t left = 0, used = 0;

    for (const struct ds_choice *c = key->choices; c->name != NULL; c++)
        left++;
    out[0] = '\0';
    for (const struct ds_choice *c = key->choices; c->name != NULL; c++) {
        left--;
        used += (size_t)snprintf(out + used, cap - used, "'%s'%s", c->name,
                                 left == 0   ? ""
                                 : left == 1 ? " or "
                                             : ", ");
        assert(used < cap);
    }
}

/* The choice called `text`; NULL with *rc and `err` filled when there is none. */
static const struct ds_choice *find_choice(const struct ds_key *key, const char *text, int *rc,
                                           struct ds_error *err)
{
    const struct ds_choice *c = key->choices;
    char words[200];

    while (c->name != NULL && strcmp(c->name, text) != 0)
        c++;
    if (c->name != NULL)
        return c;
    choices_text(key, words, sizeof(words));
    *rc = ds_fail(err, EINVAL, "'%s' must be %s, not '" SHOWN "'", key->path, words, text);
    return NULL;
}

static int set_choice(const struct ds_key *key, void *base, const char *text, struct ds_error *err)
{
    int rc = 0;
    const struct ds_choice *choice = find_choice(key, text, &rc, err);

    if (choice == NULL)
        return rc;
    if (key->type == DS_KEY_WORD)
        store(key, base, &choice->name, sizeof(choice->name));
    else
        store(key, base, &choice->value, sizeof(choice->value));
    return 0;
}

static int check_text(const struct ds_key *key, const char *text, struct ds_error *err)
{
    if (text[0] == '\0')
        return ds_fail(err, EINVAL, "'%s' must not be empty", key->path);
    if (strlen(text) > (size_t)key->max)
        return ds_fail(err, EINVAL, "'%s' must be at most %.0f bytes long, not %zu", key->path,
                       key->max, strlen(text));
    return 0;
}

static int set_text(const struct ds_key *key, void *base, struct ds_arena *arena, const char *text,
                    struct ds_error *err)
{
    int rc = check_text(key, text, err);
    const char *kept = rc == 0 ? ds_arena_strdup(arena, text) : NULL;

    if (kept == NULL)
        return rc != 0 ? rc : ds_fail(err, ENOMEM, "out of memory");
    store(key, base, &kept, sizeof(kept));
    return 0;
}

/* --- collections ----------------------------------------------------------------------------- */

/* What the value of a key looks like. */
static const char *type_text(const struct ds_key *key)
{
    switch (key->type) {
    case DS_KEY_BOOL: return "true or false";
    case DS_KEY_U64:
    case DS_KEY_F64: return "a number";
    case DS_KEY_PAIR: return "a list of two numbers";
    case DS_KEY_NUMBERS: return "a list of numbers";
    case DS_KEY_ENV: return "a map of names and texts";
    default: return "text";
    }
}

/* A scalar that has a value. */
static int check_scalar(const struct ds_key *key, const struct ds_yaml *node, const char *want,
                        struct ds_error *err)
{
    if (node->kind != DS_YAML_SCALAR)
        return ds_fail(err, EINVAL, "'%s' must be %s, not %s", key->path, want,
                       ds_yaml_kind_name(node));
    if (ds_yaml_is_null(node))
        return ds_fail(err, EINVAL, "'%s' has no value; it must be %s", key->path, want);
    return 0;
}

static int alloc_strings(struct ds_arena *arena, size_t count, struct ds_strings *list,
                         struct ds_error *err)
{
    list->count = count;
    list->item = ds_arena_alloc(arena, count, sizeof(list->item[0]));
    return list->item == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;
}

static int list_item(const struct ds_key *key, struct ds_arena *arena, const struct ds_yaml *node,
                     const char **item, struct ds_error *err)
{
    int rc = check_scalar(key, node, "a list of texts", err);

    if (rc == 0)
        rc = check_text(key, node->text, err);
    if (rc != 0)
        return rc;
    *item = ds_arena_strdup(arena, node->text);
    return *item == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;
}

static int set_list(const struct ds_key *key, void *base, struct ds_arena *arena,
                    const struct ds_yaml *node, struct ds_error *err)
{
    bool many = node->kind == DS_YAML_SEQUENCE;
    struct ds_strings list;
    size_t n = 0;
    int rc = alloc_strings(arena, many ? node->count : 1, &list, err);

    for (const struct ds_yaml *item = many ? node->child : node; rc == 0 && item != NULL;
         item = many ? item->next : NULL)
        rc = list_item(key, arena, item, &list.item[n++], err);
    if (rc == 0)
        store(key, base, &list, sizeof(list));
    return rc;
}

static int set_set(const struct ds_key *key, void *base, const struct ds_yaml *node,
                   struct ds_error *err)
{
    bool many = node->kind == DS_YAML_SEQUENCE;
    unsigned set = 0;

    for (const struct ds_yaml *item = many ? node->child : node; item != NULL;
         item = many ? item->next : NULL) {
        const struct ds_choice *choice = NULL;
        int rc = check_scalar(key, item, "a list of names", err);

        if (rc == 0)
            choice = find_choice(key, item->text, &rc, err);
        if (choice == NULL)
            return rc;
        set |= choice->value;
    }
    store(key, base, &set, sizeof(set));
    return 0;
}

/* All of a list, for which there is room. */
static int read_numbers(const struct ds_key *key, const struct ds_yaml *list, double *out,
                        struct ds_error *err)
{
    int rc = 0;

    for (const struct ds_yaml *item = list->child; rc == 0 && item != NULL; item = item->next) {
        rc = check_scalar(key, item, type_text(key), err);
        if (rc == 0)
            rc = read_f64(key, item->text, out++, err);
    }
    return rc;
}

static int set_pair(const struct ds_key *key, void *base, const struct ds_yaml *node,
                    struct ds_error *err)
{
    double pair[2] = {0, 0};
    int rc = node->kind == DS_YAML_SEQUENCE && node->count == 2
                 ? read_numbers(key, node, pair, err)
                 : ds_fail(err, EINVAL, "'%s' must be %s", key->path, type_text(key));

    if (rc == 0)
        store(key, base, pair, sizeof(pair));
    return rc;
}

static int set_numbers(const struct ds_key *key, void *base, const struct ds_yaml *node,
                       struct ds_error *err)
{
    struct ds_numbers numbers = {.count = node->count};
    int rc = node->kind == DS_YAML_SEQUENCE && node->count <= DS_MAX_NUMBERS
                 ? read_numbers(key, node, numbers.item, err)
                 : ds_fail(err, EINVAL, "'%s' must be %s, at most %d", key->path, type_text(key),
                           DS_MAX_NUMBERS);

    if (rc == 0)
        store(key, base, &numbers, sizeof(numbers));
    return rc;
}

bool ds_key_is_env_name(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!isalpha((unsigned char)name[i]) && name[i] != '_' &&
            (i == 0 || !isdigit((unsigned char)name[i])))
            return false;
    }
    return len > 0;
}

static int set_env(const struct ds_key *key, void *base, struct ds_arena *arena,
                   const struct ds_yaml *node, struct ds_error *err)
{
    struct ds_strings list;
    size_t n = 0;
    int rc;

    if (node->kind != DS_YAML_MAP)
        return ds_fail(err, EINVAL, "'%s' must be %s, not %s", key->path, type_text(key),
                       ds_yaml_kind_name(node));
    rc = alloc_strings(arena, node->count, &list, err);
    for (const struct ds_yaml *item = node->child; rc == 0 && item != NULL; item = item->next) {
        if (!ds_key_is_env_name(item->key, strlen(item->key)))
            return ds_fail(err, EINVAL,
                           "'" SHOWN "' in '%s' is not a name of an environment variable; "
                           "use letters, digits and '_'",
                           item->key, key->path);
        rc = check_scalar(key, item, "text", err);
        if (rc != 0)
            break;
        list.item[n] = ds_arena_printf(arena, "%s=%s", item->key, item->text);
        if (list.item[n++] == NULL)
            rc = ds_fail(err, ENOMEM, "out of memory");
    }
    if (rc == 0)
        store(key, base, &list, sizeof(list));
    return rc;
}

/* --- the two ways in ----------------------------------------------------------------------------
 */

int ds_key_set(const struct ds_key *key, void *base, struct ds_arena *arena,
               const struct ds_yaml *node, struct ds_error *err)
{
    struct ds_yaml_mark at;
    int rc;

    switch (key->type) {
    case DS_KEY_LIST: return set_list(key, base, arena, node, err);
    case DS_KEY_SET: return set_set(key, base, node, err);
    case DS_KEY_PAIR: return set_pair(key, base, node, err);
    case DS_KEY_NUMBERS: return set_numbers(key, base, node, err);
    case DS_KEY_ENV: return set_env(key, base, arena, node, err);
    case DS_KEY_ROWS: return ds__key_set_rows(key, base, arena, node, &at, err);
    case DS_KEY_BOOL:
    case DS_KEY_U64:
    case DS_KEY_F64:
    case DS_KEY_TEXT:
    case DS_KEY_WORD:
    case DS_KEY_ENUM:
    default: break;
    }
    rc = check_scalar(key, node, type_text(key), err);
    if (rc != 0)
        return rc;
    if (key->type == DS_KEY_TEXT)
        return set_text(key, base, arena, node->text, err);
    if (key->type == DS_KEY_WORD || key->type == DS_KEY_ENUM)
        return set_choice(key, base, node->text, err);
    if (!node->plain)
        return ds_fail(err, EINVAL, "'%s' must be %s without quotes", key->path, type_text(key));
    if (key->type == DS_KEY_BOOL)
        return set_bool(key, base, node->text, err);
    return key->type == DS_KEY_U64 ? set_u64(key, base, node->text, err)
                                   : set_f64(key, base, node->text, err);
}

int ds_key_set_at(const struct ds_key *key, void *base, struct ds_arena *arena,
                  const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
{
    *at = node->mark;
    return key->type == DS_KEY_ROWS ? ds__key_set_rows(key, base, arena, node, at, err)
                                    : ds_key_set(key, base, arena, node, err);
}

int ds_key_set_text(const struct ds_key *key, void *base, struct ds_arena *arena, const char *text,
                    struct ds_error *err)
{
    struct ds_yaml node = {.kind = DS_YAML_SCALAR, .plain = true, .text = text};

    return ds_key_set(key, base, arena, &node, err);
}
