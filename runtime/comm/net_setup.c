/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net_setup.c - memory and edges of a group on several hosts; the contract is in net.h.
 */
#include <errno.h>
#include <stdlib.h>

#include "runtime/comm/comm.h"
#include "runtime/comm/net_work.h"

static bool has_sums(const struct ds__net *net)
{
    for (unsigned i = 0; i < net->layout.pieces; i++)
        if (net->layout.piece[i].host == net->here &&
            net->layout.piece[i].hi - net->layout.piece[i].lo > 1)
            return true;
    return false;
}

/* The same on every rank of the group: so many chunks fit into the memory of the busiest one. */
static size_t choose_chunk(const struct ds__layout *layout)
{
    size_t chunk = DS_NET_CHUNK_MAX, most = 1;

    for (unsigned host = 0; host < layout->hosts; host++) {
        size_t count = ds__layout_count(layout, host), pieces = ds__layout_pieces(layout, host);
        size_t served = (layout->ranks - count) / count + 1; /* slices that a rank stands for */
        size_t chunks = pieces * (served + 1) + DS_NET_DEPTH * (layout->pieces - pieces);

        if (chunks > most)
            most = chunks;
    }
    while (chunk > DS_NET_CHUNK_MIN && most * chunk > DS_NET_STAGE_BYTES)
        chunk /= 2;
    return chunk;
}

/* Edges to the ranks that stand for their hosts before us, and to those we stand for; or to all the
 * others on other hosts. */
static unsigned add_edges(struct ds__net *net, unsigned edges, bool others)
{
    const struct ds__layout *layout = &net->layout;

    for (unsigned rank = 0; rank < layout->ranks; rank++) {
        unsigned host = layout->host[rank];
        bool gives, takes;

        if (host == net->here)
            continue;
        gives = ds__layout_partner(layout, host, net->me) == rank;
        takes = ds__layout_partner(layout, net->here, rank) == net->me;
        if ((!gives && !takes) == others)
            net->edge[edges++] =
                (struct ds__edge){.rank = rank, .host = host, .gives = gives, .takes = takes};
    }
    return edges;
}

/* Cut the staging memory; with no memory yet, only its size is found. */
static size_t cut_stage(struct ds__net *net, unsigned char *at)
{
    size_t chunk = net->chunk_bytes, pieces = ds__layout_pieces(&net->layout, net->here), used = 0;
    bool sums = net->sums;

    net->own = at;
    used += sums ? pieces * chunk : 0;
    for (unsigned i = 0; i < net->edges; i++) {
        struct ds__edge *edge = &net->edge[i];

        edge->in = at == NULL ? NULL : at + used;
        used +=
            edge->gives ? DS_NET_DEPTH * chunk * ds__layout_pieces(&net->layout, edge->host) : 0;
        edge->out = at == NULL ? NULL : at + used;
        used += edge->takes && sums ? pieces * chunk : 0;
    }
    return used;
}

static int make_memory(struct ds__net *net, struct ds_error *err)
{
    const struct ds__layout *layout = &net->layout;
    size_t iov = 1 + (size_t)ds__layout_pieces(layout, net->here), used = 0;

    net->stage_bytes = cut_stage(net, NULL);
    net->stage = aligned_alloc(64, net->stage_bytes + 64);
    net->iov = calloc(net->edges * iov + 2 * (size_t)net->peers, sizeof(*net->iov));
    net->poll = calloc((size_t)net->peers + 1, sizeof(*net->poll));
    net->source = calloc(layout->pieces, sizeof(*net->source));
    net->local = calloc(2 * (size_t)layout->ranks, sizeof(*net->local));
    if (net->stage == NULL || net->iov == NULL || net->poll == NULL || net->source == NULL ||
        net->local == NULL)
        return ds_fail(err, ENOMEM, "no memory for the connections of %u ranks", layout->ranks);
    (void)cut_stage(net, net->stage);
    for (unsigned i = 0; i < net->peers; i++) {
        net->edge[i].iov = net->iov + used;
        used += i < net->edges ? iov : 2;
    }
    return 0;
}

/* Who talks to whom, and in what pieces. */
static int lay_out(struct ds__net *net, unsigned ranks, const unsigned *host_of,
                   struct ds_error *err)
{
    int rc = ds__layout_init(&net->layout, ranks, host_of, err);

    if (rc != 0)
        return rc;
    net->here = net->layout.host[net->me];
    net->edge = calloc(ranks, sizeof(*net->edge));
    if (net->edge == NULL)
        return ds_fail(err, ENOMEM, "no memory for the connections of %u ranks", ranks);
    net->edges = add_edges(net, 0, false);
    net->peers = add_edges(net, net->edges, true);
    net->chunk_bytes = choose_chunk(&net->layout);
    net->sums = has_sums(net);
    return 0;
}

int ds__net_init(struct ds__net *net, const struct ds__net_args *args, struct ds_error *err)
{
    int rc;

    *net = (struct ds__net){.mesh = args->mesh,
                            .sync = args->sync,
                            .me = args->me,
                            .slot = args->slot,
                            .scratch = args->scratch};
    rc = lay_out(net, args->ranks, args->host_of, err);
    for (unsigned i = 0; rc == 0 && i < net->peers; i++) {
        net->edge[i].name = args->name[net->edge[i].rank];
        net->edge[i].fd = args->mesh->fd[net->edge[i].name];
    }
    if (rc == 0)
        rc = make_memory(net, err);
    if (rc == 0)
        ds__loans_open(&net->loans);
    if (rc != 0)
        ds__net_release(net);
    return rc;
}

int ds_comm_staging_bytes(const struct ds_comm_group *group, unsigned rank, unsigned local_world,
                          size_t *bytes, struct ds_error *err)
{
    struct ds__net net = {.me = (rank - group->first) / group->stride};
    unsigned *host_of = calloc(group->count, sizeof(*host_of));
    int rc = 0;

    *bytes = 0;
    if (host_of == NULL)
        return ds_fail(err, ENOMEM, "no memory for a group of %u ranks", group->count);
    for (unsigned i = 0; i < group->count; i++)
        host_of[i] = (group->first + i * group->stride) / local_world;
    if (host_of[0] != host_of[group->count - 1]) {
        rc = lay_out(&net, group->count, host_of, err);
        if (rc == 0)
            *bytes = cut_stage(&net, NULL);
        ds__net_release(&net);
    }
    free(host_of);
    return rc;
}

void ds__net_release(struct ds__net *net)
{
    ds__loans_close(&net->loans);
    ds__layout_release(&net->layout);
    free(net->stage);
    free(net->edge);
    free(net->iov);
    free(net->poll);
    free(net->source);
    free(net->local);
    *net = (struct ds__net){0};
}
