/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sealed.c - the contract is in sealed.h.
 */
#include "launcher/remote/sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 64 * 1024, HIGH_BYTES = 256 * 1024 };

static struct ds_sealed *of(struct ds_stream *stream)
{
    return (struct ds_sealed *)stream;
}

static bool is_open(const struct ds_sealed *sealed)
{
    return sealed->seal.state == DS_SEAL_OPEN;
}

/* Until the peer has proved itself the handshake decides what is waited for, then the channel. */
static void update(struct ds_sealed *sealed)
{
    bool shaking = !is_open(sealed);
    uint32_t in = shaking || (sealed->want_in && sealed->seal.plain.len == 0) ? EPOLLIN : 0;
    uint32_t out = sealed->seal.out.len > 0 || (sealed->want_out && !shaking) ? EPOLLOUT : 0;

    if (sealed->loop == NULL)
        return;
    ds_loop_want(sealed->loop, &sealed->watch, sealed->over ? 0 : in | out);
    if (sealed->want_in && (sealed->seal.plain.len > 0 || sealed->over))
        ds_loop_again(sealed->loop, &sealed->watch);
}

static void lose(struct ds_sealed *sealed, int rc)
{
    if (sealed->over)
        return;
    sealed->over = true;
    sealed->code = rc;
    if (!is_open(sealed) && sealed->failed != NULL)
        sealed->failed(sealed);
}

/* Send sealed bytes that wait. */
static void flush(struct ds_sealed *sealed)
{
    size_t sent = 0;

    while (sent < sealed->seal.out.len && !sealed->over) {
        ssize_t n = send(sealed->fd, sealed->seal.out.data + sent, sealed->seal.out.len - sent,
                         MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EINPROGRESS && errno != ENOTCONN)
            lose(sealed,
                 ds_fail(&sealed->error, errno, "the connection was lost: %s", strerror(errno)));
        if (n < 0)
            break;
        sent += (size_t)n;
    }
    ds_buf_consume(&sealed->seal.out, sent);
}

/* Read once from the socket.  The proof may come with data behind it. */
static void fill(struct ds_sealed *sealed)
{
    char bytes[READ_BYTES];
    bool was_open = is_open(sealed);
    ssize_t n;
    int rc;

    if (sealed->over || sealed->seal.plain.len >= HIGH_BYTES)
        return;
    do
        n = recv(sealed->fd, bytes, sizeof(bytes), 0);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0) {
        lose(sealed,
             ds_fail(&sealed->error, errno, "the connection was lost: %s", strerror(errno)));
        return;
    }
    if (n == 0) {
        lose(sealed, 0);
        return;
    }
    rc = ds_seal_feed(&sealed->seal, bytes, (size_t)n, &sealed->error);
    if (rc < 0) {
        sealed->seal.state = was_open ? DS_SEAL_OPEN : DS_SEAL_BROKEN; /* what is read stays good */
        lose(sealed, rc);
        return;
    }
    flush(sealed);
    if (!was_open && is_open(sealed) && sealed->opened != NULL)
        sealed->opened(sealed);
}

static void on_ready(struct ds_watch *watch, uint32_t events)
{
    struct ds_sealed *sealed = watch->user;

    if ((events & EPOLLOUT) != 0)
        flush(sealed);
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
        fill(sealed);
    if ((is_open(sealed) || sealed->over) && sealed->stream.channel != NULL)
        (void)ds_channel_ready(sealed->stream.channel);
    update(sealed);
}

static ssize_t sealed_read(struct ds_stream *stream, void *bytes, size_t len, struct ds_error *err)
{
    struct ds_sealed *sealed = of(stream);
    size_t n;

    if (sealed->seal.plain.len == 0)
        fill(sealed);
    n = sealed->seal.plain.len < len ? sealed->seal.plain.len : len;
    if (n > 0) {
        memcpy(bytes, sealed->seal.plain.data, n);
        ds_buf_consume(&sealed->seal.plain, n);
        return (ssize_t)n;
    }
    if (!sealed->over)
        return -EAGAIN;
    if (sealed->code < 0)
        *err = sealed->error;
    return sealed->code;
}

static ssize_t sealed_write(struct ds_stream *stream, const void *bytes, size_t len)
{
    struct ds_sealed *sealed = of(stream);
    size_t n = len < DS_SEAL_RECORD_BYTES ? len : DS_SEAL_RECORD_BYTES;
    int rc;

    if (sealed->over)
        return -EPIPE;
    if (!is_open(sealed))
        return -EAGAIN;
    rc = sealed->seal.out.len >= HIGH_BYTES / 2 ? -ENOBUFS : ds_seal_put(&sealed->seal, bytes, n);
    flush(sealed);
    return rc == -ENOBUFS ? -EAGAIN : rc < 0 ? rc : (ssize_t)n;
}

static void sealed_want(struct ds_stream *stream, bool in, bool out)
{
    struct ds_sealed *sealed = of(stream);

    sealed->want_in = in;
    sealed->want_out = out;
    update(sealed);
}

static bool sealed_idle(const struct ds_stream *stream)
{
    const struct ds_sealed *sealed = (const struct ds_sealed *)stream;

    return sealed->over || sealed->seal.out.len == 0;
}

static const struct ds_stream_ops sealed_ops = {
    .read = sealed_read, .write = sealed_write, .want = sealed_want, .idle = sealed_idle};

int ds_sealed_open(struct ds_sealed *sealed, struct ds_loop *loop,
                   const struct ds_sealed_args *args, struct ds_error *err)
{
    int flags = fcntl(args->fd, F_GETFL);
    int rc;

    *sealed = (struct ds_sealed){.stream = {.ops = &sealed_ops},
                                 .loop = loop,
                                 .watch = {.fd = -1, .ready = on_ready, .user = sealed},
                                 .fd = args->fd,
                                 .opened = args->opened,
                                 .failed = args->failed,
                                 .user = args->user};
    rc = ds_seal_init(&sealed->seal, args->key, args->identity, err);
    if (rc == 0 && (flags < 0 || fcntl(args->fd, F_SETFL, flags | O_NONBLOCK) < 0))
        rc = ds_fail(err, errno, "a connection: %s", strerror(errno));
    if (rc == 0)
        rc = ds_loop_add(loop, &sealed->watch, args->fd, EPOLLIN, err);
    if (rc != 0)
        ds_sealed_close(sealed);
    else
        update(sealed);
    return rc;
}

/* Read and forget.  False: the end, or an error. */
static bool drain(int fd)
{
    char bytes[4096];
    ssize_t n = read(fd, bytes, sizeof(bytes));

    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void ds_sealed_linger(struct ds_sealed *sealed, int lease_fd, int quiet_ms)
{
    struct pollfd fds[] = {{.fd = sealed->fd, .events = POLLIN},
                           {.fd = lease_fd, .events = POLLIN}};

    if (sealed->loop == NULL || sealed->over || shutdown(sealed->fd, SHUT_WR) != 0)
        return;
    for (;;) {
        int n = poll(fds, 2, quiet_ms);

        if (n == 0 || (n < 0 && errno != EINTR))
            return;
        for (int i = 0; n > 0 && i < 2; i++)
            if (fds[i].revents != 0 && !drain(fds[i].fd))
                return;
    }
}

void ds_sealed_close(struct ds_sealed *sealed)
{
    if (sealed->loop == NULL)
        return;
    ds_loop_remove(sealed->loop, &sealed->watch);
    (void)close(sealed->fd);
    ds_seal_release(&sealed->seal);
    *sealed = (struct ds_sealed){.fd = -1, .watch = {.fd = -1}, .over = true};
}
