/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fit.h - does a job go with these ranks?
 *
 * Asked of the ranks that there are, by dsrun check, and of fewer hosts, where a job may go on with
 * them (--nodes MIN:MAX).  Nothing is read and nothing is started.
 *
 * Tests   tests/e2e/elastic.py
 */
#ifndef DS_CLI_FIT_H
#define DS_CLI_FIT_H

#include "base/error.h"
#include "launcher/hosts/placement.h"
#include "runtime/job.h"

/* What the placement decides of a job: zero.once_per_host becomes false where hosts with unequal
 * numbers of ranks share a pipeline.  -EINVAL: such hosts are to be groups of ZeRO, or ranks of a
 * team would round sums otherwise than its others. */
int ds_cli_fit_settle(const struct ds_placement *placement, struct ds_job *job,
                      struct ds_error *err) DS_NODISCARD;

/* What only shows when tensors have their places: names that match none, say. */
int ds_cli_fit_plan(const struct ds_job *job, const struct ds_placement *placement,
                    unsigned threads, struct ds_error *err) DS_NODISCARD;

/* All of these as an answer.  `job` is borrowed and not changed; NULL: a program, which goes with
 * any ranks. */
struct ds_fit ds_cli_fit(const struct ds_job *job);

#endif
