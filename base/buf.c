/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * buf.c - the contract is in buf.h.
 */
#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BYTES = 256 };

void ds_buf_init(struct ds_buf *buf, size_t max_bytes)
{
    /* Half the address space, so that len + 1 and 2 * cap cannot overflow. */
    *buf = (struct ds_buf){.max = max_bytes < SIZE_MAX / 2 ? max_bytes : SIZE_MAX / 2 - 1};
}

void ds_buf_release(struct ds_buf *buf)
{
    free(buf->data);
    *buf = (struct ds_buf){0};
}

void ds_buf_reset(struct ds_buf *buf)
{
    buf->len = 0;
    buf->failed = false;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

static int fail(struct ds_buf *buf, int rc)
{
    buf->failed = true;
    return rc;
}

/* Room for `len` more bytes and the NUL. */
static int grow(struct ds_buf *buf, size_t len)
{
    size_t need, cap;
    char *data;

    if (buf->failed || len > buf->max - buf->len)
        return fail(buf, -ENOBUFS);
    need = buf->len + len + 1;
    if (need <= buf->cap)
        return 0;
    cap = buf->cap == 0 ? FIRST_BYTES : 2 * buf->cap;
    if (cap < need)
        cap = need;
    if (cap > buf->max + 1)
        cap = buf->max + 1;
    data = realloc(buf->data, cap);
    if (data == NULL)
        return fail(buf, -ENOMEM);
    buf->data = data;
    buf->cap = cap;
    buf->data[buf->len] = '\0';
    return 0;
}

int ds_buf_put(struct ds_buf *buf, const void *bytes, size_t len)
{
    int rc = grow(buf, len);

    if (rc != 0 || len == 0)
        return rc;
    memcpy(buf->data + buf->len, bytes, len);
    ds_buf_commit(buf, len);
    return 0;
}

int ds_buf_puts(struct ds_buf *buf, const char *text)
{
    return ds_buf_put(buf, text, strlen(text));
}

int ds_buf_printf(struct ds_buf *buf, const char *fmt, ...)
{
    va_list args;
    int len, rc;

    va_start(args, fmt);
    len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0)
        return fail(buf, -ENOBUFS);
    rc = grow(buf, (size_t)len);
    if (rc != 0)
        return rc;
    va_start(args, fmt);
    (void)vsnprintf(buf->data + buf->len, (size_t)len + 1, fmt, args);
    va_end(args);
    buf->len += (size_t)len;
    return 0;
}

void *ds_buf_reserve(struct ds_buf *buf, size_t len)
{
    return grow(buf, len) == 0 ? buf->data + buf->len : NULL;
}

void ds_buf_commit(struct ds_buf *buf, size_t len)
{
    assert(len < buf->cap - buf->len);
    buf->len += len;
    buf->data[buf->len] = '\0';
}

void ds_buf_consume(struct ds_buf *buf, size_t len)
{
    assert(len <= buf->len);
    if (len == 0)
        return;
    buf->len -= len;
    memmove(buf->data, buf->data + len, buf->len + 1);
}

const char *ds_buf_text(const struct ds_buf *buf)
{
    return buf->data != NULL ? buf->data : "";
}
