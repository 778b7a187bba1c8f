/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * range.c - host patterns; the contract is in roster.h.
 *
 *     pattern = text ( "[" part *("," part) "]" text )*     part = number | number "-" number
 *
 * Names are counted, with a bound, before the first one is made.  Several brackets count like an
 * odometer: the last one is the fastest, as in Slurm.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/roster.h"

enum { MAX_DIGITS = 9 };

/* One part at *at, which moves behind it.  False: not a part. */
static bool read_part(const char **at, struct ds_range_part *part)
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

/* One bracket at *at, which moves behind it; *count is multiplied by its names. */
static int count_bracket(const char *pattern, const char **at, size_t *count, struct ds_error *err)
{
    struct ds_range_part part;
    size_t n = 0;

    do {
        (*at)++;
        if (!read_part(at, &part))
            return ds_fail(err, EINVAL, "'%.100s' has a bad range; write it like 'node[01-16,20]'",
                           pattern);
        n += part.last - part.first + 1;
        if (n > DS_MAX_HOSTS || n * *count > DS_MAX_HOSTS)
            return ds_fail(err, EINVAL, "'%.100s' names more than %d hosts", pattern, DS_MAX_HOSTS);
    } while (**at == ',');
    if (**at != ']')
        return ds_fail(err, EINVAL, "'%.100s' has a bad range; write it like 'node[01-16,20]'",
                       pattern);
    (*at)++;
    *count *= n;
    return 0;
}

int ds_range_count(const char *pattern, size_t *count, struct ds_error *err)
{
    const char *at = pattern;
    size_t n = 1, longest = 0, brackets = 0;

    if (pattern[0] == '\0' || pattern[0] == '-')
        return ds_fail(err, EINVAL, "'%.100s' is not a host name", pattern);
    while (*at != '\0') {
        size_t len = strcspn(at, "[");

        if (!is_name(at, len))
            return ds_fail(err, EINVAL,
                           "'%.100s' is not a host name: letters, digits, '.', '_' and '-', and "
                           "ranges in brackets",
                           pattern);
        longest += len;
        at += len;
        if (*at == '\0')
            break;
        if (++brackets > DS_RANGE_BRACKETS)
            return ds_fail(err, EINVAL, "'%.100s' has more than %d ranges", pattern,
                           DS_RANGE_BRACKETS);
        longest += MAX_DIGITS;
        if (count_bracket(pattern, &at, &n, err) != 0)
            return -EINVAL;
    }
    if (longest > DS_MAX_HOST_NAME)
        return ds_fail(err, EINVAL, "host name '%.40s...' is longer than %d bytes", pattern,
                       DS_MAX_HOST_NAME);
    *count = n;
    return 0;
}

/* The first number of a bracket. */
static void rewind_bracket(struct ds_range_bracket *bracket)
{
    bracket->at = bracket->open + 1;
    (void)read_part(&bracket->at, &bracket->part);
    bracket->value = bracket->part.first;
}

void ds_range_start(struct ds_range *range, const char *pattern)
{
    *range = (struct ds_range){.pattern = pattern};
    for (const char *at = strchr(pattern, '['); at != NULL; at = strchr(at + 1, '[')) {
        range->bracket[range->brackets].open = at;
        rewind_bracket(&range->bracket[range->brackets++]);
    }
}

/* The next number of a bracket.  False: it was the last one. */
static bool advance(struct ds_range_bracket *bracket)
{
    if (bracket->value < bracket->part.last) {
        bracket->value++;
        return true;
    }
    if (*bracket->at != ',')
        return false;
    bracket->at++;
    (void)read_part(&bracket->at, &bracket->part);
    bracket->value = bracket->part.first;
    return true;
}

bool ds_range_next(struct ds_range *range, char *out)
{
    const char *text = range->pattern;
    size_t len = 0;
    unsigned i;

    if (range->over)
        return false;
    for (i = 0; i < range->brackets; i++) {
        const struct ds_range_bracket *bracket = &range->bracket[i];

        len += (size_t)snprintf(out + len, DS_MAX_HOST_NAME + 1 - len, "%.*s%0*lu",
                                (int)(bracket->open - text), text, bracket->part.width,
                                bracket->value);
        text = strchr(bracket->open, ']') + 1;
    }
    (void)snprintf(out + len, DS_MAX_HOST_NAME + 1 - len, "%s", text);
    while (i > 0 && !advance(&range->bracket[i - 1]))
        rewind_bracket(&range->bracket[--i]);
    range->over = i == 0;
    return true;
}
