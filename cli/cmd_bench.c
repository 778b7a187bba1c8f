/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_bench.c - `dsrun bench`: become the worker, for only that one has kernels, collectives and
 * states on a disk.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/limits.h"
#include "base/log.h"

int ds_cmd_bench(const struct ds_cli *cli)
{
    struct ds_error err = {0};
    char path[DS_MAX_PATH];
    const char *argv[6] = {"dsrun-worker", "bench", cli->command + sizeof("bench")};
    size_t argc = 3;
    int rc = ds_cli_libexec(path, "dsrun-worker", &err);

    if (rc != 0) {
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
        return ds_exit_from_errno(rc);
    }
    if (cli->args > 0)
        argv[argc++] = cli->arg[0];
    if (cli->json)
        argv[argc++] = "--json";
    execv(path, (char **)(uintptr_t)argv); /* exec leaves them as they are */
    ds_log(DS_LOG_ERROR, "cannot start '%s': %s%s", path, strerror(errno),
           errno == ENOENT
               ? ", install all of dsrun or name its folder of programs in DSRUN_LIBEXEC"
               : "");
    return DS_EXIT_FAILURE;
}
