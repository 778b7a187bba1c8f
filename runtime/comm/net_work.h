/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net_work.h - what the files of an exchange share.
 *
 *     net.c        what is expected, what has come, errors, the loop
 *     net_send.c   frames out, without a copy where that is possible
 *     net_sums.c   pieces of our host, and the sums of those of all
 *
 * Private to runtime/comm/.
 */
#ifndef DS_RUNTIME_COMM_NET_WORK_H
#define DS_RUNTIME_COMM_NET_WORK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "runtime/comm/net.h"

/* The head of a frame; net.h draws it. */
enum {
    DS_FRAME_AT_KIND = 4,
    DS_FRAME_AT_SLOT = 6,
    DS_FRAME_AT_SEQUENCE = 8,
    DS_FRAME_AT_OP = 12,
    DS_FRAME_AT_BYTES = 16,
    DS_FRAME_AT_ROOT = 24,
    DS_FRAME_AT_CHUNK = 28
};
enum {
    DS_FRAME_MAGIC = 0x4d435344, /* "DSCM" */
    DS_FRAME_SCATTER = 1,
    DS_FRAME_GATHER = 2,
    DS_FRAME_RECEIPT = 3,
    DS_FRAME_PAIR = 4,
    DS_FRAME_LENT = 0x100 /* with a kind: its bytes lie in the sender's memory yet */
};

struct ds__range {
    size_t at, len;
};

struct ds__work { /* of one exchange */
    struct ds__net *net;
    const struct ds__exchange *x;
    struct ds__flow mine; /* chunks of this rank's slice: finished, all */
    bool moved;
};

/* So many of the net's edges take part. */
static inline unsigned ds__work_edges(const struct ds__work *work)
{
    return work->x->pairs ? work->net->peers : work->net->edges;
}

static inline struct ds__range ds__work_slice(const struct ds__work *work, unsigned rank)
{
    size_t bytes = work->x->bytes, at = work->x->slice * rank;

    if (at > bytes || work->x->slice == 0)
        at = bytes;
    return (struct ds__range){at, bytes - at < work->x->slice ? bytes - at : work->x->slice};
}

static inline struct ds__range ds__work_chunk(const struct ds__work *work, unsigned rank,
                                              unsigned chunk)
{
    struct ds__range slice = ds__work_slice(work, rank);
    size_t at = chunk * work->net->chunk_bytes, left = slice.len - at;

    return (struct ds__range){slice.at + at,
                              left < work->net->chunk_bytes ? left : work->net->chunk_bytes};
}

/* The same of what the call gives to a rank, or takes of it: all of it in a pass. */
static inline struct ds__range ds__work_pair(const struct ds__work *work, unsigned rank,
                                             unsigned chunk)
{
    struct ds__range part = ds__work_chunk(work, rank, chunk);

    if (work->x->call->op == DS_COMM_PASS)
        part.at -= work->x->slice * rank;
    return part;
}

static inline bool ds__work_broadcasts(const struct ds__work *work)
{
    return work->x->call->op == DS_COMM_BROADCAST;
}

/* Pieces that `host` gives in this exchange. */
static inline unsigned ds__work_pieces(const struct ds__work *work, unsigned host)
{
    const struct ds__layout *layout = &work->net->layout;

    if (ds__work_broadcasts(work))
        return layout->host[work->x->call->root] == host ? 1 : 0;
    return ds__layout_pieces(layout, host);
}

static inline unsigned char *ds__work_vector(const struct ds__work *work, unsigned seat, size_t at)
{
    return (unsigned char *)work->x->vector[seat] + at;
}

/* net.c: the connection is gone, `why` is an errno or 0. */
int ds__work_lost(const struct ds__work *work, const struct ds__edge *edge, int why,
                  struct ds_error *err);

/* --- net_sums.c ------------------------------------------------------------------------------- */

/* Pointers to our host's pieces of `part` of a vector, one after the other; those of several ranks
 * are added up into `sums`. */
unsigned ds__sums_local(const struct ds__work *work, struct ds__range part, unsigned char *sums,
                        const float **out);
/* The edge that gives us the pieces of `host`. */
const struct ds__edge *ds__sums_giver(const struct ds__net *net, unsigned host);
/* Copy `part` of our vector into those of the others on this host. */
void ds__sums_spread(const struct ds__work *work, struct ds__range part);
/* Finish the chunks of our slice that everyone's pieces have come for. */
void ds__sums_finish(struct ds__work *work);

/* --- net_send.c ------------------------------------------------------------------------------- */

/* Is something to be sent on the edge now? */
bool ds__send_waits(const struct ds__work *work, const struct ds__edge *edge);
/* Send a frame, or what the connection takes of it. */
int ds__send_frame(struct ds__work *work, struct ds__edge *edge, struct ds_error *err);

/* Where the system has no pipes for it, bodies are copied. */
void ds__loans_open(struct ds__loans *loans);
void ds__loans_close(struct ds__loans *loans); /* fine on a zeroed struct */

#endif
