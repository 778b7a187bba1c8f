/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * program.h - where the program of a rank lies on this host, and where it runs.
 *
 * Tests   tests/launcher/test_program.c
 */
#ifndef DS_LAUNCHER_PROGRAM_H
#define DS_LAUNCHER_PROGRAM_H

#include "base/error.h"

/* The search path where the environment has no PATH. */
#define DS_PROGRAM_PATH "/usr/local/bin:/usr/bin:/bin"

/* A name with a slash is taken as it is, from `cwd` on when it is relative.  A bare name is looked
 * for in the folders of `path` (separated by ':', from `cwd` on when relative; an empty one is
 * `cwd`), first executable file wins.  out[DS_MAX_PATH].  -ENOENT there is none; -EACCES there is
 * one that may not be executed. */
int ds_program_find(char *out, const char *name, const char *cwd, const char *path,
                    struct ds_error *err) DS_NODISCARD;

/* The working directory that a start specification asks for: `cwd` itself; "~" is the home of this
 * user here, by HOME; "" stays where the agent is.  Checked to be a folder that may be entered. */
int ds_program_cwd(char *out, const char *cwd, struct ds_error *err) DS_NODISCARD;

#endif
