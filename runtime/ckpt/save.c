/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * save.c - a save at once: everybody waits for its end.
 *
 *   rank 0   prepare
 *   -------- barrier
 *   rank r   write
 *   -------- barrier
 *   rank 0   commit
 *   -------- barrier
 *
 * A rank that fails still comes to every barrier, so that nobody waits for it; rank 0 then finds
 * its part missing.  Whether there is a checkpoint is what rank 0 returns; the others know of their
 * own failures only.
 */
#include "runtime/ckpt/saving.h"

/* Come to the barrier whatever happened here, unless the barrier itself is broken, when nobody
 * waits any more; the first failure wins. */
static int meet(const struct ds_ckpt_save_args *args, bool *broken, int rc, struct ds_error *err)
{
    int met;

    if (args->barrier == NULL || *broken)
        return rc;
    met = args->barrier(args->user, rc < 0 ? NULL : err);
    *broken = met < 0;
    return rc < 0 ? rc : met;
}

int ds_ckpt_save(const struct ds_ckpt_save_args *args, struct ds_error *err)
{
    struct ds__saving saving;
    bool commits = args->rank == 0, broken = false;
    int rc = ds__saving_init(&saving, args, err);

    if (rc == 0 && commits)
        rc = ds__saving_prepare(&saving, err);
    rc = meet(args, &broken, rc, err);
    if (rc == 0)
        rc = ds__saving_write(&saving, err);
    rc = meet(args, &broken, rc, err);
    if (rc == 0 && commits)
        rc = ds__saving_commit(&saving, err);
    rc = ds__saving_clean(&saving, rc, err);
    rc = meet(args, &broken, rc, err);
    rc = ds_error_context(err, rc, "cannot save checkpoint '%s'", saving.final);
    ds__saving_release(&saving);
    return rc;
}
