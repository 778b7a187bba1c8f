/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_check.c - dsrun check: everything that can be known without touching a host or, unless
 * train.epochs goes by them, the data; so the plan is made, too, but not compared with the memory
 * of this machine.
 *
 * Prints nothing but the first error.
 */
#include "base/exit.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/fit.h"
#include "cli/place.h"
#include "cli/sets.h"
#include "runtime/job.h"

int ds_cmd_check(const struct ds_cli *cli)
{
    struct ds_cli_place place = {0};
    struct ds_error err = {0};
    struct ds_job job;
    int rc = ds_cli_load_job(cli, &job, &err);

    if (rc == 0)
        rc = ds_cli_place(cli, &job, false, &place, &err);
    if (rc == 0)
        rc = ds_job_check_world(&job, place.placement.world, &err);
    if (rc == 0)
        rc = ds_cli_sets_settle(cli, &job, true, &err);
    if (rc == 0)
        rc = ds_cli_fit_plan(&job, &place.placement, place.threads, &err);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    ds_cli_place_release(&place);
    ds_job_release(&job);
    return ds_exit_from_errno(rc);
}
