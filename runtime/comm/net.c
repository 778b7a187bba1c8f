/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net.c - exchanges; the contract is in net.h.
 *
 * One loop moves what can be moved on every edge, adds up the chunks that are complete, and sleeps
 * in poll() when nothing moves.  It cannot lock up: chunks of pieces come in order, a peer's next
 * ones wait in the socket only while its earlier ones wait here for another peer's of the same
 * number, and finished slices have their place from the start.
 */
#include "runtime/comm/net.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/wire.h"
#include "runtime/comm/half.h"
#include "runtime/comm/tree.h"

#define NS_PER_MS UINT64_C(1000000)
enum { MAGIC = 0x4d435344 /* "DSCM" */, KIND_SCATTER = 1, KIND_GATHER = 2, TURN_MS = 200 };
enum {
    AT_KIND = 4,
    AT_SLOT = 6,
    AT_SEQUENCE = 8,
    AT_OP = 12,
    AT_BYTES = 16,
    AT_ROOT = 24,
    AT_CHUNK = 28
};

struct range {
    size_t at, len;
};

struct work { /* of one exchange */
    struct ds__net *net;
    const struct ds__exchange *x;
    struct ds__flow mine; /* chunks of this rank's slice: finished, all */
    bool moved;
};

/* --- who has what ----------------------------------------------------------------------------- */

static struct range slice_of(const struct work *work, unsigned rank)
{
    size_t bytes = work->x->bytes, at = work->x->slice * rank;

    if (at > bytes || work->x->slice == 0)
        at = bytes;
    return (struct range){at, bytes - at < work->x->slice ? bytes - at : work->x->slice};
}

static unsigned chunks_of(const struct work *work, unsigned rank)
{
    size_t len = slice_of(work, rank).len, chunk = work->net->chunk_bytes;

    return (unsigned)(len / chunk + (len % chunk != 0));
}

static struct range chunk_of(const struct work *work, unsigned rank, unsigned chunk)
{
    struct range slice = slice_of(work, rank);
    size_t at = chunk * work->net->chunk_bytes, left = slice.len - at;

    return (struct range){slice.at + at,
                          left < work->net->chunk_bytes ? left : work->net->chunk_bytes};
}

static bool is_broadcast(const struct work *work)
{
    return work->x->call->op == DS_COMM_BROADCAST;
}

/* Pieces that `host` gives in this exchange. */
static unsigned pieces_of(const struct work *work, unsigned host)
{
    const struct ds__layout *layout = &work->net->layout;

    if (is_broadcast(work))
        return layout->host[work->x->call->root] == host ? 1 : 0;
    return ds__layout_pieces(layout, host);
}

static unsigned char *vector_at(const struct work *work, unsigned seat, size_t at)
{
    return (unsigned char *)work->x->vector[seat] + at;
}

static void begin(struct work *work)
{
    struct ds__net *net = work->net;
    const struct ds__exchange *x = work->x;
    bool first = net->layout.seat[net->me] == 0;

    if (x->small == NULL)
        work->mine.all = chunks_of(work, net->me);
    for (unsigned i = 0; i < net->edges; i++) {
        struct ds__edge *edge = &net->edge[i];
        bool give = edge->takes && x->scatter && pieces_of(work, net->here) > 0;
        bool take = edge->gives && x->scatter && pieces_of(work, edge->host) > 0;
        unsigned its = x->small == NULL ? chunks_of(work, edge->rank) : 1;

        if (x->small != NULL)
            give = take = first && net->layout.seat[edge->rank] == 0;
        edge->scatter_out = (struct ds__flow){0, give ? its : 0};
        edge->scatter_in = (struct ds__flow){0, !take ? 0 : x->small != NULL ? 1 : work->mine.all};
        edge->gather_out = (struct ds__flow){0, edge->gives && x->gather ? work->mine.all : 0};
        edge->gather_in = (struct ds__flow){0, edge->takes && x->gather ? its : 0};
        edge->iov_at = edge->iov_count = 0;
        edge->head_got = 0;
        edge->body_known = false;
    }
    net->sequence++;
}

/* --- errors ----------------------------------------------------------------------------------- */

static int lost(const struct work *work, const struct ds__edge *edge, int why, struct ds_error *err)
{
    char name[DS_MESH_NAME];
    int rc = ds__sync_stopped(work->net->sync, work->x->call, err);

    if (rc != 0)
        return rc;
    return ds_fail(err, ECONNRESET, "%s: %s is gone: %s", ds_comm_op_name(work->x->call->op),
                   ds__mesh_name(work->net->mesh, edge->name, name),
                   why == 0 ? "it has hung up" : strerror(why));
}

static int mismatch(const struct work *work, const struct ds__edge *edge, struct ds_error *err)
{
    const struct ds_comm_call *call = work->x->call;
    const uint8_t *head = edge->head_in;
    char name[DS_MESH_NAME];

    (void)ds__mesh_name(work->net->mesh, edge->name, name);
    if (ds_get_u32(head) != MAGIC)
        return ds_fail(err, EPROTO, "%s sent what is no frame", name);
    return ds_fail(err, EPROTO,
                   "rank %u calls %s of %zu bytes (root %u), %s calls %s of %" PRIu64
                   " bytes (root %" PRIu32 ")",
                   work->net->mesh->rank, ds_comm_op_name(call->op), call->bytes, call->root, name,
                   ds_comm_op_name(ds_get_u32(head + AT_OP)), ds_get_u64(head + AT_BYTES),
                   ds_get_u32(head + AT_ROOT));
}

/* --- sums ------------------------------------------------------------------------------------- */

/* out = the sum of our first `count` local sources, by the tree. */
static void add_ranks(const struct work *work, void *out, unsigned count, size_t bytes)
{
    const void *src = work->net->local;

    if (ds__op_bf16(work->x->call->op))
        ds__tree_sum_bf16(out, src, count, bytes / sizeof(uint16_t), work->net->scratch);
    else
        ds__tree_sum_f32(out, src, count, bytes / sizeof(float), work->net->scratch);
}

/* out = the sum of all pieces, by the tree over those. */
static void add_pieces(const struct work *work, void *out, size_t bytes)
{
    const struct ds__net *net = work->net;
    const void *src = net->source;

    if (ds__op_bf16(work->x->call->op))
        ds__tree_run_bf16(out, net->layout.program, net->layout.steps, src,
                          bytes / sizeof(uint16_t), net->scratch);
    else
        ds__tree_run_f32(out, net->layout.program, net->layout.steps, src, bytes / sizeof(float),
                         net->scratch);
}

/* Pointers to our host's pieces of `part` of a vector, one after the other; those of several ranks
 * are added up into `sums`. */
static unsigned local_pieces(const struct work *work, struct range part, unsigned char *sums,
                             const float **out)
{
    struct ds__net *net = work->net;
    const struct ds__layout *layout = &net->layout;
    unsigned count = 0;

    if (is_broadcast(work)) {
        out[0] = (const float *)(const void *)vector_at(work, layout->seat[work->x->call->root],
                                                        part.at);
        return 1;
    }
    for (unsigned i = 0; i < layout->pieces; i++) {
        const struct ds__piece *piece = &layout->piece[i];
        float *sum = (float *)(void *)(sums + count * part.len);

        if (piece->host != net->here)
            continue;
        for (unsigned rank = piece->lo; rank < piece->hi; rank++)
            net->local[rank - piece->lo] =
                (const float *)(const void *)vector_at(work, layout->seat[rank], part.at);
        if (piece->hi - piece->lo > 1)
            add_ranks(work, sums + count * part.len, piece->hi - piece->lo, part.len);
        out[count++] = piece->hi - piece->lo > 1 ? sum : net->local[0];
    }
    return count;
}

static const struct ds__edge *giver(const struct ds__net *net, unsigned host)
{
    for (unsigned i = 0; i < net->edges; i++)
        if (net->edge[i].gives && net->edge[i].host == host)
            return &net->edge[i];
    return NULL;
}

/* Where every piece of `part`, which is chunk `chunk` of our slice, lies. */
static void find_sources(const struct work *work, struct range part, unsigned chunk)
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
        edge = giver(net, host);
        net->source[i] = (const float *)(const void *)(edge->in +
                                                       (chunk % DS_NET_DEPTH) * net->chunk_bytes *
                                                           ds__layout_pieces(layout, host) +
                                                       before * part.len);
    }
    local = 0;
    if (pieces_of(work, net->here) > 0)
        (void)local_pieces(work, part, net->own, net->local + layout->ranks);
    for (unsigned i = 0; i < layout->pieces; i++)
        if (layout->piece[i].host == net->here)
            net->source[i] = net->local[layout->ranks + local++];
}

static void spread(const struct work *work, struct range part)
{
    unsigned me = work->net->sync->me;

    for (unsigned seat = 0; seat < work->net->sync->members; seat++)
        if (seat != me)
            memcpy(vector_at(work, seat, part.at), vector_at(work, me, part.at), part.len);
}

/* The bytes that the root's host gave for chunk `chunk` of our slice. */
static void take_bytes(const struct work *work, struct range part, unsigned chunk)
{
    const struct ds__net *net = work->net;
    unsigned char *out = vector_at(work, net->sync->me, part.at);
    unsigned root = work->x->call->root, host = net->layout.host[root];
    const unsigned char *from;

    if (host == net->here)
        from = vector_at(work, net->layout.seat[root], part.at);
    else
        from = giver(net, host)->in +
               (chunk % DS_NET_DEPTH) * net->chunk_bytes * ds__layout_pieces(&net->layout, host);
    if (from != out)
        memcpy(out, from, part.len);
}

static bool complete(const struct work *work, unsigned chunk)
{
    for (unsigned i = 0; i < work->net->edges; i++) {
        const struct ds__flow *in = &work->net->edge[i].scatter_in;

        if (in->all > 0 && in->done <= chunk)
            return false;
    }
    return true;
}

/* Finish the chunks of our slice that everyone's pieces have come for. */
static void finish_chunks(struct work *work)
{
    struct ds__net *net = work->net;

    while (work->mine.done < work->mine.all && complete(work, work->mine.done)) {
        struct range part = chunk_of(work, net->me, work->mine.done);

        if (is_broadcast(work)) {
            take_bytes(work, part, work->mine.done);
        } else if (work->x->scatter) {
            find_sources(work, part, work->mine.done);
            add_pieces(work, vector_at(work, net->sync->me, part.at), part.len);
        }
        if (work->x->gather)
            spread(work, part);
        work->mine.done++;
        work->moved = true;
    }
}

/* --- sending ---------------------------------------------------------------------------------- */

static void write_head(const struct work *work, struct ds__edge *edge, uint16_t kind,
                       unsigned chunk)
{
    const struct ds_comm_call *call = work->x->call;
    uint8_t *head = edge->head_out;

    ds_put_u32(head, MAGIC);
    ds_put_u32(head + AT_KIND, kind | (uint32_t)work->net->slot << 16);
    ds_put_u32(head + AT_SEQUENCE, work->net->sequence);
    ds_put_u32(head + AT_OP, call->op);
    ds_put_u64(head + AT_BYTES, call->bytes);
    ds_put_u32(head + AT_ROOT, call->root);
    ds_put_u32(head + AT_CHUNK, chunk);
    edge->iov[0] = (struct iovec){.iov_base = head, .iov_len = DS_NET_HEAD_BYTES};
    edge->iov_at = 0;
    edge->iov_count = 1;
}

static void add_body(struct work *work, struct ds__edge *edge, const void *bytes, size_t len)
{
    edge->iov[edge->iov_count++] =
        (struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    work->net->sent_bytes += len;
}

/* Prepare the next frame; false when there is none to send now. */
static bool next_frame(struct work *work, struct ds__edge *edge)
{
    struct ds__net *net = work->net;
    struct range part;

    if (edge->gather_out.done < edge->gather_out.all && edge->gather_out.done < work->mine.done) {
        part = chunk_of(work, net->me, edge->gather_out.done);
        write_head(work, edge, KIND_GATHER, edge->gather_out.done++);
        add_body(work, edge, vector_at(work, net->sync->me, part.at), part.len);
        return true;
    }
    if (edge->scatter_out.done == edge->scatter_out.all)
        return false;
    write_head(work, edge, KIND_SCATTER, edge->scatter_out.done);
    if (work->x->small != NULL) {
        add_body(work, edge, work->x->small,
                 work->x->bytes * ds__layout_pieces(&net->layout, net->here));
    } else {
        const float **pieces = net->local + net->layout.ranks;
        unsigned count;

        part = chunk_of(work, edge->rank, edge->scatter_out.done);
        count = local_pieces(work, part, edge->out, pieces);
        for (unsigned i = 0; i < count; i++)
            add_body(work, edge, pieces[i], part.len);
    }
    edge->scatter_out.done++;
    return true;
}

static int pump_out(struct work *work, struct ds__edge *edge, struct ds_error *err)
{
    while (edge->iov_at < edge->iov_count || next_frame(work, edge)) {
        struct msghdr message = {.msg_iov = edge->iov + edge->iov_at,
                                 .msg_iovlen = edge->iov_count - edge->iov_at};
        ssize_t n = sendmsg(edge->fd, &message, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : lost(work, edge, errno, err);
        work->moved = true;
        while (edge->iov_at < edge->iov_count && (size_t)n >= edge->iov[edge->iov_at].iov_len)
            n -= (ssize_t)edge->iov[edge->iov_at++].iov_len;
        if (edge->iov_at < edge->iov_count) {
            edge->iov[edge->iov_at].iov_base = (char *)edge->iov[edge->iov_at].iov_base + n;
            edge->iov[edge->iov_at].iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* --- receiving -------------------------------------------------------------------------------- */

static bool expects(const struct ds__edge *edge)
{
    return edge->scatter_in.done < edge->scatter_in.all ||
           edge->gather_in.done < edge->gather_in.all;
}

/* A head is there: what frame is it, and where does its body go? */
static int take_head(struct work *work, struct ds__edge *edge, struct ds_error *err)
{
    const struct ds__net *net = work->net;
    const struct ds_comm_call *call = work->x->call;
    const uint8_t *head = edge->head_in;
    uint32_t kind = ds_get_u32(head + AT_KIND) & UINT16_MAX;
    struct ds__flow *flow = kind == KIND_SCATTER ? &edge->scatter_in : &edge->gather_in;
    struct range part;

    if (ds_get_u32(head) != MAGIC || ds_get_u32(head + AT_KIND) >> 16 != net->slot ||
        ds_get_u32(head + AT_SEQUENCE) != net->sequence ||
        ds_get_u32(head + AT_OP) != (uint32_t)call->op ||
        ds_get_u64(head + AT_BYTES) != call->bytes || ds_get_u32(head + AT_ROOT) != call->root ||
        (kind != KIND_SCATTER && kind != KIND_GATHER) || flow->done == flow->all ||
        ds_get_u32(head + AT_CHUNK) != flow->done)
        return mismatch(work, edge, err);
    edge->coming = flow;
    edge->body_known = true;
    if (work->x->small != NULL) {
        edge->body = edge->in;
        edge->body_left = work->x->bytes * ds__layout_pieces(&net->layout, edge->host);
    } else if (kind == KIND_SCATTER) {
        part = chunk_of(work, net->me, flow->done);
        edge->body = edge->in + (flow->done % DS_NET_DEPTH) * net->chunk_bytes *
                                    ds__layout_pieces(&net->layout, edge->host);
        edge->body_left = part.len * pieces_of(work, edge->host);
    } else {
        part = chunk_of(work, edge->rank, flow->done);
        edge->body = vector_at(work, net->sync->me, part.at);
        edge->body_left = part.len;
    }
    return 0;
}

/* The frame whose head is here has to wait: its place still holds an earlier chunk. */
static bool parked(const struct work *work, const struct ds__edge *edge)
{
    return edge->body_known && edge->coming == &edge->scatter_in && work->x->small == NULL &&
           edge->scatter_in.done >= work->mine.done + DS_NET_DEPTH;
}

static void end_frame(struct work *work, struct ds__edge *edge)
{
    if (edge->coming == &edge->gather_in)
        spread(work, chunk_of(work, edge->rank, edge->gather_in.done));
    edge->coming->done++;
    edge->head_got = 0;
    edge->body_known = false;
}

/* Bytes into `at`; 0 when there are none now. */
static ssize_t receive(struct work *work, struct ds__edge *edge, void *at, size_t len,
                       struct ds_error *err)
{
    ssize_t n;

    do
        n = recv(edge->fd, at, len, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        work->moved = true;
        return n;
    }
    if (n < 0 && errno == EAGAIN)
        return 0;
    return lost(work, edge, n == 0 ? 0 : errno, err);
}

static int pump_in(struct work *work, struct ds__edge *edge, struct ds_error *err)
{
    while (expects(edge) && !parked(work, edge)) {
        bool head = edge->head_got < DS_NET_HEAD_BYTES;
        ssize_t n = 0;
        int rc;

        if (head || edge->body_left > 0) {
            n = receive(work, edge, head ? edge->head_in + edge->head_got : edge->body,
                        head ? DS_NET_HEAD_BYTES - edge->head_got : edge->body_left, err);
            if (n <= 0)
                return (int)n;
        }
        if (head) {
            edge->head_got += (size_t)n;
            rc = edge->head_got == DS_NET_HEAD_BYTES ? take_head(work, edge, err) : 0;
            if (rc != 0)
                return rc;
        } else {
            edge->body += n;
            edge->body_left -= (size_t)n;
        }
        if (edge->body_known && edge->body_left == 0)
            end_frame(work, edge);
    }
    return 0;
}

/* --- the loop --------------------------------------------------------------------------------- */

static bool speaks(const struct work *work, const struct ds__edge *edge)
{
    return edge->iov_at < edge->iov_count || edge->scatter_out.done < edge->scatter_out.all ||
           (edge->gather_out.done < edge->gather_out.all &&
            edge->gather_out.done < work->mine.done);
}

static bool finished(const struct work *work)
{
    for (unsigned i = 0; i < work->net->edges; i++) {
        const struct ds__edge *edge = &work->net->edge[i];

        if (expects(edge) || edge->iov_at < edge->iov_count ||
            edge->scatter_out.done < edge->scatter_out.all ||
            edge->gather_out.done < edge->gather_out.all)
            return false;
    }
    return work->mine.done == work->mine.all;
}

static int too_late(const struct work *work, struct ds_error *err)
{
    const struct ds__net *net = work->net;
    const struct ds__edge *missing = &net->edge[0]; /* only a net with edges waits */
    char name[DS_MESH_NAME];

    for (unsigned i = 0; i < net->edges; i++) { /* rather one that gave nothing at all */
        const struct ds__edge *edge = &net->edge[i];

        if (expects(edge) && edge->scatter_in.done + edge->gather_in.done + edge->head_got == 0) {
            missing = edge;
            break;
        }
    }
    return ds_fail(err, ETIMEDOUT, "%s did not come to %s of %zu bytes within %" PRIu64 " ms",
                   ds__mesh_name(net->mesh, missing->name, name),
                   ds_comm_op_name(work->x->call->op), work->x->call->bytes,
                   net->sync->timeout_ns / NS_PER_MS);
}

/* Sleep until something can move, at most TURN_MS. */
static int nap(const struct work *work, struct ds_error *err)
{
    struct ds__net *net = work->net;
    unsigned n = 1;

    net->poll[0] = (struct pollfd){.fd = net->mesh->wake, .events = POLLIN};
    for (unsigned i = 0; i < net->edges; i++) {
        const struct ds__edge *edge = &net->edge[i];
        short events = (short)((expects(edge) && !parked(work, edge) ? POLLIN : 0) |
                               (speaks(work, edge) ? POLLOUT : 0));

        if (events != 0)
            net->poll[n++] = (struct pollfd){.fd = edge->fd, .events = events};
    }
    (void)poll(net->poll, n, TURN_MS);
    return ds__sync_stopped(net->sync, work->x->call, err);
}

static int run(struct work *work, struct ds_error *err)
{
    struct ds__net *net = work->net;
    uint64_t idle_ns = 0;
    int rc = 0;

    begin(work);
    finish_chunks(work);
    while (rc == 0 && !finished(work)) {
        work->moved = false;
        for (unsigned i = 0; rc == 0 && i < net->edges; i++) {
            rc = pump_out(work, &net->edge[i], err);
            if (rc == 0)
                rc = pump_in(work, &net->edge[i], err);
        }
        if (rc == 0)
            finish_chunks(work);
        if (rc == 0 && !work->moved && !finished(work)) {
            uint64_t began = ds_clock_mono_ns(), slept;

            rc = nap(work, err);
            slept = ds_clock_mono_ns() - began;
            net->wait_ns += slept;
            idle_ns += slept;
            if (rc == 0 && net->sync->timeout_ns != 0 && idle_ns >= net->sync->timeout_ns)
                rc = too_late(work, err);
        } else {
            idle_ns = 0;
        }
    }
    return rc;
}

int ds__net_exchange(struct ds__net *net, const struct ds__exchange *exchange, struct ds_error *err)
{
    struct work work = {.net = net, .x = exchange};
    int rc = ds__sync_stopped(net->sync, exchange->call, err);

    if (rc == 0)
        rc = run(&work, err);
    if (rc != 0) {
        ds__sync_abort_all(net->sync->region, net->mesh->rank);
        ds__mesh_abort(net->mesh);
    }
    return rc;
}

const void *ds__net_small(const struct ds__net *net, unsigned host)
{
    return giver(net, host)->in;
}
