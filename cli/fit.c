/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fit.c - the contract is in fit.h.
 */
#include "cli/fit.h"

#include <errno.h>

#include "runtime/plan/plan.h"

/* The first of such a team's ranks are those of a host, and so are its last. */
static bool is_alone(const struct ds_placement *placement, uint32_t first, uint32_t team)
{
    const struct ds_place *place = placement->place;
    const struct ds_place *from = &place[ds_place_of(place, placement->places, first)];
    const struct ds_place *to = &place[ds_place_of(place, placement->places, first + team - 1)];

    return from->first_rank == first && to->first_rank + to->ranks == first + team;
}

/* What all of a team hold each sums with its likes of other teams, and they must come to the same.
 * In bf16 sums are rounded between hosts: the likes of each must lie on hosts as the others' do. */
static int check_teams(const struct ds_placement *placement, const struct ds_job *job,
                       struct ds_error *err)
{
    const uint32_t team = (uint32_t)job->parallel.tensor;

    if (job->precision.grad_wire != DS_GRAD_WIRE_BF16 || placement->world % team != 0)
        return 0;
    for (uint32_t i = 1; i < placement->places; i++) {
        uint32_t within = placement->place[i].first_rank % team;

        if (within != 0 && !is_alone(placement, placement->place[i].first_rank - within, team))
            return ds_fail(err, EINVAL,
                           "with 'precision.grad_wire' bf16 a team of 'parallel.tensor' %u on "
                           "several hosts may share none with another team, as one on '%s' does; "
                           "a multiple of %u ranks on every host would do, or fp32",
                           team, placement->place[i].host, team);
    }
    return 0;
}

/* Of hosts with unequal numbers of ranks groups of one each are not alike, nor are parts of a
 * pipeline the ranks of one; and a rank sees only how many its own host has. */
int ds_cli_fit_settle(const struct ds_placement *placement, struct ds_job *job,
                      struct ds_error *err)
{
    const struct ds_place *first = &placement->place[0], *other = first;
    int rc = check_teams(placement, job, err);

    if (rc != 0)
        return rc;
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
