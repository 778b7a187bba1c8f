/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * json.c - the contract is in json.h.
 *
 * One flag is state enough: a comma is due before a value when the value
 * before it on the same level is complete, which is always so after a closing
 * bracket and never after an opening one.
 */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void ds_json_init(struct ds_json *json, struct ds_buf *out)
{
    *json = (struct ds_json){.out = out};
}

/* `len` bytes at `at` stand for themselves; 0: the first one must be escaped. */
static size_t plain_run(const char *at, size_t len)
{
    size_t run = 0;

    while (run < len) {
        unsigned char byte = (unsigned char)at[run];
        size_t n = ds_utf8_len(at + run, len - run);

        if (n == 0 || byte < 0x20 || byte == 0x7f || byte == '"' || byte == '\\')
            break;
        run += n;
    }
    return run;
}

static void put_escaped(struct ds_buf *out, char byte)
{
    switch (byte) {
    case '"': (void)ds_buf_puts(out, "\\\""); break;
    case '\\': (void)ds_buf_puts(out, "\\\\"); break;
    case '\n': (void)ds_buf_puts(out, "\\n"); break;
    case '\r': (void)ds_buf_puts(out, "\\r"); break;
    case '\t': (void)ds_buf_puts(out, "\\t"); break;
    default:
        if ((unsigned char)byte < 0x80)
            (void)ds_buf_printf(out, "\\u%04x", (unsigned)byte);
        else
            (void)ds_buf_puts(out, REPLACEMENT);
    }
}

static void put_bytes(struct ds_buf *out, const char *text, size_t len)
{
    (void)ds_buf_put(out, "\"", 1);
    while (len > 0) {
        size_t run = plain_run(text, len);

        (void)ds_buf_put(out, text, run);
        if (run == 0) {
            put_escaped(out, *text);
            run = 1;
        }
        text += run;
        len -= run;
    }
    (void)ds_buf_put(out, "\"", 1);
}

/* What stands before a value: the comma that is due, and its key. */
static void begin(struct ds_json *json, const char *key)
{
    if (json->comma)
        (void)ds_buf_put(json->out, ",", 1);
    if (key != NULL) {
        put_bytes(json->out, key, strlen(key));
        (void)ds_buf_put(json->out, ":", 1);
    }
    json->comma = true;
}

static void open_level(struct ds_json *json, const char *key, const char *bracket)
{
    begin(json, key);
    (void)ds_buf_put(json->out, bracket, 1);
    json->comma = false;
}

static void close_level(struct ds_json *json, const char *bracket)
{
    (void)ds_buf_put(json->out, bracket, 1);
    json->comma = true;
}

void ds_json_object(struct ds_json *json, const char *key)
{
    open_level(json, key, "{");
}

void ds_json_array(struct ds_json *json, const char *key)
{
    open_level(json, key, "[");
}

void ds_json_end_object(struct ds_json *json)
{
    close_level(json, "}");
}

void ds_json_end_array(struct ds_json *json)
{
    close_level(json, "]");
}

void ds_json_string(struct ds_json *json, const char *key, const char *text)
{
    ds_json_bytes(json, key, text, strlen(text));
}

void ds_json_bytes(struct ds_json *json, const char *key, const char *bytes, size_t len)
{
    begin(json, key);
    put_bytes(json->out, bytes, len);
}

void ds_json_u64(struct ds_json *json, const char *key, uint64_t value)
{
    begin(json, key);
    (void)ds_buf_printf(json->out, "%ju", (uintmax_t)value);
}

void ds_json_i64(struct ds_json *json, const char *key, int64_t value)
{
    begin(json, key);
    (void)ds_buf_printf(json->out, "%jd", (intmax_t)value);
}

void ds_json_bool(struct ds_json *json, const char *key, bool value)
{
    begin(json, key);
    (void)ds_buf_puts(json->out, value ? "true" : "false");
}

void ds_json_null(struct ds_json *json, const char *key)
{
    begin(json, key);
    (void)ds_buf_puts(json->out, "null");
}

void ds_json_f64(struct ds_json *json, const char *key, double value, int digits)
{
    char text[400]; /* the compiler cannot see that 17 digits need 24 */
    /* 15 digits are often enough for the same double. */
    int least = digits == 17 ? 15 : digits;

    if (!isfinite(value)) {
        ds_json_null(json, key);
        return;
    }
    begin(json, key);
    do
        (void)snprintf(text, sizeof(text), "%.*g", least, value);
    while (least++ < digits && strtod(text, NULL) != value);
    (void)ds_buf_puts(json->out, text);
}

void ds_json_real(struct ds_json *json, const char *key, double value)
{
    ds_json_f64(json, key, value, 17);
    if (value > -1e15 && value < 1e15 && value == (double)(int64_t)value)
        (void)ds_buf_puts(json->out, ".0");
}

void ds_json_numbers(struct ds_json *json, const char *key, const struct ds_numbers *numbers)
{
    ds_json_array(json, key);
    for (uint64_t i = 0; i < numbers->count; i++)
        ds_json_real(json, NULL, numbers->item[i]);
    ds_json_end_array(json);
}
