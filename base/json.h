/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * json.h - writing JSON into a buffer; reading is jansson's (ds_json_parse()).
 *
 * The writer is one object or array per call chain, commas placed by itself,
 * strings escaped (control characters, quotes, invalid UTF-8 replaced), and
 * doubles printed shortest-round-trip at %.17g or at the digits asked for;
 * a NaN or infinity is written as null.
 *
 * Tests   tests/base/test_json.c
 */
#ifndef DS_BASE_JSON_H
#define DS_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/numbers.h"

/* `key` is NULL for an array's elements and for the outermost value. */
struct ds_json {
    struct ds_buf *out;
    bool comma; /* a value stands before the next one on this level */
};
void ds_json_init(struct ds_json *json, struct ds_buf *out);
void ds_json_object(struct ds_json *json, const char *key); /* { */
void ds_json_array(struct ds_json *json, const char *key);  /* [ */
void ds_json_end_object(struct ds_json *json);
void ds_json_end_array(struct ds_json *json);
void ds_json_string(struct ds_json *json, const char *key, const char *text);
/* Any bytes; a NUL is \u0000. */
void ds_json_bytes(struct ds_json *json, const char *key, const char *bytes, size_t len);
void ds_json_u64(struct ds_json *json, const char *key, uint64_t value);
void ds_json_i64(struct ds_json *json, const char *key, int64_t value);
void ds_json_bool(struct ds_json *json, const char *key, bool value);
void ds_json_null(struct ds_json *json, const char *key);
/* `digits` significant decimal digits, 1 to 17. */
void ds_json_f64(struct ds_json *json, const char *key, double value, int digits);
/* With 17 digits, and a point in whole numbers below 1e15, for readers that tell 4 from 4.0. */
void ds_json_real(struct ds_json *json, const char *key, double value);
/* A list of such. */
void ds_json_numbers(struct ds_json *json, const char *key, const struct ds_numbers *numbers);

#endif
