/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * flags.c - the contract is in flags.h.
 */
#include "runtime/flags.h"

#include <errno.h>
#include <math.h>

enum flag { SUMSQ, NONFINITE, FIRST_BAD, LOSS, STOP, WRITING, HASH_LOW, HASH_HIGH, FLAGS };
_Static_assert((int)FLAGS == (int)DS_STEP_FLAGS, "the plan counts them");

void ds_flags_write(double flags[DS_STEP_FLAGS], uint64_t plan_hash,
                    const struct ds_tally_result *mine, bool stop, bool writing)
{
    flags[SUMSQ] = mine->squares;
    flags[NONFINITE] = (double)mine->nonfinite;
    flags[FIRST_BAD] = mine->first_bad;
    flags[LOSS] = mine->loss;
    flags[STOP] = stop ? 1.0 : 0.0;
    flags[WRITING] = writing ? 1.0 : 0.0;
    flags[HASH_LOW] = (double)(uint32_t)plan_hash;
    flags[HASH_HIGH] = (double)(uint32_t)(plan_hash >> 32);
}

int ds_flags_read(const double flags[DS_STEP_FLAGS], const struct ds_plan *plan,
                  uint64_t step_tokens, double loss_scale, struct ds_step_result *result,
                  struct ds_error *err)
{
    double world = plan->world;

    if (flags[HASH_LOW] != world * (double)(uint32_t)plan->hash ||
        flags[HASH_HIGH] != world * (double)(uint32_t)(plan->hash >> 32))
        return ds_fail(err, EPROTO,
                       "the ranks have different plans, is every host running the same "
                       "version of dsrun");
    *result = (struct ds_step_result){
        .loss = flags[LOSS] / (double)step_tokens,
        .grad_norm = sqrt(flags[SUMSQ]) / loss_scale,
        .nonfinite = (uint64_t)flags[NONFINITE],
        .stop = flags[STOP] > 0.0,
        .writing = flags[WRITING] > 0.0,
    };
    if (!isfinite(result->loss))
        result->nonfinite++;
    if (result->nonfinite > 0)
        result->grad_norm = (double)NAN;
    return 0;
}

double ds_flags_first_bad(const double flags[DS_STEP_FLAGS])
{
    return flags[FIRST_BAD];
}
