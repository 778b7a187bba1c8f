/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * backend.h - what stands behind comm.h: one list of operations, one vtable per backend.
 *
 * comm.c checks the arguments, makes a `struct ds_comm_call` of them, and hands it to the slot of
 * the backend that opened the group; it counts calls, bytes and time there as well.  A backend may
 * assume that a call is valid by itself; that all ranks make the same call is its own to check.
 *
 * Private to runtime/comm/.
 */
#ifndef DS_RUNTIME_COMM_BACKEND_H
#define DS_RUNTIME_COMM_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/comm/comm.h"

/* Operation, its name in messages, and how often its bytes cross a rank's wire, in (w-1)/w. */
/* clang-format off */
#define DS_COMM_OPS(X) \
    X(BARRIER,        barrier,        0) \
    X(ALL_REDUCE_F32, all_reduce_f32, 2) \
    X(ALL_REDUCE_F64, all_reduce_f64, 2) \
    X(REDUCE_SCATTER, reduce_scatter, 1) \
    X(ALL_GATHER,     all_gather,     1) \
    X(BROADCAST,      broadcast,      1)
/* clang-format on */

enum ds_comm_op {
#define X(id, name, trips) DS_COMM_##id,
    DS_COMM_OPS(X)
#undef X
        DS_COMM_OP_COUNT
};

enum { DS_COMM_MAX_F64 = 64 }; /* doubles of one small all-reduce */

struct ds_comm_call {
    enum ds_comm_op op;
    unsigned root; /* broadcast only, else 0 */
    void *buf;
    size_t bytes; /* of buf: the whole vector, not a shard */
};

struct ds_comm_backend {
    const char *name;
    int (*open)(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err);
    void (*close)(struct ds_comm *comm);
    void *(*arena)(struct ds_comm *comm);
    void (*abort)(struct ds_comm *comm); /* async-signal-safe */
    int (*run[DS_COMM_OP_COUNT])(struct ds_comm *comm, const struct ds_comm_call *call,
                                 struct ds_error *err);
};

/* The part of a group that every backend embeds first. */
struct ds_comm {
    const struct ds_comm_backend *backend;
    unsigned rank, world;
    struct ds_comm_stats stats; /* wait_ns is the backend's to count, the rest is comm.c's */
};

extern const struct ds_comm_backend ds_comm_backend_host;

/* "all_reduce_f32"; an op that a peer sent and that does not exist is "unknown". */
const char *ds_comm_op_name(unsigned op);

#endif
