/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hostlist.h - many host names as a short text: node[01-16,20],big7
 *
 * The reverse of the ranges of a hostfile (range.c): names that differ in one number become one
 * range.  The number is the last one before the name's first dot; leading zeros are kept, and
 * names are only joined when the range gives them back byte for byte.
 *
 * Tests   tests/launcher/test_hostlist.c
 */
#ifndef DS_LAUNCHER_HOSTS_HOSTLIST_H
#define DS_LAUNCHER_HOSTS_HOSTLIST_H

#include <stddef.h>

#include "base/buf.h"

/* Append the names, sorted, each once.  -ENOMEM or as ds_buf_put(). */
int ds_hostlist_print(const char *const *names, size_t count, struct ds_buf *out);

#endif
