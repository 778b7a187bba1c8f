/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * comm.h - collectives between the ranks of a job: one vtable, one group at a time.
 *
 * Sums over ranks follow one binary tree over rank numbers (for [lo, hi): split at the largest
 * power of two below the count), whatever the backend and whoever shares a host, so the bits
 * depend on world size alone.
 *
 * Every rank of the group calls the same operations in the same order, from one thread at a time.
 * A wait ends with -ECANCELED once ds_comm_abort() was called in this process (from any thread)
 * or a peer aborted, and with -ETIMEDOUT after `timeout_ms` without progress.
 *
 * Shared memory: the backend `host` maps one region inherited from the agent (an anonymous memfd)
 * that holds control words and one arena per rank.  Buffers inside the arena are reduced in place,
 * read by all ranks without a copy; any other buffer is staged through a bounded window of it.
 *
 * Tests   tests/comm/
 */
#ifndef DS_RUNTIME_COMM_H
#define DS_RUNTIME_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ds_comm;

struct ds_comm_args {
    const char *backend; /* "host" */
    unsigned rank, world;
    int shm_fd;          /* borrowed; -1: private memory, world must be 1 */
    size_t arena_bytes;  /* the same on every rank */
    uint64_t timeout_ms; /* 0: wait for ever */
    unsigned spin;       /* polls before sleeping; 0 where ranks outnumber cores */
};

int ds_comm_open(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds_comm_close(struct ds_comm *comm);

/* Bytes of shared memory per rank beside the arena (control, staging): pure, for the plan. */
size_t ds_comm_overhead_bytes(unsigned world);

/* This rank's arena: arena_bytes, zeroed, page-aligned.  Owned by the comm. */
void *ds_comm_arena(struct ds_comm *comm);

/* buf[n] = sum over ranks.  In place; fast when buf lies in the arena at the same offset on all. */
int ds_comm_all_reduce_f32(struct ds_comm *comm, float *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* Small vectors of doubles (flags, losses), n <= 64. */
int ds_comm_all_reduce_f64(struct ds_comm *comm, double *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* After it buf[rank * n / world ...] of each rank holds the sum of that shard; n % world == 0. */
int ds_comm_reduce_scatter_f32(struct ds_comm *comm, float *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* Every rank gives its shard [rank * bytes / world, ...) of buf; all get the whole. */
int ds_comm_all_gather(struct ds_comm *comm, void *buf, size_t bytes, struct ds_error *err)
    DS_NODISCARD;
int ds_comm_broadcast(struct ds_comm *comm, void *buf, size_t bytes, unsigned root,
                      struct ds_error *err) DS_NODISCARD;
int ds_comm_barrier(struct ds_comm *comm, struct ds_error *err) DS_NODISCARD;

/* Wake every waiter here and tell the peers; async-signal-safe, any thread. */
void ds_comm_abort(struct ds_comm *comm);

/* Counted since open, for the plan's wire formulas and the comm log. */
struct ds_comm_stats {
    uint64_t calls, bytes; /* bytes a rank would put on a wire: 2 n (w-1)/w for all_reduce ... */
    uint64_t wait_ns, work_ns;
};
void ds_comm_stats(const struct ds_comm *comm, struct ds_comm_stats *stats);

#endif
