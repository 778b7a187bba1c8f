/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * size.c - the contract is in size.h.
 */
#include "runtime/text/size.h"

#include <errno.h>

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
