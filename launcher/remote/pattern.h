/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pattern.h - names against OpenSSH's patterns: * and ?, lists, ! to exclude.
 *
 * Pure; letters match whatever their case.  Tests   tests/launcher/test_ssh_config.c
 */
#ifndef DS_LAUNCHER_REMOTE_PATTERN_H
#define DS_LAUNCHER_REMOTE_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

bool ds_pattern_match(const char *pattern, size_t len, const char *name);

/* Does one pattern of a list match, and none that begins with '!'? */
bool ds_pattern_list(const char *list, size_t len, char separator, const char *name);

#endif
