/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * text_out.c - the contract is in text_out.h.
 */
#include "cli/text_out.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"

enum { MAX_TEXT = 1 << 28, MAX_ESCAPED = 16 /* of a character: 4 for each of its bytes */ };

void ds_text_out_init(struct ds_text_out *out, const char *stop, bool terminal)
{
    *out = (struct ds_text_out){.stop = stop, .terminal = terminal};
    ds_buf_init(&out->text, MAX_TEXT);
    ds_buf_init(&out->ready, MAX_TEXT);
}

void ds_text_out_release(struct ds_text_out *out)
{
    ds_buf_release(&out->text);
    ds_buf_release(&out->ready);
}

void ds_text_out_reset(struct ds_text_out *out)
{
    ds_buf_reset(&out->text);
    ds_buf_reset(&out->ready);
    out->done = 0;
    out->stopped = false;
}

/* One character of `len` bytes, or a byte that is of none (len 0). */
static void show(struct ds_text_out *out, const char *text, size_t len)
{
    char escaped[MAX_ESCAPED + 1];
    bool plain = len > 0 && (!out->terminal || text[0] == '\n');

    if (plain) {
        (void)ds_buf_put(&out->ready, text, len);
    } else if (out->terminal) {
        (void)ds_escape_control(escaped, sizeof(escaped), text, len > 0 ? len : 1);
        (void)ds_buf_puts(&out->ready, escaped);
    } else {
        (void)ds_buf_puts(&out->ready, "\xef\xbf\xbd");
    }
}

/* Make ready what lies before `end`; a sequence that is cut there waits, unless it is `last`. */
static void show_until(struct ds_text_out *out, size_t end, bool last)
{
    while (out->done < end) {
        const char *at = out->text.data + out->done;
        size_t left = end - out->done, len = ds_utf8_len(at, left);

        if (len == 0 && !last && ds_utf8_is_cut(at, left))
            return;
        show(out, at, len);
        out->done += len > 0 ? len : 1;
    }
}

/* How many of the last bytes of the text begin `stop`. */
static size_t begun(const struct ds_text_out *out)
{
    size_t len = out->stop == NULL ? 0 : strlen(out->stop);
    size_t most = len == 0 ? 0 : len - 1;

    if (most > out->text.len)
        most = out->text.len;
    while (most > 0 && memcmp(out->text.data + out->text.len - most, out->stop, most) != 0)
        most--;
    return most;
}

/* End the text before the first `stop` that the bytes from `from` on complete. */
static void look_for_stop(struct ds_text_out *out, size_t from)
{
    size_t len = out->stop == NULL ? 0 : strlen(out->stop);
    size_t at = from < len ? 0 : from - len + 1;
    const char *found =
        len == 0 ? NULL : memmem(out->text.data + at, out->text.len - at, out->stop, len);

    if (found == NULL)
        return;
    out->stopped = true;
    out->text.len = (size_t)(found - out->text.data);
    out->text.data[out->text.len] = '\0';
}

static int result(const struct ds_text_out *out, struct ds_error *err)
{
    return out->text.failed || out->ready.failed
               ? ds_fail(err, ENOMEM, "no memory for a text of %zu bytes", out->text.len)
               : 0;
}

int ds_text_out_put(struct ds_text_out *out, const char *bytes, size_t len, struct ds_error *err)
{
    size_t from = out->text.len;

    if (out->stopped || len == 0 || ds_buf_put(&out->text, bytes, len) != 0)
        return result(out, err);
    look_for_stop(out, from);
    if (out->stopped)
        return ds_text_out_end(out, err);
    show_until(out, out->text.len - begun(out), false);
    return result(out, err);
}

int ds_text_out_end(struct ds_text_out *out, struct ds_error *err)
{
    show_until(out, out->text.len, true);
    return result(out, err);
}
