/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * channel.h - frames over a pair of descriptors (or one socket): the line between two programs.
 *
 * Reading and writing never block.  What cannot be sent at once is queued, at most
 * DS_MAX_QUEUE_BYTES; a user that produces bulk stops while ds_channel_congested(), which turns off
 * again well below the mark where it turned on.  A paused channel leaves its bytes with the sender.
 * Programs that use channels ignore SIGPIPE.
 *
 * Owner   the channel closes its descriptors in ds_channel_release().  Callbacks must not release
 *         the channel that calls them.
 * Tests   tests/launcher/test_channel.c
 */
#ifndef DS_LAUNCHER_REMOTE_CHANNEL_H
#define DS_LAUNCHER_REMOTE_CHANNEL_H

#include <stdbool.h>

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

struct ds_channel {
    const struct ds_channel_ops *ops;
    void *user;
    struct ds_loop *loop;
    struct ds_watch in, out; /* of one socket, `in` does both */
    int in_fd, out_fd;
    struct ds_buf rx, tx;
    bool banner; /* HELLO has not been seen: drop what comes before it */
    bool paused, ended, congested;
};

struct ds_channel_args {
    const struct ds_channel_ops *ops;
    void *user;
    int in_fd, out_fd; /* taken, made non-blocking; may be the same */
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

/* The peer's HELLO, which must come from the same build.  -EPROTO: it does not, or is malformed. */
int ds_channel_get_hello(const struct ds_frame *frame, struct ds_hello *hello, struct ds_error *err)
    DS_NODISCARD;

bool ds_channel_congested(const struct ds_channel *channel);
bool ds_channel_idle(const struct ds_channel *channel); /* nothing left to send */
void ds_channel_pause(struct ds_channel *channel, bool paused);

/* Read and deliver what is there now.  True: there may be more; false: nothing left, paused, or
 * ended. */
bool ds_channel_pump(struct ds_channel *channel);

#endif
