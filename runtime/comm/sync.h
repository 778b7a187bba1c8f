/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sync.h - the barrier of the ranks that share a host and a group, its deadline, and its abort.
 *
 * A barrier counts arrivals; the last one moves the epoch on.  The others poll the epoch a given
 * number of times and then sleep on it (futex), so a rank that shares its core with others gives
 * it away at once when told to poll 0 times.  The lowest bit of the epoch says that the group was
 * aborted: because it is part of the word that sleepers compare, no wake-up can be lost.
 *
 * Private to runtime/comm/.
 * Tests   tests/comm/test_comm.c
 */
#ifndef DS_RUNTIME_COMM_SYNC_H
#define DS_RUNTIME_COMM_SYNC_H

#include <stdint.h>

#include "base/error.h"
#include "runtime/comm/region.h"

struct ds__sync {
    const struct ds__region *region;
    struct ds__gate *gate;
    const unsigned *desk, *name; /* per member on this host: its rank there, and in all the job */
    unsigned slot, me, members;
    unsigned spin;
    uint64_t timeout_ns; /* 0: none */
    uint64_t wait_ns;    /* counted here */
};

/* Wait for every rank.  What was written before it is seen by all after it.
 * -ECANCELED when the group was aborted, -ETIMEDOUT (and the group is aborted then). */
int ds__sync_barrier(struct ds__sync *sync, const struct ds_comm_call *call, struct ds_error *err)
    DS_NODISCARD;

/* 0, or -ECANCELED when the group was aborted. */
int ds__sync_stopped(const struct ds__sync *sync, const struct ds_comm_call *call,
                     struct ds_error *err);

/* Every wait for all ranks, present and to come, in every process of the host, ends, and is said to
 * be stopped by the rank `name`.  Async-signal-safe. */
void ds__sync_abort(struct ds__control *control, unsigned name);
/* The same for the groups that were split off, too. */
void ds__sync_abort_all(const struct ds__region *region, unsigned name);

#endif
