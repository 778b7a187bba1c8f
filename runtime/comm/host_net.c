/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * host_net.c - the collectives of a group on several hosts; exchanges are net.h's.
 *
 * Ranks of a host meet (host_shm.c), each exchanges its part, and they meet again.  Buffers that
 * all lie in arenas, or belong to ranks that are alone on their hosts, are worked on where they
 * are; whether that is so everywhere must be known everywhere, and costs one small exchange where
 * ranks share a host.  Other buffers go through the windows, piece by piece.  A room that the ranks
 * of a host hold once is filled in place: each puts its shard there and takes its part of the rest.
 *
 * Tests  tests/comm/test_net.c
 */
#include <errno.h>
#include <string.h>

#include "runtime/comm/host.h"

static struct ds__host *host_of(struct ds_comm *comm)
{
    return (struct ds__host *)comm;
}

static void count(struct ds__host *host)
{
    host->base.wait_ns = host->sync.wait_ns + host->net.wait_ns;
    host->base.sent_bytes = host->net.sent_bytes;
    host->base.lent_bytes = host->net.lent_bytes;
}

/* --- small sums ------------------------------------------------------------------------------- */

/* The sums of this host's pieces of the posted numbers, piece after piece. */
static void small_pieces(struct ds__host *host, size_t n, double *out)
{
    const struct ds__layout *layout = &host->net.layout;

    for (unsigned i = 0; i < layout->pieces; i++) {
        const struct ds__piece *piece = &layout->piece[i];

        if (piece->host != host->net.here)
            continue;
        for (size_t k = 0; k < n; k++) {
            for (unsigned rank = piece->lo; rank < piece->hi; rank++)
                host->column[rank - piece->lo] = ds__shm_post(host, layout->seat[rank])->f64[k];
            *out++ = ds__tree_sum_f64(host->column, piece->hi - piece->lo);
        }
    }
}

/* All hosts' pieces together. */
static void small_sums(struct ds__host *host, size_t n, const double *own, double *out)
{
    const struct ds__layout *layout = &host->net.layout;

    for (size_t k = 0; k < n; k++) {
        for (unsigned i = 0; i < layout->pieces; i++) {
            unsigned from = layout->piece[i].host, before = 0;
            const double *its = from == host->net.here ? own : ds__net_small(&host->net, from);

            for (unsigned p = 0; p < i; p++)
                before += layout->piece[p].host == from;
            host->column[i] = its[before * n + k];
        }
        out[k] = ds__tree_run_f64(layout->program, layout->steps, host->column);
    }
}

/* After ds__shm_enter(): out[n] is the sum of the posted numbers of all ranks.  The first rank of
 * each host speaks for it. */
static int sum_small(struct ds__host *host, const struct ds_comm_call *call, size_t n,
                     struct ds_error *err)
{
    struct ds__seat *seat = ds__region_seat(host->sync.region, host->desk[0], host->sync.slot);
    double *result = seat->result[host->calls & 1];
    double *own = (double *)(void *)host->scratch;
    const struct ds__exchange exchange = {.call = call, .bytes = n * sizeof(double), .small = own};
    int rc = 0;

    if (host->sync.me == 0) {
        small_pieces(host, n, own);
        rc = ds__net_exchange(&host->net, &exchange, err);
        if (rc == 0)
            small_sums(host, n, own, result);
    } else {
        host->net.sequence++; /* frames are counted alike by all ranks of a host */
    }
    if (rc == 0)
        rc = ds__shm_barrier(host, call, err);
    count(host);
    return rc;
}

int ds__net_all_reduce_f64(struct ds_comm *comm, const struct ds_comm_call *call,
                           struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    const struct ds__seat *seat;
    int rc = ds__shm_enter(host, call, err);

    if (rc == 0)
        rc = sum_small(host, call, call->bytes / sizeof(double), err);
    if (rc == 0 && call->bytes > 0) {
        seat = ds__region_seat(host->sync.region, host->desk[0], host->sync.slot);
        memcpy(call->buf, seat->result[host->calls & 1], call->bytes);
    }
    return rc;
}

/* --- vectors ---------------------------------------------------------------------------------- */

static struct ds__exchange describe(const struct ds__host *host, const struct ds_comm_call *call,
                                    size_t bytes)
{
    bool gather = !ds__op_scatters(call->op);
    bool scatter = call->op != DS_COMM_ALL_GATHER;
    size_t world = host->base.world, lines = (bytes + DS_REGION_LINE - 1) / DS_REGION_LINE;
    size_t slice = (lines / world + (lines % world != 0)) * DS_REGION_LINE;

    if (!scatter || !gather) /* shards are the callers' */
        slice = bytes / world;
    return (struct ds__exchange){.call = call,
                                 .scatter = scatter,
                                 .gather = gather,
                                 .bytes = bytes,
                                 .slice = slice,
                                 .vector = host->peer};
}

/* One that is held once, in the sum over ranks of those that lie in no area. */
static const double ONCE = 2.0 * DS_MAX_RANKS;

/* Do all ranks of the group work where their buffers are? */
static int find_out(struct ds__host *host, const struct ds_comm_call *call, bool *in_place,
                    struct ds_error *err)
{
    bool here = ds__shm_find_buffers(host, 0, host->sync.members - 1);
    const struct ds__seat *seat;
    double sum;
    int rc;

    if (host->sync.members == 1) {
        host->peer[0] = call->buf;
        here = true;
    }
    *in_place = true;
    if (host->net.layout.hosts == host->base.world)
        return 0; /* so it is for every rank */
    ds__shm_post(host, host->sync.me)->f64[0] = ds__shm_is_common(host) ? ONCE : here ? 0.0 : 1.0;
    rc = ds__shm_barrier(host, call, err); /* posts are read by the first rank */
    if (rc == 0)
        rc = sum_small(host, call, 1, err);
    seat = ds__region_seat(host->sync.region, host->desk[0], host->sync.slot);
    sum = seat->result[host->calls & 1][0];
    if (rc == 0 && sum >= ONCE && sum != ONCE * host->base.world)
        return ds_fail(err, EPROTO, "%s of memory that is held once on some hosts only",
                       ds_comm_op_name(call->op));
    *in_place = sum == 0.0 || sum >= ONCE;
    return rc;
}

struct staging { /* a vector through the windows: every part is cut the same way */
    size_t parts, part_bytes;
};

static void copy_in(const struct ds__host *host, const struct ds_comm_call *call,
                    const struct staging *staging, size_t at, size_t len)
{
    unsigned char *window = (unsigned char *)host->peer[host->sync.me];
    const unsigned char *buf = call->buf;
    bool gather = call->op == DS_COMM_ALL_GATHER;

    if (call->op == DS_COMM_BROADCAST && call->root != host->base.rank)
        return;
    for (size_t part = 0; part < staging->parts; part++)
        if (!gather || part == host->base.rank)
            memcpy(window + part * len, buf + part * staging->part_bytes + at, len);
}

static void copy_out(const struct ds__host *host, const struct ds_comm_call *call,
                     const struct staging *staging, size_t at, size_t len)
{
    const unsigned char *window = (const unsigned char *)host->peer[host->sync.me];
    unsigned char *buf = call->buf;
    bool scatter = ds__op_scatters(call->op);

    for (size_t part = 0; part < staging->parts; part++)
        if (!scatter || part == host->base.rank)
            memcpy(buf + part * staging->part_bytes + at, window + part * len, len);
}

static int staged(struct ds__host *host, const struct ds_comm_call *call, struct ds_error *err)
{
    bool sharded = ds__op_scatters(call->op) || call->op == DS_COMM_ALL_GATHER;
    struct staging staging = {.parts = sharded ? host->base.world : 1};
    size_t room = DS_HOST_HALF_BYTES / staging.parts / DS_REGION_LINE * DS_REGION_LINE;
    int rc = 0;

    staging.part_bytes = call->bytes / staging.parts;
    for (size_t at = 0; rc == 0 && at < staging.part_bytes; at += room) {
        size_t left = staging.part_bytes - at, len = left < room ? left : room;
        struct ds__exchange exchange = describe(host, call, staging.parts * len);

        ds__shm_find_windows(host, 0);
        copy_in(host, call, &staging, at, len);
        rc = ds__shm_barrier(host, call, err);
        if (rc == 0)
            rc = ds__net_exchange(&host->net, &exchange, err);
        if (rc == 0)
            rc = ds__shm_barrier(host, call, err);
        if (rc == 0)
            copy_out(host, call, &staging, at, len);
    }
    return rc;
}

int ds__net_vector(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    struct ds__exchange exchange = describe(host, call, call->bytes);
    bool in_place = true;
    int rc = ds__shm_enter(host, call, err);

    if (rc == 0)
        rc = find_out(host, call, &in_place, err);
    if (rc == 0 && call->from != NULL && ds__shm_is_common(host))
        ds__shm_put_shard(host, call);
    if (rc == 0 && !in_place)
        rc = staged(host, call, err);
    else if (rc == 0)
        rc = ds__net_exchange(&host->net, &exchange, err);
    if (rc == 0 && in_place)
        rc = ds__shm_barrier(host, call, err);
    count(host);
    return rc;
}

int ds__net_pairs(struct ds__host *host, const struct ds_comm_call *call, struct ds_error *err)
{
    const size_t world = host->base.world;
    const size_t slice = call->op == DS_COMM_PASS ? call->bytes : call->bytes / world;
    const struct ds__exchange exchange = {
        .call = call, .pairs = true, .bytes = slice * world, .slice = slice};
    int rc = ds__net_exchange(&host->net, &exchange, err);

    count(host);
    return rc;
}
