/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * log.h - diagnostics on stderr, for the top of a program only.
 *
 * Library code returns errors; the main of a program logs them.  One line per
 * call: "dsrun: error: text".  Control characters are escaped.
 */
#ifndef DS_BASE_LOG_H
#define DS_BASE_LOG_H

#include "base/error.h"

enum ds_log_level { DS_LOG_ERROR, DS_LOG_WARNING, DS_LOG_INFO, DS_LOG_DEBUG };

/* `program` must outlive the process; the default level is WARNING. */
void ds_log_init(const char *program, enum ds_log_level level);
void ds_log(enum ds_log_level level, const char *fmt, ...) DS_PRINTF(2, 3);

/* Copy `text` with control characters (but tab), those of Unicode that break lines or turn their
 * direction (U+2028 to U+202E, U+2066 to U+2069), and invalid UTF-8 made visible ("\x1b");
 * always terminated; returns the length of the result, cut at cap-1. */
unsigned long ds_escape_control(char *out, unsigned long cap, const char *text, unsigned long len);

#endif
