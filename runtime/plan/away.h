/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * away.h - what of a plan lies in the host's memory, and how it comes and goes.
 *
 * Tests   tests/plan/test_offload.c, tests/plan/test_stash.c
 */
#ifndef DS_RUNTIME_PLAN_AWAY_H
#define DS_RUNTIME_PLAN_AWAY_H

#include "runtime/plan/plan.h"

/* Does it come into the room of gathered parameters for each use, where any do? */
static inline bool ds_plan_comes(const struct ds_plan *plan, size_t bucket)
{
    return plan->ahead && (plan->offload_params || !ds_plan_whole(plan, bucket));
}

/* The ranks whose shards make it whole there. */
static inline unsigned ds_plan_givers(const struct ds_plan *plan, size_t bucket)
{
    return plan->bucket[bucket].replicated ? 1 : ds_plan_holders_of(plan, bucket).shards;
}

/* Are gradients and new parameters copied to the host and from there?  Else, with offload, both lie
 * there. */
static inline bool ds_plan_copies_out(const struct ds_plan *plan)
{
    return plan->offload && !plan->offload_params;
}

/* Has the host of a device apart something to do for it? */
static inline bool ds_plan_uses_host(const struct ds_plan *plan)
{
    return plan->apart && (plan->offload || plan->offload_params);
}

/* Does the output of a block take turns with others in the places of the device?  In which; and how
 * many leave those for the host's memory? */
enum { DS_STASH_PLACES = 2 };
static inline bool ds_plan_takes_turns(const struct ds_plan *plan, uint32_t block)
{
    return block >= plan->stash_first && block < plan->stash_end;
}
static inline uint32_t ds_plan_stash_place(const struct ds_plan *plan, uint32_t block)
{
    return (block - plan->stash_first) % DS_STASH_PLACES;
}
static inline uint64_t ds_plan_stashed(const struct ds_plan *plan)
{
    return plan->stash_end > 0 ? plan->stash_end - plan->stash_first - DS_STASH_PLACES : 0;
}

#endif
