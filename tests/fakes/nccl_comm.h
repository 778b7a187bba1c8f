/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl_comm.h - a communicator of the double of NCCL: what nccl.c, which makes them, and
 * nccl_calls.c, which has the collectives, share.
 */
#ifndef DS_TESTS_FAKES_NCCL_COMM_H
#define DS_TESTS_FAKES_NCCL_COMM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "runtime/comm/nccl_lib.h"

enum { SLOT = 1 << 20, MAX_RANKS = 8, PAUSE_NS = 50 * 1000 };
enum { INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };

struct shared {
    atomic_uint arrived;
    char pad[4092];
    char slot[MAX_RANKS][SLOT];
};

struct ds_nccl_comm_opaque {
    int rank, world;
    char path[DS_NCCL_ID_BYTES + 32];
    struct shared *shared;
    unsigned round, splits, listed;
    atomic_int state; /* what ncclCommGetAsyncError tells */
    atomic_bool aborted;
    atomic_uint queued; /* collectives in a stream that are not done */
    unsigned called;    /* and all that were called; each waits for those before it */
    atomic_uint done;
    bool connected, threaded; /* its ranks have met in a collective; there is a thread to join */
    pthread_t thread;
};

/* What goes on behind the caller's back: until it is done the communicator takes no other call. */
int nccl_go_on(ds_nccl_comm *comm, void *(*run)(void *arg), void *arg);
/* 0, or why it takes no call now. */
int nccl_not_ready(ds_nccl_comm *comm);
/* Wait until all have come as often as this rank; false: aborted. */
bool nccl_meet(ds_nccl_comm *comm);
/* What FAKE_NCCL_FAIL says behind "NAME:"; NULL: nothing of that. */
const char *nccl_wish_of(const char *name);

#endif
