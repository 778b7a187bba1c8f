/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * buf.h - a growable byte buffer that must say how large it may become.
 *
 * Every buffer has a ceiling; reaching it is -ENOBUFS, and the buffer then
 * refuses further input until it is reset, so that a chain of appends needs
 * one check at its end (`failed`).  The bytes are always followed by a NUL
 * that is not counted, so text in a buffer is a C string.
 *
 * Owner   whoever holds the struct; ds_buf_release() frees.  A zeroed struct
 *         is valid for ds_buf_release().
 * Tests   tests/base/test_buf.c
 */
#ifndef DS_BASE_BUF_H
#define DS_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ds_buf {
    char *data; /* NULL until the first append; use ds_buf_text() for a C string */
    size_t len, cap, max;
    bool failed; /* an append did not fit or memory ran out */
};

void ds_buf_init(struct ds_buf *buf, size_t max_bytes);
void ds_buf_release(struct ds_buf *buf);
void ds_buf_reset(struct ds_buf *buf); /* empty again, memory kept, `failed` cleared */

/* Append; 0, -ENOBUFS (ceiling) or -ENOMEM, and `failed` is set. */
int ds_buf_put(struct ds_buf *buf, const void *bytes, size_t len);
int ds_buf_puts(struct ds_buf *buf, const char *text);
int ds_buf_printf(struct ds_buf *buf, const char *fmt, ...) DS_PRINTF(2, 3);

/* Make room for `len` more bytes and return where they go, or NULL; then ds_buf_commit(). */
void *ds_buf_reserve(struct ds_buf *buf, size_t len);
void ds_buf_commit(struct ds_buf *buf, size_t len);

/* Drop the first `len` bytes. */
void ds_buf_consume(struct ds_buf *buf, size_t len);

/* The bytes as a C string, "" when empty.  Borrowed until the next append. */
const char *ds_buf_text(const struct ds_buf *buf);

#endif
