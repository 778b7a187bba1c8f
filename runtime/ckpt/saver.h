/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * saver.h - checkpoints written behind the run's back.
 *
 *   begin     wait for the save before, make the folder, copy what this rank writes aside: all that
 *             the run waits for
 *   -- steps; each asks poll() whether this rank still writes, all ranks add that up in what they
 *      reduce anyway, and tell the sum to turn() --
 *   turn      all ranks have written: rank 0 begins to commit; when it has: 1
 *   finish    wait for all of that
 *
 * One save at most is under way.  begin and finish are collective; poll and turn cost a lock.  The
 * memory is taken at open, and a thread of its own does the writing, with all signals blocked.  A
 * failure of the writer comes out of the next call; there is no checkpoint then, and the one before
 * is whole.
 *
 * Tests   tests/ckpt/test_saver.c, tests/ckpt/test_torture.c
 */
#ifndef DS_RUNTIME_SAVER_H
#define DS_RUNTIME_SAVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/ckpt/ckpt.h"

struct ds_saver;

/* `args` as for ds_ckpt_save(), but the state, which begin is given.  The data of the tensors must
 * be there in begin only; barrier is called in begin and finish, before_commit by the thread. */
int ds_saver_open(struct ds_saver **saver, const struct ds_ckpt_save_args *args,
                  struct ds_error *err) DS_NODISCARD;

/* Waits for what is being written, removes it when it is not a checkpoint yet.  NULL is fine. */
void ds_saver_close(struct ds_saver *saver);

/* What a finished save was; of rank 0. */
struct ds_saved {
    uint64_t step, bytes; /* bytes: of this rank's tensors */
    uint64_t stall_ns;    /* that begin took */
    uint64_t ns;          /* from begin until the folder had its name */
};

/* 1: the save before was finished on the way and is in *saved; 0; or a failure, of that or this. */
int ds_saver_begin(struct ds_saver *saver, const struct ds_ckpt_state *state,
                   struct ds_saved *saved, struct ds_error *err) DS_NODISCARD;

/* 1: this rank's part is still being written; 0: it is not; or the failure of that. */
int ds_saver_poll(struct ds_saver *saver, struct ds_error *err) DS_NODISCARD;

/* `writing`: poll was 1 on some rank.  1: the save is finished, *saved says what it was. */
int ds_saver_turn(struct ds_saver *saver, bool writing, struct ds_saved *saved,
                  struct ds_error *err) DS_NODISCARD;

/* As turn, but nothing is under way any more. */
int ds_saver_finish(struct ds_saver *saver, struct ds_saved *saved, struct ds_error *err)
    DS_NODISCARD;

#endif
