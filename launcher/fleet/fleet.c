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
#include "launcher/fleet/fleet_host.h"
#include "launcher/reap.h"
#include "launcher/signals.h"

#define NS_PER_S UINT64_C(1000000000)
#define ABORT_NS (2 * NS_PER_S)     /* for ranks that have nothing to save */
#define CLOSE_NS (NS_PER_S * 3 / 2) /* for the end of the dead to be confirmed */

/* --- carrying out what supervise wants -------------------------------------------------------- */

static void broadcast(struct ds_fleet *fleet, uint32_t what)
{
    for (uint32_t i = 0; fleet->args != NULL && i < fleet->args->places; i++)
        ds__host_signal(&fleet->host[i], what);
}

static void note(struct ds_fleet *fleet, enum ds_fleet_note what);

/* Hosts that are dropped for their silence, or all that are left.  Who did not confirm the kill is
 * as silent. */
static void drop_hosts(struct ds_fleet *fleet, bool all)
{
    for (uint32_t i = 0; i < fleet->args->places; i++)
        if (all || fleet->hosts[i].drop)
            ds__host_drop(&fleet->host[i]);
}

void ds__fleet_tell(struct ds_fleet *fleet, const struct ds_super_event *event)
{
    bool started = fleet->super.started;
    unsigned actions = ds_supervise(&fleet->super, event, ds_clock_mono_ns());

    if (!started && fleet->super.started)
        note(fleet, DS_NOTE_STARTED);
    for (uint32_t i = 0; (actions & DS_DO_BEAT) != 0 && i < fleet->args->places; i++)
        ds__host_beat(&fleet->host[i]);
    if ((actions & DS_DO_ASK) != 0)
        broadcast(fleet, DS_SIGNAL_WHERE);
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
    if ((actions & (DS_DO_DROP | DS_DO_CLOSE)) != 0)
        drop_hosts(fleet, (actions & DS_DO_CLOSE) != 0);
    fleet->over = fleet->over || (actions & DS_DO_END) != 0;
}

/* A sink failed: that is the end of the job, once. */
void ds__fleet_check(struct ds_fleet *fleet, int rc, const struct ds_error *err)
{
    struct ds_super_event event = {.kind = DS_SUPER_BROKEN, .code = DS_EXIT_FAILURE};

    if (rc >= 0 || fleet->broken.code != 0)
        return;
    fleet->broken = *err;
    if (fleet->broken.code == 0)
        fleet->broken.code = -rc;
    event.disk = fleet->broken.code == ENOSPC || fleet->broken.code == EDQUOT;
    ds__fleet_tell(fleet, &event);
}

static void note(struct ds_fleet *fleet, enum ds_fleet_note what)
{
    struct ds_error err = {0};

    if (fleet->args->ops->note != NULL)
        ds__fleet_check(fleet, fleet->args->ops->note(fleet->args->user, what, &err), &err);
}

bool ds__fleet_refuses(const struct ds_fleet *fleet, int code)
{
    return code != 0 && (!fleet->args->apart || (fleet->args->verify && code == EKEYREJECTED));
}

static void close_hosts(struct ds_fleet *fleet)
{
    for (uint32_t i = 0; i < fleet->args->places; i++)
        if (fleet->host[i].ended && !fleet->host[i].closed)
            ds__host_close(&fleet->host[i]);
}

/* Hosts that do not wait for each other are given up one by one. */
static void check_start(struct ds_fleet *fleet, uint64_t now_ns)
{
    double timeout_s = fleet->args->start_timeout_s;
    char reason[64];

    if (!fleet->args->apart || timeout_s <= 0 ||
        (double)(now_ns - fleet->start_ns) / 1e9 < timeout_s ||
        (double)(now_ns - fleet->up_ns) / 1e9 < timeout_s)
        return;
    (void)snprintf(reason, sizeof(reason), "no answer within %g s", timeout_s);
    for (uint32_t i = 0; i < fleet->args->places; i++) {
        struct ds_fleet_host *host = &fleet->host[i];

        if (host->up && !host->ended && !host->greeted)
            ds__host_end(host, reason);
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

        if (fleet->forwards && (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2))
            broadcast(fleet, info.ssi_signo == SIGUSR1 ? DS_SIGNAL_USR1 : DS_SIGNAL_USR2);
        else if (fleet->args != NULL)
            ds__fleet_tell(fleet, &event);
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
    ds_signals_stop(&set);
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

int ds_fleet_forward(struct ds_fleet *fleet, struct ds_error *err)
{
    sigset_t set;

    ds_signals_stop(&set);
    (void)sigaddset(&set, SIGUSR1);
    (void)sigaddset(&set, SIGUSR2);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    fleet->forwards = true;
    return signalfd(fleet->signals.fd, &set, 0) >= 0
               ? 0
               : ds_fail(err, errno, "cannot listen for signals: %s", strerror(errno));
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
    free(fleet->lost);
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
    const struct ds_cause_facts facts = {
        .host = host->place->host,
        .reason = host->reason,
        .broken = ds_error_text(&fleet->broken, 0),
        .spawned = fleet->super.spawned,
        .world = fleet->args->world,
        .start_timeout_s = fleet->args->start_timeout_s,
        .idle_s = (double)(ds_clock_mono_ns() - fleet->super.pulse.moved_ns) / 1e9,
        .step_s = (double)ds_pulse_median_ns(&fleet->super.pulse) / 1e9};

    ds_cause_text(&result->first, &facts, result->cause);
}

/* Could a host not be started while nothing was anywhere? */
static bool refused(const struct ds_fleet *fleet)
{
    return fleet->up == 0 && ds__fleet_refuses(fleet, fleet->refused.code);
}

/* Whatever the system calls it: a host that cannot be started cannot be reached, unless it is this
 * machine that lacks something. */
static int host_error(int code)
{
    switch (code) {
    case EKEYREJECTED:
    case ENOMEM:
    case EAGAIN:
    case EMFILE:
    case ENFILE:
    case 0: return code;
    default: return EHOSTUNREACH;
    }
}

static int serve(struct ds_fleet *fleet, struct ds_error *err)
{
    const struct ds_super_event tick = {.kind = DS_SUPER_TICK};
    int rc = 0;

    close_hosts(fleet); /* those that could not even be started */
    while (!fleet->over && rc == 0) {
        uint64_t now_ns = ds_clock_mono_ns();
        uint64_t next_ns = ds_supervise_next_ns(&fleet->super);
        uint64_t due_ns = fleet->args->transport->tick(fleet->starter, now_ns);

        if (refused(fleet))
            break;
        if (due_ns != 0 && due_ns < next_ns)
            next_ns = due_ns;
        rc = ds_loop_turn(&fleet->loop, ds_loop_timeout_ms(next_ns, now_ns), err);
        if (refused(fleet))
            break;
        now_ns = ds_clock_mono_ns();
        check_start(fleet, now_ns);
        close_hosts(fleet);
        ds__fleet_tell(fleet, &tick);
    }
    if (rc == 0 && refused(fleet))
        return ds_fail(err, host_error(fleet->refused.code), "%s", fleet->refused.text);
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
                                  .close_ns = CLOSE_NS,
                                  .silent_ns = (uint64_t)(args->heartbeat_s * 1e9),
                                  .hang_ns = (uint64_t)(args->hang_s * 1e9)};
    int rc;

    super.abort_ns = args->spec->link && super.grace_ns > ABORT_NS ? ABORT_NS : super.grace_ns;
    fleet->host = calloc(args->places, sizeof(*fleet->host));
    fleet->hosts = calloc(args->places, sizeof(*fleet->hosts));
    fleet->ranks = calloc(args->world, sizeof(*fleet->ranks));
    free(fleet->lost);
    fleet->lost = calloc(args->places, sizeof(*fleet->lost));
    if (fleet->host == NULL || fleet->hosts == NULL || fleet->ranks == NULL || fleet->lost == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u hosts and %u ranks", args->places,
                       args->world);
    fleet->args = args;
    fleet->over = false;
    fleet->last_step = -1;
    fleet->broken = fleet->refused = (struct ds_error){0};
    fleet->up = fleet->down = 0;
    fleet->up_ns = 0;
    for (uint32_t i = 0; i < args->places; i++) {
        ds__host_init(&fleet->host[i], fleet, i);
        fleet->hosts[i].first_rank = args->place[i].first_rank;
        fleet->hosts[i].ranks = args->place[i].ranks;
        if (getrandom(fleet->host[i].nonce, sizeof(fleet->host[i].nonce), 0) < 0)
            return ds_fail(err, errno, "cannot get random bytes: %s", strerror(errno));
    }
    fleet->start_ns = ds_clock_mono_ns();
    super.host = fleet->hosts;
    super.rank = fleet->ranks;
    ds_supervise_init(&fleet->super, &super, ds_clock_mono_ns());
    rc = ds_meet_init(&fleet->meet, args->place, args->places, err);
    return rc != 0 ? rc : ds_store_init(&fleet->store, args->world, ds__fleet_answer, fleet, err);
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
    ds_meet_release(&fleet->meet);
    ds_store_release(&fleet->store);
    free(fleet->host);
    free(fleet->hosts);
    free(fleet->ranks);
    fleet->host = NULL;
    fleet->hosts = NULL;
    fleet->ranks = NULL;
    fleet->args = NULL;
}

/* What no agent could be told is known before there is one. */
static int check_spec(const struct ds_fleet_args *args, struct ds_error *err)
{
    struct ds_spec spec = *args->spec;
    struct ds_buf bytes;
    int rc;

    spec.nodes = args->places;
    spec.ranks = args->place[0].ranks;
    for (uint32_t i = 0; args->devices != NULL && i < args->places; i++)
        if (args->devices[i] != NULL &&
            (spec.devices == NULL || strlen(args->devices[i]) > strlen(spec.devices)))
            spec.devices = args->devices[i];
    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    rc = ds_spec_encode(&spec, &bytes, err);
    ds_buf_release(&bytes);
    return rc;
}

/* What was given to it and is malformed is no host's fault. */
static int open_starter(struct ds_fleet *fleet, const struct ds_transport_args *args,
                        struct ds_error *err)
{
    int rc = fleet->args->transport->open(&fleet->starter, args, err);

    return rc == -EINVAL ? rc : -host_error(-rc);
}

/* What came of an attempt that ended. */
static void conclude(struct ds_fleet *fleet, struct ds_fleet_result *result)
{
    *result = (struct ds_fleet_result){.code = ds_supervise_code(&fleet->super),
                                       .first = fleet->super.first,
                                       .victims = fleet->super.victims,
                                       .stop_signal = fleet->super.stop_signal,
                                       .last_step = fleet->last_step,
                                       .lost = fleet->lost};
    for (uint32_t i = 0; i < fleet->args->places; i++)
        fleet->lost[i] = fleet->hosts[i].lost;
    explain(fleet, result);
}

/* Nothing was started anywhere: of hosts that could not be reached the first is the failure. */
static void conclude_unreached(struct ds_fleet *fleet, struct ds_fleet_result *result)
{
    *result =
        (struct ds_fleet_result){.code = DS_EXIT_UNAVAILABLE,
                                 .first = {.kind = DS_FAILURE_HOST, .host = fleet->refused_by},
                                 .stop_signal = fleet->super.stop_signal,
                                 .last_step = -1,
                                 .lost = fleet->lost};
    for (uint32_t i = 0; i < fleet->args->places; i++)
        fleet->lost[i] = fleet->host[i].ended;
    explain(fleet, result);
}

int ds_fleet_run(struct ds_fleet *fleet, const struct ds_fleet_args *args,
                 struct ds_fleet_result *result, struct ds_error *err)
{
    struct ds_transport_args transport = args->transport_args;
    int rc = attempt_init(fleet, args, err);

    transport.apart = args->apart;
    transport.verify = args->verify;
    transport.loop = &fleet->loop;
    transport.ops = &ds__host_remote_ops;
    transport.start_ns = args->start_timeout_s == 0
                             ? 0
                             : ds_clock_mono_ns() + (uint64_t)(args->start_timeout_s * 1e9);
    if (rc == 0)
        rc = check_spec(args, err);
    if (rc == 0)
        rc = open_starter(fleet, &transport, err);
    for (uint32_t i = 0; rc == 0 && i < args->places; i++) {
        rc = -host_error(-args->transport->start(fleet->starter, &fleet->host[i].remote, err));
        rc = ds_error_context(err, rc, "host '%s'", args->place[i].host);
    }
    if (rc == 0)
        rc = serve(fleet, err);
    if (rc == 0) {
        conclude(fleet, result);
    } else if (rc == -EHOSTUNREACH && args->yields && refused(fleet)) {
        conclude_unreached(fleet, result);
        ds_error_clear(err);
        rc = 0;
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

void ds_fleet_stall(void *user)
{
    struct ds_fleet *fleet = user;
    uint64_t now_ns = ds_clock_mono_ns();

    if (fleet->args == NULL)
        return;
    ds_pulse_stall(&fleet->super.pulse, now_ns);
    if (!ds_pulse_due(&fleet->super.pulse, now_ns))
        return;
    for (uint32_t i = 0; i < fleet->args->places; i++)
        ds__host_beat(&fleet->host[i]);
}
