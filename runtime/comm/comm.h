/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * comm.h - collectives between the ranks of a job, or of a group of them; one vtable.
 *
 * Sums over ranks follow one binary tree over rank numbers (for [lo, hi): split at the largest
 * power of two below the count), whoever shares a host, so the bits depend on world size alone.
 * Sums of bf16 and of fp16 are the exception.
 * (all_reduce_f32 and reduce_scatter of the backend `nccl` have NCCL's order instead.)
 *
 * Memory: barrier, all_reduce_f64 and broadcast take the host's memory and are done when they
 * return. The others take the memory of the device that the backend serves and go behind what is
 * on the stream of ds_comm_use_stream(); with `host` that is the host's memory, and they are done.
 *
 * Groups: ds_comm_split() makes a group of some ranks, with ranks and a tree of its own.  Two axes
 * of a mesh, for `zero.shard_group: node` with nodes of L consecutive ranks:
 *
 *     inside   {.first = rank - rank % L, .stride = 1, .count = L}
 *     across   {.first = rank % L, .stride = L, .count = world / L}
 *
 * A reduce-scatter inside and an all-reduce of the shard across sum by the tree over a node's ranks
 * first, then by the tree over nodes.  Where L is a power of two that is the one tree over all
 * ranks, so the bits are those of a reduce-scatter over everybody; for other L they are not.
 *
 * Every rank of a group calls the same operations in the same order.  A rank uses a comm and the
 * groups split from it from one thread at a time; two ranks that share several groups call them in
 * the same order.
 *
 * A wait ends with -ECANCELED once ds_comm_abort() was called in this process (from any thread) or
 * a peer aborted, and with -ETIMEDOUT after `timeout_ms` without progress.
 *
 * Several hosts: with `meet`, ranks of different hosts are connected by TCP, every pair before
 * ds_comm_open() returns; connections are mutually authenticated by the job's key, not encrypted.
 * Inside a host memory is shared as ever; only sums that are whole subtrees of the one tree are
 * formed there, so that the bits do not depend on who shares a host.  When a peer hangs up, its
 * partners get -ECONNRESET and the ranks beside them -ECANCELED, for good.
 *
 * Shared memory: the backend `host` maps one region inherited from the agent (an anonymous memfd)
 * that holds control words and one arena per rank.  Buffers inside the arena are reduced in place,
 * read by all ranks without a copy; any other buffer is staged through a bounded window of it.
 * It may have a common area besides, which all ranks of the host see at one place: what they hold
 * once.  There an all-gather moves nothing, for who wrote its shard wrote everybody's: it waits
 * until all have.  That is for a group that is all the ranks of one host, and when a shard may be
 * written again is the callers' to order.  One of shards that lie elsewhere fills a room there:
 * each rank puts its own into it when all of the host have come, having left what was there, and
 * those of other hosts come once for all; for a group that has all ranks of each of its hosts.
 * Nothing else may be called on that area; every rank names the same part of it.  What a wire would
 * carry is counted as ever.
 *
 * Tests   tests/comm/
 */
#ifndef DS_RUNTIME_COMM_H
#define DS_RUNTIME_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ds_comm;

/* Operation, its name in messages, and how often its bytes cross a rank's wire, in (w-1)/w.  What a
 * rank passes to the other of a group of two crosses once. */
/* clang-format off */
#define DS_COMM_OPS(X) \
    X(BARRIER,        barrier,        0) \
    X(ALL_REDUCE_F32, all_reduce_f32, 2) \
    X(ALL_REDUCE_F64, all_reduce_f64, 2) \
    X(REDUCE_SCATTER, reduce_scatter, 1) \
    X(ALL_GATHER,     all_gather,     1) \
    X(BROADCAST,      broadcast,      1) \
    X(ALL_REDUCE_BF16,     all_reduce_bf16,     2) \
    X(REDUCE_SCATTER_BF16, reduce_scatter_bf16, 1) \
    X(ALL_REDUCE_F16,      all_reduce_f16,      2) \
    X(ALL_TO_ALL,          all_to_all,          1) \
    X(PASS,                pass,                2)
/* clang-format on */

enum ds_comm_op {
#define X(id, name, trips) DS_COMM_##id,
    DS_COMM_OPS(X)
#undef X
        DS_COMM_OP_COUNT
};

enum {
    DS_COMM_MAX_F64 = 64,   /* doubles of one small all-reduce */
    DS_COMM_MAX_GROUPS = 42 /* that a rank splits off */
};

enum { DS_COMM_KEY_BYTES = 32 };

/* How ranks on several hosts find and trust each other. */
struct ds_comm_meet {
    const char *host;    /* this one's name, for messages */
    const char *address; /* numeric, of this host: where to listen and where from to connect */
    uint32_t node;       /* the same for ranks that share memory, another for any other rank */
    const uint8_t *key;  /* DS_COMM_KEY_BYTES that only ranks of this job know */
    unsigned timeout_ms; /* until every pair of ranks is connected */
    /* Everybody's `bytes` bytes, in the order of ranks, through a channel that is safe already. */
    int (*gather)(void *user, const void *mine, size_t bytes, void *all, struct ds_error *err);
    void *user;
};

/* Where a rank tells the others, and reads of them, what it waits for in vain.  From any thread. */
struct ds_comm_board {
    int (*tell)(void *user, const void *note, size_t bytes); /* once */
    /* What `rank` told, waiting up to that long for it; else a negative errno. */
    int (*ask)(void *user, unsigned rank, void *note, size_t bytes, unsigned timeout_ms);
    void *user;
};

/* A backend that a plug-in brought, for ds_comm_open(); before any thread opens a comm. */
struct ds_comm_backend;
void ds_comm_add(const struct ds_comm_backend *backend);

struct ds_device;
struct ds_comm_args {
    const char *backend; /* "host"; "nccl" once its plug-in is loaded (ds_comm_add()) */
    unsigned rank, world;
    unsigned local_rank, local_world; /* on this host; 0, 0: all ranks are */
    const struct ds_comm_meet *meet;  /* NULL: all ranks are on this host; borrowed during open */
    int shm_fd;                       /* borrowed; -1: private memory, world must be 1 */
    size_t arena_bytes;               /* the same on every rank */
    size_t common_bytes;              /* so is this: held once by the ranks of a host; 0: nothing */
    size_t beside_bytes;              /* right behind that, this rank's own */
    uint64_t timeout_ms;              /* 0: wait for ever */
    unsigned spin;                    /* polls before sleeping; 0 where ranks outnumber cores */
    /* nccl: the ranks' comm of the host, and the device; borrowed until the comm is closed. */
    struct ds_comm *control;
    struct ds_device *device;
    const struct ds_comm_board *board; /* or NULL */
};

int ds_comm_open(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds_comm_close(struct ds_comm *comm); /* groups before the comm they were split from */

/* Ranks first, first + stride, ... of the comm that is split, `count` of them. */
struct ds_comm_group {
    unsigned first, stride, count;
};

/* Make a group that this rank is in.  Every rank of `comm` calls it, the same number of times, each
 * with its own group; members must name the same one, or nobody gets any.  `comm` is one that
 * ds_comm_open() gave; its arena, timeout and abort are the group's, too.  At most
 * DS_COMM_MAX_GROUPS different ones; one that was closed may be split off again.
 * -EINVAL  no such group, or this rank is not in it     -EPROTO  members disagree */
int ds_comm_split(struct ds_comm *comm, const struct ds_comm_group *group, struct ds_comm **out,
                  struct ds_error *err) DS_NODISCARD;
unsigned ds_comm_rank(const struct ds_comm *comm);
unsigned ds_comm_world(const struct ds_comm *comm);

/* Bytes of shared memory per rank beside the arena (control, windows): pure, for the plan.
 * `local_world` of all ranks are on this host. */
size_t ds_comm_overhead_bytes(unsigned local_world, unsigned world);

/* What a rank of several hosts allocates beside that, of its own: pure, for the plan.  Ranks lie on
 * hosts of `local_world` each, in their order; `group` is what the comm or a group of it spans, and
 * `rank` one of its ranks, counted in all the job.  0 where the group is on one host.  -ENOMEM. */
int ds_comm_staging_bytes(const struct ds_comm_group *group, unsigned rank, unsigned local_world,
                          size_t *bytes, struct ds_error *err) DS_NODISCARD;

/* This rank's arena: arena_bytes, zeroed, page-aligned.  Owned by the comm. */
void *ds_comm_arena(struct ds_comm *comm);
/* The border of what is held once: common_bytes below it, beside_bytes above it are this rank's
 * own; zeroed.  Owned by the comm.  NULL: the backend has no such area. */
void *ds_comm_border(struct ds_comm *comm);

/* Where the next operations on memory of a device go; kernels/device.h. */
struct ds_stream;
void ds_comm_use_stream(struct ds_comm *comm, struct ds_stream *stream);

/* buf[n] = sum over ranks.  In place; fast when buf lies in the arena at the same offset on all. */
int ds_comm_all_reduce_f32(struct ds_comm *comm, float *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* Small vectors of doubles (flags, losses), n <= 64. */
int ds_comm_all_reduce_f64(struct ds_comm *comm, double *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* After it buf[rank * n / world ...] of each rank holds the sum of that shard; n % world == 0. */
int ds_comm_reduce_scatter_f32(struct ds_comm *comm, float *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* The same of bf16, with half the bytes.  Sums are taken in fp32 and rounded at every hop: the sum
 * of ranks that share a host and are a whole subtree, where it leaves that host, and that of all.
 * So the bits depend on who shares a host, too. */
int ds_comm_all_reduce_bf16(struct ds_comm *comm, uint16_t *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
int ds_comm_reduce_scatter_bf16(struct ds_comm *comm, uint16_t *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* The same of fp16, where what rounds to more than 65504 at a hop is infinite. */
int ds_comm_all_reduce_f16(struct ds_comm *comm, uint16_t *buf, size_t n, struct ds_error *err)
    DS_NODISCARD;
/* Every rank gives its shard [rank * bytes / world, ...) of buf; all get the whole. */
int ds_comm_all_gather(struct ds_comm *comm, void *buf, size_t bytes, struct ds_error *err)
    DS_NODISCARD;
/* The same of shards that are not in buf yet: this rank's, bytes / world, lies at `shard`. */
int ds_comm_all_gather_from(struct ds_comm *comm, const void *shard, void *buf, size_t bytes,
                            struct ds_error *err) DS_NODISCARD;
/* Part r of `from` goes to rank r; part r of `to` comes from rank r; bytes / world each.  They do
 * not overlap.  Fast when `from` lies in the arena at the same offset on all. */
int ds_comm_all_to_all(struct ds_comm *comm, const void *from, void *to, size_t bytes,
                       struct ds_error *err) DS_NODISCARD;
/* In a group of two: `give` goes to the other rank, what that gives comes into `take`; both at
 * once, or one, the other being NULL.  Both ranks call it, of one number of bytes, and one takes
 * what the other gives: else -EPROTO.  Fast when `give` lies in the arena.  Stats count what is
 * given.  -EINVAL: the group has not two ranks. */
int ds_comm_pass(struct ds_comm *comm, const void *give, void *take, size_t bytes,
                 struct ds_error *err) DS_NODISCARD;
int ds_comm_broadcast(struct ds_comm *comm, void *buf, size_t bytes, unsigned root,
                      struct ds_error *err) DS_NODISCARD;
int ds_comm_barrier(struct ds_comm *comm, struct ds_error *err) DS_NODISCARD;

/* What the group has come to while the host did not wait for it: 0, or the failure that the next
 * collective would end with.  Results of operations on a device are of no use then. */
int ds_comm_check(struct ds_comm *comm, struct ds_error *err) DS_NODISCARD;

/* Wake every waiter here and tell the peers; async-signal-safe, any thread. */
void ds_comm_abort(struct ds_comm *comm);

/* Counted since open, for the plan's wire formulas and the comm log. */
struct ds_comm_stats {
    uint64_t calls, bytes; /* bytes a rank would put on a wire: 2 n (w-1)/w for all_reduce ... */
    uint64_t sent;         /* bytes of payload given to TCP by this rank; 0 inside a host */
    uint64_t lent;         /* of them, those that the kernel did not copy */
    uint64_t wait_ns, work_ns;
};
void ds_comm_stats(const struct ds_comm *comm, struct ds_comm_stats *stats); /* of all operations */
void ds_comm_op_stats(const struct ds_comm *comm, enum ds_comm_op op, struct ds_comm_stats *stats);
/* What one such call on `bytes` puts on a rank's wire. */
uint64_t ds_comm_wire_bytes(enum ds_comm_op op, uint64_t bytes, uint64_t world);
/* "all_reduce_f32"; an op that a peer sent and that does not exist is "unknown". */
const char *ds_comm_op_name(unsigned op);

#endif
