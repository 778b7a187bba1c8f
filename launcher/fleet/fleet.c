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

static int start_host(struct ds_fleet *fleet, uint32_t index, struct ds_error *err)
{
    const struct ds_fleet_args *args = fleet->args;
    struct ds_fleet_host *host = &fleet->host[index];
    struct ds_spec spec = *args->spec;
    struct ds_frame frame = {.type = DS_WIRE_SPEC, .rank = DS_WIRE_NO_RANK};
    struct ds_hello hello = {.version = DS_WIRE_VERSION, .build_id = DS_VERSION};
    struct ds_buf bytes;
    int rc;

    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    spec.first_rank = host->place->first_rank;
    spec.ranks = host->place->ranks;
    spec.node = index;
    spec.nodes = args->places;
    rc = ds_spec_encode(&spec, &bytes, err);
    if (rc == 0)
        rc = args->transport->start(&host->remote, &args->transport_args, err);
    if (rc == 0) {
        const struct ds_channel_args channel = {.ops = &channel_ops,
                                                .user = host,
                                                .banner = true,
                                                .in_fd = host->remote.in_fd,
                                                .out_fd = host->remote.out_fd};

        host->heard_ns = ds_clock_mono_ns();
        rc = ds_channel_open(&host->channel, &fleet->loop, &channel, err);
    }
    if (rc == 0) {
        memcpy(hello.nonce, host->nonce, sizeof(hello.nonce));
        frame.payload = bytes.data;
        frame.len = (uint32_t)bytes.len;
        rc = ds_channel_send_hello(&host->channel, &hello);
        if (rc == 0)
            rc = ds_channel_send(&host->channel, &frame);
    }
    ds_buf_release(&bytes);
    return rc;
}

/* A host that cannot be started is the end of the attempt, or only its own. */
static int start_host_or_lose(struct ds_fleet *fleet, uint32_t index, struct ds_error *err)
{
    struct ds_fleet_host *host = &fleet->host[index];
    int rc = start_host(fleet, index, err);

    if (rc == 0 || !fleet->args->apart)
        return ds_error_context(err, rc, "host '%s'", host->place->host);
    (void)snprintf(host->reason, sizeof(host->reason), "%s", ds_error_text(err, rc));
    ds_error_clear(err);
    host->ended = true;
    return 0;
}

/* Put away a host whose line has ended, and say how its agent did. */
static void close_host(struct ds_fleet *fleet, struct ds_fleet_host *host)
{
    const struct ds_super_event event = {.kind = DS_SUPER_HOST_GONE, .host = host->index};
    bool force = !host->channel.ended; /* dropped by us */
    size_t len;

    ds_channel_release(&host->channel);
    fleet->args->transport->finish(&host->remote, force);
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

        if (!host->ended && !host->greeted && fleet->args->apart && timeout_s > 0 &&
            waited_s >= timeout_s) {
            (void)snprintf(host->reason, sizeof(host->reason), "no answer within %g s", timeout_s);
            host->ended = true;
        }
        if (host->ended || now_ns < host->heard_ns + SILENT_NS)
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
    const struct ds_failure *first = &result->first;
    const char *host = fleet->args->places > 0 ? fleet->host[first->host].place->host : "";

    switch (first->kind) {
    case DS_FAILURE_NONE:
    case DS_FAILURE_KINDS: break;
    case DS_FAILURE_RANK:
        if (first->signal != 0)
            (void)snprintf(result->cause, sizeof(result->cause),
                           "rank %u on %s was killed by signal %d (%s)%s", first->rank, host,
                           first->signal, strsignal(first->signal),
                           first->oom ? ": the host ran out of memory" : "");
        else
            (void)snprintf(result->cause, sizeof(result->cause), "rank %u on %s ended with code %d",
                           first->rank, host, first->code);
        break;
    case DS_FAILURE_HOST:
        (void)snprintf(result->cause, sizeof(result->cause), "host '%s' was lost: %s", host,
                       fleet->host[first->host].reason);
        break;
    case DS_FAILURE_SILENT:
        (void)snprintf(result->cause, sizeof(result->cause), "host '%s' was silent for too long",
                       host);
        break;
    case DS_FAILURE_HANG:
        (void)snprintf(result->cause, sizeof(result->cause),
                       "no rank has made a step for too long: rank %u on %s holds the others up",
                       first->rank, host);
        break;
    case DS_FAILURE_SLEPT:
        (void)snprintf(result->cause, sizeof(result->cause),
                       "dsrun itself did not run for too long: hosts gave it up");
        break;
    case DS_FAILURE_START:
        (void)snprintf(result->cause, sizeof(result->cause),
                       "%u of %u ranks had started when the start time-out of %g s was over",
                       fleet->super.spawned, fleet->args->world, fleet->args->start_timeout_s);
        break;
    case DS_FAILURE_LAUNCHER:
        (void)snprintf(result->cause, sizeof(result->cause), "%s",
                       ds_error_text(&fleet->broken, -fleet->broken.code));
        break;
    }
}

static int serve(struct ds_fleet *fleet, struct ds_error *err)
{
    const struct ds_super_event tick = {.kind = DS_SUPER_TICK};
    int rc = 0;

    close_hosts(fleet); /* those that could not even be started */
    while (!fleet->over && rc == 0) {
        uint64_t now_ns = ds_clock_mono_ns();
        uint64_t next_ns = now_ns + NS_PER_S;

        if (fleet->super.deadline_ns != 0 && fleet->super.deadline_ns < next_ns)
            next_ns = fleet->super.deadline_ns;
        rc = ds_loop_turn(&fleet->loop, ds_loop_timeout_ms(next_ns, now_ns), err);
        now_ns = ds_clock_mono_ns();
        check_silence(fleet, now_ns);
        close_hosts(fleet);
        tell(fleet, &tick);
    }
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
    fleet->broken = (struct ds_error){0};
    for (uint32_t i = 0; i < args->places; i++) {
        fleet->host[i] =
            (struct ds_fleet_host){.fleet = fleet, .place = &args->place[i], .index = i};
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
        if (fleet->host[i].closed)
            continue;
        ds_channel_release(&fleet->host[i].channel);
        fleet->args->transport->finish(&fleet->host[i].remote, true);
    }
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
    int rc = attempt_init(fleet, args, err);

    for (uint32_t i = 0; rc == 0 && i < args->places; i++)
        rc = start_host_or_lose(fleet, i, err);
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
