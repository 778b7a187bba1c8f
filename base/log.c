/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * log.c - the contract is in log.h.
 *
 * A line is built whole and written by one call, so that lines of several
 * processes on one terminal do not mix.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"

enum { LINE_BYTES = 4 * DS_MAX_ERROR_TEXT }; /* escaping at most quadruples a message */

static const char *const level_names[] = {
    [DS_LOG_ERROR] = "error",
    [DS_LOG_WARNING] = "warning",
    [DS_LOG_INFO] = "info",
    [DS_LOG_DEBUG] = "debug",
};

/* Set once by main, before any thread. */
static const char *program_name = "dsrun";
static enum ds_log_level log_level = DS_LOG_WARNING;

void ds_log_init(const char *program, enum ds_log_level level)
{
    program_name = program;
    log_level = level;
}

void ds_log(enum ds_log_level level, const char *fmt, ...)
{
    char text[DS_MAX_ERROR_TEXT], line[LINE_BYTES + 128];
    va_list args;
    int head;
    size_t len;

    if (level > log_level)
        return;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    head = snprintf(line, 64, "%.32s: %s: ", program_name, level_names[level]);
    len = head < 0 ? 0 : (size_t)head;
    len += ds_escape_control(line + len, sizeof(line) - len - 1, text, strlen(text));
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0)
        return; /* nowhere is left to complain */
}

/* Length of the harmless character at `text`: 0 when its first byte must be escaped. */
static size_t plain_len(const char *text, size_t len)
{
    unsigned char first = (unsigned char)text[0];
    size_t n = ds_utf8_len(text, len);

    if (n == 1)
        return first == '\t' || (first >= 0x20 && first != 0x7f);
    if (n == 2 && first == 0xc2 && (unsigned char)text[1] < 0xa0)
        return 0; /* C1 controls: some terminals obey them */
    if (n == 3 && (memcmp(text, "\xe2\x80", 2) == 0 || memcmp(text, "\xe2\x81", 2) == 0)) {
        unsigned char last = (unsigned char)text[2]; /* what breaks lines or turns them round */

        if (text[1] == '\x80' ? last >= 0xa8 && last <= 0xae : last >= 0xa6 && last <= 0xa9)
            return 0;
    }
    return n;
}

unsigned long ds_escape_control(char *out, unsigned long cap, const char *text, unsigned long len)
{
    static const char hex[] = "0123456789abcdef";
    unsigned long used = 0;

    if (cap == 0)
        return 0;
    while (len > 0) {
        unsigned char byte = (unsigned char)*text;
        char escaped[4] = {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
        const char *from = text;
        unsigned long step = plain_len(text, len), n = step;

        if (step == 0) {
            from = escaped;
            n = sizeof(escaped);
            step = 1;
        }
        if (n > cap - 1 - used)
            break;
        memcpy(out + used, from, n);
        used += n;
        text += step;
        len -= step;
    }
    out[used] = '\0';
    return used;
}
