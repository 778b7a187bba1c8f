/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * rank.c - the contract is in rank.h.
 */
#include "launcher/rank.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "launcher/cores.h"
#include "launcher/signals.h"

enum {
    PUMP_BYTES = 32 * 1024,
    AFTER_EXIT_BYTES = 1024 * 1024, /* of one stream; more is a process that escaped its group */
    EXIT_CANNOT_START = 126,
    EXIT_NO_PROGRAM = 127,
};

void ds__up_send(struct ds_channel *up, uint16_t type, uint32_t rank, const void *payload,
                 size_t len)
{
    const struct ds_frame frame = {
        .type = type, .rank = rank, .payload = payload, .len = (uint32_t)len};

    (void)ds_channel_send(up, &frame); /* a lost line ends the agent by itself */
}

void ds__up_complain(struct ds_channel *up, uint32_t rank, const char *text)
{
    char line[DS_MAX_ERROR_TEXT + 32];
    int len = snprintf(line, sizeof(line), "dsrun-agent: %s\n", text);

    ds__up_send(up, DS_WIRE_ERR, rank, line,
                (size_t)len < sizeof(line) ? (size_t)len : sizeof(line) - 1);
}

void ds__up_cores(struct ds_channel *up, const struct ds_spawn *spawn)
{
    for (unsigned i = 0; spawn->bound != NULL && i < spawn->spec->ranks; i++) {
        struct ds_buf text;

        ds_buf_init(&text, 2 * DS_CORES_TEXT);
        ds_bind_tell(spawn->bound, spawn->spec, i, &text);
        if (!text.failed)
            ds__up_send(up, DS_WIRE_EVENT, spawn->spec->first_rank + i, text.data, text.len);
        ds_buf_release(&text);
    }
}

/* --- what it writes --------------------------------------------------------------------------- */

static void stream_close(struct ds_rank *rank, struct ds_rank_stream *stream)
{
    int fd = stream->watch.fd;

    ds_loop_remove(rank->loop, &stream->watch);
    if (fd >= 0)
        (void)close(fd);
}

void ds__rank_throttle(struct ds_rank *rank, bool on)
{
    uint32_t events = on ? 0 : (uint32_t)EPOLLIN;

    ds_loop_want(rank->loop, &rank->out.watch, events);
    ds_loop_want(rank->loop, &rank->err.watch, events);
    ds_channel_pause(&rank->link, on);
}

/* Pass on one piece.  False: nothing there now, or the stream has ended. */
static bool pump(struct ds_rank *rank, struct ds_rank_stream *stream)
{
    char bytes[PUMP_BYTES];
    ssize_t n;

    if (stream->watch.fd < 0 || ds_channel_congested(rank->up))
        return false;
    n = read(stream->watch.fd, bytes, sizeof(bytes));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return errno == EINTR;
    if (n <= 0) {
        stream_close(rank, stream);
        return false;
    }
    ds__up_send(rank->up, stream->type, rank->number, bytes, (size_t)n);
    if (rank->dead)
        stream->after_exit_bytes += (size_t)n;
    return stream->after_exit_bytes < AFTER_EXIT_BYTES;
}

static void on_out(struct ds_watch *watch, uint32_t events)
{
    struct ds_rank *rank = watch->user;

    (void)events;
    (void)pump(rank, watch == &rank->out.watch ? &rank->out : &rank->err);
}

static int on_link_frame(struct ds_channel *link, const struct ds_frame *frame,
                         struct ds_error *err)
{
    struct ds_rank *rank = link->user;
    struct ds_frame up = *frame;

    if (frame->type != DS_WIRE_METRIC && frame->type != DS_WIRE_EVENT &&
        frame->type != DS_WIRE_BEAT && frame->type != DS_WIRE_STORE)
        return ds_fail(err, EPROTO, "rank %u sent a frame of type %u, which a rank may not",
                       rank->number, (unsigned)frame->type);
    up.rank = rank->number;
    (void)ds_channel_send(rank->up, &up);
    if (ds_channel_congested(rank->up))
        ds_channel_pause(link, true);
    return 0;
}

static void on_link_ended(struct ds_channel *link, int rc, const struct ds_error *err)
{
    struct ds_rank *rank = link->user;

    if (rc == 0)
        return;
    ds__up_complain(rank->up, rank->number, ds_error_text(err, rc));
    ds__rank_signal(rank, DS_SIGNAL_KILL);
}

static const struct ds_channel_ops link_ops = {.frame = on_link_frame, .ended = on_link_ended};

/* --- starting --------------------------------------------------------------------------------- */

/* The exec pipe speaks: closed by exec, or the errno of what failed before it. */
static void on_exec(struct ds_watch *watch, uint32_t events)
{
    struct ds_rank *rank = watch->user;
    int fd = watch->fd, code = 0;
    ssize_t n = read(fd, &code, sizeof(code));
    unsigned char pid[4];

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    ds_loop_remove(rank->loop, watch);
    (void)close(fd);
    if (n == (ssize_t)sizeof(code)) {
        char text[DS_MAX_ERROR_TEXT];

        (void)snprintf(text, sizeof(text), "cannot start '%.800s': %s", rank->program,
                       strerror(code));
        ds__up_complain(rank->up, rank->number, text);
        return;
    }
    ds_put_u32(pid, (uint32_t)rank->pid);
    ds__up_send(rank->up, DS_WIRE_SPAWNED, rank->number, pid, sizeof(pid));
}

static int watch_rank(struct ds_rank *rank, const struct ds_spec *job,
                      const struct ds_spawned *proc, struct ds_error *err)
{
    const struct ds_frame spec = {.type = DS_WIRE_SPEC,
                                  .rank = rank->number,
                                  .payload = job->blob,
                                  .len = (uint32_t)job->blob_bytes};
    const struct ds_channel_args link = {
        .ops = &link_ops, .user = rank, .in_fd = proc->link_fd, .out_fd = proc->link_fd};
    int rc = ds_loop_add(rank->loop, &rank->out.watch, proc->out_fd, EPOLLIN, err);

    if (rc == 0)
        rc = ds_loop_add(rank->loop, &rank->err.watch, proc->err_fd, EPOLLIN, err);
    if (rc == 0)
        rc = ds_loop_add(rank->loop, &rank->exec, proc->exec_fd, EPOLLIN, err);
    if (rc == 0 && proc->link_fd >= 0) {
        rc = ds_channel_open(&rank->link, rank->loop, &link, err);
        if (rc == 0)
            rc = ds_channel_send(&rank->link, &spec);
    }
    return rc;
}

static void rank_init(struct ds_rank *rank, struct ds_loop *loop, struct ds_channel *up,
                      uint32_t number)
{
    *rank = (struct ds_rank){
        .loop = loop,
        .up = up,
        .number = number,
        .out = {.watch = {.fd = -1, .ready = on_out, .user = rank}, .type = DS_WIRE_OUT},
        .err = {.watch = {.fd = -1, .ready = on_out, .user = rank}, .type = DS_WIRE_ERR},
        .exec = {.fd = -1, .ready = on_exec, .user = rank},
        .link = {.in_fd = -1, .out_fd = -1, .ended = true},
    };
}

void ds__rank_refuse(struct ds_rank *rank, struct ds_loop *loop, struct ds_channel *up,
                     uint32_t number, int code, int signal_number, unsigned why)
{
    rank_init(rank, loop, up, number);
    ds__rank_died(rank, code, signal_number, why);
}

void ds__rank_start(struct ds_rank *rank, struct ds_loop *loop, struct ds_channel *up,
                    const struct ds_spawn *spawn, unsigned local)
{
    struct ds_spawned proc;
    struct ds_error err = {0};
    int rc;

    rank_init(rank, loop, up, spawn->spec->first_rank + local);
    rank->program = spawn->program;
    rc = ds_spawn_rank(spawn, local, &proc, &err);
    if (rc == 0) {
        rank->pid = proc.pid;
        rc = watch_rank(rank, spawn->spec, &proc, &err);
    }
    if (rc == 0)
        return;
    ds__up_complain(up, rank->number, ds_error_text(&err, rc));
    if (rank->pid > 0)
        ds__rank_signal(rank, DS_SIGNAL_KILL);
    else
        ds__rank_died(rank, rc == -ENOENT ? EXIT_NO_PROGRAM : EXIT_CANNOT_START, 0, 0);
}

void ds__rank_release(struct ds_rank *rank)
{
    int fd = rank->exec.fd;

    stream_close(rank, &rank->out);
    stream_close(rank, &rank->err);
    ds_channel_release(&rank->link);
    ds_loop_remove(rank->loop, &rank->exec);
    if (fd >= 0)
        (void)close(fd);
}

/* --- ending ----------------------------------------------------------------------------------- */

void ds__rank_signal(struct ds_rank *rank, uint32_t what)
{
    unsigned char payload[4];
    const struct ds_frame frame = {
        .type = DS_WIRE_SIGNAL, .rank = rank->number, .payload = payload, .len = sizeof(payload)};

    if (rank->dead || rank->pid <= 0)
        return;
    if (what == DS_SIGNAL_KILL) {
        (void)kill(-rank->pid, SIGKILL);
    } else if (rank->link.loop != NULL && !rank->link.ended) {
        ds_put_u32(payload, what);
        (void)ds_channel_send(&rank->link, &frame);
    } else if (ds_signals_own(what) != 0) { /* its children may not expect it */
        (void)kill(rank->pid, ds_signals_own(what));
    } else if (what != DS_SIGNAL_WHERE) { /* a program has no answer to that */
        (void)kill(-rank->pid, SIGTERM);
    }
}

void ds__rank_died(struct ds_rank *rank, int code, int signal_number, unsigned why)
{
    rank->dead = true;
    rank->code = code;
    rank->signal = signal_number;
    rank->why = why;
}

bool ds__rank_report(struct ds_rank *rank)
{
    unsigned char payload[12];

    if (rank->exec.fd >= 0)
        on_exec(&rank->exec, 0);
    while (pump(rank, &rank->out) || pump(rank, &rank->err) || ds_channel_pump(&rank->link))
        continue;
    if (ds_channel_congested(rank->up))
        return false;
    ds__rank_release(rank);
    ds_put_u32(payload, (uint32_t)rank->code);
    ds_put_u32(payload + 4, (uint32_t)rank->signal);
    ds_put_u32(payload + 8, rank->why);
    ds__up_send(rank->up, DS_WIRE_EXIT, rank->number, payload, sizeof(payload));
    rank->reported = true;
    return true;
}
