/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * played.h - a rank on another host that a test plays by hand, byte for byte.
 */
#ifndef DS_TESTS_COMM_PLAYED_H
#define DS_TESTS_COMM_PLAYED_H

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/wire.h"
#include "runtime/comm/net_work.h"

static inline bool played_push(int fd, const void *bytes, size_t len)
{
    const unsigned char *at = bytes;

    while (len > 0) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

        if (n < 0 && errno != EAGAIN)
            return false;
        if (n < 0)
            (void)poll(&poll_fd, 1, -1);
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

static inline bool played_pull(int fd, void *bytes, size_t len)
{
    unsigned char *at = bytes;

    while (len > 0) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        ssize_t n = recv(fd, at, len, 0);

        if (n == 0 || (n < 0 && errno != EAGAIN))
            return false;
        if (n < 0)
            (void)poll(&poll_fd, 1, -1);
        at += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

struct played_head { /* of a frame; `magic` 0 is the right one */
    uint32_t magic, kind, slot, sequence, op, root, chunk;
    uint64_t bytes;
};

static inline bool played_head(int fd, const struct played_head *is)
{
    uint8_t head[DS_NET_HEAD_BYTES];

    ds_put_u32(head, is->magic != 0 ? is->magic : DS_FRAME_MAGIC);
    ds_put_u32(head + DS_FRAME_AT_KIND, is->kind | is->slot << 16);
    ds_put_u32(head + DS_FRAME_AT_SEQUENCE, is->sequence);
    ds_put_u32(head + DS_FRAME_AT_OP, is->op);
    ds_put_u64(head + DS_FRAME_AT_BYTES, is->bytes);
    ds_put_u32(head + DS_FRAME_AT_ROOT, is->root);
    ds_put_u32(head + DS_FRAME_AT_CHUNK, is->chunk);
    return played_push(fd, head, sizeof(head));
}

#endif
