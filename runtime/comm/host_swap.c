/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * host_swap.c - all-to-all of the backend `host`: part r of what a rank gives goes to rank r.
 *
 * Where all members show buffers in arenas, each takes its parts from there.  Otherwise the parts
 * go through the windows, a piece of every part at a time, while the pieces before are taken.  A
 * rank's part for itself never leaves it.
 *
 * Tests  tests/comm/test_comm.c, test_group.c
 */
#include <errno.h>
#include <string.h>

#include "runtime/comm/host.h"

static struct ds__host *host_of(struct ds_comm *comm)
{
    return (struct ds__host *)comm;
}

struct swap { /* among the members on this host */
    struct ds__host *host;
    const struct ds_comm_call *call;
    size_t part, room; /* bytes: of a part; of a piece of it */
};

static const unsigned char *given(const struct swap *swap, unsigned member)
{
    return (const unsigned char *)swap->call->from + member * swap->part;
}

static unsigned char *taken(const struct swap *swap, unsigned member)
{
    return (unsigned char *)swap->call->buf + member * swap->part;
}

/* Each begins with the next one's, so that not all read one rank's memory at the same time. */
static unsigned after(const struct swap *swap, unsigned steps)
{
    return (swap->host->sync.me + steps) % swap->host->sync.members;
}

static void take_parts(const struct swap *swap)
{
    const size_t mine = swap->host->sync.me * swap->part;

    for (unsigned i = 1; i < swap->host->sync.members; i++) {
        unsigned peer = after(swap, i);

        ds__shm_copy(taken(swap, peer), (const unsigned char *)swap->host->peer[peer] + mine,
                     swap->part, swap->call->bytes);
    }
}

static size_t piece_bytes(const struct swap *swap, size_t piece)
{
    size_t left = swap->part - piece * swap->room;

    return left < swap->room ? left : swap->room;
}

/* A piece for every peer into this rank's window, in the order of members. */
static void put_pieces(const struct swap *swap, size_t piece)
{
    struct ds__host *host = swap->host;
    unsigned char *window = ds__shm_half_window(host, host->sync.me, piece);
    const size_t len = piece_bytes(swap, piece), at = piece * swap->room;

    for (unsigned peer = 0; peer < host->sync.members; peer++)
        if (peer != host->sync.me)
            memcpy(window + peer * len, given(swap, peer) + at, len);
}

static void take_pieces(const struct swap *swap, size_t piece)
{
    const struct ds__host *host = swap->host;
    const size_t len = piece_bytes(swap, piece), at = piece * swap->room;

    for (unsigned i = 1; i < host->sync.members; i++) {
        unsigned peer = after(swap, i);

        memcpy(taken(swap, peer) + at, ds__shm_half_window(host, peer, piece) + host->sync.me * len,
               len);
    }
}

static int swap_staged(const struct swap *swap, struct ds_error *err)
{
    const size_t pieces = swap->part / swap->room + (swap->part % swap->room != 0);
    int rc;

    put_pieces(swap, 0);
    rc = ds__shm_barrier(swap->host, swap->call, err);
    for (size_t piece = 0; rc == 0 && piece < pieces; piece++) {
        take_pieces(swap, piece);
        if (piece + 1 < pieces)
            put_pieces(swap, piece + 1);
        rc = ds__shm_barrier(swap->host, swap->call, err);
    }
    return rc;
}

int ds__swap_all_to_all(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    const unsigned me = host->sync.me, members = host->sync.members;
    const struct swap swap = {.host = host,
                              .call = call,
                              .part = call->bytes / comm->world,
                              .room =
                                  DS_HOST_HALF_BYTES / members / DS_REGION_LINE * DS_REGION_LINE};
    int rc = ds__shm_enter(host, call, err);

    if (rc < 0 || call->bytes == 0)
        return rc;
    ds__shm_copy(taken(&swap, me), given(&swap, me), swap.part, call->bytes);
    if (members == 1)
        return 0;
    if (!ds__shm_find_buffers(host, 0, members - 1))
        return swap_staged(&swap, err);
    take_parts(&swap);
    return ds__shm_barrier(host, call, err);
}
