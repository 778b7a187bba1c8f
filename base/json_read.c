/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * json_read.c - the contract is in json_read.h.
 */
#include "base/json_read.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "base/fsio.h"

json_t *ds_json_parse(const void *text, size_t len, struct ds_error *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);

    if (root == NULL)
        ds_fail(err, EBADMSG, "line %d column %d: %s", why.line, why.column, why.text);
    return root;
}

int ds_json_load(const char *path, size_t max_bytes, json_t **out, struct ds_error *err)
{
    struct ds_buf text;
    json_t *root;
    int rc;

    ds_buf_init(&text, max_bytes);
    rc = ds_fs_read(path, max_bytes, &text, err);
    if (rc == -EFBIG)
        rc = ds_fail(err, EBADMSG, "'%s' is larger than the %zu bytes allowed here", path,
                     max_bytes);
    if (rc != 0) {
        ds_buf_release(&text);
        return rc;
    }
    root = ds_json_parse(ds_buf_text(&text), text.len, err);
    ds_buf_release(&text);
    if (root == NULL)
        return ds_error_context(err, -EBADMSG, "'%s'", path);
    *out = root;
    return 0;
}

static int missing(const json_t *value, const char *key, const char *type, struct ds_error *err)
{
    return ds_fail(err, EBADMSG, value == NULL ? "key '%s' is missing" : "key '%s' must be %s", key,
                   type);
}

int ds_json_get_u64(const json_t *object, const char *key, uint64_t max, uint64_t *out,
                    struct ds_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value))
        return missing(value, key, "a whole number", err);
    if (json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) > max)
        return ds_fail(err, EBADMSG, "key '%s' is %" JSON_INTEGER_FORMAT ", not within 0 to %ju",
                       key, json_integer_value(value), (uintmax_t)max);
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

int ds_json_get_f64(const json_t *object, const char *key, double *out, struct ds_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_number(value))
        return missing(value, key, "a number", err);
    *out = json_number_value(value);
    return 0;
}

int ds_json_get_numbers(const json_t *object, const char *key, struct ds_numbers *out,
                        struct ds_error *err)
{
    const json_t *list = json_object_get(object, key);

    if (!json_is_array(list))
        return missing(list, key, "a list of numbers", err);
    if (json_array_size(list) > DS_MAX_NUMBERS)
        return ds_fail(err, EBADMSG, "key '%s' has %zu numbers, at most %d are read", key,
                       json_array_size(list), DS_MAX_NUMBERS);
    *out = (struct ds_numbers){.count = json_array_size(list)};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);

        if (!json_is_number(value))
            return missing(value, key, "a list of numbers", err);
        out->item[i] = json_number_value(value);
    }
    return 0;
}

int ds_json_get_string(const json_t *object, const char *key, const char **out,
                       struct ds_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_string(value))
        return missing(value, key, "a string", err);
    *out = json_string_value(value);
    return 0;
}
