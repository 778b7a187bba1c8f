/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * json_read.h - jansson, with the project's bounds and errors.
 *
 * Kept apart from json.h so that programs that only write JSON (the agent)
 * need no library.  Duplicate keys, trailing text and documents above
 * `max_bytes` are refused with EBADMSG and line:column.
 */
#ifndef DS_BASE_JSON_READ_H
#define DS_BASE_JSON_READ_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/numbers.h"

/* A new reference (json_decref()), or NULL with `err` filled (EBADMSG). */
json_t *ds_json_parse(const void *text, size_t len, struct ds_error *err);

/* Parse a file of at most `max_bytes`; the error names the path.  -ENOENT, -EBADMSG, ... */
int ds_json_load(const char *path, size_t max_bytes, json_t **out, struct ds_error *err)
    DS_NODISCARD;

/* Members by name; a missing or wrongly typed one is EBADMSG that names the key. */
int ds_json_get_u64(const json_t *object, const char *key, uint64_t max, uint64_t *out,
                    struct ds_error *err) DS_NODISCARD;
int ds_json_get_f64(const json_t *object, const char *key, double *out, struct ds_error *err)
    DS_NODISCARD;
int ds_json_get_numbers(const json_t *object, const char *key, struct ds_numbers *out,
                        struct ds_error *err) DS_NODISCARD;
int ds_json_get_string(const json_t *object, const char *key, const char **out,
                       struct ds_error *err) DS_NODISCARD;

#endif
