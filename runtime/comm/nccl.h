/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl.h - the backend `nccl`: ranks on GPUs.  Part of dsrun-cuda.so; its files:
 *
 *     nccl.c        open, split, close; the collectives
 *     nccl_lib.c    libnccl.so.2 loaded, what of it is used
 *     nccl_watch.c  the watchdog: which collective is under way, for how long, who did not come
 *
 * Beside it there is always a comm of the host (ds_comm_args.control): NCCL's id travels over it,
 * what is in the host's memory is summed there, and an abort goes both ways.  With one rank there
 * is no NCCL at all, only an arena.
 *
 * Threads  One thread uses a comm and its groups.  The watchdog is another; it aborts, so no thread
 *          may be inside NCCL then: every call is made under `gate`, and none blocks, because the
 *          communicators are NCCL's non-blocking ones.  A collective may be long in being taken in,
 *          for the first of a kind connects the ranks: the gate is free meanwhile.
 * Tests    tests/comm/test_nccl.c, tests/e2e/cuda.py (both on a library that stands in for NCCL)
 */
#ifndef DS_RUNTIME_COMM_NCCL_H
#define DS_RUNTIME_COMM_NCCL_H

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/comm/backend.h"
#include "runtime/comm/nccl_lib.h"

extern const struct ds_comm_backend ds_comm_backend_nccl;

enum {
    DS_NCCL_NOTES = 1024, /* collectives that may be under way */
    DS_NCCL_RECENT = 4,   /* that are told of when one does not end */
    DS_NCCL_COMMS = 1 + DS_COMM_MAX_GROUPS
};

struct ds__nccl_note { /* one collective, in the order of all groups of this rank */
    enum ds_comm_op op;
    unsigned world;
    size_t bytes;
    cudaEvent_t end;
    bool queued; /* `end` is recorded; else NCCL has not taken it in */
};

/* What all groups of a rank share.  Under `gate`: all but what says otherwise. */
struct ds__nccl_root {
    struct ds__nccl_lib lib;
    const struct ds_comm_board *board; /* borrowed for the life of the comm; or NULL */
    struct ds_device *device;
    struct ds_comm *control; /* borrowed */
    unsigned rank, world;
    int index; /* of the device, for the watchdog's thread */
    uint64_t timeout_ns;
    void *arena;
    size_t arena_bytes;
    bool arena_of_nccl;
    pthread_mutex_t gate;
    pthread_t thread;
    bool watched;
    atomic_bool stop,
        wanted;  /* the watchdog shall end; shall abort (from any thread, any signal) */
    bool dead;   /* aborted: no call of NCCL any more */
    int failure; /* what calls return then, and why */
    struct ds_error err;
    ds_nccl_comm *comm[DS_NCCL_COMMS];
    unsigned comms;
    struct ds__nccl_note note[DS_NCCL_NOTES];
    uint64_t begun, ended; /* collectives; note[i % NOTES] is that of number i */
};

/* Is a number of NCCL good?  Else err says what failed and what NCCL says of it. */
int ds__nccl_check(const struct ds__nccl_root *root, int result, const char *what,
                   struct ds_error *err);
/* Wait, under the gate, until `comm` has taken in the last call. */
int ds__nccl_settle(struct ds__nccl_root *root, ds_nccl_comm *comm, const char *what,
                    struct ds_error *err);

int ds__nccl_watch(struct ds__nccl_root *root, struct ds_error *err);
void ds__nccl_unwatch(struct ds__nccl_root *root);
/* Under the gate: end every communicator, here and now; the first reason counts. */
void ds__nccl_kill(struct ds__nccl_root *root, int failure, const struct ds_error *err);

#endif
