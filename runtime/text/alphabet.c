/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * alphabet.c - the 256 characters that stand for bytes, since GPT-2: those that print stand for
 * themselves, the others follow from U+0100 on.
 */
#include "runtime/text/parts.h"

static bool prints(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xff && byte != 0xad);
}

static uint32_t character_of(unsigned byte)
{
    uint32_t next = 0x100;

    if (prints(byte))
        return byte;
    for (unsigned b = 0; b < byte; b++)
        next += !prints(b);
    return next;
}

size_t ds__alphabet_text(unsigned char byte, char out[3])
{
    uint32_t c = character_of(byte);
    size_t len = 0;

    if (c < 0x80) {
        out[len++] = (char)c;
    } else {
        out[len++] = (char)(0xc0 | c >> 6);
        out[len++] = (char)(0x80 | (c & 0x3f));
    }
    out[len] = '\0';
    return len;
}

int ds__alphabet_byte(uint32_t character)
{
    if (character < 0x100)
        return prints(character) ? (int)character : -1;
    for (unsigned b = 0; b < 256; b++)
        if (!prints(b) && character_of(b) == character)
            return (int)b;
    return -1;
}
