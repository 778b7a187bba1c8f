/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * region.h - the shared mapping of the ranks of one host, drawn once.
 *
 *     control | seats of rank 0 | seats of rank 1 | ... | window 0 | ... | arena 0 | arena 1 | ...
 *     | common | beside
 *
 * control  one page: what the ranks must agree on, the barrier, the abort flag
 * seat     one page per rank and group it is in (slot 0 all ranks, 1 .. the groups split off): what
 *          it is calling, written before a barrier, read after it; the barrier of a group stands in
 *          the seat of its first member
 * window   staging for buffers that lie elsewhere; none where a rank is alone
 * arena    the rank's own memory, read and written by the peers inside collectives
 * common   one for all ranks: what they hold once.  Its last byte is the last of a page
 * beside   not in the file, but right behind `common` in every rank's addresses: memory of its own,
 *          so that one array can be held once up to some element and by each rank behind it
 *
 * The file has no name and grows from empty: whoever comes first writes the agreement words,
 * everyone compares them, and only ranks that agree set the size, all the same one.
 *
 * Ranks are counted on the host here: 0 .. ranks - 1.
 *
 * Private to runtime/comm/.
 * Tests   tests/comm/test_comm.c, test_common.c, test_group.c
 */
#ifndef DS_RUNTIME_COMM_REGION_H
#define DS_RUNTIME_COMM_REGION_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/comm/backend.h"

enum {
    DS_REGION_LINE = 64,   /* bytes; what two cores should not write both */
    DS_REGION_PAGE = 4096, /* bytes of control and of a seat */
    DS_REGION_SLOTS = 1 + DS_COMM_MAX_GROUPS,
    DS_REGION_ALIGN = 65536,             /* of windows and arenas: any machine's page */
    DS_REGION_WINDOW_BYTES = 1024 * 1024 /* two halves, used in turn */
};

struct ds__gate {                                      /* a barrier */
    alignas(DS_REGION_LINE) _Atomic uint32_t arrived;  /* ranks in the present one */
    alignas(DS_REGION_LINE) _Atomic uint32_t epoch;    /* barriers done x 2, + 1 once aborted */
    alignas(DS_REGION_LINE) _Atomic uint32_t sleepers; /* ranks in the kernel, or killed there */
};

struct ds__control {
    _Atomic uint64_t group;       /* magic << 32 | ranks; 0: nobody came yet */
    _Atomic uint64_t arena_bytes; /* + 1; 0: nobody came yet */
    _Atomic uint64_t common_bytes;
    _Atomic uint32_t aborter; /* global rank + 1 of the first to abort */
    _Atomic uint32_t slots;   /* in use by any rank beside slot 0 */
    struct ds__gate gate;
};

enum ds__area { /* where a buffer lies */
                DS_AREA_OUTSIDE,
                DS_AREA_ARENA, /* of the rank that calls */
                DS_AREA_COMMON
};

/* What a rank is calling.  Two per seat, used in turn: one barrier later a peer may still read. */
struct ds__post {
    uint32_t op, root;
    uint64_t bytes;
    uint32_t area;   /* enum ds__area of the buffer */
    uint32_t from;   /* 1: the shard comes from elsewhere */
    uint64_t offset; /* of it in that area */
    double f64[DS_COMM_MAX_F64];
};

struct ds__seat {
    _Atomic uint32_t taken;    /* a process sits here */
    _Atomic uint32_t barriers; /* it has come to; names the missing one in a timeout */
    struct ds__gate gate;      /* of the group whose first member sits here; none in slot 0 */
    alignas(DS_REGION_LINE) struct ds__post post[2];
    double result[2][DS_COMM_MAX_F64]; /* of the first member: what all hosts came to */
};

struct ds__region {
    unsigned char *base;
    size_t bytes; /* of the file */
    size_t beside_bytes;
    size_t windows_at, arenas_at, common_at;
    size_t window_bytes, arena_bytes; /* per rank, aligned */
    size_t common_bytes;              /* aligned */
    unsigned ranks;                   /* of this host */
};

struct ds__region_args {
    unsigned rank, ranks; /* on this host */
    unsigned name;        /* the rank in all the job, for messages */
    int shm_fd;           /* borrowed; -1: private memory, for one rank */
    size_t arena_bytes;   /* the same for every rank */
    size_t common_bytes;  /* so is this */
    size_t beside_bytes;
    bool windows; /* even for one rank: it may be alone here and work with other hosts */
};

/* Bytes of control, seats and windows of all ranks. */
size_t ds__region_overhead_bytes(unsigned ranks);

/* Map the region of `args` for its rank.  -EPROTO when ranks disagree or the seat is taken,
 * -EOVERFLOW, -ENOMEM, -EIO.  On failure nothing stays mapped. */
int ds__region_open(struct ds__region *region, const struct ds__region_args *args,
                    struct ds_error *err) DS_NODISCARD;
void ds__region_close(struct ds__region *region);

struct ds__control *ds__region_control(const struct ds__region *region);
struct ds__seat *ds__region_seat(const struct ds__region *region, unsigned rank, unsigned slot);
/* The barrier of the group in `slot` whose first member here is `first`. */
struct ds__gate *ds__region_gate(const struct ds__region *region, unsigned first, unsigned slot);
unsigned char *ds__region_window(const struct ds__region *region, unsigned rank);
unsigned char *ds__region_arena(const struct ds__region *region, unsigned rank);
unsigned char *ds__region_common(const struct ds__region *region);

#endif
