/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * text_out.h - a text that is made bit by bit, and what of it may be shown so far.
 *
 * Shown is valid UTF-8 alone: a sequence that is not complete waits for more bytes, and a byte
 * that is of none becomes U+FFFD, or "\xNN" on a terminal, where control characters but newlines
 * and tabs are escaped, too.  The first occurrence of `stop` ends the text before it; what may
 * become its beginning waits as well.
 *
 * Tests   tests/cli/test_text_out.c
 */
#ifndef DS_CLI_TEXT_OUT_H
#define DS_CLI_TEXT_OUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"

struct ds_text_out {
    const char *stop; /* NULL: nothing ends it; borrowed */
    bool terminal;
    struct ds_buf text;  /* its bytes, without `stop` */
    struct ds_buf ready; /* what may be shown next; whoever shows it takes it off */
    size_t done;         /* bytes of `text` that have become ready */
    bool stopped;
};

void ds_text_out_init(struct ds_text_out *out, const char *stop, bool terminal);
void ds_text_out_release(struct ds_text_out *out);
void ds_text_out_reset(struct ds_text_out *out); /* for another text */

/* More bytes; nothing once it has stopped.  -ENOMEM, -ENOBUFS. */
int ds_text_out_put(struct ds_text_out *out, const char *bytes, size_t len, struct ds_error *err)
    DS_NODISCARD;
/* No more will come: what waits is ready. */
int ds_text_out_end(struct ds_text_out *out, struct ds_error *err) DS_NODISCARD;

#endif
