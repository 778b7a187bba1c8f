/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed.c - channels over sealed sockets: frames both ways, bulk, ends, and peers without a key.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
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

static void tcp_pair(int fd[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(bind(door, (struct sockaddr *)&at, len) == 0 && listen(door, 1) == 0);
    cr_assert_eq(getsockname(door, (struct sockaddr *)&at, &len), 0);
    cr_assert_eq(connect(fd[0], (struct sockaddr *)&at, len), 0);
    fd[1] = accept4(door, NULL, NULL, SOCK_CLOEXEC);
    cr_assert(fd[1] >= 0);
    (void)close(door);
}

/* An agent: all it has to say, then the end, while the launcher's beats lie unread. */
static _Noreturn void say_and_end(int fd, const struct ds_frame *frame)
{
    struct pollfd beats = {.fd = fd, .events = POLLIN};
    struct ds_loop loop;
    struct side side;

    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    open_side(&side, &loop, fd, key, "node1");
    for (int i = 0; i < 6; i++)
        cr_assert_eq(ds_channel_send(&side.channel, frame), 0);
    while (!ds_channel_idle(&side.channel))
        cr_assert_eq(ds_loop_turn(&loop, 1, NULL), 0);
    cr_assert(side.sealed.over || side.sealed.seal.out.len == 0, "idle: the kernel has it all");
    (void)poll(&beats, 1, 5000);
    ds_sealed_linger(&side.sealed, -1, -1);
    close_side(&side);
    _exit(0);
}

Test(sealed, what_is_said_last_arrives_though_beats_are_unread)
{
    char *bytes = calloc(1, DS_MAX_FRAME_BYTES);
    struct ds_frame frame = {.type = DS_WIRE_OUT, .payload = bytes, .len = DS_MAX_FRAME_BYTES};
    struct ds_frame beat = {.type = DS_WIRE_BEAT, .payload = "12345678", .len = 8};
    struct ds_loop loop;
    struct side down;
    int fd[2], status = -1;
    pid_t child;

    tcp_pair(fd);
    child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        (void)alarm(120);
        (void)close(fd[1]);
        say_and_end(fd[0], &frame);
    }
    (void)close(fd[0]);
    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    open_side(&down, &loop, fd[1], key, NULL);
    for (int i = 0; i < 20000 && down.ended == 0; i++) {
        cr_assert_eq(ds_loop_turn(&loop, 1, NULL), 0);
        (void)ds_channel_send(&down.channel, &beat);
    }
    cr_assert(down.ended == 1 && down.rc == 0, "%d: %s", down.rc, down.err.text);
    cr_assert(down.frames == 6 && down.bytes == 6u * DS_MAX_FRAME_BYTES);
    close_side(&down); /* which ends the wait */
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
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
