/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fleet.c - the contract is in fleet.h.
 *
 * Callbacks of channels only book and mark; channels are released and supervise's CLOSE is carried
 * out between turns of the loop, never below a callback.
 */
#include "launcher/fleet/fleet.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/log.h"
#include "launcher/fleet/cause.h"
#include "launcher/reap.h"
#include "launcher/remote/channel.h"

#define NS_PER_S  UINT64_C(1000000000)
#define ABORT_NS  (2 * NS_PER_S)
#define CLOSE_NS  (5 * NS_PER_S)
#define SILENT_NS (30 * NS_PER_S) /* an agent beats every second */

struct ds_fleet_host {
    struct ds_fleet *fleet;
    const struct ds_place *place;
    uint32_t index;
    struct ds_remote remote;
    struct ds_channel channel;
    uint64_t heard_ns;
    uint8_t nonce[16];
    bool up;                     /* the line carries frames */
    bool greeted, ended, closed; /* ended: nothing more will come; closed: and it is put away */
    char reason[512];            /* why it ended, when that is known */
};

/* --- carrying out what supervise wants -------------------------------------------------------- */

static void broadcast(struct ds_fleet *fleet, uint32_t what)
{
    unsigned char payload[4];
    const struct ds_frame frame = {.type = DS_WIRE_SIGNAL,
                                   .rank = DS_WIRE_NO_RANK,
                                   .payload = payload,
                                   .len = sizeof(payload)};

    ds_put_u32(payload, what);
    for (uint32_t i = 0; i < fleet->args->places; i++)
        (void)ds_channel_send(&fleet->host[i].channel, &frame);
}

static void note(struct ds_fleet *fleet, enum ds_fleet_note what);

static void tell(struct ds_fleet *fleet, const struct ds_super_event *event)
{
    bool started = fleet->super.started;
    unsigned actions = ds_supervise(&fleet->super, event, ds_clock_mono_ns());

    if (!started && fleet->super.started)
        note(fleet, DS_NOTE_STARTED);
    if ((actions & DS_DO_STOP) != 0) {
        broadcast(fleet, DS_SIGNAL_STOP);
        note(fleet, DS_NOTE_STOP);
    }
    if ((actions & DS_DO_ABORT) != 0) {
        broadcast(fleet, DS_SIGNAL_ABORT);
        note(fleet, DS_NOTE_FAILED);
    }
    if ((actions & DS_DO_KILL) != 0) {
        broadcast(fleet, DS_SIGNAL_KILL);
        note(fleet, DS_NOTE_KILL);
    }
    for (uint32_t i = 0; (actions & DS_DO_CLOSE) != 0 && i < fleet->args->places; i++)
        fleet->host[i].ended = true;
    fleet->over = fleet->over || (actions & DS_DO_END) != 0;
}

/* A sink failed: that is the end of the job, once. */
static void check(struct ds_fleet *fleet, int rc, const struct ds_error *err)
{
    const struct ds_super_event event = {.kind = DS_SUPER_BROKEN, .code = DS_EXIT_FAILURE};

    if (rc >= 0 || fleet->broken.code != 0)
        return;
    fleet->broken = *err;
    if (fleet->broken.code == 0)
        fleet->broken.code = -rc;
    tell(fleet, &event);
}

static void note(struct ds_fleet *fleet, enum ds_fleet_note what)
{
    struct ds_error err = {0};

    check(fleet, fleet->args->ops->note(fleet->args->user, what, &err), &err);
}

/* --- frames from agents ----------------------------------------------------------------------- */

static int on_hello(struct ds_fleet_host *host, const struct ds_frame *frame, struct ds_error *err)
{
    const struct ds_super_event event = {.kind = DS_SUPER_HOST_UP, .host = host->index};
    struct ds_hello hello;
    int rc = ds_channel_get_hello(frame, &hello, err);

    if (rc != 0)
        return rc;
    if (memcmp(hello.nonce, host->nonce, sizeof(hello.nonce)) != 0)
        return ds_fail(err, EPROTO, "its agent answered another launcher");
    host->greeted = true;
    tell(host->fleet, &event);
    return 0;
}

static void acknowledge(struct ds_fleet_host *host, uint32_t rank)
{
    const struct ds_frame ack = {.type = DS_WIRE_ACK, .rank = rank};
    struct ds_fleet *fleet = host->fleet;
    struct ds_error err = {0};
    int rc = fleet->args->ops->flush(fleet->args->user, &err);

    check(fleet, rc, &err);
    if (rc >= 0)
        (void)ds_channel_send(&host->channel, &ack);
}

static void on_text(struct ds_fleet_host *host, const struct ds_frame *frame)
{
    struct ds_fleet *fleet = host->fleet;
    const struct ds_fleet_ops *ops = fleet->args->ops;
    struct ds_error err = {0};
    int rc = 0;

    if (frame->len > 0)
        rc = frame->type == DS_WIRE_METRIC
                 ? ops->metric(fleet->args->user, frame->rank, frame->payload, frame->len, &err)
                 : ops->event(fleet->args->user, frame->rank, frame->payload, frame->len, &err);
    check(fleet, rc, &err);
    if (rc >= 0 && (frame->flags & DS_WIRE_WANT_ACK) != 0)
        acknowledge(host, frame->rank);
}

static int on_exit_frame(struct ds_fleet_host *host, const struct ds_frame *frame,
                         struct ds_error *err)
{
    struct ds_super_event event = {.kind = DS_SUPER_EXIT, .host = host->index, .rank = frame->rank};
    const unsigned char *payload = frame->payload;
    struct ds_fleet *fleet = host->fleet;
    struct ds_error sink = {0};

    if (frame->len != 12 || ds_get_u32(payload) > 255 || ds_get_u32(payload + 4) > 127)
        return ds_fail(err, EPROTO, "it sent a malformed EXIT");
    event.code = (int)ds_get_u32(payload);
    event.signal = (int)ds_get_u32(payload + 4);
    event.oom = (ds_get_u32(payload + 8) & 1) != 0;
    check(fleet, fleet->args->ops->ended(fleet->args->user, &event, &sink), &sink);
    tell(fleet, &event);
    return 0;
}

static void on_output(struct ds_fleet_host *host, const struct ds_frame *frame)
{
    struct ds_fleet *fleet = host->fleet;
    struct ds_error err = {0};

    check(fleet,
          fleet->args->ops->output(fleet->args->user, frame->rank,
                                   frame->type == DS_WIRE_OUT ? DS_LOG_STDOUT : DS_LOG_STDERR,
                                   frame->payload, frame->len, &err),
          &err);
}

static int on_beat(struct ds_fleet_host *host, const struct ds_frame *frame, struct ds_error *err)
{
    struct ds_fleet *fleet = host->fleet;
    uint64_t step;

    if (frame->len != 8)
        return ds_fail(err, EPROTO, "it sent a malformed BEAT");
    step = ds_get_u64(frame->payload);
    if (step <= DS_MAX_STEPS && (int64_t)step > fleet->last_step)
        fleet->last_step = (int64_t)step;
    if ((frame->flags & DS_WIRE_WANT_ACK) != 0)
        acknowledge(host, frame->rank);
    return 0;
}

static int on_host_frame(struct ds_fleet_host *host, const struct ds_frame *frame,
                         struct ds_error *err)
{
    if (frame->type == DS_WIRE_HELLO)
        return on_hello(host, frame, err);
    if (frame->type == DS_WIRE_ERR) { /* the agent's own complaint: its first line */
        const char *text = frame->len > 0 ? frame->payload : "";
        const char *end = memchr(text, '\n', frame->len);

        (void)snprintf(host->reason, sizeof(host->reason), "%.*s",
                       (int)(end != NULL ? (size_t)(end - text) : frame->len), text);
        return 0;
    }
    if (frame->type == DS_WIRE_BEAT)
        return 0;
    return ds_fail(err, EPROTO, "its agent sent %s without a rank", ds_wire_type_name(frame->type));
}

static int on_frame(struct ds_channel *channel, const struct ds_frame *frame, struct ds_error *err)
{
    struct ds_fleet_host *host = channel->user;
    struct ds_super_event spawned = {
        .kind = DS_SUPER_SPAWNED, .host = host->index, .rank = frame->rank};

    host->heard_ns = ds_clock_mono_ns();
    if (frame->type != DS_WIRE_HELLO && !host->greeted)
        return ds_fail(err, EPROTO, "its first frame is not HELLO");
    if (frame->rank == DS_WIRE_NO_RANK)
        return on_host_frame(host, frame, err);
    if (frame->rank < host->place->first_rank ||
        frame->rank - host->place->first_rank >= host->place->ranks)
        return ds_fail(err, EPROTO, "its agent spoke for rank %u", frame->rank);
    switch (frame->type) {
    case DS_WIRE_SPAWNED: tell(host->fleet, &spawned); return 0;
    case DS_WIRE_OUT:
    case DS_WIRE_ERR: on_output(host, frame); return 0;
    case DS_WIRE_METRIC:
    case DS_WIRE_EVENT: on_text(host, frame); return 0;
    case DS_WIRE_BEAT: return on_beat(host, frame, err);
    case DS_WIRE_EXIT: return on_exit_frame(host, frame, err);
    default: return ds_fail(err, EPROTO, "its agent sent %s", ds_wire_type_name(frame->type));
    }
}

static void on_ended(struct ds_channel *channel, int rc, const struct ds_error *err)
{
    struct ds_fleet_host *host = channel->user;

    host->ended = true;
    if (rc != 0)
        (void)snprintf(host->reason, sizeof(host->reason), "%s", ds_error_text(err, rc));
}

static const struct ds_channel_ops channel_ops = {.frame = on_frame, .ended = on_ended};

/* --- hosts ------------------------------------------------------------------------------------ */

/* Tell the agent of a host, whose line is up, what to start. */
static int send_spec(struct ds_fleet_host *host, struct ds_error *err)
{
    struct ds_fleet *fleet = host->fleet;
    struct ds_spec spec = *fleet->args->spec;
    struct ds_frame frame = {.type = DS_WIRE_SPEC, .rank = DS_WIRE_NO_RANK};
    struct ds_hello hello = {.version = DS_WIRE_VERSION, .build_id = DS_VERSION};
    struct ds_buf bytes;
    int rc;

    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    spec.first_rank = host->place->first_rank;
    spec.ranks = host->place->ranks;
    spec.node = host->index;
    spec.nodes = fleet->args->places;
    memcpy(hello.nonce, host->nonce, sizeof(hello.nonce));
    rc = ds_spec_encode(&spec, &bytes, err);
    frame.payload = bytes.data;
    frame.len = (uint32_t)bytes.len;
    if (rc == 0)
        rc = ds_channel_send_hello(&host->channel, &hello);
    if (rc == 0)
        rc = ds_channel_send(&host->channel, &frame);
    ds_buf_release(&bytes);
    return rc;
}

static void on_up(struct ds_remote *remote)
{
    struct ds_fleet_host *host = remote->user;
    const struct ds_channel_args channel = {.ops = &channel_ops,
                                            .user = host,
                                            .banner = true,
                                            .in_fd = remote->in_fd,
                                            .out_fd = remote->out_fd,
                                            .stream = remote->stream};
    struct ds_error err = {0};
    int rc;

    host->up = true;
    host->fleet->up++;
    host->heard_ns = ds_clock_mono_ns();
    rc = ds_channel_open(&host->channel, &host->fleet->loop, &channel, &err);
    if (rc == 0)
        rc = send_spec(host, &err);
    if (rc != 0)
        on_ended(&host->channel, rc, &err);
}

static void on_down(struct ds_remote *remote, int rc, const struct ds_error *err)
{
    struct ds_fleet_host *host = remote->user;
    struct ds_fleet *fleet = host->fleet;

    (void)snprintf(host->reason, sizeof(host->reason), "%s", ds_error_text(err, rc));
    host->ended = true;
    fleet->down++;
    if (fleet->refused.code == 0)
        (void)ds_fail(&fleet->refused, -rc, "host '%s': %s", host->place->host, host->reason);
    else
        ds_log(DS_LOG_ERROR, "host '%s': %s", host->place->host, host->reason);
}

static const struct ds_remote_ops remote_ops = {.up = on_up, .down = on_down};

/* Put away a host whose line has ended, and say how its agent did. */
static void close_host(struct ds_fleet *fleet, struct ds_fleet_host *host)
{
    const struct ds_super_event event = {.kind = DS_SUPER_HOST_GONE, .host = host->index};
    bool force = !host->up || !host->channel.ended; /* dropped by us */
    size_t len;

    ds_channel_release(&host->channel);
    fleet->args->transport->finish(fleet->starter, &host->remote, force);
    host->closed = true;
    len = strlen(host->reason);
    if (len == 0 && host->remote.signal != 0 && host->remote.code != -1)
        (void)snprintf(host->reason, sizeof(host->reason), "its agent was killed by signal %d (%s)",
                       host->remote.signal, strsignal(host->remote.signal));
    else if (len == 0)
        (void)snprintf(host->reason, sizeof(host->reason), "its agent went away");
    if (fleet->args->ops->lost != NULL &&
        fleet->hosts[host->index].ended < fleet->hosts[host->index].ranks)
        fleet->args->ops->lost(fleet->args->user, host->index, host->reason);
    tell(fleet, &event);
}

static void close_hosts(struct ds_fleet *fleet)
{
    for (uint32_t i = 0; i < fleet->args->places; i++)
        if (fleet->host[i].ended && !fleet->host[i].closed)
            close_host(fleet, &fleet->host[i]);
}

static void check_silence(struct ds_fleet *fleet, uint64_t now_ns)
{
    double timeout_s = fleet->args->start_timeout_s;

    for (uint32_t i = 0; i < fleet->args->places; i++) {
        struct ds_fleet_host *host = &fleet->host[i];
        double waited_s = (double)(now_ns - fleet->start_ns) / 1e9;

        if (host->up && !host->ended && !host->greeted && fleet->args->apart && timeout_s > 0 &&
            waited_s >= timeout_s) {
            (void)snprintf(host->reason, sizeof(host->reason), "no answer within %g s", timeout_s);
            host->ended = true;
        }
        if (!host->up || host->ended || now_ns < host->heard_ns + SILENT_NS)
            continue;
        (void)snprintf(host->reason, sizeof(host->reason), "its agent was silent for %d s",
                       (int)(SILENT_NS / NS_PER_S));
        host->ended = true;
    }
}

/* --- signals ---------------------------------------------------------------------------------- */

static void on_signal(struct ds_watch *watch, uint32_t events)
{
    struct ds_fleet *fleet = watch->user;
    struct signalfd_siginfo info;

    (void)events;
    while (read(watch->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        const struct ds_super_event event = {.kind = DS_SUPER_STOP,
                                             .signal = info.ssi_signo == SIGINT ? SIGINT : SIGTERM};

        if (fleet->args != NULL)
            tell(fleet, &event);
        else
            fleet->pending_stop = event.signal;
    }
}

int ds_fleet_init(struct ds_fleet *fleet, struct ds_error *err)
{
    sigset_t set;
    int fd, rc;

    *fleet = (struct ds_fleet){.signals = {.fd = -1, .ready = on_signal, .user = fleet}};
    ds_reap_become();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR1); /* a batch system's word that time is running out */
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    rc = ds_loop_init(&fleet->loop, err);
    if (rc != 0)
        return rc;
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return ds_fail(err, errno, "cannot listen for signals: %s", strerror(errno));
    return ds_loop_add(&fleet->loop, &fleet->signals, fd, EPOLLIN, err);
}

void ds_fleet_release(struct ds_fleet *fleet)
{
    int fd = fleet->signals.fd;

    if (fleet->signals.ready == NULL)
        return;
    ds_loop_remove(&fleet->loop, &fleet->signals);
    if (fd >= 0)
        (void)close(fd);
    ds_loop_release(&fleet->loop);
    *fleet = (struct ds_fleet){.signals = {.fd = -1}, .loop = {.epoll_fd = -1}};
}

int ds_fleet_signal_fd(const struct ds_fleet *fleet)
{
    return fleet->signals.fd;
}

/* --- an attempt ------------------------------------------------------------------------------- */

/* The first failure as a sentence. */
static void explain(const struct ds_fleet *fleet, struct ds_fleet_result *result)
{
    const struct ds_fleet_host *host = &fleet->host[result->first.host];
    const struct ds_cause_facts facts = {.host = host->place->host,
                                         .reason = host->reason,
                                         .broken = ds_error_text(&fleet->broken, 0),
                                         .spawned = fleet->super.spawned,
                                         .world = fleet->args->world,
                                         .start_timeout_s = fleet->args->start_timeout_s};

    ds_cause_text(&result->first, &facts, result->cause);
}

/* Could a host not be started while nothing was anywhere? */
static bool refused(const struct ds_fleet *fleet)
{
    return fleet->refused.code != 0 && fleet->up == 0 && !fleet->args->apart;
}

static int serve(struct ds_fleet *fleet, struct ds_error *err)
{
    const struct ds_super_event tick = {.kind = DS_SUPER_TICK};
    int rc = 0;

    close_hosts(fleet); /* those that could not even be started */
    while (!fleet->over && rc == 0) {
        uint64_t now_ns = ds_clock_mono_ns();
        uint64_t next_ns = now_ns + NS_PER_S;
        uint64_t due_ns = fleet->args->transport->tick(fleet->starter, now_ns);

        if (refused(fleet))
            break;
        if (due_ns != 0 && due_ns < next_ns)
            next_ns = due_ns;
        if (fleet->super.deadline_ns != 0 && fleet->super.deadline_ns < next_ns)
            next_ns = fleet->super.deadline_ns;
        rc = ds_loop_turn(&fleet->loop, ds_loop_timeout_ms(next_ns, now_ns), err);
        if (refused(fleet))
            break;
        now_ns = ds_clock_mono_ns();
        check_silence(fleet, now_ns);
        close_hosts(fleet);
        tell(fleet, &tick);
    }
    if (rc == 0 && refused(fleet))
        return ds_fail(err, fleet->refused.code, "%s", fleet->refused.text);
    return rc;
}

static int attempt_init(struct ds_fleet *fleet, const struct ds_fleet_args *args,
                        struct ds_error *err)
{
    struct ds_super_args super = {.hosts = args->places,
                                  .world = args->world,
                                  .apart = args->apart,
                                  .start_ns =
                                      args->apart ? 0 : (uint64_t)(args->start_timeout_s * 1e9),
                                  .grace_ns = (uint64_t)(args->grace_s * 1e9),
                                  .abort_ns = ABORT_NS,
                                  .close_ns = CLOSE_NS};

    fleet->host = calloc(args->places, sizeof(*fleet->host));
    fleet->hosts = calloc(args->places, sizeof(*fleet->hosts));
    fleet->ranks = calloc(args->world, sizeof(*fleet->ranks));
    if (fleet->host == NULL || fleet->hosts == NULL || fleet->ranks == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u hosts and %u ranks", args->places,
                       args->world);
    fleet->args = args;
    fleet->over = false;
    fleet->last_step = -1;
    fleet->broken = fleet->refused = (struct ds_error){0};
    fleet->up = fleet->down = 0;
    for (uint32_t i = 0; i < args->places; i++) {
        fleet->host[i] =
            (struct ds_fleet_host){.fleet = fleet, .place = &args->place[i], .index = i};
        fleet->host[i].remote = (struct ds_remote){
            .host = args->place[i].spec, .user = &fleet->host[i], .in_fd = -1, .out_fd = -1};
        fleet->hosts[i].first_rank = args->place[i].first_rank;
        fleet->hosts[i].ranks = args->place[i].ranks;
        if (getrandom(fleet->host[i].nonce, sizeof(fleet->host[i].nonce), 0) < 0)
            return ds_fail(err, errno, "cannot get random bytes: %s", strerror(errno));
    }
    fleet->start_ns = ds_clock_mono_ns();
    super.host = fleet->hosts;
    super.rank = fleet->ranks;
    ds_supervise_init(&fleet->super, &super, ds_clock_mono_ns());
    return 0;
}

static void attempt_release(struct ds_fleet *fleet)
{
    for (uint32_t i = 0; fleet->args != NULL && i < fleet->args->places; i++) {
        if (fleet->host[i].closed || fleet->starter == NULL)
            continue;
        ds_channel_release(&fleet->host[i].channel);
        fleet->args->transport->finish(fleet->starter, &fleet->host[i].remote, true);
    }
    if (fleet->starter != NULL)
        fleet->args->transport->close(fleet->starter);
    fleet->starter = NULL;
    ds_reap_all();
    free(fleet->host);
    free(fleet->hosts);
    free(fleet->ranks);
    fleet->host = NULL;
    fleet->hosts = NULL;
    fleet->ranks = NULL;
    fleet->args = NULL;
}

int ds_fleet_run(struct ds_fleet *fleet, const struct ds_fleet_args *args,
                 struct ds_fleet_result *result, struct ds_error *err)
{
    struct ds_transport_args transport = args->transport_args;
    int rc = attempt_init(fleet, args, err);

    transport.apart = args->apart;
    transport.loop = &fleet->loop;
    transport.ops = &remote_ops;
    transport.start_ns = args->start_timeout_s == 0
                             ? 0
                             : ds_clock_mono_ns() + (uint64_t)(args->start_timeout_s * 1e9);
    if (rc == 0)
        rc = args->transport->open(&fleet->starter, &transport, err);
    for (uint32_t i = 0; rc == 0 && i < args->places; i++) {
        rc = args->transport->start(fleet->starter, &fleet->host[i].remote, err);
        rc = ds_error_context(err, rc, "host '%s'", args->place[i].host);
    }
    if (rc == 0)
        rc = serve(fleet, err);
    if (rc == 0) {
        *result = (struct ds_fleet_result){.code = ds_supervise_code(&fleet->super),
                                           .first = fleet->super.first,
                                           .victims = fleet->super.victims,
                                           .stop_signal = fleet->super.stop_signal,
                                           .last_step = fleet->last_step};
        explain(fleet, result);
    }
    attempt_release(fleet);
    return rc;
}

int ds_fleet_wait(struct ds_fleet *fleet, unsigned ms)
{
    uint64_t end_ns = ds_clock_mono_ns() + ms * UINT64_C(1000000);
    uint64_t now_ns;

    while (fleet->pending_stop == 0 && (now_ns = ds_clock_mono_ns()) < end_ns)
        if (ds_loop_turn(&fleet->loop, ds_loop_timeout_ms(end_ns, now_ns), NULL) != 0)
            break;
    return fleet->pending_stop;
}
