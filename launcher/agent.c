/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * agent.c - the contract is in agent.h; a single rank is in rank.h.
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
#include "base/build.h"
#include "base/clock.h"
#include "base/exit.h"
#include "base/json.h"
#include "launcher/cgroup.h"
#include "launcher/fleet/pulse.h"
#include "launcher/gather.h"
#include "launcher/gpulock.h"
#include "launcher/loop.h"
#include "launcher/oom.h"
#include "launcher/probe.h"
#include "launcher/rank.h"
#include "launcher/reap.h"
#include "launcher/signals.h"
#include "launcher/remote/channel.h"
#include "launcher/remote/sealed.h"
#include "launcher/remote/join.h"
#include "launcher/spawn.h"
#include "launcher/spec.h"

#define NS_PER_MS UINT64_C(1000000)

struct agent {
    struct ds_loop loop;
    struct ds_channel up;
    struct ds_sealed sealed; /* under Slurm: what the channel speaks through */
    struct ds_watch lease;   /* and stdin, which ends with srun */
    bool joined, slurm;      /* it came by itself; srun started it */
    pid_t guard;             /* 0: none */
    const char *exe_dir;
    struct ds_arena arena;
    struct ds_buf spec_bytes;
    struct ds_spec spec;
    struct ds_spawn spawn;
    struct ds_watch signals;
    struct ds_oom oom;
    struct ds_cgroup cgroup; /* of the ranks */
    struct ds_gpulock gpus;
    struct ds_rank *rank;
    unsigned ranks, ended, reported; /* started; dead; dead and told */
    unsigned *order;                 /* local ranks in the order of their deaths */
    uint64_t beat_ns, kill_ns;       /* deadlines; 0: none */
    uint64_t heard_ns, turned_ns;    /* the launcher's last frame; the last turn of the loop */
    int port_fd;                     /* holds the port where ranks will meet; -1: none */
    bool greeted, throttled, over;
    bool waiting; /* for GO */
    int exit_code;
};

/* --- ranks ------------------------------------------------------------------------------------ */

/* Read from ranks only while the launcher takes what they write.  Called between turns: a rank's
 * channel, which pauses itself when it finds the line congested, must not be resumed below its own
 * callback. */
static void balance(struct agent *agent)
{
    bool on = ds_channel_congested(&agent->up);

    if (on && agent->throttled)
        return;
    agent->throttled = on;
    for (unsigned i = 0; i < agent->ranks; i++)
        ds__rank_throttle(&agent->rank[i], on);
}

static int prepare_ranks(struct agent *agent, struct ds_error *err)
{
    int rc = ds_spec_decode(agent->spec_bytes.data, agent->spec_bytes.len, &agent->arena,
                            &agent->spec, err);

    if (rc == 0)
        rc = ds_spawn_init(&agent->spawn, &agent->spec, agent->exe_dir, err);
    if (rc != 0)
        return rc;
    agent->spawn.shielded = agent->slurm;
    if (agent->spec.link || agent->spec.gather)
        rc = ds_bind_host(&agent->spawn.bound, &agent->spec, &agent->spawn.allowed,
                          agent->spawn.threads, &agent->arena, err);
    if (rc != 0)
        return rc;
    agent->rank = ds_arena_alloc(&agent->arena, agent->spec.ranks, sizeof(*agent->rank));
    agent->order = ds_arena_alloc(&agent->arena, agent->spec.ranks, sizeof(*agent->order));
    if (agent->rank == NULL || agent->order == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u ranks", agent->spec.ranks);
    return 0;
}

/* For events.jsonl: where this host's ranks are, or why they have no group. */
static void tell_cgroup(struct agent *agent, const char *why)
{
    struct ds_json json;
    struct ds_buf text;

    ds_buf_init(&text, 2 * DS_MAX_PATH);
    ds_json_init(&json, &text);
    ds_json_object(&json, NULL);
    ds_json_string(&json, "event", "cgroup");
    ds_json_f64(&json, "time", ds_clock_wall_s(), 16);
    ds_json_u64(&json, "rank", agent->spec.first_rank);
    ds_json_string(&json, why == NULL ? "path" : "none", why == NULL ? agent->cgroup.path : why);
    ds_json_end_object(&json);
    if (!text.failed)
        ds__up_send(&agent->up, DS_WIRE_EVENT, agent->spec.first_rank, text.data, text.len);
    ds_buf_release(&text);
}

/* Those of a job; entering one costs milliseconds, which a program that runs once (exec) has not
 * got.  Slurm has a hierarchy of its own, which it removes by itself. */
static void make_cgroup(struct agent *agent)
{
    char folder[DS_MAX_PATH];
    struct ds_error err = {0};
    int rc;

    if (!agent->spec.link && !agent->spec.gather)
        return;
    if (agent->slurm)
        rc = ds_fail(&err, ENOTSUP, "Slurm has groups of its own");
    else
        rc = ds_cgroup_own(folder, &err);
    if (rc == 0)
        rc = ds_cgroup_make(&agent->cgroup, folder, &err);
    if (rc == 0) {
        agent->spawn.cgroup_fd = agent->cgroup.procs_fd;
        ds_oom_watch(&agent->oom, agent->cgroup.path);
    }
    tell_cgroup(agent, rc == 0 ? NULL : ds_error_text(&err, rc));
}

/* They end like this before they were started. */
static void end_ranks(struct agent *agent, int code, int signal_number, unsigned why)
{
    for (unsigned i = 0; i < agent->spec.ranks; i++) {
        ds__rank_refuse(&agent->rank[i], &agent->loop, &agent->up, agent->spec.first_rank + i, code,
                        signal_number, why);
        agent->order[agent->ended++] = i;
        agent->ranks++;
    }
}

/* False: another job has one. */
static bool lock_gpus(struct agent *agent)
{
    struct ds_error err = {0};
    int rc = 0;

    agent->gpus.job = agent->spec.job;
    if (agent->spawn.bound != NULL)
        rc = ds_gpulock_host(&agent->gpus, agent->spawn.bound, &err);
    if (rc != 0)
        ds__up_complain(&agent->up, agent->spec.first_rank, ds_error_text(&err, rc));
    return rc != -EBUSY;
}

static void start_ranks(struct agent *agent)
{
    if (!lock_gpus(agent)) {
        end_ranks(agent, DS_EXIT_UNAVAILABLE, 0, DS_WHY_HELD);
        return;
    }
    make_cgroup(agent);
    ds__up_cores(&agent->up, &agent->spawn);
    for (unsigned i = 0; i < agent->spec.ranks; i++) {
        ds__rank_start(&agent->rank[i], &agent->loop, &agent->up, &agent->spawn, i);
        agent->ranks++;
        if (agent->rank[i].dead)
            agent->order[agent->ended++] = i;
    }
}

/* --- ranks that wait for GO (gather.h) -------------------------------------------------------- */

static void forget_port(struct agent *agent)
{
    if (agent->port_fd >= 0)
        (void)close(agent->port_fd);
    agent->port_fd = -1;
    agent->waiting = false;
}

static int be_ready(struct agent *agent, struct ds_error *err)
{
    unsigned char payload[DS_GATHER_BYTES];
    struct ds_gather here = {0};
    size_t len;

    if (agent->spec.first_rank == 0) {
        int rc = ds_gather_port(&agent->port_fd, &here.port, err);

        if (rc != 0)
            return rc;
    }
    ds_gather_here(getenv("SSH_CONNECTION"), here.address);
    len = ds_gather_write(&here, payload);
    agent->waiting = true;
    ds__up_send(&agent->up, DS_WIRE_READY, DS_WIRE_NO_RANK, payload, len);
    return 0;
}

static int on_go(struct agent *agent, const struct ds_frame *frame, struct ds_error *err)
{
    int rc;

    if (!agent->waiting)
        return ds_fail(err, EPROTO, "a GO that nobody waits for");
    rc = ds_gather_read(&agent->spawn.meet, frame->payload, frame->len, err);
    if (rc != 0)
        return rc;
    forget_port(agent); /* now it is the ranks' */
    start_ranks(agent);
    return 0;
}

/* The host itself answers, as its ranks would. */
static void probe(struct agent *agent)
{
    const char *dir = agent->spec.argc > 1 ? agent->spec.argv[1] : NULL;
    struct ds_buf text;

    ds_buf_init(&text, DS_MAX_FRAME_BYTES);
    ds_probe_write(dir, &text);
    for (unsigned i = 0; i < agent->spec.ranks; i++)
        ds__up_send(&agent->up, DS_WIRE_OUT, agent->spec.first_rank + i, ds_buf_text(&text),
                    text.len);
    end_ranks(agent, 0, 0, 0);
    ds_buf_release(&text);
}

/* It is over before anything was started: ranks end as they would have. */
static void refuse_ranks(struct agent *agent, uint32_t what)
{
    int code = what == DS_SIGNAL_STOP ? DS_EXIT_TERMINATED : DS_RANK_VICTIM_EXIT;

    if (ds_signals_own(what) != 0)
        return; /* there is no program yet to hear it */
    forget_port(agent);
    end_ranks(agent, what == DS_SIGNAL_KILL ? 0 : code, what == DS_SIGNAL_KILL ? SIGKILL : 0, 0);
}

static void signal_ranks(struct agent *agent, uint32_t what)
{
    for (unsigned i = 0; i < agent->ranks; i++)
        ds__rank_signal(&agent->rank[i], what);
    if (what == DS_SIGNAL_KILL)
        ds_cgroup_kill(&agent->cgroup);
}

static struct ds_rank *find_pid(struct agent *agent, pid_t pid)
{
    for (unsigned i = 0; i < agent->ranks; i++)
        if (agent->rank[i].pid == pid && !agent->rank[i].dead)
            return &agent->rank[i];
    return NULL;
}

/* Collect the dead.  A rank's group is killed while its number cannot be reused: before
 * waitpid(). */
static void reap(struct agent *agent)
{
    for (;;) {
        siginfo_t info = {0};
        struct ds_rank *rank;
        int status = 0, signal_number;

        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
            return;
        rank = find_pid(agent, info.si_pid);
        if (rank != NULL)
            ds__rank_signal(rank, DS_SIGNAL_KILL);
        if (waitpid(info.si_pid, &status, WNOHANG) <= 0 || rank == NULL)
            continue;
        signal_number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        ds__rank_died(rank, WIFEXITED(status) ? WEXITSTATUS(status) : 0, signal_number,
                      signal_number == SIGKILL && ds_oom_happened(&agent->oom) ? DS_WHY_OOM : 0);
        agent->order[agent->ended++] = (unsigned)(rank - agent->rank);
    }
}

static void report_dead(struct agent *agent)
{
    while (agent->reported < agent->ended &&
           ds__rank_report(&agent->rank[agent->order[agent->reported]]))
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
        if (info.ssi_signo == SIGUSR2 || (info.ssi_signo == SIGUSR1 && agent->spec.gather))
            continue; /* for programs, which had it from the same sender */
        if (agent->slurm && agent->kill_ns != 0)
            continue;
        signal_ranks(agent, agent->kill_ns == 0 ? DS_SIGNAL_STOP : DS_SIGNAL_KILL);
        if (agent->ranks == 0)
            agent->over = true;
        agent->kill_ns = ds_clock_mono_ns() + agent->spec.grace_ms * NS_PER_MS;
    }
}

/* --- the launcher's frames -------------------------------------------------------------------- */

static int on_hello(struct agent *agent, const struct ds_frame *frame, struct ds_error *err)
{
    struct ds_hello hello;
    int rc = ds_channel_get_hello(frame, &hello, err);

    agent->greeted = rc == 0;
    if (rc != 0 && ds_wire_get_hello(frame, &hello, NULL) == 0) { /* so that it can name both */
        (void)snprintf(hello.build_id, sizeof(hello.build_id), "%s", ds_build_id);
        (void)ds_channel_send_hello(&agent->up, &hello);
    }
    return rc != 0 ? rc : ds_channel_send_hello(&agent->up, &hello);
}

static int on_spec(struct agent *agent, const struct ds_frame *frame, struct ds_error *err)
{
    int rc;

    if (agent->spec_bytes.len > 0)
        return ds_fail(err, EPROTO, "a second start specification");
    if (ds_buf_put(&agent->spec_bytes, frame->payload, frame->len) != 0)
        return ds_fail(err, ENOMEM, "no memory for the start specification");
    rc = prepare_ranks(agent, err);
    if (rc == 0 && agent->spec.probe)
        probe(agent);
    else if (rc == 0 && agent->spec.gather && agent->spawn.problem.code == 0)
        rc = be_ready(agent, err);
    else if (rc == 0)
        start_ranks(agent);
    if (rc != 0)
        ds__up_complain(&agent->up, DS_WIRE_NO_RANK, ds_error_text(err, rc));
    return rc;
}

static int on_relay(struct agent *agent, const struct ds_frame *frame, struct ds_error *err)
{
    bool all = frame->rank == DS_WIRE_NO_RANK;
    uint32_t local = frame->rank - agent->spec.first_rank;

    if (frame->type == DS_WIRE_SIGNAL && frame->len != 4)
        return ds_fail(err, EPROTO, "a signal frame of %u bytes", frame->len);
    if (frame->type == DS_WIRE_SIGNAL && all && agent->waiting) {
        refuse_ranks(agent, ds_get_u32(frame->payload));
        return 0;
    }
    if (frame->type == DS_WIRE_SIGNAL && all) {
        signal_ranks(agent, ds_get_u32(frame->payload));
        return 0;
    }
    if (!all && local >= agent->ranks)
        return ds_fail(err, EPROTO, "rank %u is not on this host", frame->rank);
    for (unsigned i = all ? 0 : local; i < (all ? agent->ranks : local + 1); i++) {
        if (frame->type == DS_WIRE_SIGNAL)
            ds__rank_signal(&agent->rank[i], ds_get_u32(frame->payload));
        else if (!agent->rank[i].reported)
            (void)ds_channel_send(&agent->rank[i].link, frame);
    }
    return 0;
}

static int on_up_frame(struct ds_channel *up, const struct ds_frame *frame, struct ds_error *err)
{
    struct agent *agent = up->user;

    agent->heard_ns = ds_clock_mono_ns();
    if (frame->type != DS_WIRE_HELLO && !agent->greeted)
        return ds_fail(err, EPROTO, "the first frame is %s, not HELLO",
                       ds_wire_type_name(frame->type));
    switch (frame->type) {
    case DS_WIRE_HELLO: return on_hello(agent, frame, err);
    case DS_WIRE_SPEC: return on_spec(agent, frame, err);
    case DS_WIRE_GO: return on_go(agent, frame, err);
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
    agent->exit_code = rc == -EACCES ? DS_EXIT_DATA : DS_EXIT_UNAVAILABLE;
    if (rc != 0)
        (void)dprintf(STDERR_FILENO, "dsrun-agent: %s\n", ds_error_text(err, rc));
}

static const struct ds_channel_ops up_ops = {.frame = on_up_frame, .ended = on_up_ended};

/* --- the loop --------------------------------------------------------------------------------- */

/* Nothing is said on stdin once the invitation was read. */
static void on_lease(struct ds_watch *watch, uint32_t events)
{
    struct agent *agent = watch->user;
    char bytes[256];
    ssize_t n = read(watch->fd, bytes, sizeof(bytes));

    (void)events;
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    ds_loop_remove(&agent->loop, watch);
    agent->over = true;
    agent->exit_code = DS_EXIT_UNAVAILABLE;
}

/* The line to the launcher. */
static int open_line(struct agent *agent, const struct ds_agent_args *args, struct ds_error *err)
{
    struct ds_channel_args up = {.ops = &up_ops,
                                 .user = agent,
                                 .in_fd = args->in_fd,
                                 .out_fd = args->out_fd,
                                 .banner = true};
    int rc;

    if (args->join != NULL) {
        const struct ds_sealed_args sealed = {
            .fd = args->join->fd, .key = args->join->key, .identity = args->join->node};

        agent->joined = true;
        agent->slurm = args->join->slurm;
        rc = ds_sealed_open(&agent->sealed, &agent->loop, &sealed, err);
        if (rc == 0)
            rc = ds_loop_add(&agent->loop, &agent->lease, args->in_fd, EPOLLIN, err);
        if (rc != 0)
            return rc;
        up.stream = &agent->sealed.stream;
    }
    return ds_channel_open(&agent->up, &agent->loop, &up, err);
}

static int agent_init(struct agent *agent, const struct ds_agent_args *args, struct ds_error *err)
{
    sigset_t set;
    int fd, rc;

    ds_arena_init(&agent->arena);
    ds_buf_init(&agent->spec_bytes, DS_MAX_FRAME_BYTES);
    ds_oom_init(&agent->oom);
    ds_reap_become();
    (void)signal(SIGPIPE, SIG_IGN);
    ds_signals_agent(&set);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    rc = ds_loop_init(&agent->loop, err);
    if (rc == 0)
        rc = open_line(agent, args, err);
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

    signal_ranks(agent, DS_SIGNAL_KILL);
    ds_reap_all();
    ds_cgroup_remove(&agent->cgroup);
    ds_gpulock_release(&agent->gpus);
    if (agent->joined && !agent->over)
        ds_sealed_linger(&agent->sealed, agent->lease.fd,
                         agent->spec.lease_ms > 0 ? (int)agent->spec.lease_ms : -1);
    forget_port(agent);
    for (unsigned i = 0; i < agent->ranks; i++)
        ds__rank_release(&agent->rank[i]);
    ds_loop_remove(&agent->loop, &agent->signals);
    if (fd >= 0)
        (void)close(fd);
    ds_loop_remove(&agent->loop, &agent->lease);
    ds_channel_release(&agent->up);
    ds_sealed_close(&agent->sealed);
    ds_loop_release(&agent->loop);
    ds_spawn_release(&agent->spawn);
    ds_buf_release(&agent->spec_bytes);
    ds_arena_release(&agent->arena);
}

static uint64_t lease_ns(const struct agent *agent)
{
    return agent->spec.lease_ms * NS_PER_MS;
}

static uint64_t interval_ns(const struct agent *agent)
{
    return ds_pulse_interval_ns(lease_ns(agent));
}

/* The guard lives, and the launcher beats; without it for the whole lease the job is over here,
 * though the line may stand.  Time in which this process itself did not run is not the
 * launcher's. */
static void check_lease(struct agent *agent, uint64_t now_ns)
{
    uint64_t slept_ns = now_ns - agent->turned_ns;

    agent->turned_ns = now_ns;
    if (agent->guard != 0 && getppid() != agent->guard) { /* killed */
        agent->over = true;
        agent->exit_code = DS_EXIT_UNAVAILABLE;
        return;
    }
    if (slept_ns > 3 * interval_ns(agent))
        agent->heard_ns = now_ns;
    if (agent->ranks == 0 || lease_ns(agent) == 0 || now_ns < agent->heard_ns + lease_ns(agent))
        return;
    (void)dprintf(STDERR_FILENO, "dsrun-agent: nothing came from dsrun for %g s\n",
                  agent->spec.lease_ms / 1e3);
    agent->over = true;
    agent->exit_code = DS_EXIT_UNAVAILABLE;
}

static void on_time(struct agent *agent, uint64_t now_ns)
{
    static const unsigned char payload[DS_WIRE_BEAT_BYTES];

    if (now_ns >= agent->beat_ns) {
        if (agent->greeted && ds_channel_idle(&agent->up))
            ds__up_send(&agent->up, DS_WIRE_BEAT, DS_WIRE_NO_RANK, payload, sizeof(payload));
        agent->beat_ns = now_ns + interval_ns(agent);
    }
    if (agent->kill_ns != 0 && now_ns >= agent->kill_ns)
        signal_ranks(agent, DS_SIGNAL_KILL);
}

static int serve(struct agent *agent, struct ds_error *err)
{
    int rc = 0;

    agent->heard_ns = agent->turned_ns = ds_clock_mono_ns();
    while (rc == 0 && !agent->over) {
        uint64_t now_ns = ds_clock_mono_ns();

        on_time(agent, now_ns);
        rc = ds_loop_turn(&agent->loop, ds_loop_timeout_ms(agent->beat_ns, now_ns), err);
        balance(agent);
        check_lease(agent, ds_clock_mono_ns());
        reap(agent);
        report_dead(agent);
        if (agent->ranks > 0 && agent->reported == agent->ranks && ds_channel_idle(&agent->up))
            break;
    }
    return rc;
}

int ds_agent_run(const struct ds_agent_args *args)
{
    struct agent agent = {.loop = {.epoll_fd = -1},
                          .guard = args->guard,
                          .exe_dir = args->exe_dir,
                          .port_fd = -1,
                          .up = {.in_fd = -1, .out_fd = -1},
                          .lease = {.fd = -1, .ready = on_lease, .user = &agent},
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
