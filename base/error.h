/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * error.h - one way to fail: a negative errno and, where it matters, the reason.
 *
 * A function that can fail returns 0 or a negative errno and takes a
 * `struct ds_error *` last, which may be NULL.  The place that detects the
 * failure raises it once with ds_fail(); each layer above adds the one noun it
 * knows with ds_error_context().  Nothing here allocates.
 *
 * Codes   EINVAL user input, EBADMSG corrupt bytes, EPROTO peer, ETIMEDOUT,
 *         ECANCELED told to stop, ENOTSUP not supported, ENOENT missing file,
 *         ENOMEM does not fit, EIO disk or CUDA, EREMOTEIO NCCL.
 * Wording no capital, no full stop, the subject in single quotes: what failed
 *         and what would do.
 * Tests   tests/base/test_error.c
 */
#ifndef DS_BASE_ERROR_H
#define DS_BASE_ERROR_H

#include <stdarg.h>

#include "base/limits.h"

#define DS_NODISCARD         __attribute__((warn_unused_result))
#define DS_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

struct ds_error {
    int code;         /* positive errno of the first failure; 0: none */
    const char *file; /* source position of the failure, for debug logs */
    int line;
    char text[DS_MAX_ERROR_TEXT]; /* always terminated; cut with "..." when too long */
};

/* Fill `err` (when not NULL) and return -code.  `code` is a positive errno. */
#define ds_fail(err, code, ...) ds_fail_at((err), (code), __FILE__, __LINE__, __VA_ARGS__)
int ds_fail_at(struct ds_error *err, int code, const char *file, int line, const char *fmt, ...)
    DS_PRINTF(5, 6);

/* Put "<context>: " before the text of `err`; returns `rc` unchanged. */
int ds_error_context(struct ds_error *err, int rc, const char *fmt, ...) DS_PRINTF(3, 4);

/* Forget a failure that was dealt with. */
void ds_error_clear(struct ds_error *err);

/* The text, or the errno's own words when no text was given.  Borrowed. */
const char *ds_error_text(const struct ds_error *err, int rc);

#endif
