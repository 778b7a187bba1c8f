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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "runtime/comm/comm.h"

struct ds_comm_call {
    enum ds_comm_op op;
    unsigned root; /* broadcast; of a pass who gives, 1 << rank; else 0 */
    void *buf;
    size_t bytes;     /* of buf: the whole vector, not a shard */
    const void *from; /* all-gather: this rank's shard; NULL: it is in its place in buf.
                         all-to-all, pass: as large as buf, what is given away */
};

/* Does `rank` give something?  Of a pass perhaps not. */
static inline bool ds__call_gives(const struct ds_comm_call *call, unsigned rank)
{
    return call->op != DS_COMM_PASS || (call->root >> rank & 1) != 0;
}
/* Is what is given, in `from`, apart from what is taken? */
static inline bool ds__op_gives_away(enum ds_comm_op op)
{
    return op == DS_COMM_ALL_TO_ALL || op == DS_COMM_PASS;
}

/* What kind of vector an operation sums, to all or to shards. */
static inline enum ds_dtype ds__op_type(enum ds_comm_op op)
{
    if (op == DS_COMM_ALL_REDUCE_BF16 || op == DS_COMM_REDUCE_SCATTER_BF16)
        return DS_BF16;
    return op == DS_COMM_ALL_REDUCE_F16 ? DS_F16 : DS_F32;
}
static inline bool ds__op_scatters(enum ds_comm_op op)
{
    return op == DS_COMM_REDUCE_SCATTER || op == DS_COMM_REDUCE_SCATTER_BF16;
}
static inline size_t ds__op_elem_bytes(enum ds_comm_op op)
{
    return ds__op_type(op) == DS_F32 ? sizeof(float) : sizeof(uint16_t);
}

struct ds_comm_backend {
    const char *name;
    int (*open)(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err);
    int (*split)(struct ds_comm *comm, const struct ds_comm_group *group, struct ds_comm **out,
                 struct ds_error *err); /* all ranks agree on their groups by then */
    void (*close)(struct ds_comm *comm);
    void *(*arena)(struct ds_comm *comm);
    void *(*border)(struct ds_comm *comm); /* NULL: nothing can be held once */
    void (*abort)(struct ds_comm *comm);   /* async-signal-safe */
    /* NULL: an operation that has returned 0 is done */
    int (*check)(struct ds_comm *comm, struct ds_error *err);
    int (*run[DS_COMM_OP_COUNT])(struct ds_comm *comm, const struct ds_comm_call *call,
                                 struct ds_error *err);
};

/* The part of a group that every backend embeds first. */
struct ds_comm {
    const struct ds_comm_backend *backend;
    struct ds_comm *control;  /* of the host, for what is not the device's; or NULL: it is itself */
    struct ds_stream *stream; /* ds_comm_use_stream() */
    unsigned rank, world;
    unsigned groups;        /* split off so far */
    bool is_group;          /* was split off itself */
    struct ds_comm *parent; /* of a group: what it was split from, and as what */
    struct ds_comm_group group;
    struct ds_comm *idle[DS_COMM_MAX_GROUPS]; /* groups that were closed; or NULL */
    uint64_t wait_ns, sent_bytes, lent_bytes; /* counted by the backend, of all users of a group */
    struct ds_comm_stats stats[DS_COMM_OP_COUNT];
};

extern const struct ds_comm_backend ds_comm_backend_host;

#endif
