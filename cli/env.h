/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * env.h - the variables that ranks are given: of the job, of --env-file, of --env; later ones win.
 *
 * Nothing of dsrun's own environment reaches another host unless an --env names it: NAME, or a
 * pattern such as 'NCCL_*' for all that match.  A pattern never takes what dsrun sets for each
 * rank (RANK, MASTER_ADDR, ...); a name may.
 *
 * Values may be secrets: they travel to hosts in frames, and are in no argument of a program that
 * dsrun starts, no file of a run and no message.
 *
 * Tests   tests/cli/test_env.c
 */
#ifndef DS_CLI_ENV_H
#define DS_CLI_ENV_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "cli/cli.h"

struct ds_env {
    const char **item; /* "NAME=value"; in the arena, or borrowed from the command line */
    size_t count;
};

/* `job` are `jobs` entries that come first.  -EDOM: a name that is not set here; -EINVAL: a
 * wrong line in a file; -ENOENT: no such file. */
int ds_cli_env(const struct ds_cli *cli, const char *const *job, size_t jobs,
               struct ds_arena *arena, struct ds_env *env, struct ds_error *err) DS_NODISCARD;

/* The names, for a dry run; values may be secrets and are not shown.  Nothing where there are
 * none. */
void ds_cli_env_names(const struct ds_env *env, struct ds_buf *out);
void ds_cli_env_json(const struct ds_env *env, struct ds_json *json); /* an array "env" */

#endif
