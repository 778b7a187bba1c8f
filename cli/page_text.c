/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * page_text.c - the contract is in page_text.h.
 */
#include "cli/page_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

enum { PIECE_BYTES = 256 };

/* --- text ------------------------------------------------------------------------------------ */

static void put_markup(struct ds_buf *out, const char *text)
{
    while (*text != '\0') {
        size_t len = strcspn(text, "&<>\"'\xef");

        (void)ds_buf_put(out, text, len);
        text += len;
        switch (*text) {
        case '&': (void)ds_buf_puts(out, "&amp;"); break;
        case '<': (void)ds_buf_puts(out, "&lt;"); break;
        case '>': (void)ds_buf_puts(out, "&gt;"); break;
        case '"': (void)ds_buf_puts(out, "&quot;"); break;
        case '\'': (void)ds_buf_puts(out, "&#39;"); break;
        case '\0': return;
        default: /* U+FFFE and U+FFFF are no characters of XML */
            if (strncmp(text, "\xef\xbf\xbe", 3) == 0 || strncmp(text, "\xef\xbf\xbf", 3) == 0) {
                (void)ds_buf_puts(out, "\xef\xbf\xbd");
                text += 2;
            } else {
                (void)ds_buf_put(out, text, 1);
            }
        }
        text++;
    }
}

void ds_page_text(struct ds_buf *out, const char *text, size_t len)
{
    char safe[4 * PIECE_BYTES + 1];

    while (len > 0) {
        const char *end = memchr(text, '\n', len);
        size_t line = end == NULL ? len : (size_t)(end - text);
        size_t piece = line < PIECE_BYTES ? line : PIECE_BYTES;

        /* A character is not cut; what is not UTF-8 is, at any place. */
        for (size_t back = 0;
             piece < line && back < 3 && ((unsigned char)text[piece] & 0xC0) == 0x80; back++)
            piece--;
        (void)ds_escape_control(safe, sizeof(safe), text, piece);
        put_markup(out, safe);
        text += piece;
        len -= piece;
        if (piece == line && len > 0) {
            (void)ds_buf_puts(out, "\n");
            text++;
            len--;
        }
    }
}

void ds_page_puts(struct ds_buf *out, const char *text)
{
    ds_page_text(out, text, strlen(text));
}

/* --- numbers --------------------------------------------------------------------------------- */

const char *ds_number_text(double value, int digits, char out[DS_NUMBER_TEXT])
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P"};
    size_t unit = 0;

    if (fabs(value) >= 1e4 && fabs(value) < 1e18)
        for (; fabs(value) >= 999.5 && unit < 5; unit++)
            value /= 1000.0;
    (void)snprintf(out, DS_NUMBER_TEXT, "%.*g%s", digits, value, units[unit]);
    return out;
}

const char *ds_duration_text(double seconds, char out[DS_NUMBER_TEXT])
{
    long long whole = seconds > 0.0 && seconds < 1e15 ? (long long)seconds : 0;

    if (whole < 60)
        (void)snprintf(out, DS_NUMBER_TEXT, "%.3g s", seconds > 0.0 ? seconds : 0.0);
    else if (whole < 3600)
        (void)snprintf(out, DS_NUMBER_TEXT, "%lld:%02lld min", whole / 60, whole % 60);
    else if (whole < 2 * 86400)
        (void)snprintf(out, DS_NUMBER_TEXT, "%lld:%02lld h", whole / 3600, whole % 3600 / 60);
    else
        (void)snprintf(out, DS_NUMBER_TEXT, "%lld d %lld h", whole / 86400, whole % 86400 / 3600);
    return out;
}

const char *ds_time_text(double seconds, char out[DS_NUMBER_TEXT])
{
    time_t when = seconds >= 0.0 && seconds < 1e11 ? (time_t)seconds : -1;
    struct tm utc;

    if (when < 0 || gmtime_r(&when, &utc) == NULL ||
        strftime(out, DS_NUMBER_TEXT, "%Y-%m-%d %H:%M:%S", &utc) == 0)
        (void)snprintf(out, DS_NUMBER_TEXT, "?");
    return out;
}

/* --- ticks ----------------------------------------------------------------------------------- */

static size_t put_ticks(double lo, double hi, double step, double tick[DS_TICKS])
{
    double first = ceil(lo / step - 1e-9);
    size_t n = 0;

    for (; n < DS_TICKS && (first + (double)n) * step <= hi + 1e-9 * step; n++)
        tick[n] = (first + (double)n) * step;
    return n;
}

size_t ds_ticks(double lo, double hi, size_t most, double tick[DS_TICKS], int *digits)
{
    double rough = (hi - lo) / (double)most, power = pow(10.0, floor(log10(rough)));
    double step = rough <= power       ? power
                  : rough <= 2 * power ? 2 * power
                  : rough <= 5 * power ? 5 * power
                                       : 10 * power;
    double largest = fmax(fabs(lo), fabs(hi));

    *digits = (int)fmin(15.0, fmax(2.0, ceil(log10(largest / step)) + 1.0));
    return put_ticks(lo, hi, step, tick);
}

size_t ds_time_ticks(double hi, size_t most, double tick[DS_TICKS])
{
    static const double steps[] = {1,     2,     5,     10,    15,     30,     60,
                                   120,   300,   600,   900,   1800,   3600,   7200,
                                   10800, 21600, 43200, 86400, 172800, 432000, 864000};
    size_t i = 0;
    int digits;

    while (i < sizeof(steps) / sizeof(steps[0]) && hi / steps[i] > (double)most)
        i++;
    if (i == 0 && hi < 1.0)
        return ds_ticks(0.0, hi, most, tick, &digits);
    if (i == sizeof(steps) / sizeof(steps[0]))
        return ds_ticks(0.0, hi / 86400.0, most, tick, &digits) == 0
                   ? 0
                   : put_ticks(0.0, hi, (tick[1] - tick[0]) * 86400.0, tick);
    return put_ticks(0.0, hi, steps[i], tick);
}
