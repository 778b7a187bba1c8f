/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * error.c - the contract is in error.h.
 */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/exit.h"

/* Mark a text that did not fit; `len` is what vsnprintf() wanted. */
static void mark_cut(char *text, size_t cap, int len)
{
    if (len >= 0 && (size_t)len >= cap)
        memcpy(text + cap - 4, "...", 4);
}

/* Put ": <more>" behind the `len` bytes of `text`, as far as it goes. */
static void append(char text[DS_MAX_ERROR_TEXT], size_t len, const char *more)
{
    const char *parts[] = {": ", more};

    for (size_t i = 0; i < 2; i++) {
        size_t room = DS_MAX_ERROR_TEXT - 1 - len, want = strlen(parts[i]);
        size_t take = want < room ? want : room;

        memcpy(text + len, parts[i], take);
        len += take;
        text[len] = '\0';
        mark_cut(text, DS_MAX_ERROR_TEXT, want > room ? DS_MAX_ERROR_TEXT : 0);
    }
}

int ds_fail_at(struct ds_error *err, int code, const char *file, int line, const char *fmt, ...)
{
    va_list args;

    if (err == NULL)
        return -code;
    err->code = code;
    err->file = file;
    err->line = line;
    va_start(args, fmt);
    mark_cut(err->text, sizeof(err->text), vsnprintf(err->text, sizeof(err->text), fmt, args));
    va_end(args);
    return -code;
}

int ds_error_context(struct ds_error *err, int rc, const char *fmt, ...)
{
    char was[DS_MAX_ERROR_TEXT];
    va_list args;
    int len;

    if (err == NULL || rc == 0)
        return rc;
    if (err->text[0] == '\0')
        (void)snprintf(err->text, sizeof(err->text), "%s", strerror(-rc));
    memcpy(was, err->text, sizeof(was));
    va_start(args, fmt);
    len = vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    mark_cut(err->text, sizeof(err->text), len);
    if (len >= 0 && (size_t)len < sizeof(err->text))
        append(err->text, (size_t)len, was);
    return rc;
}

void ds_error_clear(struct ds_error *err)
{
    if (err != NULL)
        memset(err, 0, sizeof(*err));
}

const char *ds_error_text(const struct ds_error *err, int rc)
{
    if (err != NULL && err->text[0] != '\0')
        return err->text;
    return strerror(-rc);
}

int ds_exit_from_errno(int rc)
{
    switch (-rc) {
    case 0: return DS_EXIT_OK;
    case EINVAL:
    case EBADMSG:
    case ERANGE:
    case EOVERFLOW:
    case ENOTSUP:
    case ENOMEM:
    case EMSGSIZE: return DS_EXIT_DATA;
    case EDOM:
    case ENOENT: return DS_EXIT_USAGE;
    case ETIMEDOUT: return DS_EXIT_TIMEOUT;
    case EHOSTUNREACH:
    case EKEYREJECTED:
    case EPROTO: return DS_EXIT_UNAVAILABLE;
    default: return DS_EXIT_FAILURE;
    }
}
