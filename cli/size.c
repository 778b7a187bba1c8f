/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * size.c - the contract is in size.h.
 */
#include "cli/size.h"

#include <stddef.h>
#include <stdio.h>

const char *ds_size_text(uint64_t bytes, char out[DS_SIZE_TEXT])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double size = (double)bytes;
    size_t unit = 0;

    for (; size >= 1024.0 && unit < 6; unit++)
        size /= 1024.0;
    (void)snprintf(out, DS_SIZE_TEXT, "%.*f %s", unit == 0 ? 0 : 1, size, units[unit]);
    return out;
}
