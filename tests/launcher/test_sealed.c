/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed.c - channels over sealed sockets: frames both ways, bulk, ends, and peers without a key.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher/remote/sealed.h"

static const uint8_t key[DS_SEAL_KEY_BYTES] = {7};
static const uint8_t other_key[DS_SEAL_KEY_BYTES] = {8};

struct side {
    struct ds_sealed sealed;
    struct ds_channel channel;
    int opened, failed, frames, ended, rc;
    size_t bytes;
    struct ds_error err;
};

static int on_frame(struct ds_channel *channel, const struct ds_frame *frame, struct ds_error *err)
{
    struct side *side = channel->user;

    (void)err;
    side->frames++;
    side->bytes += frame->len;
    return 0;
}

static void on_ended(struct ds_channel *channel, int rc, const struct ds_error *err)
{
    struct side *side = channel->user;

    side->ended++;
    side->rc = rc;
    if (err != NULL)
        side->err = *err;
}

static const struct ds_channel_ops ops = {.frame = on_frame, .ended = on_ended};

static void on_opened(struct ds_sealed *sealed)
{
    ((struct side *)sealed->user)->opened++;
}

static void on_failed(struct ds_sealed *sealed)
{
    ((struct side *)sealed->user)->failed++;
}

static void open_side(struct side *side, struct ds_loop *loop, int fd, const uint8_t *with,
                      const char *identity)
{
    const struct ds_sealed_args args = {.fd = fd,
                                        .key = with,
                                        .identity = identity,
                                        .opened = on_opened,
                                        .failed = on_failed,
                                        .user = side};
    const struct ds_channel_args channel = {
        .ops = &ops, .user = side, .stream = &side->sealed.stream};

    *side = (struct side){0};
    cr_assert_eq(ds_sealed_open(&side->sealed, loop, &args, NULL), 0);
    cr_assert_eq(ds_channel_open(&side->channel, loop, &channel, NULL), 0);
}

static void close_side(struct side *side)
{
    ds_channel_release(&side->channel);
    ds_sealed_close(&side->sealed);
}

/* Turn until nothing has happened for a while. */
static void settle(struct ds_loop *loop)
{
    for (int i = 0; i < 400; i++)
        cr_assert_eq(ds_loop_turn(loop, 1, NULL), 0);
}

Test(sealed, frames_both_ways_and_the_end)
{
    struct ds_frame frame = {.type = DS_WIRE_BEAT, .payload = "12345678", .len = 8};
    struct ds_loop loop;
    struct side up, down;
    int fd[2];

    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    open_side(&up, &loop, fd[0], key, "node1");
    open_side(&down, &loop, fd[1], key, NULL);
    cr_assert_eq(ds_channel_send(&up.channel, &frame), 0,
                 "queued until the peer has proved itself");
    settle(&loop);
    cr_assert(up.opened == 1 && down.opened == 1 && up.failed + down.failed == 0);
    cr_assert_str_eq(down.sealed.seal.identity, "node1");
    cr_assert_eq(down.frames, 1);
    cr_assert_eq(ds_channel_send(&down.channel, &frame), 0);
    settle(&loop);
    cr_assert_eq(up.frames, 1);
    close_side(&up);
    settle(&loop);
    cr_assert(down.ended == 1 && down.rc == 0);
    close_side(&down);
    ds_loop_release(&loop);
}

Test(sealed, bulk_and_a_paused_reader)
{
    char *bytes = calloc(1, DS_MAX_FRAME_BYTES);
    struct ds_frame frame = {.type = DS_WIRE_OUT, .payload = bytes, .len = DS_MAX_FRAME_BYTES};
    struct ds_loop loop;
    struct side up, down;
    int fd[2], before;

    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    open_side(&up, &loop, fd[0], key, "node1");
    open_side(&down, &loop, fd[1], key, NULL);
    ds_channel_pause(&down.channel, true);
    settle(&loop);
    for (int i = 0; i < 6; i++)
        cr_assert_eq(ds_channel_send(&up.channel, &frame), 0);
    settle(&loop);
    before = down.frames;
    cr_assert(before == 0 && ds_channel_congested(&up.channel), "a paused reader holds the sender");
    ds_channel_pause(&down.channel, false);
    settle(&loop);
    cr_assert(down.frames == 6 && down.bytes == 6u * DS_MAX_FRAME_BYTES);
    cr_assert(!ds_channel_congested(&up.channel) && ds_channel_idle(&up.channel));
    close_side(&up);
    close_side(&down);
    ds_loop_release(&loop);
    free(bytes);
}

Test(sealed, a_peer_without_the_key)
{
    struct ds_loop loop;
    struct side up, down;
    int fd[2];

    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    open_side(&up, &loop, fd[0], other_key, "node1");
    open_side(&down, &loop, fd[1], key, NULL);
    settle(&loop);
    cr_assert(up.opened == 0 && down.opened == 0 && up.failed == 1);
    cr_assert(up.ended == 1 && up.rc == -EACCES && up.frames == 0);
    close_side(&up);
    settle(&loop);
    cr_assert(down.failed == 1 && down.ended == 1 && down.frames == 0);
    close_side(&down);
    ds_loop_release(&loop);
}

Test(sealed, nobody_there)
{
    struct ds_loop loop;
    struct side up;
    int fd[2];

    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    (void)close(fd[1]);
    open_side(&up, &loop, fd[0], key, "node1");
    settle(&loop);
    cr_assert(up.failed == 1 && up.ended == 1 && up.opened == 0);
    close_side(&up);
    ds_loop_release(&loop);
}
