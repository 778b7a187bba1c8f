/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_crc32c.c - the checksums that RFC 3720, appendix B.4, gives.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "base/crc32c.h"

Test(crc32c, known)
{
    uint8_t bytes[32];

    cr_assert_eq(ds_crc32c("", 0), 0);
    cr_assert_eq(ds_crc32c("123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof(bytes));
    cr_assert_eq(ds_crc32c(bytes, sizeof(bytes)), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    cr_assert_eq(ds_crc32c(bytes, sizeof(bytes)), 0x62a8ab43);
    for (uint8_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = i;
    cr_assert_eq(ds_crc32c(bytes, sizeof(bytes)), 0x46dd794e);
}
