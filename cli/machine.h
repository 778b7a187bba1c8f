/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * machine.h - the rates of this machine that the user keeps: what `dsrun bench machine` printed.
 *
 * Tests   tests/e2e/plan.py
 */
#ifndef DS_CLI_MACHINE_H
#define DS_CLI_MACHINE_H

#include <stdbool.h>

#include "base/error.h"
#include "launcher/hosts/placement.h"
#include "runtime/cost/cluster.h"
#include "runtime/job.h"

/* Read $XDG_CONFIG_HOME/dsrun/machine.yaml, or that below ~/.config, as the rates of each host of
 * the placement.  That there is none is no error: *found is false then, and where links, or disks
 * that the job needs, are missing in it or hosts have unequal numbers of ranks. */
int ds_cli_machine(struct ds_cluster *cluster, const struct ds_job *job,
                   const struct ds_placement *placement, bool *found, struct ds_error *err)
    DS_NODISCARD;

#endif
