/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fit.c - the contract is in fit.h.
 */
#include "cli/fit.h"

#include <errno.h>

#include "runtime/plan/plan.h"

/* Of hosts with unequal numbers of ranks groups of one each are not alike, nor are parts of a
 * pipeline the ranks of one; and a rank sees only how many its own host has. */
int ds_cli_fit_settle(const struct ds_placement *placement, struct ds_job *job,
                      struct ds_error *err)
{
    const struct ds_place *first = &placement->place[0], *other = first;

    for (uint32_t i = 1; i < placement->places && other->ranks == first->ranks; i++)
        other = &placement->place[i];
    if (other->ranks == first->ranks)
        return 0;
    if (job->zero.shard_group == DS_SHARD_NODE)
        return ds_fail(err, EINVAL,
                       "'zero.shard_group' node needs as many ranks on every host, and '%s' has "
                       "%u, '%s' %u",
                       first->host, first->ranks, other->host, other->ranks);
    job->zero.once_per_host = job->zero.once_per_host && job->parallel.pipeline == 1;
    return 0;
}

int ds_cli_fit_plan(const struct ds_job *job, const struct ds_placement *placement,
                    unsigned threads, struct ds_error *err)
{
    struct ds_job settled = *job;
    const struct ds_plan_args args = {.job = &settled,
                                      .world = placement->world,
                                      .threads = threads,
                                      .local_world = placement->place[0].ranks};
    struct ds_plan plan = {0};
    int rc = ds_plan_settle(&settled, &args, args.local_world, UINT64_MAX, err);

    if (rc == 0)
        rc = ds_plan_build(&plan, &args, err);
    ds_plan_release(&plan);
    return rc;
}

static bool goes(const void *user, const struct ds_placement *placement)
{
    struct ds_job job = *(const struct ds_job *)user;

    return ds_cli_fit_settle(placement, &job, NULL) == 0 &&
           ds_job_check_world(&job, placement->world, NULL) == 0 &&
           ds_cli_fit_plan(&job, placement, 1, NULL) == 0;
}

struct ds_fit ds_cli_fit(const struct ds_job *job)
{
    return (struct ds_fit){.does = job != NULL ? goes : NULL, .user = job};
}
