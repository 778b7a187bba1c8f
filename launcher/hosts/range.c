/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * range.c - host patterns; the contract is in roster.h.
 *
 *     pattern = text [ "[" part *("," part) "]" text ]      part = number | number "-" number
 *
 * Names are counted before the first one is made.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/roster.h"

enum { MAX_DIGITS = 9 };

struct part {
    unsigned long first, last;
    int width; /* digits of the first bound, kept when it has leading zeros */
};

/* One part at *at, which moves behind it.  False: not a part. */
static bool read_part(const char **at, struct part *part)
{
    size_t digits = strspn(*at, "0123456789");

    if (digits == 0 || digits > MAX_DIGITS)
        return false;
    part->width = (*at)[0] == '0' ? (int)digits : 0;
    part->first = part->last = strtoul(*at, NULL, 10);
    *at += digits;
    if (**at != '-')
        return true;
    (*at)++;
    digits = strspn(*at, "0123456789");
    if (digits == 0 || digits > MAX_DIGITS)
        return false;
    part->last = strtoul(*at, NULL, 10);
    *at += digits;
    return part->last >= part->first;
}

static bool is_name(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && strchr("._-", text[i]) == NULL)
            return false;
    return true;
}

int ds_range_count(const char *pattern, size_t *count, struct ds_error *err)
{
    size_t before = strcspn(pattern, "[");
    const char *at = pattern + before;
    size_t n = 0, longest = before;

    if (pattern[0] == '\0' || pattern[0] == '-')
        return ds_fail(err, EINVAL, "'%.100s' is not a host name", pattern);
    if (*at == '[') {
        struct part part;

        do {
            at++;
            if (!read_part(&at, &part))
                return ds_fail(err, EINVAL,
                               "'%.100s' has a bad range; write it like "
                               "'node[01-16,20]'",
                               pattern);
            n += part.last - part.first + 1;
            if (n > DS_MAX_HOSTS)
                return ds_fail(err, EINVAL, "'%.100s' names more than %d hosts", pattern,
                               DS_MAX_HOSTS);
        } while (*at == ',');
        if (*at != ']')
            return ds_fail(err, EINVAL,
                           "'%.100s' has a bad range; write it like "
                           "'node[01-16,20]'",
                           pattern);
        at++;
        longest += MAX_DIGITS;
    } else {
        n = 1;
    }
    if (!is_name(pattern, before) || !is_name(at, strlen(at)))
        return ds_fail(err, EINVAL,
                       "'%.100s' is not a host name: letters, digits, '.', '_' and "
                       "'-', and one range in brackets",
                       pattern);
    if (longest + strlen(at) > DS_MAX_HOST_NAME)
        return ds_fail(err, EINVAL, "host name '%.40s...' is longer than %d bytes", pattern,
                       DS_MAX_HOST_NAME);
    *count = n;
    return 0;
}

void ds_range_name(const char *pattern, size_t index, char *out)
{
    size_t before = strcspn(pattern, "[");
    const char *at = pattern + before;
    struct part part = {0};

    if (*at == '\0') {
        (void)snprintf(out, DS_MAX_HOST_NAME + 1, "%s", pattern);
        return;
    }
    for (at++; read_part(&at, &part); at++) {
        size_t n = part.last - part.first + 1;

        if (index < n)
            break;
        index -= n;
    }
    (void)snprintf(out, DS_MAX_HOST_NAME + 1, "%.*s%0*zu%s", (int)before, pattern, part.width,
                   part.first + index, strchr(pattern, ']') + 1);
}
