/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nearest.c - the contract is in nearest.h.
 *
 * Source  Damerau 1964, Levenshtein 1966: optimal string alignment, three rows.
 */
#include "base/nearest.h"

#include <string.h>

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

unsigned ds_edit_distance(const char *a, const char *b)
{
    unsigned row[3][DS_NEAREST_MAX + 1]; /* of a[..i-2], a[..i-1], a[..i] */
    size_t n = strnlen(a, DS_NEAREST_MAX + 1), m = strnlen(b, DS_NEAREST_MAX + 1);
    unsigned *before = row[0], *last = row[1], *now = row[2];

    if (n > DS_NEAREST_MAX || m > DS_NEAREST_MAX)
        return DS_NEAREST_FAR;
    for (unsigned j = 0; j <= m; j++)
        last[j] = j;
    for (unsigned i = 1; i <= n; i++) {
        unsigned *oldest = before;

        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = least(last[j - 1] + (a[i - 1] != b[j - 1]), least(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
        before = last;
        last = now;
        now = oldest;
    }
    return last[m];
}

int ds_edit_close(unsigned distance, const char *word)
{
    size_t len = strlen(word);

    return distance < len && distance <= (len < 6 ? 2 : len / 3);
}
