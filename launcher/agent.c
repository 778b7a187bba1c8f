/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * agent.c - the contract is in agent.h.
 */
#include "launcher/agent.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/exit.h"
#include "launcher/loop.h"
#include "launcher/oom.h"
#include "launcher/reap.h"
#include "launcher/remote/channel.h"
#include "launcher/spawn.h"
#include "launcher/spec.h"

enum {
    PUMP_BYTES = 32 * 1024,
    AFTER_EXIT_BYTES = 1024 * 1024, /* of one stream; more is a process that escaped its group */
    BEAT_MS = 1000,
    EXIT_CANNOT_START = 126,
};
#define NS_PER_MS UINT64_C(1000000)

struct agent;

struct stream { /* stdout or stderr of a rank */
    struct ds_watch watch;
    uint16_t type; /* DS_WIRE_OUT or DS_WIRE_ERR */
    size_t after_exit_bytes;
};

struct rank {
    struct agent *agent;
    uint32_t number; /* global rank */
    pid_t pid;       /* 0: was never started */
    struct stream out, err;
    struct ds_channel link; /* closed when the job has none */
    struct ds_watch exec;
    bool reaped, done; /* done: EXIT was sent */
    int code, signal;
    bool oom;
};

struct agent {
    struct ds_loop loop;
    struct ds_channel up;
    const char *exe_dir;
    struct ds_arena arena;
    struct ds_buf spec_bytes;
    struct ds_spec spec;
    struct ds_spawn spawn;
    struct ds_watch signals;
    struct ds_oom oom;
    struct rank *rank;
    unsigned ranks, ended, reported; /* started; dead; dead and told */
    unsigned *order;                 /* local ranks in the order of their deaths */
    uint64_t beat_ns, kill_ns;       /* deadlines; 0: none */
    bool greeted, resume, throttled, over;
    int exit_code;
};

static void send_up(struct agent *agent, uint16_t type, uint32_t rank, const void *payload,
                    size_t len)
{
    const struct ds_frame frame = {.type = type, .rank = rank, .payload = payload,
                                   .len = (uint32_t)len};

    (void)ds_channel_send(&agent->up, &frame); /* a lost line ends the agent by itself */
}

/* A line on the stderr of `rank`, or the host's when DS_WIRE_NO_RANK. */
static void complain(struct agent *agent, uint32_t rank, const char *text)
{
    char line[DS_MAX_ERROR_TEXT + 32];
    int len = snprintf(line, sizeof(line), "dsrun-agent: %s\n", text);

    send_up(agent, DS_WIRE_ERR, rank, line,
            (size_t)len < sizeof(line) ? (size_t)len : sizeof(line) - 1);
}

/* --- output of ranks -------------------------------------------------------------------------- */

static void stream_close(struct agent *agent, struct stream *stream)
{
    int fd = stream->watch.fd;

    ds_loop_remove(&agent->loop, &stream->watch);
    if (fd >= 0)
        (void)close(fd);
}

/* Stop or go on reading from every rank. */
static void throttle(struct agent *agent, bool on)
{
    uint32_t events = on ? 0 : (uint32_t)EPOLLIN;

    agent->throttled = on;
    for (unsigned i = 0; i < agent->ranks; i++) {
        ds_loop_want(&agent->loop, &agent->rank[i].out.watch, events);
        ds_loop_want(&agent->loop, &agent->rank[i].err.watch, events);
        ds_channel_pause(&agent->rank[i].link, on);
    }
}

static void check_congestion(struct agent *agent)
{
    if (!agent->throttled && ds_channel_congested(&agent->up))
        throttle(agent, true);
}

/* Pass on one piece.  False: nothing there now, or the stream has ended. */
static bool pump(struct rank *rank, struct stream *stream)
{
    char bytes[PUMP_BYTES];
    ssize_t n;

    if (stream->watch.fd < 0 || rank->agent->throttled)
        return false;
    n = read(stream->watch.fd, bytes, sizeof(bytes));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return errno == EINTR;
    if (n <= 0) {
        stream_close(rank->agent, stream);
        return false;
    }
    send_up(rank->agent, stream->type, rank->number, bytes, (size_t)n);
    check_congestion(rank->agent);
    if (rank->reaped)
        stream->after_exit_bytes += (size_t)n;
    return stream->after_exit_bytes < AFTER_EXIT_BYTES;
}

static void on_out(struct ds_watch *watch, uint32_t events)
{
    struct rank *rank = watch->user;

    (void)events;
    (void)pump(rank, watch == &rank->out.watch ? &rank->out : &rank->err);
}

static int on_link_frame(struct ds_channel *link, const struct ds_frame *frame,
                         struct ds_error *err)
{
    struct rank *rank = link->user;
    struct ds_frame up = *frame;

    if (frame->type != DS_WIRE_METRIC && frame->type != DS_WIRE_EVENT &&
        frame->type != DS_WIRE_BEAT && frame->type != DS_WIRE_STORE)
        return ds_fail(err, EPROTO, "rank %u sent a frame of type %u, which a rank may not",
                       rank->number, (unsigned)frame->type);
    up.rank = rank->number;
    (void)ds_channel_send(&rank->agent->up, &up);
    check_congestion(rank->agent);
    return 0;
}

static void on_link_ended(struct ds_channel *link, int rc, const struct ds_error *err)
{
    struct rank *rank = link->user;

    if (rc == 0)
        return;
    complain(rank->agent, rank->number, ds_error_text(err, rc));
    if (!rank->reaped)
        (void)kill(-rank->pid, SIGKILL);
}

static const struct ds_channel_ops link_ops = {.frame = on_link_frame, .ended = on_link_ended};

/* --- starting --------------------------------------------------------------------------------- */

static void mark_dead(struct rank *rank, int code, int signal_number)
{
    rank->reaped = true;
    rank->code = code;
    rank->signal = signal_number;
    rank->agent->order[rank->agent->ended++] = (unsigned)(rank - rank->agent->rank);
}

/* The exec pipe speaks: closed by exec, or the errno of what failed before it. */
static void on_exec(struct ds_watch *watch, uint32_t events)
{
    struct rank *rank = watch->user;
    int fd = watch->fd, code = 0;
    ssize_t n = read(fd, &code, sizeof(code));
    unsigned char pid[4];

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    ds_loop_remove(&rank->agent->loop, watch);
    (void)close(fd);
    if (n == (ssize_t)sizeof(code)) {
        char text[DS_MAX_ERROR_TEXT];

        (void)snprintf(text, sizeof(text), "cannot start '%.800s': %s",
                       rank->agent->spawn.program, strerror(code));
        complain(rank->agent, rank->number, text);
        return;
    }
    ds_put_u32(pid, (uint32_t)rank->pid);
    send_up(rank->agent, DS_WIRE_SPAWNED, rank->number, pid, sizeof(pid));
}

static int watch_rank(struct rank *rank, const struct ds_spawned *proc, struct ds_error *err)
{
    struct agent *agent = rank->agent;
    const struct ds_frame spec = {.type = DS_WIRE_SPEC, .rank = rank->number,
                                  .payload = agent->spec.blob,
                                  .len = (uint32_t)agent->spec.blob_bytes};
    const struct ds_channel_args link = {.ops = &link_ops, .user = rank,
                                         .in_fd = proc->link_fd, .out_fd = proc->link_fd};
    int rc = ds_loop_add(&agent->loop, &rank->out.watch, proc->out_fd, EPOLLIN, err);

    if (rc == 0)
        rc = ds_loop_add(&agent->loop, &rank->err.watch, proc->err_fd, EPOLLIN, err);
    if (rc == 0)
        rc = ds_loop_add(&agent->loop, &rank->exec, proc->exec_fd, EPOLLIN, err);
    if (rc == 0 && proc->link_fd >= 0) {
        rc = ds_channel_open(&rank->link, &agent->loop, &link, err);
        if (rc == 0)
            rc = ds_channel_send(&rank->link, &spec);
    }
    return rc;
}

static void start_rank(struct agent *agent, unsigned local)
{
    struct rank *rank = &agent->rank[local];
    struct ds_spawned proc;
    struct ds_error err = {0};
    int rc;

    *rank = (struct rank){
        .agent = agent,
        .number = agent->spec.first_rank + local,
        .out = {.watch = {.fd = -1, .ready = on_out, .user = rank}, .type = DS_WIRE_OUT},
        .err = {.watch = {.fd = -1, .ready = on_out, .user = rank}, .type = DS_WIRE_ERR},
        .exec = {.fd = -1, .ready = on_exec, .user = rank},
        .link = {.in_fd = -1, .out_fd = -1, .ended = true},
    };
    rc = ds_spawn_rank(&agent->spawn, local, &proc, &err);
    if (rc == 0) {
        rank->pid = proc.pid;
        rc = watch_rank(rank, &proc, &err);
        if (rc == 0)
            return;
        (void)kill(-rank->pid, SIGKILL);
        complain(agent, rank->number, ds_error_text(&err, rc));
        return; /* its end is reported when it is reaped */
    }
    complain(agent, rank->number, ds_error_text(&err, rc));
    mark_dead(rank, EXIT_CANNOT_START, 0);
}

static int start_ranks(struct agent *agent, struct ds_error *err)
{
    int rc = ds_spec_decode(agent->spec_bytes.data, agent->spec_bytes.len, &agent->arena,
                            &agent->spec, err);

    if (rc == 0)
        rc = ds_spawn_init(&agent->spawn, &agent->spec, agent->exe_dir, err);
    if (rc != 0)
        return rc;
    agent->rank = ds_arena_alloc(&agent->arena, agent->spec.ranks, sizeof(*agent->rank));
    agent->order = ds_arena_alloc(&agent->arena, agent->spec.ranks, sizeof(*agent->order));
    if (agent->rank == NULL || agent->order == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u ranks", agent->spec.ranks);
    for (unsigned i = 0; i < agent->spec.ranks; i++) {
        start_rank(agent, i);
        agent->ranks++;
    }
    return 0;
}

/* --- ending ----------------------------------------------------------------------------------- */

static void kill_rank(struct rank *rank)
{
    if (rank->pid > 0 && !rank->reaped)
        (void)kill(-rank->pid, SIGKILL);
}

static void kill_all(struct agent *agent)
{
    for (unsigned i = 0; i < agent->ranks; i++)
        kill_rank(&agent->rank[i]);
}

/* Let a rank know.  Without a link SIGTERM is the only word it understands. */
static void signal_rank(struct rank *rank, uint32_t what)
{
    unsigned char payload[4];
    const struct ds_frame frame = {.type = DS_WIRE_SIGNAL, .rank = rank->number,
                                   .payload = payload, .len = sizeof(payload)};

    if (rank->reaped)
        return;
    if (what == DS_SIGNAL_KILL) {
        kill_rank(rank);
    } else if (rank->link.loop != NULL && !rank->link.ended) {
        ds_put_u32(payload, what);
        (void)ds_channel_send(&rank->link, &frame);
    } else if (rank->pid > 0) {
        (void)kill(-rank->pid, SIGTERM);
    }
}

static struct rank *find_pid(struct agent *agent, pid_t pid)
{
    for (unsigned i = 0; i < agent->ranks; i++)
        if (agent->rank[i].pid == pid && !agent->rank[i].reaped)
            return &agent->rank[i];
    return NULL;
}

/* Collect the dead.  A rank's group is killed while its number cannot be reused: before waitpid(). */
static void reap(struct agent *agent)
{
    for (;;) {
        siginfo_t info = {0};
        struct rank *rank;
        int status = 0;

        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
            return;
        rank = find_pid(agent, info.si_pid);
        if (rank != NULL)
            (void)kill(-rank->pid, SIGKILL);
        if (waitpid(info.si_pid, &status, WNOHANG) <= 0 || rank == NULL)
            continue;
        mark_dead(rank, WIFEXITED(status) ? WEXITSTATUS(status) : 0,
                  WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        rank->oom = rank->signal == SIGKILL && ds_oom_happened(&agent->oom);
    }
}

/* Report one death once all that the rank wrote is on its way.  False: not yet. */
static bool report(struct rank *rank)
{
    struct agent *agent = rank->agent;
    unsigned char payload[12];

    if (rank->exec.fd >= 0)
        on_exec(&rank->exec, 0);
    while (pump(rank, &rank->out) || pump(rank, &rank->err) || ds_channel_pump(&rank->link))
        continue;
    if (agent->throttled)
        return false;
    stream_close(agent, &rank->out);
    stream_close(agent, &rank->err);
    ds_channel_release(&rank->link);
    ds_put_u32(payload, (uint32_t)rank->code);
    ds_put_u32(payload + 4, (uint32_t)rank->signal);
    ds_put_u32(payload + 8, rank->oom ? 1 : 0);
    send_up(agent, DS_WIRE_EXIT, rank->number, payload, sizeof(payload));
    rank->done = true;
    return true;
}

static void report_dead(struct agent *agent)
{
    while (agent->reported < agent->ended && report(&agent->rank[agent->order[agent->reported]]))
        agent->reported++;
}

static void on_signal(struct ds_watch *watch, uint32_t events)
{
    struct agent *agent = watch->user;
    struct signalfd_siginfo info;

    (void)events;
    while (read(watch->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            continue; /* every turn reaps */
        for (unsigned i = 0; i < agent->ranks; i++)
            signal_rank(&agent->rank[i], agent->kill_ns == 0 ? DS_SIGNAL_STOP : DS_SIGNAL_KILL);
        if (agent->ranks == 0)
            agent->over = true;
        agent->kill_ns = ds_clock_mono_ns() + agent->spec.grace_ms * NS_PER_MS;
    }
}

/* --- the launcher's frames -------------------------------------------------------------------- */

static int on_hello(struct agent *agent, const struct ds_frame *frame, struct ds_error *err)
{
    struct ds_hello hello;
    int rc = ds_wire_get_hello(frame, &hello, err);

    if (rc != 0)
        return rc;
    if (hello.version != DS_WIRE_VERSION || strcmp(hello.build_id, DS_VERSION) != 0)
        return ds_fail(err, EPROTO, "the launcher is build '%s', this agent is '%s': install the "
                       "same on all hosts", hello.build_id, DS_VERSION);
    agent->greeted = true;
    return ds_channel_send_hello(&agent->up, &hello);
}

static int on_spec(struct agent *agent, const struct ds_frame *frame, struct ds_error *err)
{
    int rc;

    if (agent->spec_bytes.len > 0)
        return ds_fail(err, EPROTO, "a second start specification");
    if (ds_buf_put(&agent->spec_bytes, frame->payload, frame->len) != 0)
        return ds_fail(err, ENOMEM, "no memory for the start specification");
    rc = start_ranks(agent, err);
    if (rc != 0)
        complain(agent, DS_WIRE_NO_RANK, ds_error_text(err, rc));
    return rc;
}

static int on_relay(struct agent *agent, const struct ds_frame *frame, struct ds_error *err)
{
    bool all = frame->rank == DS_WIRE_NO_RANK;
    uint32_t local = frame->rank - agent->spec.first_rank;

    if (frame->type == DS_WIRE_SIGNAL && frame->len != 4)
        return ds_fail(err, EPROTO, "a signal frame of %u bytes", frame->len);
    if (!all && local >= agent->ranks)
        return ds_fail(err, EPROTO, "rank %u is not on this host", frame->rank);
    for (unsigned i = all ? 0 : local; i < (all ? agent->ranks : local + 1); i++) {
        if (frame->type == DS_WIRE_SIGNAL)
            signal_rank(&agent->rank[i], ds_get_u32(frame->payload));
        else if (!agent->rank[i].done)
            (void)ds_channel_send(&agent->rank[i].link, frame);
    }
    return 0;
}

static int on_up_frame(struct ds_channel *up, const struct ds_frame *frame, struct ds_error *err)
{
    struct agent *agent = up->user;

    if (frame->type != DS_WIRE_HELLO && !agent->greeted)
        return ds_fail(err, EPROTO, "the first frame is %s, not HELLO",
                       ds_wire_type_name(frame->type));
    switch (frame->type) {
    case DS_WIRE_HELLO: return on_hello(agent, frame, err);
    case DS_WIRE_SPEC: return on_spec(agent, frame, err);
    case DS_WIRE_SIGNAL:
    case DS_WIRE_STORE:
    case DS_WIRE_ACK: return on_relay(agent, frame, err);
    case DS_WIRE_BEAT: return 0;
    default:
        return ds_fail(err, EPROTO, "a launcher may not send %s", ds_wire_type_name(frame->type));
    }
}

static void on_up_ended(struct ds_channel *up, int rc, const struct ds_error *err)
{
    struct agent *agent = up->user;

    agent->over = true;
    agent->exit_code = DS_EXIT_UNAVAILABLE;
    if (rc != 0)
        (void)dprintf(STDERR_FILENO, "dsrun-agent: %s\n", ds_error_text(err, rc));
}

static void on_up_drained(struct ds_channel *up)
{
    struct agent *agent = up->user;

    agent->resume = true; /* not here: a rank's channel may be the caller */
}

static const struct ds_channel_ops up_ops = {
    .frame = on_up_frame, .ended = on_up_ended, .drained = on_up_drained};

/* --- the loop --------------------------------------------------------------------------------- */

static int agent_init(struct agent *agent, const struct ds_agent_args *args, struct ds_error *err)
{
    const struct ds_channel_args up = {.ops = &up_ops, .user = agent, .in_fd = args->in_fd,
                                       .out_fd = args->out_fd, .banner = true};
    sigset_t set;
    int fd, rc;

    ds_arena_init(&agent->arena);
    ds_buf_init(&agent->spec_bytes, DS_MAX_FRAME_BYTES);
    ds_oom_init(&agent->oom);
    ds_reap_become();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    rc = ds_loop_init(&agent->loop, err);
    if (rc == 0)
        rc = ds_channel_open(&agent->up, &agent->loop, &up, err);
    if (rc != 0)
        return rc;
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return ds_fail(err, errno, "cannot listen for signals: %s", strerror(errno));
    return ds_loop_add(&agent->loop, &agent->signals, fd, EPOLLIN, err);
}

static void agent_release(struct agent *agent)
{
    int fd = agent->signals.fd;

    kill_all(agent);
    ds_reap_all();
    for (unsigned i = 0; i < agent->ranks; i++) {
        int exec_fd = agent->rank[i].exec.fd;

        stream_close(agent, &agent->rank[i].out);
        stream_close(agent, &agent->rank[i].err);
        ds_channel_release(&agent->rank[i].link);
        ds_loop_remove(&agent->loop, &agent->rank[i].exec);
        if (exec_fd >= 0)
            (void)close(exec_fd);
    }
    ds_loop_remove(&agent->loop, &agent->signals);
    if (fd >= 0)
        (void)close(fd);
    ds_channel_release(&agent->up);
    ds_loop_release(&agent->loop);
    ds_spawn_release(&agent->spawn);
    ds_buf_release(&agent->spec_bytes);
    ds_arena_release(&agent->arena);
}

static void on_time(struct agent *agent, uint64_t now_ns)
{
    unsigned char step[8];

    if (now_ns >= agent->beat_ns) {
        ds_put_u64(step, 0);
        if (agent->greeted)
            send_up(agent, DS_WIRE_BEAT, DS_WIRE_NO_RANK, step, sizeof(step));
        agent->beat_ns = now_ns + BEAT_MS * NS_PER_MS;
    }
    if (agent->kill_ns != 0 && now_ns >= agent->kill_ns)
        kill_all(agent);
}

static int serve(struct agent *agent, struct ds_error *err)
{
    int rc = 0;

    while (rc == 0 && !agent->over) {
        uint64_t now_ns = ds_clock_mono_ns();

        on_time(agent, now_ns);
        rc = ds_loop_turn(&agent->loop, ds_loop_timeout_ms(agent->beat_ns, now_ns), err);
        if (agent->resume) {
            agent->resume = false;
            throttle(agent, ds_channel_congested(&agent->up));
        }
        reap(agent);
        report_dead(agent);
        if (agent->ranks > 0 && agent->reported == agent->ranks && ds_channel_idle(&agent->up))
            break;
    }
    return rc;
}

int ds_agent_run(const struct ds_agent_args *args)
{
    struct agent agent = {.loop = {.epoll_fd = -1}, .exe_dir = args->exe_dir,
                          .up = {.in_fd = -1, .out_fd = -1},
                          .signals = {.fd = -1, .ready = on_signal, .user = &agent}};
    struct ds_error err = {0};
    int rc = agent_init(&agent, args, &err);

    if (rc == 0)
        rc = serve(&agent, &err);
    if (rc != 0) {
        (void)dprintf(STDERR_FILENO, "dsrun-agent: %s\n", ds_error_text(&err, rc));
        agent.exit_code = DS_EXIT_SOFTWARE;
    }
    agent_release(&agent);
    return agent.exit_code;
}
