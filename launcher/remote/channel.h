/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * channel.h - frames over a pair of descriptors, one socket or a stream: the line between two
 * programs.
 *
 * Reading and writing never block.  What cannot be sent at once is queued, at most
 * DS_MAX_QUEUE_BYTES; a user that produces bulk stops while ds_channel_congested(), which turns off
 * again well below the mark where it turned on.  A paused channel leaves its bytes with the sender.
 * Programs that use channels ignore SIGPIPE.
 *
 * Owner   the channel closes its descriptors in ds_channel_release(); a stream stays its owner's.
 *         Callbacks must not release the channel that calls them.
 * Tests   tests/launcher/test_channel.c
 */
#ifndef DS_LAUNCHER_REMOTE_CHANNEL_H
#define DS_LAUNCHER_REMOTE_CHANNEL_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/wire.h"
#include "launcher/loop.h"

struct ds_channel;

struct ds_channel_ops {
    /* One frame arrived; its payload is borrowed.  Negative: the channel ends with this. */
    int (*frame)(struct ds_channel *channel, const struct ds_frame *frame, struct ds_error *err);
    /* Called once: the peer is gone (0) or was dropped for a reason (-EPROTO, -ENOBUFS, ...). */
    void (*ended)(struct ds_channel *channel, int rc, const struct ds_error *err);
};

/* What a channel speaks through where there is no descriptor of its own (one SSH channel of many in
 * a session).  Embedded by whoever carries the bytes. */
struct ds_stream {
    const struct ds_stream_ops *ops;
    struct ds_channel *channel; /* that uses it now, or NULL */
};

struct ds_stream_ops {
    /* > 0: so many bytes; 0: the end; -EAGAIN: nothing now; else the line is lost, says `err`. */
    ssize_t (*read)(struct ds_stream *stream, void *bytes, size_t len, struct ds_error *err);
    /* > 0: so many were taken; -EAGAIN: none now; else nobody reads any more. */
    ssize_t (*write)(struct ds_stream *stream, const void *bytes, size_t len);
    /* What the channel waits for from now on: call ds_channel_ready() when it may go on. */
    void (*want)(struct ds_stream *stream, bool in, bool out);
    /* (optional) Is nothing that was taken still to be handed to the kernel? */
    bool (*idle)(const struct ds_stream *stream);
};

struct ds_channel {
    const struct ds_channel_ops *ops;
    void *user;
    struct ds_loop *loop;
    struct ds_stream *stream; /* instead of descriptors; or NULL */
    struct ds_watch in, out;  /* of one socket, `in` does both */
    int in_fd, out_fd;
    struct ds_buf rx, tx;
    bool banner; /* HELLO has not been seen: drop what comes before it */
    bool paused, ended, congested, held;
};

struct ds_channel_args {
    const struct ds_channel_ops *ops;
    void *user;
    int in_fd, out_fd;        /* taken, made non-blocking; may be the same */
    struct ds_stream *stream; /* borrowed; then the descriptors are not used */
    bool banner;
};

/* On failure the descriptors are closed. */
int ds_channel_open(struct ds_channel *channel, struct ds_loop *loop,
                    const struct ds_channel_args *args, struct ds_error *err) DS_NODISCARD;
void ds_channel_release(struct ds_channel *channel); /* fine on a zeroed struct */

/* Queue one frame and send what the peer takes.  0, or -ENOBUFS / -EMSGSIZE / -EPIPE: nothing was
 * queued, the channel is as before. */
int ds_channel_send(struct ds_channel *channel, const struct ds_frame *frame);
int ds_channel_send_hello(struct ds_channel *channel, const struct ds_hello *hello);

/* While it is held, what is sent is kept: then it goes out in one piece. */
void ds_channel_hold(struct ds_channel *channel, bool held);

/* The peer's HELLO, which must come from the same build.  -EPROTO: it does not, or is malformed. */
int ds_channel_get_hello(const struct ds_frame *frame, struct ds_hello *hello, struct ds_error *err)
    DS_NODISCARD;

bool ds_channel_congested(const struct ds_channel *channel);
bool ds_channel_idle(const struct ds_channel *channel); /* nothing left to send */
void ds_channel_pause(struct ds_channel *channel, bool paused);

/* Read and deliver what is there now.  True: there may be more; false: nothing left, paused, or
 * ended. */
bool ds_channel_pump(struct ds_channel *channel);

/* For streams: send what waits, read and deliver a fair share of what is there.  Returns as
 * ds_channel_pump(). */
bool ds_channel_ready(struct ds_channel *channel);

#endif
