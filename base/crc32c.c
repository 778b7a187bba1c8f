/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * crc32c.c - the contract is in crc32c.h.
 *
 * Four bits at a time: a record is some hundred bytes, and sixteen numbers are read at a glance.
 */
#include "base/crc32c.h"

/* What the low four bits of the remainder add to the rest. */
static const uint32_t nibble[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

uint32_t ds_crc32c(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    uint32_t crc = 0xffffffff;

    for (; len > 0; len--, at++) {
        crc ^= *at;
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}
