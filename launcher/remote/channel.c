/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * channel.c - the contract is in channel.h.
 */
#include "launcher/remote/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/build.h"

enum {
    READ_BYTES = 64 * 1024,
    FAIR_READS = 4,           /* of a stream, in one turn */
    KEEP_BYTES = 16 * 1024,   /* an empty buffer larger than this is given back */
    HIGH_BYTES = 1024 * 1024, /* congested above; one frame more still fits in the queue */
    LOW_BYTES = 256 * 1024,
};

/* Drop the first bytes; a large buffer that is empty now is given back. */
static void consume(struct ds_buf *buf, size_t len)
{
    size_t max = buf->max;

    ds_buf_consume(buf, len);
    if (buf->len == 0 && buf->cap > KEEP_BYTES) {
        ds_buf_release(buf);
        ds_buf_init(buf, max);
    }
}

static void end(struct ds_channel *channel, int rc, const struct ds_error *err)
{
    if (channel->ended)
        return;
    channel->ended = true;
    ds_loop_remove(channel->loop, &channel->in);
    ds_loop_remove(channel->loop, &channel->out);
    if (channel->stream != NULL)
        channel->stream->ops->want(channel->stream, false, false);
    channel->ops->ended(channel, rc, err);
}

/* Tell epoll, or the stream, what matters now. */
static void update(struct ds_channel *channel)
{
    uint32_t in = channel->paused ? 0 : (uint32_t)EPOLLIN;
    uint32_t out = channel->tx.len > 0 ? (uint32_t)EPOLLOUT : 0;

    if (channel->ended)
        return;
    if (channel->stream != NULL) {
        channel->stream->ops->want(channel->stream, in != 0, out != 0);
    } else if (channel->in_fd == channel->out_fd) {
        ds_loop_want(channel->loop, &channel->in, in | out);
    } else {
        ds_loop_want(channel->loop, &channel->in, in);
        ds_loop_want(channel->loop, &channel->out, out);
    }
}

/* Bytes taken, or a negative errno. */
static ssize_t write_some(struct ds_channel *channel, const void *bytes, size_t len)
{
    ssize_t n;

    if (channel->stream != NULL)
        return channel->stream->ops->write(channel->stream, bytes, len);
    do
        n = write(channel->out_fd, bytes, len);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Bytes read, 0 at the end, or a negative errno. */
static ssize_t read_some(struct ds_channel *channel, void *bytes, size_t len, struct ds_error *err)
{
    ssize_t n;

    if (channel->stream != NULL)
        return channel->stream->ops->read(channel->stream, bytes, len, err);
    do
        n = read(channel->in_fd, bytes, len);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN)
        return 0; /* ECONNRESET and EPIPE are ends like any other */
    return n < 0 ? -EAGAIN : n;
}

/* Send what the peer takes now. */
static void flush(struct ds_channel *channel)
{
    size_t sent = 0;
    ssize_t n = 0;

    while (sent < channel->tx.len) {
        n = write_some(channel, channel->tx.data + sent, channel->tx.len - sent);
        if (n < 0)
            break;
        sent += (size_t)n;
    }
    consume(&channel->tx, sent);
    if (n < 0 && n != -EAGAIN)
        ds_buf_reset(&channel->tx); /* nobody reads; the reading side reports the end */
    update(channel);
    if (channel->tx.len < LOW_BYTES)
        channel->congested = false;
}

/* Deliver the whole frames in rx.  Stops when paused; the rest is delivered on resume. */
static int deliver(struct ds_channel *channel, struct ds_error *err)
{
    size_t at = 0;
    int rc = 0;

    if (channel->banner) {
        long hello = ds_wire_find_hello(channel->rx.data, channel->rx.len);

        if (hello == -EAGAIN)
            return 0;
        if (hello < 0)
            return ds_fail(err, EPROTO, "no greeting within %d bytes", DS_MAX_BANNER_BYTES);
        ds_buf_consume(&channel->rx, (size_t)hello);
        channel->banner = false;
    }
    while (!channel->paused && !channel->ended) {
        struct ds_frame frame;
        size_t used = 0;

        rc = ds_wire_decode(channel->rx.data + at, channel->rx.len - at, &frame, &used, err);
        if (rc <= 0)
            break;
        at += used;
        rc = channel->ops->frame(channel, &frame, err);
        if (rc < 0)
            break;
    }
    consume(&channel->rx, at);
    return rc < 0 ? rc : 0;
}

static void deliver_or_end(struct ds_channel *channel)
{
    struct ds_error err = {0};
    int rc = channel->rx.len > 0 ? deliver(channel, &err) : 0;

    if (rc < 0)
        end(channel, rc, &err);
}

/* A launcher has a thousand lines, most of them silent: what is read goes through the stack, so
 * that a line holds no more memory than its unfinished frame. */
bool ds_channel_pump(struct ds_channel *channel)
{
    char bytes[READ_BYTES];
    struct ds_error err = {0};
    ssize_t n;

    if (channel->paused || channel->ended)
        return false;
    n = read_some(channel, bytes, sizeof(bytes), &err);
    if (n == -EAGAIN)
        return false;
    if (n <= 0) {
        end(channel, (int)n, n < 0 ? &err : NULL);
        return false;
    }
    if (ds_buf_put(&channel->rx, bytes, (size_t)n) != 0) {
        end(channel, ds_fail(&err, ENOMEM, "no memory for the input of a channel"), &err);
        return false;
    }
    deliver_or_end(channel);
    return !channel->paused && !channel->ended;
}

bool ds_channel_ready(struct ds_channel *channel)
{
    bool more = true;

    if (channel->ended || channel->loop == NULL)
        return false;
    if (channel->tx.len > 0)
        flush(channel);
    for (int i = 0; more && i < FAIR_READS; i++)
        more = ds_channel_pump(channel);
    return more;
}

static void on_ready(struct ds_watch *watch, uint32_t events)
{
    struct ds_channel *channel = watch->user;

    if ((events & EPOLLOUT) != 0 || watch == &channel->out)
        flush(channel);
    if (watch == &channel->in && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
        (void)ds_channel_pump(channel);
}

static int set_nonblocking(int fd, struct ds_error *err)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return ds_fail(err, errno, "descriptor %d of a channel: %s", fd, strerror(errno));
    return 0;
}

static int watch_fds(struct ds_channel *channel, struct ds_error *err)
{
    int rc = set_nonblocking(channel->in_fd, err);

    if (rc == 0)
        rc = set_nonblocking(channel->out_fd, err);
    if (rc == 0)
        rc = ds_loop_add(channel->loop, &channel->in, channel->in_fd, EPOLLIN, err);
    if (rc == 0 && channel->out_fd != channel->in_fd)
        rc = ds_loop_add(channel->loop, &channel->out, channel->out_fd, 0, err);
    return rc;
}

int ds_channel_open(struct ds_channel *channel, struct ds_loop *loop,
                    const struct ds_channel_args *args, struct ds_error *err)
{
    int rc = 0;

    *channel = (struct ds_channel){
        .ops = args->ops,
        .user = args->user,
        .loop = loop,
        .in = {.fd = -1, .ready = on_ready, .user = channel},
        .out = {.fd = -1, .ready = on_ready, .user = channel},
        .stream = args->stream,
        .in_fd = args->stream == NULL ? args->in_fd : -1,
        .out_fd = args->stream == NULL ? args->out_fd : -1,
        .banner = args->banner,
    };
    ds_buf_init(&channel->rx,
                DS_MAX_FRAME_BYTES + DS_WIRE_HEADER_BYTES + DS_MAX_BANNER_BYTES + READ_BYTES);
    ds_buf_init(&channel->tx, DS_MAX_QUEUE_BYTES);
    if (channel->stream == NULL) {
        rc = watch_fds(channel, err);
    } else {
        channel->stream->channel = channel;
        update(channel);
    }
    if (rc != 0)
        ds_channel_release(channel);
    return rc;
}

void ds_channel_release(struct ds_channel *channel)
{
    if (channel->loop == NULL)
        return;
    ds_loop_remove(channel->loop, &channel->in);
    ds_loop_remove(channel->loop, &channel->out);
    if (channel->in_fd >= 0)
        (void)close(channel->in_fd);
    if (channel->out_fd >= 0 && channel->out_fd != channel->in_fd)
        (void)close(channel->out_fd);
    if (channel->stream != NULL) {
        channel->stream->ops->want(channel->stream, false, false);
        channel->stream->channel = NULL;
    }
    ds_buf_release(&channel->rx);
    ds_buf_release(&channel->tx);
    *channel = (struct ds_channel){.in_fd = -1, .out_fd = -1, .ended = true};
}

/* After appending to tx: `was` is the length before. */
static int sent(struct ds_channel *channel, int rc, size_t was)
{
    if (rc != 0 || channel->tx.failed) {
        channel->tx.len = was;
        channel->tx.failed = false;
        return rc != 0 ? rc : -ENOBUFS;
    }
    if (was == 0 && !channel->held)
        flush(channel);
    channel->congested = channel->congested || channel->tx.len > HIGH_BYTES;
    return 0;
}

int ds_channel_send(struct ds_channel *channel, const struct ds_frame *frame)
{
    size_t was = channel->tx.len;

    if (channel->ended || channel->loop == NULL)
        return -EPIPE;
    return sent(channel, ds_wire_encode(&channel->tx, frame), was);
}

int ds_channel_send_hello(struct ds_channel *channel, const struct ds_hello *hello)
{
    size_t was = channel->tx.len;

    if (channel->ended || channel->loop == NULL)
        return -EPIPE;
    return sent(channel, ds_wire_put_hello(&channel->tx, hello), was);
}

void ds_channel_hold(struct ds_channel *channel, bool held)
{
    channel->held = held;
    if (!held && channel->tx.len > 0 && !channel->ended)
        flush(channel);
}

int ds_channel_get_hello(const struct ds_frame *frame, struct ds_hello *hello, struct ds_error *err)
{
    int rc = ds_wire_get_hello(frame, hello, err);

    if (rc != 0)
        return rc;
    if (hello->version != DS_WIRE_VERSION || strcmp(hello->build_id, ds_build_id) != 0)
        return ds_fail(err, EPROTO,
                       "the other side is build '%s', this one is '%s': install the same on all "
                       "hosts",
                       hello->build_id, ds_build_id);
    return 0;
}

bool ds_channel_congested(const struct ds_channel *channel)
{
    return channel->congested;
}

bool ds_channel_idle(const struct ds_channel *channel)
{
    const struct ds_stream *stream = channel->stream;

    return channel->ended ||
           (channel->tx.len == 0 &&
            (stream == NULL || stream->ops->idle == NULL || stream->ops->idle(stream)));
}

void ds_channel_pause(struct ds_channel *channel, bool paused)
{
    if (channel->ended || channel->loop == NULL || channel->paused == paused)
        return;
    channel->paused = paused;
    update(channel);
    if (!paused)
        deliver_or_end(channel);
}
