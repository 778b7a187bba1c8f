/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * libexec.c - where the programs that dsrun starts lie; the contract is in cli.h.
 */
#include <stdlib.h>

#include "base/fsio.h"
#include "cli/cli.h"

int ds_cli_libexec(char *out, const char *program, struct ds_error *err)
{
    const char *given = getenv("DSRUN_LIBEXEC");
    char here[DS_MAX_PATH], folder[DS_MAX_PATH];
    int rc;

    if (given != NULL && given[0] != '\0')
        return ds_path_join(out, given, program, err);
    rc = ds_path_self_dir(here, err);
    if (rc == 0)
        rc = ds_path_join(folder, here, "../libexec/dsrun", err);
    return rc == 0 ? ds_path_join(out, folder, program, err) : rc;
}
