/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * host_swap.c - all-to-all of the backend `host`: part r of what a rank gives goes to rank r; and a
 * pass, in which each of two ranks gives all, or nothing.
 *
 * Where all members show buffers in arenas, each takes its parts from there.  Otherwise the parts
 * go through the windows, a piece of every part at a time, while the pieces before are taken.  A
 * rank's part for itself never leaves it.  Parts for ranks of other hosts go straight to them: that
 * needs neither, so every host may do its own part as it likes.
 *
 * Tests  tests/comm/test_comm.c, test_group.c, test_net.c, test_swap.c
 */
#include <errno.h>
#include <string.h>

#include "runtime/comm/host.h"

static struct ds__host *host_of(struct ds_comm *comm)
{
    return (struct ds__host *)comm;
}

struct swap { /* among the members on this host; parts are those of ranks of the group, or all */
    struct ds__host *host;
    const struct ds_comm_call *call;
    size_t part, room; /* bytes: of a part; of a piece of it */
};

static unsigned rank_of(const struct swap *swap, unsigned member)
{
    const struct ds__net *net = &swap->host->net;

    return ds__host_has_net(swap->host) ? ds__layout_rank(&net->layout, net->here, member) : member;
}

static bool passes(const struct swap *swap)
{
    return swap->call->op == DS_COMM_PASS;
}

static bool gives(const struct swap *swap, unsigned member)
{
    return ds__call_gives(swap->call, rank_of(swap, member));
}

/* Where the member's part of any buffer begins. */
static size_t part_at(const struct swap *swap, unsigned member)
{
    return passes(swap) ? 0 : rank_of(swap, member) * swap->part;
}

static const unsigned char *given(const struct swap *swap, unsigned member)
{
    return (const unsigned char *)swap->call->from + part_at(swap, member);
}

static unsigned char *taken(const struct swap *swap, unsigned member)
{
    return (unsigned char *)swap->call->buf + part_at(swap, member);
}

/* Each begins with the next one's, so that not all read one rank's memory at the same time. */
static unsigned after(const struct swap *swap, unsigned steps)
{
    return (swap->host->sync.me + steps) % swap->host->sync.members;
}

static void take_parts(const struct swap *swap)
{
    const size_t mine = part_at(swap, swap->host->sync.me);

    for (unsigned i = 1; i < swap->host->sync.members; i++) {
        unsigned peer = after(swap, i);

        if (gives(swap, peer))
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
        if (peer != host->sync.me && gives(swap, host->sync.me))
            memcpy(window + peer * len, given(swap, peer) + at, len);
}

static void take_pieces(const struct swap *swap, size_t piece)
{
    const struct ds__host *host = swap->host;
    const size_t len = piece_bytes(swap, piece), at = piece * swap->room;

    for (unsigned i = 1; i < host->sync.members; i++) {
        unsigned peer = after(swap, i);

        if (gives(swap, peer))
            memcpy(taken(swap, peer) + at,
                   ds__shm_half_window(host, peer, piece) + host->sync.me * len, len);
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

/* Does all that members give lie where the others find it?  They come to the same answer. */
static bool all_found(const struct swap *swap)
{
    struct ds__host *host = swap->host;

    for (unsigned member = 0; member < host->sync.members; member++)
        if (gives(swap, member) && !ds__shm_find_buffers(host, member, member))
            return false;
    return true;
}

/* The parts that stay on this host; `in_place`: peers read `from` until the next barrier. */
static int swap_here(const struct swap *swap, bool *in_place, struct ds_error *err)
{
    struct ds__host *host = swap->host;

    *in_place = false;
    if (swap->part == 0)
        return 0;
    if (!passes(swap))
        ds__shm_copy(taken(swap, host->sync.me), given(swap, host->sync.me), swap->part,
                     swap->call->bytes);
    if (host->sync.members == 1)
        return 0;
    *in_place = all_found(swap);
    if (!*in_place)
        return swap_staged(swap, err);
    take_parts(swap);
    return 0;
}

int ds__swap(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    const size_t lines = DS_HOST_HALF_BYTES / DS_REGION_LINE / host->sync.members;
    const struct swap swap = {.host = host,
                              .call = call,
                              .part = call->op == DS_COMM_PASS ? call->bytes
                                                               : call->bytes / comm->world,
                              .room = lines * DS_REGION_LINE};
    bool in_place = false;
    int rc = ds__shm_enter(host, call, err);

    if (rc == 0)
        rc = swap_here(&swap, &in_place, err);
    if (rc == 0 && ds__host_has_net(host))
        rc = ds__net_pairs(host, call, err);
    if (rc == 0 && in_place)
        rc = ds__shm_barrier(host, call, err);
    return rc;
}
