/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * utf8.c - the contract is in utf8.h.
 *
 * Only the second byte of a sequence is restricted beyond "continuation", so
 * one table of lead bytes decides everything (RFC 3629, section 4).
 */
#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

/* clang-format off */
static const struct lead {
    unsigned char first, last;  /* lead bytes of this kind */
    unsigned char low, high;    /* bounds of the second byte */
    unsigned char len;
} leads[] = {
    {0x00, 0x7f, 0x00, 0x00, 1},
    {0xc2, 0xdf, 0x80, 0xbf, 2},
    {0xe0, 0xe0, 0xa0, 0xbf, 3},
    {0xe1, 0xec, 0x80, 0xbf, 3},
    {0xed, 0xed, 0x80, 0x9f, 3},
    {0xee, 0xef, 0x80, 0xbf, 3},
    {0xf0, 0xf0, 0x90, 0xbf, 4},
    {0xf1, 0xf3, 0x80, 0xbf, 4},
    {0xf4, 0xf4, 0x80, 0x8f, 4},
};
/* clang-format on */

static size_t tail_len(const struct lead *lead, const unsigned char *at, size_t len)
{
    if (len < lead->len)
        return 0;
    if (lead->len > 1 && (at[1] < lead->low || at[1] > lead->high))
        return 0;
    for (size_t i = 2; i < lead->len; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    return lead->len;
}

size_t ds_utf8_len(const char *text, size_t len)
{
    const unsigned char *at = (const unsigned char *)text;

    if (len == 0)
        return 0;
    for (size_t i = 0; i < sizeof(leads) / sizeof(leads[0]); i++)
        if (at[0] >= leads[i].first && at[0] <= leads[i].last)
            return tail_len(&leads[i], at, len);
    return 0;
}

size_t ds_utf8_valid(const char *text, size_t len)
{
    size_t at = 0, bytes;

    while (at < len) {
        uint64_t eight;

        if (len - at >= sizeof(eight)) { /* most text is ASCII */
            memcpy(&eight, text + at, sizeof(eight));
            if ((eight & UINT64_C(0x8080808080808080)) == 0) {
                at += sizeof(eight);
                continue;
            }
        }
        bytes = ds_utf8_len(text + at, len - at);
        if (bytes == 0)
            break;
        at += bytes;
    }
    return at;
}

bool ds_utf8_is_cut(const char *text, size_t len)
{
    char whole[4];

    if (len == 0 || len >= sizeof(whole) || ds_utf8_len(text, len) != 0)
        return false;
    for (unsigned char fill = 0x80; fill < 0xc0;
         fill = (unsigned char)(fill + 0x3f)) { /* one of both is a second byte */
        memset(whole, fill, sizeof(whole));
        memcpy(whole, text, len);
        if (ds_utf8_len(whole, sizeof(whole)) > len)
            return true;
    }
    return false;
}
