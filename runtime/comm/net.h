/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net.h - what the ranks of a group on several hosts send each other.
 *
 * An exchange works on one vector per rank, cut into a slice per rank.  It has up to two parts,
 * which overlap, chunk by chunk:
 *
 *     scatter   every host gives each slice's owner the sums of its pieces (layout.h); the owner
 *               adds all pieces as the tree does.  Of a broadcast: the root's host gives the bytes
 *     gather    owners give their slices to one rank of each other host, which puts them into the
 *               vectors of everybody there
 *
 * Or it has one part, between all ranks of different hosts:
 *
 *     pairs     each gives each its slice of what the call gives, and takes its own of what the
 *               other gives: from where they lie, to where they belong.  Of a pass all, or nothing
 *
 * Vectors of ranks on one host must be readable and writable by all of them.  Who calls has met the
 * others of the host before, and meets them after.
 *
 *     frame:  u32 magic | u16 kind | u16 slot | u32 sequence | u32 op | u64 bytes | u32 root |
 *             u32 chunk | body             little endian; the body's size follows from the call
 *
 * Each side knows what must come next; anything else is -EPROTO, and no size is ever taken from a
 * peer.  Memory is DS_NET_STAGE_BYTES and one chunk more, at most, whatever the number of hosts up
 * to 128; bodies go out of and into the vectors without a copy of ours.  Pairs need none.
 *
 * Lent bodies: where slices have DS_NET_LEND_MIN bytes, what is sent out of a vector is not copied
 * by the kernel either.  Until the peer has used it, it lies in the sender's memory; such a frame
 * says so in its kind, the peer answers all of them with one frame, the receipt, when it has used
 * everything, and the exchange does not end before.  When an exchange fails, peers may still read
 * what is written to the vectors afterwards; no call of theirs on the same ranks succeeds after it.
 *
 * Private to runtime/comm/.
 * Tests   tests/comm/test_net.c, test_lend.c
 */
#ifndef DS_RUNTIME_COMM_NET_H
#define DS_RUNTIME_COMM_NET_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "runtime/comm/backend.h"
#include "runtime/comm/layout.h"
#include "runtime/comm/mesh.h"
#include "runtime/comm/sync.h"

enum {
    DS_NET_HEAD_BYTES = 32,
    DS_NET_CHUNK_MAX = 256 * 1024,
    DS_NET_CHUNK_MIN = 16 * 1024,
    DS_NET_STAGE_BYTES = 8 * 1024 * 1024,
    DS_NET_LEND_MIN = 1024 * 1024, /* bytes of a slice */
    DS_NET_LEND_PIPE = 64 * 1024,  /* a pipe that holds less is no use */
    DS_NET_DEPTH = 2,              /* chunks of a peer's pieces that may wait for those of others */
};

struct ds__flow { /* of one kind of frame on one edge, in the present exchange: chunks */
    unsigned done, all;
};

struct ds__edge {              /* to one rank on another host */
    unsigned rank, host, name; /* in the group; its host; in all the job */
    int fd;
    bool gives; /* it stands for its host before this rank: gives pieces, takes the slice */
    bool takes; /* this rank stands for our host before it */
    struct ds__flow scatter_out, scatter_in, gather_out, gather_in, pair_out, pair_in;
    struct ds__flow receipt_out, receipt_in;
    bool lends;     /* the frame that is being sent */
    bool dry, full; /* nothing to read, no room to write when last tried */
    uint8_t head_out[DS_NET_HEAD_BYTES], head_in[DS_NET_HEAD_BYTES];
    struct iovec *iov; /* what is being sent: [1 + pieces of our host]; of pairs alone: [2] */
    unsigned iov_at, iov_count;
    size_t head_got;     /* of the frame being read */
    unsigned char *body; /* where the rest goes */
    size_t body_left;
    bool body_known;         /* head_in was looked at */
    struct ds__flow *coming; /* which flow the frame belongs to */
    unsigned char *in;       /* DS_NET_DEPTH chunks of its host's pieces */
    unsigned char *out;      /* a chunk of our host's pieces, where they are sums */
};

struct ds__loans { /* what lending needs of the system: net_send.c */
    bool on;
    int pipe[2], null;
};

struct ds__net {
    const struct ds__mesh *mesh;
    struct ds__sync *sync;
    struct ds__layout layout;
    unsigned me, here, slot; /* rank in the group; its host */
    bool sums;               /* pieces of this host are sums of several ranks */
    uint32_t sequence;
    struct ds__loans loans;
    size_t chunk_bytes, stage_bytes;
    unsigned char *stage, *own; /* own: a chunk of our host's pieces of this rank's slice */
    struct ds__edge *edge;
    unsigned edges; /* to who gives or takes; behind them those that only pairs use, */
    unsigned peers; /* all of them: ranks on other hosts */
    struct iovec *iov;
    struct pollfd *poll;
    const float **source; /* [pieces] */
    const float **local;  /* [ranks] of one piece; then [ranks] pieces of this host */
    float *scratch;       /* borrowed: DS_TREE_SCRATCH */
    uint64_t sent_bytes;  /* bodies, since open */
    uint64_t lent_bytes;  /* of them, without a copy */
    uint64_t wait_ns;
};

struct ds__net_args {
    const struct ds__mesh *mesh;
    struct ds__sync *sync; /* of the members on this host, by seat */
    unsigned me, ranks, slot;
    const unsigned *host_of,
        *name; /* per rank of the group: any host number; rank in all the job */
    float *scratch;
};

int ds__net_init(struct ds__net *net, const struct ds__net_args *args, struct ds_error *err)
    DS_NODISCARD;
void ds__net_release(struct ds__net *net); /* fine on a zeroed struct */

struct ds__exchange {
    const struct ds_comm_call *call;
    bool scatter, gather, pairs;
    size_t bytes, slice;  /* of the vector; of every rank's part but the last ones */
    float *const *vector; /* per member on this host, by seat */
    const void
        *small; /* instead of a vector: `bytes` per piece of this host, between first seats */
};

/* Do it.  On failure every rank of the host and of the job is told to end. */
int ds__net_exchange(struct ds__net *net, const struct ds__exchange *exchange, struct ds_error *err)
    DS_NODISCARD;

/* What the first seat of `host` gave in the last small exchange. */
const void *ds__net_small(const struct ds__net *net, unsigned host);

#endif
