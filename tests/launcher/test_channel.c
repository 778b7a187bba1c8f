/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_channel.c - frames over real sockets and pipes: any order of reading and writing, banners,
 * congestion, pauses, peers that vanish or talk nonsense.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher/remote/channel.h"

struct end { /* one end of a line under test */
    struct ds_channel channel;
    unsigned frames, ends;
    uint64_t bytes;
    uint32_t last_rank;
    int rc;        /* of the end */
    int refuse;    /* frame callback returns this */
    bool pause_on; /* pause in every frame callback */
};

static int on_frame(struct ds_channel *channel, const struct ds_frame *frame, struct ds_error *err)
{
    struct end *end = channel->user;

    end->frames++;
    end->bytes += frame->len;
    end->last_rank = frame->rank;
    if (end->pause_on)
        ds_channel_pause(channel, true);
    return end->refuse == 0 ? 0 : ds_fail(err, -end->refuse, "refused");
}

static void on_ended(struct ds_channel *channel, int rc, const struct ds_error *err)
{
    struct end *end = channel->user;

    cr_assert(rc == 0 || err->text[0] != '\0');
    end->ends++;
    end->rc = rc;
}

static const struct ds_channel_ops ops = {.frame = on_frame, .ended = on_ended};

static void open_end(struct end *end, struct ds_loop *loop, int in_fd, int out_fd, bool banner)
{
    const struct ds_channel_args args = {
        .ops = &ops, .user = end, .in_fd = in_fd, .out_fd = out_fd, .banner = banner};

    cr_assert_eq(ds_channel_open(&end->channel, loop, &args, NULL), 0);
}

/* Turn until nothing happens any more. */
static void settle(struct ds_loop *loop)
{
    for (int i = 0; i < 200; i++)
        cr_assert_eq(ds_loop_turn(loop, 1, NULL), 0);
}

static struct ds_loop loop;

static void setup(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
}

static void teardown(void)
{
    ds_loop_release(&loop);
}

TestSuite(channel, .init = setup, .fini = teardown, .timeout = 60);

static int send_bytes(struct end *end, uint32_t rank, size_t len)
{
    static const char payload[DS_MAX_FRAME_BYTES];
    const struct ds_frame frame = {
        .type = DS_WIRE_OUT, .rank = rank, .payload = payload, .len = (uint32_t)len};

    return ds_channel_send(&end->channel, &frame);
}

static void pair(struct end *a, struct end *b)
{
    int fd[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    open_end(a, &loop, fd[0], fd[0], false);
    open_end(b, &loop, fd[1], fd[1], false);
}

Test(channel, frames_of_every_size_arrive_in_order)
{
    static const size_t sizes[] = {0, 1, 4095, 65536, 65537, DS_MAX_FRAME_BYTES};
    struct end a = {0}, b = {0};
    uint64_t total = 0;

    pair(&a, &b);
    for (uint32_t i = 0; i < 6; i++) {
        cr_assert_eq(send_bytes(&a, i, sizes[i]), 0);
        total += sizes[i];
    }
    settle(&loop);
    cr_assert(b.frames == 6 && b.bytes == total && b.last_rank == 5);
    cr_assert(ds_channel_idle(&a.channel));
    cr_assert_eq(send_bytes(&a, 0, (size_t)DS_MAX_FRAME_BYTES + 1), -EMSGSIZE);
    cr_assert_eq(send_bytes(&b, 7, 10), 0, "and the other way");
    settle(&loop);
    cr_assert(a.frames == 1 && a.last_rank == 7);
    ds_channel_release(&a.channel);
    settle(&loop);
    cr_assert(b.ends == 1 && b.rc == 0, "the other end is told once");
    cr_assert_eq(send_bytes(&b, 0, 1), -EPIPE);
    ds_channel_release(&b.channel);
    ds_channel_release(&b.channel);
}

Test(channel, two_pipes_and_a_banner)
{
    int fd[2][2];
    struct end a = {0}, b = {0};
    const struct ds_hello hello = {.version = DS_WIRE_VERSION, .build_id = "x"};

    cr_assert(pipe2(fd[0], O_CLOEXEC) == 0 && pipe2(fd[1], O_CLOEXEC) == 0);
    open_end(&a, &loop, fd[0][0], fd[1][1], false);
    open_end(&b, &loop, fd[1][0], fd[0][1], true);
    cr_assert_gt(write(fd[1][1], "Last login: DSRUN\r\n", 19), 0);
    settle(&loop);
    cr_assert(b.frames == 0 && b.ends == 0);
    cr_assert_eq(ds_channel_send_hello(&a.channel, &hello), 0);
    cr_assert_eq(send_bytes(&a, 3, 5), 0);
    settle(&loop);
    cr_assert(b.frames == 2 && b.last_rank == 3);
    ds_channel_release(&a.channel);
    ds_channel_release(&b.channel);
}

Test(channel, what_is_sent_while_held_goes_out_in_one_piece)
{
    struct end a = {0};
    char bytes[256];
    int fd[2];
    ssize_t n;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
    open_end(&a, &loop, fd[1], fd[1], false);
    ds_channel_hold(&a.channel, true);
    cr_assert_eq(send_bytes(&a, 1, 5), 0);
    cr_assert_eq(send_bytes(&a, 2, 7), 0);
    settle(&loop);
    cr_expect_lt(read(fd[0], bytes, sizeof(bytes)), 0, "kept");
    ds_channel_hold(&a.channel, false);
    n = read(fd[0], bytes, sizeof(bytes));
    cr_expect_eq(n, 2 * DS_WIRE_HEADER_BYTES + 5 + 7);
    ds_channel_hold(&a.channel, false);
    cr_expect_lt(read(fd[0], bytes, sizeof(bytes)), 0, "nothing more");
    ds_channel_release(&a.channel);
    (void)close(fd[0]);
}

Test(channel, a_banner_without_end)
{
    struct end b = {0};
    char noise[4096];
    int fd[2];

    memset(noise, 'x', sizeof(noise));
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    open_end(&b, &loop, fd[1], fd[1], true);
    for (int i = 0; i < 100 && b.ends == 0; i++) {
        (void)!write(fd[0], noise, sizeof(noise));
        cr_assert_eq(ds_loop_turn(&loop, 1, NULL), 0);
    }
    cr_assert(b.ends == 1 && b.rc == -EPROTO);
    ds_channel_release(&b.channel);
    (void)close(fd[0]);
}

Test(channel, a_peer_that_does_not_read)
{
    struct end a = {0}, b = {0};
    unsigned queued = 0;
    int rc;

    pair(&a, &b);
    ds_channel_pause(&b.channel, true);
    while ((rc = send_bytes(&a, queued, 65536)) == 0)
        queued++;
    cr_assert_eq(rc, -ENOBUFS, "the queue is bounded");
    cr_assert(queued * 65536ULL <= DS_MAX_QUEUE_BYTES + (1 << 20), "%u frames", queued);
    cr_assert(ds_channel_congested(&a.channel));
    settle(&loop);
    cr_assert(b.frames == 0 && ds_channel_congested(&a.channel), "a paused end takes nothing");
    ds_channel_pause(&b.channel, false);
    settle(&loop);
    cr_assert(b.frames == queued && b.last_rank == queued - 1, "%u of %u", b.frames, queued);
    cr_assert(!ds_channel_congested(&a.channel));
    cr_assert_eq(send_bytes(&a, 1, 1), 0, "a refused frame did no harm");
    settle(&loop);
    cr_assert_eq(b.frames, queued + 1);
    ds_channel_release(&a.channel);
    ds_channel_release(&b.channel);
}

Test(channel, pausing_inside_a_callback)
{
    struct end a = {0}, b = {.pause_on = true};

    pair(&a, &b);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(send_bytes(&a, i, 100), 0);
    for (unsigned i = 1; i <= 3; i++) {
        settle(&loop);
        cr_assert_eq(b.frames, i, "one frame per resume");
        ds_channel_pause(&b.channel, false);
    }
    ds_channel_release(&a.channel);
    ds_channel_release(&b.channel);
}

Test(channel, nonsense_ends_it)
{
    struct end b = {0};
    int fd[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    open_end(&b, &loop, fd[1], fd[1], false);
    cr_assert_gt(write(fd[0], "\377\377\377\377\377\377\377\377\377\377\377\377", 12), 0);
    settle(&loop);
    cr_assert(b.ends == 1 && b.rc == -EPROTO && b.frames == 0);
    cr_assert(!ds_channel_pump(&b.channel));
    ds_channel_release(&b.channel);
    (void)close(fd[0]);
}

Test(channel, a_callback_that_refuses_ends_it)
{
    struct end a = {0}, b = {.refuse = -EPROTO};

    pair(&a, &b);
    cr_assert(send_bytes(&a, 0, 1) == 0 && send_bytes(&a, 1, 1) == 0);
    settle(&loop);
    cr_assert(b.frames == 1 && b.ends == 1 && b.rc == -EPROTO);
    ds_channel_release(&a.channel);
    ds_channel_release(&b.channel);
}

Test(channel, a_peer_that_vanishes_with_bytes_unsent)
{
    struct end a = {0};
    int fd[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    open_end(&a, &loop, fd[0], fd[0], false);
    while (send_bytes(&a, 0, 65536) == 0)
        continue;
    (void)close(fd[1]);
    settle(&loop);
    cr_assert(a.ends == 1 && a.rc == 0);
    ds_channel_release(&a.channel);
}

Test(channel, time_outs_are_rounded_up)
{
    cr_assert_eq(ds_loop_timeout_ms(0, 5), -1);
    cr_assert_eq(ds_loop_timeout_ms(5, 5), 0);
    cr_assert_eq(ds_loop_timeout_ms(4, 5), 0);
    cr_assert_eq(ds_loop_timeout_ms(6, 5), 1);
    cr_assert_eq(ds_loop_timeout_ms(2000005, 5), 2);
    cr_assert_eq(ds_loop_timeout_ms(UINT64_MAX, 5), 3600 * 1000);
}

Test(channel, what_cannot_be_watched_is_refused)
{
    const struct ds_channel_args args = {
        .ops = &ops, .in_fd = open("/dev/null", O_RDWR | O_CLOEXEC), .out_fd = -1};
    struct ds_channel channel;
    struct ds_error err = {0};

    cr_assert_lt(ds_channel_open(&channel, &loop, &args, &err), 0);
    cr_assert(err.text[0] != '\0');
    cr_assert_lt(fcntl(args.in_fd, F_GETFD), 0, "its descriptors are closed");
}

struct pipe_stream { /* a stream whose bytes come from one buffer and go to another */
    struct ds_stream stream;
    const char *in;
    size_t in_len, takes; /* takes: bytes write() accepts before -EAGAIN */
    int end;              /* what read() returns when `in` is used up */
    char out[4096];
    size_t out_len;
    bool want_in, want_out;
};

static ssize_t stream_read(struct ds_stream *stream, void *bytes, size_t len, struct ds_error *err)
{
    struct pipe_stream *pipe = (struct pipe_stream *)stream;
    size_t n = pipe->in_len < 5 ? pipe->in_len : 5; /* never a whole header at once */

    cr_assert_geq(len, n);
    if (n == 0)
        return pipe->end < 0 && pipe->end != -EAGAIN ? ds_fail(err, -pipe->end, "cut") : pipe->end;
    memcpy(bytes, pipe->in, n);
    pipe->in += n;
    pipe->in_len -= n;
    return (ssize_t)n;
}

static ssize_t stream_write(struct ds_stream *stream, const void *bytes, size_t len)
{
    struct pipe_stream *pipe = (struct pipe_stream *)stream;
    size_t n = len < pipe->takes ? len : pipe->takes;

    if (n == 0)
        return -EAGAIN;
    memcpy(pipe->out + pipe->out_len, bytes, n);
    pipe->out_len += n;
    pipe->takes -= n;
    return (ssize_t)n;
}

static void stream_want(struct ds_stream *stream, bool in, bool out)
{
    struct pipe_stream *pipe = (struct pipe_stream *)stream;

    pipe->want_in = in;
    pipe->want_out = out;
}

static const struct ds_stream_ops stream_ops = {
    .read = stream_read, .write = stream_write, .want = stream_want};

Test(channel, a_stream_takes_the_place_of_descriptors)
{
    const char frames[] = "\2\0\0\0\4\0\0\0\3\0\0\0ab\2\0\0\0\4\0\0\0\4\0\0\0cd";
    struct pipe_stream pipe = {
        .stream.ops = &stream_ops, .in = frames, .in_len = sizeof(frames) - 1, .end = -EAGAIN};
    struct end end = {0};
    const struct ds_channel_args args = {.ops = &ops, .user = &end, .stream = &pipe.stream};

    cr_assert_eq(ds_channel_open(&end.channel, &loop, &args, NULL), 0);
    cr_assert(pipe.want_in && !pipe.want_out && pipe.stream.channel == &end.channel);
    cr_assert(ds_channel_ready(&end.channel), "28 bytes by 5 are more than a fair share");
    cr_assert_not(ds_channel_ready(&end.channel));
    cr_assert(end.frames == 2 && end.bytes == 4 && end.last_rank == 4 && end.ends == 0);
    cr_assert_eq(send_bytes(&end, 1, 100), 0);
    cr_assert(pipe.want_out && pipe.out_len == 0, "the stream takes nothing yet");
    pipe.takes = 50;
    (void)ds_channel_ready(&end.channel);
    cr_assert(pipe.out_len == 50 && pipe.want_out);
    pipe.takes = 1000;
    (void)ds_channel_ready(&end.channel);
    cr_assert(pipe.out_len == 112 && !pipe.want_out && ds_channel_idle(&end.channel));
    ds_channel_pause(&end.channel, true);
    cr_assert_not(pipe.want_in);
    ds_channel_pause(&end.channel, false);
    pipe.end = -ECONNRESET;
    (void)ds_channel_ready(&end.channel);
    cr_assert(end.ends == 1 && end.rc == -ECONNRESET && !pipe.want_in);
    ds_channel_release(&end.channel);
    cr_assert_null(pipe.stream.channel);
}

struct busy { /* a watch that runs itself again `left` times */
    struct ds_watch watch;
    struct ds_watch *victim;
    unsigned left, runs;
};

static void on_busy(struct ds_watch *watch, uint32_t events)
{
    struct busy *busy = watch->user;

    cr_assert_eq(events, 0);
    busy->runs++;
    if (busy->victim != NULL)
        ds_loop_remove(&loop, busy->victim);
    if (busy->left-- > 1)
        ds_loop_again(&loop, watch);
}

Test(channel, a_watch_runs_again_without_an_event)
{
    struct busy a = {.left = 3}, b = {.left = 9};
    int fd[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    a.watch = (struct ds_watch){.ready = on_busy, .user = &a};
    b.watch = (struct ds_watch){.ready = on_busy, .user = &b};
    cr_assert_eq(ds_loop_add(&loop, &a.watch, fd[0], 0, NULL), 0);
    cr_assert_eq(ds_loop_add(&loop, &b.watch, fd[1], 0, NULL), 0);
    ds_loop_again(&loop, &a.watch);
    ds_loop_again(&loop, &a.watch);
    ds_loop_again(&loop, &b.watch);
    cr_assert_eq(ds_loop_turn(&loop, -1, NULL), 0, "it does not wait");
    cr_assert(a.runs == 1 && b.runs == 1, "each once a turn");
    a.victim = &b.watch;
    cr_assert_eq(ds_loop_turn(&loop, -1, NULL), 0);
    cr_assert(a.runs == 2 && b.runs == 1, "what was removed does not run");
    a.victim = NULL;
    cr_assert_eq(ds_loop_turn(&loop, -1, NULL), 0);
    cr_assert_eq(ds_loop_turn(&loop, 0, NULL), 0);
    cr_assert(a.runs == 3 && b.runs == 1);
    ds_loop_remove(&loop, &a.watch);
    (void)close(fd[0]);
    (void)close(fd[1]);
}
