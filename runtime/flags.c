/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * flags.c - the contract is in flags.h.
 */
#include "runtime/flags.h"

#include <math.h>

#include "runtime/first.h"
#include "runtime/tally.h"

enum flag { SUMSQ, NONFINITE, FIRST_BAD, LOSS, PEAKS, ASKED, HASH_LOW, HASH_HIGH, FLAGS };
/* How many ranks ask to stop, and times this how many write: both are in one number. */
enum { WRITER = 1 << 20 };
_Static_assert((int)WRITER > (int)DS_MAX_RANKS, "both counts have room");
_Static_assert((int)FLAGS == (int)DS_STEP_FLAGS, "the plan counts them");

int ds_flags_sum(const struct ds_plan *plan, struct ds_comm *comm, const struct ds_entry *mine,
                 struct ds_entry *all, size_t *bad, struct ds_error *err)
{
    size_t first = ds_tally_bad(plan, mine);
    double world = plan->world, low = (double)(uint32_t)mine->hash;
    double high = (double)(uint32_t)(mine->hash >> 32);
    double flags[FLAGS] = {
        [SUMSQ] = mine->squares,
        [NONFINITE] = mine->nonfinite,
        [FIRST_BAD] = ds_first_mark(first, plan->tensors, plan->world),
        [LOSS] = mine->loss,
        [PEAKS] = mine->peaks,
        [ASKED] = (mine->stop != 0 ? 1.0 : 0.0) + (mine->writing != 0 ? (double)WRITER : 0.0),
        [HASH_LOW] = low,
        [HASH_HIGH] = high,
    };
    int rc = ds_comm_all_reduce_f64(comm, flags, FLAGS, err);

    *all = (struct ds_entry){
        .squares = flags[SUMSQ],
        .loss = flags[LOSS],
        .peaks = flags[PEAKS],
        .nonfinite = flags[NONFINITE],
        .place = {DS_NOWHERE, DS_NOWHERE},
        .hash = mine->hash,
        .stop = fmod(flags[ASKED], WRITER) > 0.0,
        .writing = flags[ASKED] >= WRITER,
        .differs = flags[HASH_LOW] != world * low || flags[HASH_HIGH] != world * high,
    };
    *bad = plan->tensors;
    if (rc != 0 || all->differs || !(all->nonfinite > 0.0))
        return rc;
    return ds_tally_agree(plan, first, flags[FIRST_BAD], comm, bad, err);
}
