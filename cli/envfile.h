/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * envfile.h - files of environment variables, as .env files are written.
 *
 *     # a comment; blank lines are skipped
 *     NAME=value                  until the end of the line or " #", blanks at its ends cut
 *     export NAME='as it is'      the word export is allowed
 *     NAME="a \"b\" \n"           with \n \t \r \" \\ \$ ` and newlines
 *
 * Nothing is expanded: $HOME in a value is these five bytes.
 *
 * Pure.   Errors are "file:line:column: ..." with EINVAL.
 * Tests   tests/cli/test_env.c, tests/fuzz/fuzz_envfile.c
 */
#ifndef DS_CLI_ENVFILE_H
#define DS_CLI_ENVFILE_H

#include <stddef.h>

#include "base/arena.h"
#include "base/error.h"

struct ds_envfile {
    const char **item; /* "NAME=value", in the arena; later ones win */
    size_t count;
};

int ds_envfile_parse(struct ds_envfile *env, const char *name, const char *text, size_t len,
                     struct ds_arena *arena, struct ds_error *err) DS_NODISCARD;

#endif
