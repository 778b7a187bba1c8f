/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * size.c - the contract is in size.h.
 */
#include "runtime/text/size.h"

#include <errno.h>
#include <string.h>

#include "base/json_read.h"

static void grow(const json_t *id, json_int_t *largest)
{
    if (json_is_integer(id) && json_integer_value(id) > *largest)
        *largest = json_integer_value(id);
}

int ds_text_size(const char *path, uint64_t *size, struct ds_error *err)
{
    json_t *root = NULL, *id;
    json_int_t largest = -1;
    const char *text;
    size_t i;
    int rc = ds_json_load(path, DS_MAX_JSON_BYTES, &root, err);

    if (rc != 0)
        return rc;
    json_object_foreach(json_object_get(json_object_get(root, "model"), "vocab"), text, id)
    {
        grow(id, &largest);
    }
    json_array_foreach(json_object_get(root, "added_tokens"), i, id)
    {
        grow(json_object_get(id, "id"), &largest);
    }
    json_decref(root);
    if (largest < 0 || largest >= DS_MAX_VOCAB)
        return ds_fail(err, EBADMSG, "'%s' has no vocabulary of 1 to %d ids", path, DS_MAX_VOCAB);
    *size = (uint64_t)largest + 1;
    return 0;
}

/* The id of the token of that name, or NULL. */
static const json_t *id_of(const json_t *root, const char *name)
{
    const json_t *id =
        json_object_get(json_object_get(json_object_get(root, "model"), "vocab"), name);
    json_t *added;
    size_t i;

    json_array_foreach(json_object_get(root, "added_tokens"), i, added)
    {
        const json_t *content = json_object_get(added, "content");

        if (json_is_string(content) && strcmp(json_string_value(content), name) == 0)
            id = json_object_get(added, "id");
    }
    return json_is_integer(id) && json_integer_value(id) >= 0 &&
                   json_integer_value(id) < DS_MAX_VOCAB
               ? id
               : NULL;
}

int ds_text_separator(const char *path, uint64_t *id, struct ds_error *err)
{
    static const char *const names[] = DS_TEXT_SEPARATORS;
    const json_t *found = NULL;
    json_t *root = NULL;
    int rc = ds_json_load(path, DS_MAX_JSON_BYTES, &root, err);

    if (rc != 0)
        return rc;
    for (size_t i = 0; found == NULL && names[i] != NULL; i++)
        found = id_of(root, names[i]);
    if (found != NULL)
        *id = (uint64_t)json_integer_value(found);
    else
        rc = ds_fail(err, EINVAL,
                     "'%s' has no token that is known to end a document; name it with "
                     "'data.separator'",
                     path);
    json_decref(root);
    return rc;
}
