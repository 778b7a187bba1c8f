/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * net_send.c - frames out; the contract is in net_work.h.
 *
 * Lent: the pages of a body go through a pipe into the connection by reference (vmsplice(), then
 * splice()), and the only copy that is left is the receiver's.  One pipe serves all edges of a net,
 * so it is emptied whenever a connection takes less than what is in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/wire.h"
#include "runtime/comm/net_work.h"

/* --- what a loan needs ------------------------------------------------------------------------ */

void ds__loans_open(struct ds__loans *loans)
{
    *loans = (struct ds__loans){.null = open("/dev/null", O_WRONLY | O_CLOEXEC)};
    if (loans->null < 0)
        return;
    if (pipe2(loans->pipe, O_NONBLOCK | O_CLOEXEC) != 0) {
        (void)close(loans->null);
        return;
    }
    loans->on = true;
    (void)fcntl(loans->pipe[1], F_SETPIPE_SZ, DS_NET_CHUNK_MAX);
    if (fcntl(loans->pipe[1], F_GETPIPE_SZ) < DS_NET_LEND_PIPE)
        ds__loans_close(loans);
}

void ds__loans_close(struct ds__loans *loans)
{
    if (!loans->on)
        return;
    (void)close(loans->null);
    (void)close(loans->pipe[0]);
    (void)close(loans->pipe[1]);
    loans->on = false;
}

static void empty_pipe(struct ds__loans *loans, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = splice(loans->pipe[0], NULL, loans->null, NULL, bytes, 0);

        if (n <= 0) {
            ds__loans_close(loans);
            return;
        }
        bytes -= (size_t)n;
    }
}

/* --- frames ----------------------------------------------------------------------------------- */

static bool gathers(const struct ds__work *work, const struct ds__edge *edge)
{
    return edge->gather_out.done < edge->gather_out.all && edge->gather_out.done < work->mine.done;
}

/* All that the peer gives in this exchange has come and been used: it may have its memory back. */
static bool owes_receipt(const struct ds__edge *edge)
{
    return edge->receipt_out.done < edge->receipt_out.all &&
           edge->scatter_in.done == edge->scatter_in.all &&
           edge->gather_in.done == edge->gather_in.all && edge->pair_in.done == edge->pair_in.all;
}

bool ds__send_waits(const struct ds__work *work, const struct ds__edge *edge)
{
    return edge->iov_at < edge->iov_count || edge->scatter_out.done < edge->scatter_out.all ||
           edge->pair_out.done < edge->pair_out.all || gathers(work, edge) || owes_receipt(edge);
}

/* A body that nobody changes before the peer has used it: not one of sums, whose place is used anew
 * for the next chunk.  Short ones are not worth the receipt. */
static bool may_lend(const struct ds__work *work, bool sums)
{
    return work->net->loans.on && work->x->small == NULL && !sums &&
           work->x->slice >= DS_NET_LEND_MIN;
}

static void write_head(const struct ds__work *work, struct ds__edge *edge, uint32_t kind,
                       unsigned chunk)
{
    const struct ds_comm_call *call = work->x->call;
    uint8_t *head = edge->head_out;

    edge->lends = (kind & DS_FRAME_LENT) != 0;
    if (edge->lends)
        edge->receipt_in.all = 1;
    ds_put_u32(head, DS_FRAME_MAGIC);
    ds_put_u32(head + DS_FRAME_AT_KIND, kind | (uint32_t)work->net->slot << 16);
    ds_put_u32(head + DS_FRAME_AT_SEQUENCE, work->net->sequence);
    ds_put_u32(head + DS_FRAME_AT_OP, call->op);
    ds_put_u64(head + DS_FRAME_AT_BYTES, call->bytes);
    ds_put_u32(head + DS_FRAME_AT_ROOT, call->root);
    ds_put_u32(head + DS_FRAME_AT_CHUNK, chunk);
    edge->iov[0] = (struct iovec){.iov_base = head, .iov_len = DS_NET_HEAD_BYTES};
    edge->iov_at = 0;
    edge->iov_count = 1;
}

static void add_body(struct ds__work *work, struct ds__edge *edge, const void *bytes, size_t len)
{
    edge->iov[edge->iov_count++] =
        (struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    work->net->sent_bytes += len;
}

static void next_gather(struct ds__work *work, struct ds__edge *edge)
{
    const struct ds__net *net = work->net;
    struct ds__range part = ds__work_chunk(work, net->me, edge->gather_out.done);
    uint32_t lent = may_lend(work, false) ? DS_FRAME_LENT : 0;

    write_head(work, edge, DS_FRAME_GATHER | lent, edge->gather_out.done++);
    add_body(work, edge, ds__work_vector(work, net->sync->me, part.at), part.len);
}

static void next_scatter(struct ds__work *work, struct ds__edge *edge)
{
    struct ds__net *net = work->net;
    const float **pieces = net->local + net->layout.ranks;
    uint32_t lent = may_lend(work, net->sums && !ds__work_broadcasts(work)) ? DS_FRAME_LENT : 0;
    struct ds__range part;
    unsigned count;

    write_head(work, edge, DS_FRAME_SCATTER | lent, edge->scatter_out.done);
    if (work->x->small != NULL) {
        add_body(work, edge, work->x->small,
                 work->x->bytes * ds__layout_pieces(&net->layout, net->here));
    } else {
        part = ds__work_chunk(work, edge->rank, edge->scatter_out.done);
        count = ds__sums_local(work, part, edge->out, pieces);
        for (unsigned i = 0; i < count; i++)
            add_body(work, edge, pieces[i], part.len);
    }
    edge->scatter_out.done++;
}

static void next_pair(struct ds__work *work, struct ds__edge *edge)
{
    struct ds__range part = ds__work_pair(work, edge->rank, edge->pair_out.done);
    uint32_t lent = may_lend(work, false) ? DS_FRAME_LENT : 0;

    write_head(work, edge, DS_FRAME_PAIR | lent, edge->pair_out.done++);
    add_body(work, edge, (const unsigned char *)work->x->call->from + part.at, part.len);
}

/* Prepare the next frame; false when there is none to send now. */
static bool next_frame(struct ds__work *work, struct ds__edge *edge)
{
    if (gathers(work, edge))
        next_gather(work, edge);
    else if (edge->scatter_out.done < edge->scatter_out.all)
        next_scatter(work, edge);
    else if (edge->pair_out.done < edge->pair_out.all)
        next_pair(work, edge);
    else if (owes_receipt(edge))
        write_head(work, edge, DS_FRAME_RECEIPT, edge->receipt_out.done++);
    else
        return false;
    return true;
}

/* --- bytes ------------------------------------------------------------------------------------ */

static ssize_t copy(struct ds__edge *edge)
{
    bool head = edge->lends && edge->iov_at == 0;
    struct msghdr message = {.msg_iov = edge->iov + edge->iov_at,
                             .msg_iovlen = head ? 1 : edge->iov_count - edge->iov_at};

    return sendmsg(edge->fd, &message, MSG_NOSIGNAL | (head ? MSG_MORE : 0));
}

/* Of the body, as much as pipe and connection take. */
static ssize_t lend(struct ds__work *work, struct ds__edge *edge)
{
    struct ds__loans *loans = &work->net->loans;
    ssize_t n, piped = vmsplice(loans->pipe[1], edge->iov + edge->iov_at,
                                edge->iov_count - edge->iov_at, SPLICE_F_NONBLOCK);
    int why;

    if (piped <= 0) { /* not allowed here, or memory that is no pages */
        ds__loans_close(loans);
        return copy(edge);
    }
    n = splice(loans->pipe[0], NULL, edge->fd, NULL, (size_t)piped, SPLICE_F_NONBLOCK);
    why = errno;
    empty_pipe(loans, (size_t)(piped - (n > 0 ? n : 0)));
    if (n < 0 && (why == EINVAL || why == ENOSYS || why == EPERM)) {
        ds__loans_close(loans);
        return copy(edge);
    }
    work->net->lent_bytes += n > 0 ? (uint64_t)n : 0;
    errno = why;
    return n;
}

static void advance(struct ds__edge *edge, size_t n)
{
    while (edge->iov_at < edge->iov_count && n >= edge->iov[edge->iov_at].iov_len)
        n -= edge->iov[edge->iov_at++].iov_len;
    if (edge->iov_at < edge->iov_count) {
        edge->iov[edge->iov_at].iov_base = (char *)edge->iov[edge->iov_at].iov_base + n;
        edge->iov[edge->iov_at].iov_len -= n;
    }
}

int ds__send_frame(struct ds__work *work, struct ds__edge *edge, struct ds_error *err)
{
    if (edge->iov_at == edge->iov_count && !next_frame(work, edge))
        return 0;
    while (edge->iov_at < edge->iov_count) {
        bool lends = edge->lends && edge->iov_at > 0 && work->net->loans.on;
        ssize_t n = lends ? lend(work, edge) : copy(edge);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return ds__work_lost(work, edge, errno, err);
        if (n < 0) {
            edge->full = true;
            return 0;
        }
        work->moved = true;
        advance(edge, (size_t)n);
    }
    return 0;
}
