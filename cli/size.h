/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * size.h - numbers of bytes for people.
 *
 * Tests   tests/cli/test_page.c
 */
#ifndef DS_CLI_SIZE_H
#define DS_CLI_SIZE_H

#include <stdint.h>

enum { DS_SIZE_TEXT = 32 };

/* "1.5 MiB"; returns `out`. */
const char *ds_size_text(uint64_t bytes, char out[DS_SIZE_TEXT]);

#endif
