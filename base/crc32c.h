/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * crc32c.h - the checksum of records that others read: TFRecord, say.
 *
 * Source  RFC 3720, appendix B.4: polynomial 0x1EDC6F41, reflected.
 * Tests   tests/base/test_crc32c.c
 */
#ifndef DS_BASE_CRC32C_H
#define DS_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t ds_crc32c(const void *bytes, size_t len);

#endif
