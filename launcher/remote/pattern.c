/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pattern.c - the contract is in pattern.h.
 *
 * A star needs no recursion: when what follows it does not match, only the last star can take one
 * more byte, since all before it is as good as it will get.  The time is at most pattern x name.
 */
#include "launcher/remote/pattern.h"

#include <ctype.h>
#include <string.h>

static bool same(char pattern, char name)
{
    return pattern == '?' || tolower((unsigned char)pattern) == tolower((unsigned char)name);
}

bool ds_pattern_match(const char *pattern, size_t len, const char *name)
{
    size_t at = 0, star = 0;
    const char *resume = NULL;

    while (*name != '\0') {
        if (at < len && pattern[at] == '*') {
            star = ++at;
            resume = name;
        } else if (at < len && same(pattern[at], *name)) {
            at++;
            name++;
        } else if (resume != NULL) {
            at = star;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (at < len && pattern[at] == '*')
        at++;
    return at == len;
}

bool ds_pattern_list(const char *list, size_t len, char separator, const char *name)
{
    const char *at = list, *end = list + len;
    bool found = false;

    while (at < end) {
        const char *stop = memchr(at, separator, (size_t)(end - at));
        bool exclude = *at == '!';

        if (stop == NULL)
            stop = end;
        if (exclude)
            at++;
        if (stop > at && ds_pattern_match(at, (size_t)(stop - at), name)) {
            if (exclude)
                return false;
            found = true;
        }
        at = stop < end ? stop + 1 : end;
    }
    return found;
}
