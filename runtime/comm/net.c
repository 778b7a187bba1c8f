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
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/wire.h"
#include "runtime/comm/net_work.h"

#define NS_PER_MS UINT64_C(1000000)
enum { TURN_MS = 200, SPIN_NS = 20000 };

/* --- what is expected ------------------------------------------------------------------------- */

static unsigned chunks_of(const struct ds__work *work, unsigned rank)
{
    size_t len = ds__work_slice(work, rank).len, chunk = work->net->chunk_bytes;

    return (unsigned)(len / chunk + (len % chunk != 0));
}

static bool gives(const struct ds__work *work, unsigned rank)
{
    return ds__call_gives(work->x->call, rank);
}

static void begin(struct ds__work *work)
{
    struct ds__net *net = work->net;
    const struct ds__exchange *x = work->x;
    bool first = net->layout.seat[net->me] == 0;

    if (x->scatter || x->gather)
        work->mine.all = chunks_of(work, net->me);
    for (unsigned i = 0; i < ds__work_edges(work); i++) {
        struct ds__edge *edge = &net->edge[i];
        bool give = edge->takes && x->scatter && ds__work_pieces(work, net->here) > 0;
        bool take = edge->gives && x->scatter && ds__work_pieces(work, edge->host) > 0;
        unsigned its = x->small == NULL ? chunks_of(work, edge->rank) : 1;

        if (x->small != NULL)
            give = take = first && net->layout.seat[edge->rank] == 0;
        edge->scatter_out = (struct ds__flow){0, give ? its : 0};
        edge->scatter_in = (struct ds__flow){0, !take ? 0 : x->small != NULL ? 1 : work->mine.all};
        edge->gather_out = (struct ds__flow){0, edge->gives && x->gather ? work->mine.all : 0};
        edge->gather_in = (struct ds__flow){0, edge->takes && x->gather ? its : 0};
        edge->pair_out = (struct ds__flow){0, x->pairs && gives(work, net->me) ? its : 0};
        edge->pair_in = (struct ds__flow){0, x->pairs && gives(work, edge->rank) ? its : 0};
        edge->receipt_out = edge->receipt_in = (struct ds__flow){0, 0}; /* until bodies are lent */
        edge->iov_at = edge->iov_count = 0;
        edge->head_got = 0;
        edge->body_known = edge->dry = edge->full = false;
    }
    net->sequence++;
}

/* --- errors ----------------------------------------------------------------------------------- */

int ds__work_lost(const struct ds__work *work, const struct ds__edge *edge, int why,
                  struct ds_error *err)
{
    char name[DS_MESH_NAME];
    int rc = ds__sync_stopped(work->net->sync, work->x->call, err);

    if (rc != 0)
        return rc;
    return ds_fail(err, ECONNRESET, "%s: %s is gone: %s", ds_comm_op_name(work->x->call->op),
                   ds__mesh_name(work->net->mesh, edge->name, name),
                   why == 0 ? "it has hung up" : strerror(why));
}

static int mismatch(const struct ds__work *work, const struct ds__edge *edge, struct ds_error *err)
{
    const struct ds_comm_call *call = work->x->call;
    const uint8_t *head = edge->head_in;
    char name[DS_MESH_NAME];

    (void)ds__mesh_name(work->net->mesh, edge->name, name);
    if (ds_get_u32(head) != DS_FRAME_MAGIC)
        return ds_fail(err, EPROTO, "%s sent what is no frame", name);
    return ds_fail(err, EPROTO,
                   "rank %u calls %s of %zu bytes (root %u), %s calls %s of %" PRIu64
                   " bytes (root %" PRIu32 ")",
                   work->net->mesh->rank, ds_comm_op_name(call->op), call->bytes, call->root, name,
                   ds_comm_op_name(ds_get_u32(head + DS_FRAME_AT_OP)),
                   ds_get_u64(head + DS_FRAME_AT_BYTES), ds_get_u32(head + DS_FRAME_AT_ROOT));
}

/* --- receiving -------------------------------------------------------------------------------- */

static bool all_begun(const struct ds__edge *edge)
{
    return edge->scatter_out.done == edge->scatter_out.all &&
           edge->gather_out.done == edge->gather_out.all &&
           edge->pair_out.done == edge->pair_out.all;
}

static bool expects(const struct ds__edge *edge)
{
    return edge->scatter_in.done < edge->scatter_in.all ||
           edge->gather_in.done < edge->gather_in.all || edge->pair_in.done < edge->pair_in.all ||
           edge->receipt_in.done < edge->receipt_in.all;
}

/* The flow that a frame of this kind belongs to; NULL: there is none, or not yet. */
static struct ds__flow *flow_of(struct ds__edge *edge, uint32_t kind)
{
    switch (kind & ~(uint32_t)DS_FRAME_LENT) {
    case DS_FRAME_SCATTER: return &edge->scatter_in;
    case DS_FRAME_GATHER: return &edge->gather_in;
    case DS_FRAME_PAIR: return &edge->pair_in;
    case DS_FRAME_RECEIPT:
        return kind == DS_FRAME_RECEIPT && all_begun(edge) ? &edge->receipt_in : NULL;
    default: return NULL;
    }
}

/* Where the body of the frame that is coming goes. */
static void place_body(const struct ds__work *work, struct ds__edge *edge)
{
    const struct ds__net *net = work->net;
    const struct ds__flow *flow = edge->coming;
    struct ds__range part;

    if (flow == &edge->receipt_in) {
        edge->body_left = 0;
    } else if (work->x->small != NULL) {
        edge->body = edge->in;
        edge->body_left = work->x->bytes * ds__layout_pieces(&net->layout, edge->host);
    } else if (flow == &edge->scatter_in) {
        part = ds__work_chunk(work, net->me, flow->done);
        edge->body = edge->in + (flow->done % DS_NET_DEPTH) * net->chunk_bytes *
                                    ds__layout_pieces(&net->layout, edge->host);
        edge->body_left = part.len * ds__work_pieces(work, edge->host);
    } else if (flow == &edge->pair_in) {
        part = ds__work_pair(work, edge->rank, flow->done);
        edge->body = (unsigned char *)work->x->call->buf + part.at;
        edge->body_left = part.len;
    } else {
        part = ds__work_chunk(work, edge->rank, flow->done);
        edge->body = ds__work_vector(work, net->sync->me, part.at);
        edge->body_left = part.len;
    }
}

/* A head is there: what frame is it, and where does its body go? */
static int take_head(struct ds__work *work, struct ds__edge *edge, struct ds_error *err)
{
    const struct ds__net *net = work->net;
    const struct ds_comm_call *call = work->x->call;
    const uint8_t *head = edge->head_in;
    uint32_t kind = ds_get_u32(head + DS_FRAME_AT_KIND) & UINT16_MAX;
    struct ds__flow *flow = flow_of(edge, kind);

    if (ds_get_u32(head) != DS_FRAME_MAGIC ||
        ds_get_u32(head + DS_FRAME_AT_KIND) >> 16 != net->slot ||
        ds_get_u32(head + DS_FRAME_AT_SEQUENCE) != net->sequence ||
        ds_get_u32(head + DS_FRAME_AT_OP) != (uint32_t)call->op ||
        ds_get_u64(head + DS_FRAME_AT_BYTES) != call->bytes ||
        ds_get_u32(head + DS_FRAME_AT_ROOT) != call->root || flow == NULL ||
        flow->done == flow->all || ds_get_u32(head + DS_FRAME_AT_CHUNK) != flow->done)
        return mismatch(work, edge, err);
    edge->coming = flow;
    edge->body_known = true;
    if ((kind & DS_FRAME_LENT) != 0)
        edge->receipt_out.all = 1;
    place_body(work, edge);
    return 0;
}

/* The frame whose head is here has to wait: its place still holds an earlier chunk. */
static bool parked(const struct ds__work *work, const struct ds__edge *edge)
{
    return edge->body_known && edge->coming == &edge->scatter_in && work->x->small == NULL &&
           edge->scatter_in.done >= work->mine.done + DS_NET_DEPTH;
}

static void end_frame(struct ds__work *work, struct ds__edge *edge)
{
    if (edge->coming == &edge->gather_in)
        ds__sums_spread(work, ds__work_chunk(work, edge->rank, edge->gather_in.done));
    edge->coming->done++;
    edge->head_got = 0;
    edge->body_known = false;
}

/* Bytes into `at`; 0 when there are none now. */
static ssize_t receive(struct ds__work *work, struct ds__edge *edge, void *at, size_t len,
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
    if (n < 0 && errno == EAGAIN) {
        edge->dry = true;
        return 0;
    }
    return ds__work_lost(work, edge, n == 0 ? 0 : errno, err);
}

/* Read a frame, or what has come of it. */
static int read_frame(struct ds__work *work, struct ds__edge *edge, struct ds_error *err)
{
    while (!edge->body_known || edge->body_left > 0) {
        bool head = edge->head_got < DS_NET_HEAD_BYTES;
        ssize_t n = receive(work, edge, head ? edge->head_in + edge->head_got : edge->body,
                            head ? DS_NET_HEAD_BYTES - edge->head_got : edge->body_left, err);
        int rc;

        if (n <= 0)
            return (int)n;
        if (!head) {
            edge->body += n;
            edge->body_left -= (size_t)n;
            continue;
        }
        edge->head_got += (size_t)n;
        rc = edge->head_got == DS_NET_HEAD_BYTES ? take_head(work, edge, err) : 0;
        if (rc != 0 || parked(work, edge))
            return rc;
    }
    end_frame(work, edge);
    return 0;
}

/* --- the loop --------------------------------------------------------------------------------- */

static bool finished(const struct ds__work *work)
{
    for (unsigned i = 0; i < ds__work_edges(work); i++) {
        const struct ds__edge *edge = &work->net->edge[i];

        if (expects(edge) || !all_begun(edge) || edge->iov_at < edge->iov_count ||
            edge->receipt_out.done < edge->receipt_out.all)
            return false;
    }
    return work->mine.done == work->mine.all;
}

static int too_late(const struct ds__work *work, struct ds_error *err)
{
    const struct ds__net *net = work->net;
    const unsigned edges = ds__work_edges(work);
    const struct ds__edge *missing = &net->edge[0]; /* only a net with edges waits */
    char name[DS_MESH_NAME];

    for (unsigned i = edges; i-- > 0;)
        missing = expects(&net->edge[i]) ? &net->edge[i] : missing;
    for (unsigned i = 0; i < edges; i++) { /* rather one that gave nothing at all */
        const struct ds__edge *edge = &net->edge[i];
        unsigned frames = edge->scatter_in.done + edge->gather_in.done + edge->pair_in.done;

        if (expects(edge) && frames + edge->head_got == 0) {
            missing = edge;
            break;
        }
    }
    return ds_fail(err, ETIMEDOUT, "%s did not come to %s of %zu bytes within %" PRIu64 " ms",
                   ds__mesh_name(net->mesh, missing->name, name),
                   ds_comm_op_name(work->x->call->op), work->x->call->bytes,
                   net->sync->timeout_ns / NS_PER_MS);
}

/* Poll, at most TURN_MS; without sleep at first where cores are free and much is on its way. */
static void wait_for(const struct ds__work *work, nfds_t count)
{
    struct ds__net *net = work->net;
    bool spins = net->sync->spin > 0 && work->x->slice >= DS_NET_LEND_MIN;
    uint64_t began = spins ? ds_clock_mono_ns() : 0;
    int n = 0;

    while (n == 0 && spins && ds_clock_mono_ns() - began < SPIN_NS)
        n = poll(net->poll, count, 0);
    if (n == 0)
        (void)poll(net->poll, count, TURN_MS);
}

/* See which edges can move again; when none has moved, wait for one. */
static void look(struct ds__work *work)
{
    struct ds__net *net = work->net;
    const unsigned edges = ds__work_edges(work);

    net->poll[0] = (struct pollfd){.fd = net->mesh->wake, .events = POLLIN};
    for (unsigned i = 0; i < edges; i++) {
        const struct ds__edge *edge = &net->edge[i];
        short events = (short)((expects(edge) && !parked(work, edge) ? POLLIN : 0) |
                               (ds__send_waits(work, edge) ? POLLOUT : 0));

        net->poll[i + 1] = (struct pollfd){.fd = events != 0 ? edge->fd : -1, .events = events};
    }
    if (work->moved)
        (void)poll(net->poll, edges + 1, 0);
    else
        wait_for(work, edges + 1);
    for (unsigned i = 0; i < edges; i++) {
        struct ds__edge *edge = &net->edge[i];
        int seen = net->poll[i + 1].revents;

        edge->dry = edge->dry && (seen & ~POLLOUT) == 0;
        edge->full = edge->full && (seen & ~POLLIN) == 0;
    }
}

/* One frame each way on every edge: both directions of a connection are busy, and what is sent is
 * still near when the peer reads it. */
static int move(struct ds__work *work, bool *blocked, struct ds_error *err)
{
    int rc = 0;

    work->moved = *blocked = false;
    for (unsigned i = 0; rc == 0 && i < ds__work_edges(work); i++) {
        struct ds__edge *edge = &work->net->edge[i];

        if (!edge->full)
            rc = ds__send_frame(work, edge, err);
        if (rc == 0 && !edge->dry && expects(edge) && !parked(work, edge))
            rc = read_frame(work, edge, err);
        *blocked = *blocked || edge->full || (edge->dry && expects(edge));
    }
    if (rc == 0)
        ds__sums_finish(work);
    return rc;
}

static int run(struct ds__work *work, struct ds_error *err)
{
    struct ds__net *net = work->net;
    uint64_t idle_ns = 0;
    bool blocked;
    int rc = 0;

    begin(work);
    ds__sums_finish(work);
    while (rc == 0 && !finished(work)) {
        uint64_t began, slept;

        rc = move(work, &blocked, err);
        if (rc != 0 || finished(work))
            break;
        if (work->moved) {
            idle_ns = 0;
            if (blocked)
                look(work);
            continue;
        }
        began = ds_clock_mono_ns();
        look(work);
        rc = ds__sync_stopped(net->sync, work->x->call, err);
        slept = ds_clock_mono_ns() - began;
        net->wait_ns += slept;
        idle_ns += slept;
        if (rc == 0 && net->sync->timeout_ns != 0 && idle_ns >= net->sync->timeout_ns)
            rc = too_late(work, err);
    }
    return rc;
}

/* splice() has no flag against SIGPIPE: keep it off while peers may hang up. */
static void hush(bool off, sigset_t *before, bool *pending)
{
    const struct timespec none = {0};
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGPIPE);
    if (off) {
        *pending = sigpending(before) == 0 && sigismember(before, SIGPIPE) == 1;
        (void)pthread_sigmask(SIG_BLOCK, &set, before);
        return;
    }
    if (!*pending)
        (void)sigtimedwait(&set, NULL, &none);
    (void)pthread_sigmask(SIG_SETMASK, before, NULL);
}

int ds__net_exchange(struct ds__net *net, const struct ds__exchange *exchange, struct ds_error *err)
{
    struct ds__work work = {.net = net, .x = exchange};
    int rc = ds__sync_stopped(net->sync, exchange->call, err);
    bool hushed = rc == 0 && net->loans.on && exchange->slice >= DS_NET_LEND_MIN, pending = false;
    sigset_t before;

    if (hushed)
        hush(true, &before, &pending);
    if (rc == 0)
        rc = run(&work, err);
    if (hushed)
        hush(false, &before, &pending);
    if (rc != 0) {
        ds__sync_abort_all(net->sync->region, net->mesh->rank);
        ds__mesh_abort(net->mesh);
    }
    return rc;
}

const void *ds__net_small(const struct ds__net *net, unsigned host)
{
    return ds__sums_giver(net, host)->in;
}
