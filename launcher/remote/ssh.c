/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh.c - the transport over SSH, in this process; how it is cut into files stands in ssh.h.
 *
 * At most WINDOW hosts are between their first packet and their login at a time.  There are two
 * gates, each opened when every host has come to it: no agent is started before every host was
 * reached, its key verified and the user logged in; no line is up before every agent runs.  When a
 * host does not come to a gate, those that cannot be started are named and nothing goes on
 * (`apart`: there are no gates).
 *
 * An sshd drops connections beyond its MaxStartups before it greets: such a host is tried again
 * after a while, longer each time, with jitter.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/build.h"
#include "base/clock.h"
#include "launcher/guard.h"
#include "launcher/remote/ssh.h"

enum { WINDOW = 64, MAX_TRIES = 10, FIRST_RETRY_MS = 100, LAST_RETRY_MS = 5000 };
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S  UINT64_C(1000000000)

static const struct {
    unsigned seconds;
    const char *text;
} phases[] = {
#define X(id, seconds, text) {seconds, text},
    DS_SSH_PHASES(X)
#undef X
};

static int (*const steps[DS_SSH_PHASE_COUNT])(struct ds_ssh_link *, struct ds_error *) = {
    [DS_SSH_RESOLVE] = ds__ssh_resolve,     [DS_SSH_CONNECT] = ds__ssh_connect,
    [DS_SSH_HANDSHAKE] = ds__ssh_handshake, [DS_SSH_AUTH] = ds__ssh_authenticate,
    [DS_SSH_OPEN] = ds__ssh_open,           [DS_SSH_EXEC] = ds__ssh_exec,
    [DS_SSH_BOOT] = ds__ssh_boot,
};

/* --- phases ----------------------------------------------------------------------------------- */

void ds__ssh_enter(struct ds_ssh_link *link, enum ds_ssh_phase phase)
{
    unsigned seconds = phase == DS_SSH_CONNECT ? link->target->connect_s : phases[phase].seconds;

    if (link->remote != NULL) {
        link->ssh->count[link->phase]--;
        link->ssh->count[phase]++;
    }
    link->phase = phase;
    link->deadline_ns = seconds == 0 ? 0 : ds_clock_mono_ns() + seconds * NS_PER_S;
}

void ds__ssh_listen(struct ds_ssh_link *link)
{
    uint32_t events = EPOLLIN;

    while (link->via != NULL)
        link = link->via;
    if (link->fd < 0 || link->watch.fd < 0)
        return;
    if (link->phase == DS_SSH_CONNECT)
        events = EPOLLOUT;
    else if (link->phase == DS_SSH_READY || link->phase == DS_SSH_STARTED)
        events = link->remote == NULL ? EPOLLIN : 0;
    else if (link->phase == DS_SSH_UP && !link->want_in && !link->want_out)
        events = 0;
    if (events == 0 && link->shared)
        events = EPOLLIN;
    if (link->session != NULL && link->phase != DS_SSH_CONNECT &&
        (libssh2_session_block_directions(link->session) & LIBSSH2_SESSION_BLOCK_OUTBOUND) != 0)
        events |= EPOLLOUT;
    if (ds__ssh_awaits_agent(link)) /* its hanging up is seen when we go on */
        events = 0;
    ds_loop_want(link->ssh->base.args.loop, &link->watch, events);
}

static void end_session(struct ds_ssh_link *link)
{
    int rc = 0;

    if (link->session == NULL)
        return;
    if (link->phase > DS_SSH_HANDSHAKE && !link->cut)
        (void)libssh2_session_disconnect(link->session, "bye");
    link->cut = true;
    if (link->fd >= 0)
        (void)shutdown(link->fd, SHUT_RDWR);
    do
        rc = libssh2_session_free(link->session); /* every wait fails now */
    while (rc == LIBSSH2_ERROR_EAGAIN);
    link->session = NULL;
    link->channel = NULL;
}

void ds__ssh_drop(struct ds_ssh_link *link)
{
    if (link->boot != NULL)
        ds_boot_release(link->boot);
    free(link->boot);
    ds__ssh_auth_free(link);
    free(link->known);
    free(link->complaint);
    link->boot = NULL;
    link->known = NULL;
    link->complaint = NULL;
    if (link->eof_ns != 0)
        link->ssh->ends--;
    link->eof_ns = 0;
    end_session(link);
    if (link->via != NULL && link->via->opener == link)
        link->via->opener = NULL;
    if (link->via != NULL && link->via->writer == link)
        link->via->writer = NULL;
    if (link->tunnel != NULL && link->via->session != NULL)
        (void)libssh2_channel_free(link->tunnel); /* what is left goes with the session */
    link->tunnel = NULL;
    ds_loop_remove(link->ssh->base.args.loop, &link->watch);
    if (link->fd >= 0)
        (void)close(link->fd);
    link->fd = -1;
    link->cut = false;
    ds_names_forget(link->ssh->names, link->name);
    link->name = NULL;
    link->address = NULL;
}

static void tell_down(struct ds_ssh_link *link)
{
    if (link->remote == NULL || link->told)
        return;
    link->told = true;
    link->ssh->base.args.ops->down(link->remote, link->rc, link->err);
}

void ds__ssh_fail(struct ds_ssh_link *link, int rc, const struct ds_error *err)
{
    ds__ssh_drop(link);
    ds__ssh_enter(link, DS_SSH_GONE);
    link->rc = rc;
    link->err = malloc(sizeof(*link->err));
    if (link->err != NULL)
        *link->err = *err;
    for (struct ds_ssh_link *at = link->ssh->links; link->shared && at != NULL; at = at->next)
        if (at->via == link && at->phase != DS_SSH_GONE) {
            struct ds_error lost = {0};

            int code = rc == -EKEYREJECTED ? EKEYREJECTED : EHOSTUNREACH;

            (void)ds_fail(&lost, code, "the host before it, '%s': %s", link->target->name,
                          err->text);
            ds__ssh_fail(at, -code, &lost);
        }
}

/* A sshd that is too busy hung up: later. */
static void retry(struct ds_ssh_link *link)
{
    uint64_t ms = FIRST_RETRY_MS;
    uint32_t random = 0;

    for (unsigned i = 0; i < link->tries && ms < LAST_RETRY_MS; i++)
        ms *= 2;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random))
        random = 0;
    ms = ms / 2 + random % (ms + 1);
    ds__ssh_drop(link);
    link->tries++;
    link->retry_ns = ds_clock_mono_ns() + ms * NS_PER_MS;
    ds__ssh_enter(link, DS_SSH_BOOKED);
}

/* --- moving on -------------------------------------------------------------------------------- */

static void drive_users(struct ds_ssh_link *link)
{
    struct ds_ssh *ssh = link->ssh;
    bool more = false;

    for (struct ds_ssh_link *at = ssh->links; at != NULL; at = at->next) {
        if (at->via != link || at->phase == DS_SSH_GONE)
            continue;
        if (at->phase == DS_SSH_READY && at->tunnel != NULL) {
            char none;

            (void)libssh2_channel_read(at->tunnel, &none, 0); /* empties the socket for all */
        }
        ds__ssh_drive(at);
    }
    for (struct ds_ssh_link *at = ssh->links; at != NULL; at = at->next) {
        unsigned long waiting = 0;

        if (at->via != link || at->tunnel == NULL || at->phase == DS_SSH_READY ||
            at->phase == DS_SSH_STARTED || (at->phase == DS_SSH_UP && !at->want_in))
            continue;
        (void)libssh2_channel_window_read_ex(at->tunnel, &waiting, NULL);
        more = more || waiting > 0; /* one read what was for another */
    }
    while (link->via != NULL)
        link = link->via;
    if (more)
        ds_loop_again(ssh->base.args.loop, &link->watch);
}

void ds__ssh_drive(struct ds_ssh_link *link)
{
    struct ds_error err = {0};
    int rc = 1;

    while (rc > 0 && steps[link->phase] != NULL)
        rc = steps[link->phase](link, &err);
    if (rc == -ECONNRESET && link->tries < MAX_TRIES) {
        retry(link);
        return;
    }
    if (rc < 0) {
        ds__ssh_fail(link, rc == -ECONNRESET ? -EHOSTUNREACH : rc, &err);
        return;
    }
    if (link->phase == DS_SSH_UP && link->stream.channel != NULL &&
        ds_channel_ready(link->stream.channel) && link->fd >= 0)
        ds_loop_again(link->ssh->base.args.loop, &link->watch);
    if (link->shared)
        drive_users(link);
    ds__ssh_listen(link);
}

static void open_gate(struct ds_ssh *ssh, enum ds_ssh_phase from, enum ds_ssh_phase to)
{
    for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next) {
        if (link->remote == NULL || link->phase != from)
            continue;
        ds__ssh_enter(link, to);
        if (to == DS_SSH_UP) {
            link->told = true;
            link->remote->stream = &link->stream;
            ssh->base.args.ops->up(link->remote);
        }
        if (link->phase == to)
            ds__ssh_drive(link);
    }
}

/* Was every key checked that could be?  A host whose key is not trusted is named, and no other is
 * let on, ever.  What the slowest took does not count against the others. */
static bool verify(struct ds_ssh *ssh)
{
    bool trusted = true;

    if (ssh->verified || ssh->count[DS_SSH_READY] + ssh->count[DS_SSH_GONE] != ssh->hosts)
        return ssh->verified;
    for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next)
        if (link->remote != NULL && link->rc == -EKEYREJECTED) {
            trusted = false;
            tell_down(link);
        }
    ssh->verified = trusted;
    if (ssh->base.args.start_ns != 0)
        ssh->base.args.start_ns = ds_clock_mono_ns() + ssh->start_span_ns;
    return trusted;
}

/* Open the gates that can be opened; or name the hosts that keep one shut. */
static void mind_gates(struct ds_ssh *ssh)
{
    unsigned gone = ssh->count[DS_SSH_GONE];

    if (ssh->base.args.verify && !verify(ssh))
        return;
    if (ssh->base.args.apart) {
        open_gate(ssh, DS_SSH_READY, DS_SSH_OPEN);
        open_gate(ssh, DS_SSH_STARTED, DS_SSH_UP);
    } else if (gone == 0) {
        if (ssh->count[DS_SSH_READY] == ssh->hosts)
            open_gate(ssh, DS_SSH_READY, DS_SSH_OPEN);
        if (ssh->count[DS_SSH_STARTED] == ssh->hosts)
            open_gate(ssh, DS_SSH_STARTED, DS_SSH_UP);
        return;
    } else if (gone + ssh->count[DS_SSH_READY] + ssh->count[DS_SSH_STARTED] +
                   ssh->count[DS_SSH_UP] !=
               ssh->hosts) {
        return;
    }
    for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next)
        if (link->phase == DS_SSH_GONE)
            tell_down(link);
}

static void start_booked(struct ds_ssh *ssh, uint64_t now_ns)
{
    unsigned busy = ssh->count[DS_SSH_RESOLVE] + ssh->count[DS_SSH_CONNECT] +
                    ssh->count[DS_SSH_HANDSHAKE] + ssh->count[DS_SSH_AUTH];

    for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next) {
        if (link->phase != DS_SSH_BOOKED || now_ns < link->retry_ns ||
            (link->remote != NULL && busy >= WINDOW))
            continue;
        busy += link->remote != NULL;
        ds__ssh_enter(link, link->via == NULL ? DS_SSH_RESOLVE : DS_SSH_CONNECT);
        ds__ssh_drive(link);
    }
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* What time does to one link; returns when it wants to be seen again. */
static uint64_t age(struct ds_ssh_link *link, uint64_t now_ns)
{
    uint64_t start_ns = link->ssh->base.args.start_ns;
    bool waits =
        link->via != NULL && link->phase == DS_SSH_CONNECT && link->via->phase < DS_SSH_READY;
    bool starting = link->phase < DS_SSH_STARTED && link->phase != DS_SSH_READY;
    bool late = starting && start_ns != 0 && now_ns >= start_ns;
    struct ds_error err = {0};

    if (link->phase == DS_SSH_GONE)
        return 0;
    if (late || (!waits && link->deadline_ns != 0 && now_ns >= link->deadline_ns)) {
        ds__ssh_fail(link,
                     ds_fail(&err, EHOSTUNREACH, "%s while %s",
                             late ? "the start time-out was over" : "no answer for too long",
                             phases[link->phase].text),
                     &err);
        return 0;
    }
    if (link->eof_ns != 0 && now_ns >= link->eof_ns)
        ds__ssh_drive(link);
    return sooner(sooner(link->phase == DS_SSH_BOOKED ? link->retry_ns : link->deadline_ns,
                         starting ? start_ns : 0),
                  link->eof_ns > now_ns ? link->eof_ns : 0);
}

static uint64_t ssh_tick(struct ds_starter *starter, uint64_t now_ns)
{
    struct ds_ssh *ssh = (struct ds_ssh *)starter;
    uint64_t next_ns = 0;

    if (ssh->count[DS_SSH_UP] == ssh->hosts && ssh->ends == 0)
        return 0;
    start_booked(ssh, now_ns);
    for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next)
        next_ns = sooner(next_ns, age(link, now_ns));
    next_ns = sooner(next_ns, ds_names_tick(ssh->names, now_ns));
    for (struct ds_ssh_agent *agent = ssh->agents; agent != NULL; agent = agent->next)
        next_ns = sooner(next_ns, ds_ssh_agent_tick(agent, now_ns));
    mind_gates(ssh);
    return next_ns;
}

/* --- links ------------------------------------------------------------------------------------ */

static struct ds_ssh_link *new_link(struct ds_ssh *ssh, struct ds_error *err)
{
    struct ds_ssh_link *link = calloc(1, sizeof(*link));

    if (link != NULL)
        link->target = ds_arena_alloc(&ssh->site.arena, 1, sizeof(*link->target));
    if (link == NULL || link->target == NULL) {
        free(link);
        (void)ds_fail(err, ENOMEM, "no memory for a host");
        return NULL;
    }
    link->ssh = ssh;
    link->fd = -1;
    link->watch.fd = -1;
    ds__ssh_session_init(link);
    return link;
}

static bool same(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* The link to a host on the way, made when it is not there yet. */
static int find_hop(struct ds_ssh *ssh, const struct ds_ssh_hop *hop, struct ds_ssh_link *via,
                    struct ds_ssh_link **out, struct ds_error *err)
{
    const struct ds_host_spec host = {.name = hop->host, .user = hop->user, .port = hop->port};
    struct ds_ssh_link *link = new_link(ssh, err);
    int rc = link == NULL ? -ENOMEM : ds_ssh_site_resolve(&ssh->site, &host, link->target, err);

    if (rc != 0) {
        free(link);
        return ds_error_context(err, rc, "ProxyJump '%s'", hop->host);
    }
    link->via = via;
    for (struct ds_ssh_link *at = ssh->links; at != NULL; at = at->next)
        if (at->remote == NULL && at->via == via &&
            same(at->target->address, link->target->address) &&
            same(at->target->user, link->target->user) && at->target->port == link->target->port) {
            free(link);
            *out = at;
            return 0;
        }
    if (via != NULL)
        via->shared = true;
    link->next = ssh->links;
    ssh->links = link;
    *out = link;
    return 0;
}

static int ssh_start(struct ds_starter *starter, struct ds_remote *remote, struct ds_error *err)
{
    struct ds_ssh *ssh = (struct ds_ssh *)starter;
    struct ds_ssh_link *link = new_link(ssh, err), *via = NULL;
    int rc =
        link == NULL ? -ENOMEM : ds_ssh_site_resolve(&ssh->site, remote->host, link->target, err);

    for (size_t i = 0; rc == 0 && i < link->target->hops; i++)
        rc = find_hop(ssh, &link->target->hop[i], via, &via, err);
    if (rc != 0) {
        free(link);
        return rc;
    }
    if (via != NULL)
        via->shared = true;
    link->via = via;
    link->remote = remote;
    remote->state = link;
    link->next = ssh->links;
    ssh->links = link;
    ssh->hosts++;
    ssh->count[DS_SSH_BOOKED]++;
    return 0;
}

/* --- the transport ---------------------------------------------------------------------------- */

static void ssh_close(struct ds_starter *starter)
{
    struct ds_ssh *ssh = (struct ds_ssh *)starter;

    if (ssh == NULL)
        return;
    for (int pass = 0; pass < 2; pass++) /* those that are reached through others first */
        for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next)
            if (pass == 1 || link->remote != NULL)
                ds__ssh_drop(link);
    while (ssh->links != NULL) {
        struct ds_ssh_link *link = ssh->links;

        ssh->links = link->next;
        free(link->err);
        free(link);
    }
    ds_names_close(ssh->names);
    ds__ssh_agents_close(ssh);
    ds_ssh_keys_free(&ssh->keys);
    ds_boot_plan_release(&ssh->plan);
    ds_ssh_site_release(&ssh->site);
    free(ssh);
    libssh2_exit();
}

static int ssh_open(struct ds_starter **starter, const struct ds_transport_args *args,
                    struct ds_error *err)
{
    struct ds_ssh *ssh = calloc(1, sizeof(*ssh));
    int rc;

    if (ssh == NULL || !ds__ssh_crypto_init() || libssh2_init(0) != 0) {
        free(ssh);
        return ds_fail(err, ENOMEM, "no memory for SSH");
    }
    ssh->base = (struct ds_starter){.transport = &ds_transport_ssh, .args = *args};
    if (args->start_ns != 0)
        ssh->start_span_ns = args->start_ns - ds_clock_mono_ns();
    rc = ds_boot_plan_open(&ssh->plan, args->libexec, ds_build_id, args->push == DS_PUSH_AUTO,
                           args->worker, err);
    if (rc == 0)
        rc = ds_ssh_site_init(&ssh->site, err);
    if (rc != 0) {
        ssh_close(&ssh->base);
        return rc;
    }
    *starter = &ssh->base;
    return 0;
}

/* How the agent ended, if the host has said so: its guard, or for a killed guard the sshd. */
static void read_end(struct ds_ssh_link *link)
{
    char *name = NULL;
    size_t len = 0;

    if (link->channel == NULL)
        return;
    (void)libssh2_channel_get_exit_signal(link->channel, &name, &len, NULL, NULL, NULL, NULL);
    for (int i = 1; name != NULL && i < 32; i++) {
        const char *known = sigabbrev_np(i);

        if (known != NULL && strlen(known) == len && memcmp(known, name, len) == 0)
            link->remote->signal = i;
    }
    if (name != NULL)
        libssh2_free(link->session, name);
    link->remote->code = libssh2_channel_get_exit_status(link->channel);
    if (link->remote->signal == 0)
        link->remote->signal = ds_guard_signal(link->remote->code);
}

static void ssh_finish(struct ds_starter *starter, struct ds_remote *remote, bool force)
{
    struct ds_ssh_link *link = remote->state;

    (void)starter;
    if (link == NULL)
        return;
    if (!force)
        read_end(link);
    link->told = true;
    ds__ssh_drop(link);
    if (link->phase != DS_SSH_GONE)
        ds__ssh_enter(link, DS_SSH_GONE);
    remote->state = NULL;
    remote->stream = NULL;
}

/* Beats were sent all the time: does the other kernel confirm them?  Nothing is known of a host
 * behind another one. */
static enum ds_reach ssh_reach(struct ds_starter *starter, struct ds_remote *remote)
{
    const struct ds_ssh_link *link = remote->state;
    int unconfirmed = 0;

    (void)starter;
    if (link == NULL || link->via != NULL || link->fd < 0 ||
        ioctl(link->fd, SIOCOUTQ, &unconfirmed) != 0)
        return DS_REACH_UNKNOWN;
    return unconfirmed > 0 ? DS_REACH_NONE : DS_REACH_FROZEN;
}

const struct ds_transport ds_transport_ssh = {.name = "ssh",
                                              .open = ssh_open,
                                              .start = ssh_start,
                                              .tick = ssh_tick,
                                              .finish = ssh_finish,
                                              .reach = ssh_reach,
                                              .close = ssh_close};
