/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net_sums.c - the sums of an exchange; the contract is in net_work.h.
 */
#include <string.h>

#include "runtime/comm/half.h"
#include "runtime/comm/net_work.h"
#include "runtime/comm/tree.h"

/* out = the sum of our first `count` local sources, by the tree. */
static void add_ranks(const struct ds__work *work, void *out, unsigned count, size_t bytes)
{
    enum ds_dtype type = ds__op_type(work->x->call->op);
    const void *src = work->net->local;

    if (type != DS_F32)
        ds__tree_sum_half(type, out, src, count, bytes / sizeof(uint16_t), work->net->scratch);
    else
        ds__tree_sum_f32(out, src, count, bytes / sizeof(float), work->net->scratch);
}

/* out = the sum of all pieces, by the tree over those. */
static void add_pieces(const struct ds__work *work, void *out, size_t bytes)
{
    const struct ds__net *net = work->net;
    enum ds_dtype type = ds__op_type(work->x->call->op);
    const void *src = net->source;

    if (type != DS_F32)
        ds__tree_run_half(type, out, net->layout.program, net->layout.steps, src,
                          bytes / sizeof(uint16_t), net->scratch);
    else
        ds__tree_run_f32(out, net->layout.program, net->layout.steps, src, bytes / sizeof(float),
                         net->scratch);
}

unsigned ds__sums_local(const struct ds__work *work, struct ds__range part, unsigned char *sums,
                        const float **out)
{
    struct ds__net *net = work->net;
    const struct ds__layout *layout = &net->layout;
    unsigned count = 0;

    if (ds__work_broadcasts(work)) {
        out[0] = (const float *)(const void *)ds__work_vector(
            work, layout->seat[work->x->call->root], part.at);
        return 1;
    }
    for (unsigned i = 0; i < layout->pieces; i++) {
        const struct ds__piece *piece = &layout->piece[i];
        float *sum = (float *)(void *)(sums + count * part.len);

        if (piece->host != net->here)
            continue;
        for (unsigned rank = piece->lo; rank < piece->hi; rank++)
            net->local[rank - piece->lo] =
                (const float *)(const void *)ds__work_vector(work, layout->seat[rank], part.at);
        if (piece->hi - piece->lo > 1)
            add_ranks(work, sums + count * part.len, piece->hi - piece->lo, part.len);
        out[count++] = piece->hi - piece->lo > 1 ? sum : net->local[0];
    }
    return count;
}

const struct ds__edge *ds__sums_giver(const struct ds__net *net, unsigned host)
{
    for (unsigned i = 0; i < net->edges; i++)
        if (net->edge[i].gives && net->edge[i].host == host)
            return &net->edge[i];
    return NULL;
}

/* Where every piece of `part`, which is chunk `chunk` of our slice, lies. */
static void find_sources(const struct ds__work *work, struct ds__range part, unsigned chunk)
{
    struct ds__net *net = work->net;
    const struct ds__layout *layout = &net->layout;
    unsigned local = 0;

    for (unsigned i = 0; i < layout->pieces; i++) { /* the local ones come first, then move */
        unsigned host = layout->piece[i].host, before = 0;
        const struct ds__edge *edge;

        if (host == net->here)
            continue;
        for (unsigned k = 0; k < i; k++)
            before += layout->piece[k].host == host;
        edge = ds__sums_giver(net, host);
        net->source[i] = (const float *)(const void *)(edge->in +
                                                       (chunk % DS_NET_DEPTH) * net->chunk_bytes *
                                                           ds__layout_pieces(layout, host) +
                                                       before * part.len);
    }
    local = 0;
    if (ds__work_pieces(work, net->here) > 0)
        (void)ds__sums_local(work, part, net->own, net->local + layout->ranks);
    for (unsigned i = 0; i < layout->pieces; i++)
        if (layout->piece[i].host == net->here)
            net->source[i] = net->local[layout->ranks + local++];
}

void ds__sums_spread(const struct ds__work *work, struct ds__range part)
{
    const unsigned char *mine = ds__work_vector(work, work->net->sync->me, part.at);

    for (unsigned seat = 0; seat < work->net->sync->members; seat++) {
        unsigned char *its = ds__work_vector(work, seat, part.at);

        if (its != mine) /* what is held once is theirs, too */
            memcpy(its, mine, part.len);
    }
}

/* The bytes that the root's host gave for chunk `chunk` of our slice. */
static void take_bytes(const struct ds__work *work, struct ds__range part, unsigned chunk)
{
    const struct ds__net *net = work->net;
    unsigned char *out = ds__work_vector(work, net->sync->me, part.at);
    unsigned root = work->x->call->root, host = net->layout.host[root];
    const unsigned char *from;

    if (host == net->here)
        from = ds__work_vector(work, net->layout.seat[root], part.at);
    else
        from = ds__sums_giver(net, host)->in +
               (chunk % DS_NET_DEPTH) * net->chunk_bytes * ds__layout_pieces(&net->layout, host);
    if (from != out)
        memcpy(out, from, part.len);
}

static bool complete(const struct ds__work *work, unsigned chunk)
{
    for (unsigned i = 0; i < work->net->edges; i++) {
        const struct ds__flow *in = &work->net->edge[i].scatter_in;

        if (in->all > 0 && in->done <= chunk)
            return false;
    }
    return true;
}

void ds__sums_finish(struct ds__work *work)
{
    struct ds__net *net = work->net;

    while (work->mine.done < work->mine.all && complete(work, work->mine.done)) {
        struct ds__range part = ds__work_chunk(work, net->me, work->mine.done);

        if (ds__work_broadcasts(work)) {
            take_bytes(work, part, work->mine.done);
        } else if (work->x->scatter) {
            find_sources(work, part, work->mine.done);
            add_pieces(work, ds__work_vector(work, net->sync->me, part.at), part.len);
        }
        if (work->x->gather)
            ds__sums_spread(work, part);
        work->mine.done++;
        work->moved = true;
    }
}
