/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * once.h - the workers of a job, once and without a run directory: for who asks something of them.
 *
 * What they write to standard error is logged, but for why a rank gives up: that is in the reason
 * of the failure.  Metrics and events are the caller's.
 */
#ifndef DS_CLI_ONCE_H
#define DS_CLI_ONCE_H

#include "cli/cli.h"
#include "cli/place.h"
#include "launcher/fleet/fleet.h"
#include "launcher/fleet/logmux.h"
#include "runtime/job.h"
#include "runtime/spec.h"

struct ds_once {
    const struct ds_cli *cli;
    const struct ds_job *job; /* as ranks read it */
    const struct ds_cli_place *place;
    struct ds_run_spec *facts; /* its cwd, and where there is none run_dir, are filled in */
    int (*metric)(void *user, const char *json, size_t len, struct ds_error *err);
    int (*event)(void *user, const char *json, size_t len, struct ds_error *err); /* (optional) */
    void *user;
    struct ds_logmux mux;
    struct ds_fleet fleet;
    char said[DS_MAX_ERROR_TEXT]; /* the last line that was logged: not again for each rank */
};

/* Start them and wait.  Returns the exit code of dsrun, and where that is not 0 the reason: `what`
 * failed. */
int ds_once_run(struct ds_once *once, const char *what, struct ds_error *err);
void ds_once_release(struct ds_once *once);

#endif
