/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sealed.h - a sealed TCP connection as a stream that a channel can speak through.
 *
 *     channel ◄─► stream ◄─► seal (seal.h) ◄─► socket, in a loop
 *
 * A channel may be opened on it before the peer has proved that it has the key: nothing is read
 * from it and nothing sent to it until then.
 *
 * Owner   ds_sealed_close() closes the socket.  opened() and failed() must not close it.
 * Tests   tests/launcher/test_sealed.c
 */
#ifndef DS_LAUNCHER_REMOTE_SEALED_H
#define DS_LAUNCHER_REMOTE_SEALED_H

#include "launcher/loop.h"
#include "launcher/remote/channel.h"
#include "launcher/remote/seal.h"

struct ds_sealed {
    struct ds_stream stream; /* first */
    struct ds_seal seal;
    struct ds_loop *loop;
    struct ds_watch watch;
    int fd;
    bool want_in, want_out; /* of the channel */
    bool over;              /* the line has ended */
    int code;               /* why, a negative errno; 0: the peer closed it */
    struct ds_error error;
    /* (optional) The peer has proved the key; or the line ended before it did.  Called once. */
    void (*opened)(struct ds_sealed *sealed);
    void (*failed)(struct ds_sealed *sealed);
    void *user;
};

struct ds_sealed_args {
    int fd;               /* taken: connected, or connecting; made non-blocking */
    const uint8_t *key;   /* DS_SEAL_KEY_BYTES */
    const char *identity; /* of a client; NULL: this is the server */
    void (*opened)(struct ds_sealed *sealed);
    void (*failed)(struct ds_sealed *sealed);
    void *user;
};

/* On failure the socket is closed. */
int ds_sealed_open(struct ds_sealed *sealed, struct ds_loop *loop,
                   const struct ds_sealed_args *args, struct ds_error *err) DS_NODISCARD;

/* Say the end, and wait until the peer has read it all and ends too: to close a socket that has
 * unread bytes resets the connection, and what was sent last is lost.  Given up when `lease_fd`
 * ends, or when nothing comes for `quiet_ms` (-1: as long as it takes). */
void ds_sealed_linger(struct ds_sealed *sealed, int lease_fd, int quiet_ms);
void ds_sealed_close(struct ds_sealed *sealed); /* fine on a zeroed struct */

#endif
