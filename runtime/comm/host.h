/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * host.h - what the files of the backend `host` share: a group as one rank of it sees it.
 *
 *     host.c       open, split, close; who does what
 *     host_shm.c   the members of a group that share a host: posts, barriers, windows, collectives
 *     host_swap.c  all-to-all, pass
 *     host_net.c   the collectives of a group on several hosts, by exchanges of net.h
 *
 * Private to runtime/comm/.
 */
#ifndef DS_RUNTIME_COMM_HOST_H
#define DS_RUNTIME_COMM_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "runtime/comm/backend.h"
#include "runtime/comm/mesh.h"
#include "runtime/comm/net.h"
#include "runtime/comm/region.h"
#include "runtime/comm/sync.h"
#include "runtime/comm/tree.h"

enum { DS_HOST_HALF_BYTES = DS_REGION_WINDOW_BYTES / 2 };

struct ds__host {
    struct ds_comm base;     /* first: what callers hold */
    struct ds__host *root;   /* itself, or the one that this group was split from */
    struct ds__region store; /* of the root; groups use it through sync.region */
    struct ds__sync sync;    /* who of the group is on this host, and their barrier */
    unsigned desk[DS_MAX_SLOTS], name[DS_MAX_SLOTS];
    struct ds__mesh mesh; /* of the root, when there are several hosts */
    struct ds__net net;   /* of a group on several hosts; else net.edges is 0 and layout empty */
    uint32_t calls;       /* its lowest bit picks the post in use */
    float *peer[DS_MAX_SLOTS]; /* where each member's part of the present work lies */
    double column[DS_MAX_SLOTS];
    float scratch[DS_TREE_SCRATCH];
};

/* Is the group on several hosts? */
static inline bool ds__host_has_net(const struct ds__host *host)
{
    return host->net.layout.hosts > 1;
}

/* Show a call to the members on this host and see that all make the same; one barrier. */
int ds__shm_enter(struct ds__host *host, const struct ds_comm_call *call, struct ds_error *err);
int ds__shm_barrier(struct ds__host *host, const struct ds_comm_call *call, struct ds_error *err);
struct ds__post *ds__shm_post(const struct ds__host *host, unsigned member);
/* Fill peer[] of members [first, last] with where the buffers lie that peers read; false: one of
 * them is in no area.  After ds__shm_enter() no buffer is common but in an all-gather. */
bool ds__shm_find_buffers(struct ds__host *host, unsigned first, unsigned last);
/* Is the buffer of the call that was shown held once? */
bool ds__shm_is_common(const struct ds__host *host);
/* Put the shard of an all-gather that comes from elsewhere into its place. */
void ds__shm_put_shard(const struct ds__host *host, const struct ds_comm_call *call);
/* The half of the member's window that chunk number `chunk` goes through. */
unsigned char *ds__shm_half_window(const struct ds__host *host, unsigned member, size_t chunk);
/* Fill peer[] with those of all members. */
void ds__shm_find_windows(struct ds__host *host, size_t chunk);
/* memcpy(), a part of a copy of `all` bytes: past the caches when that is much. */
void ds__shm_copy(void *to, const void *from, size_t bytes, size_t all);

/* A group on several hosts. */
int ds__net_all_reduce_f64(struct ds_comm *comm, const struct ds_comm_call *call,
                           struct ds_error *err);
int ds__net_vector(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err);
/* After ds__shm_enter(): what of an all-to-all or a pass leaves the host or comes to it. */
int ds__net_pairs(struct ds__host *host, const struct ds_comm_call *call, struct ds_error *err);

/* A group all of whose ranks are on this host; members are in the order of their ranks. */
int ds__shm_meet(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err);
int ds__shm_all_reduce(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err);
int ds__shm_all_reduce_f64(struct ds_comm *comm, const struct ds_comm_call *call,
                           struct ds_error *err);
int ds__shm_reduce_scatter(struct ds_comm *comm, const struct ds_comm_call *call,
                           struct ds_error *err);
int ds__shm_all_gather(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err);
int ds__shm_broadcast(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err);

/* A group on one host or on several. */
int ds__swap(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err);

#endif
