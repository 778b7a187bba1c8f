/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * openssh.c - the transport over the installed ssh(1): one process per host, frames on its stdin
 * and stdout.
 *
 * For what libssh2 cannot do: Kerberos, certificates, hardware keys, RSA keys, ProxyCommand.
 * ssh(1) reads its own configuration; it is told to ask nothing and to trust no unknown key.  That
 * it has logged in shows in the first answer of the command it runs (boot.h), which then waits to
 * be told to go on.  So the two gates are those of ssh.c: no agent is started before every host was
 * reached, its key verified and the user logged in; no line is up before every agent runs.
 *
 * Tests   tests/e2e/ssh.py
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/build.h"
#include "base/clock.h"
#include "launcher/guard.h"
#include "launcher/helper.h"
#include "launcher/reap.h"
#include "launcher/remote/boot.h"
#include "launcher/remote/ssh_site.h"
#include "launcher/remote/transport.h"

enum { WINDOW = 16, BOOT_S = 60, COMPLAINT_BYTES = 512, PATIENCE_MS = 1000, BOOT_READ = 4096 };
#define NS_PER_S UINT64_C(1000000000)

/* READY and STARTED are before the gates. */
enum phase { BOOKED, LOGIN, READY, BOOTING, STARTED, UP, GONE, PHASES };

struct link {
    struct openssh *openssh;
    struct link *next;
    struct ds_remote *remote;
    enum phase phase;
    uint64_t deadline_ns; /* 0: none */
    bool told;
    int fd, err_fd;
    struct ds_watch line, complaints;
    struct ds_boot boot;
    char complaint[COMPLAINT_BYTES];
    int rc;
    struct ds_error err;
};

struct openssh {
    struct ds_starter base;
    struct ds_boot_plan plan;
    struct link *links;
    unsigned hosts, count[PHASES];
    bool verified; /* (verify) every key */
    uint64_t start_span_ns;
};

static void enter(struct link *link, enum phase phase)
{
    link->openssh->count[link->phase]--;
    link->openssh->count[phase]++;
    link->phase = phase;
    link->deadline_ns =
        phase == LOGIN || phase == BOOTING ? ds_clock_mono_ns() + BOOT_S * NS_PER_S : 0;
}

static void drop(struct link *link)
{
    struct ds_loop *loop = link->openssh->base.args.loop;

    ds_loop_remove(loop, &link->line);
    ds_loop_remove(loop, &link->complaints);
    if (link->fd >= 0)
        (void)close(link->fd);
    if (link->err_fd >= 0)
        (void)close(link->err_fd);
    link->fd = link->err_fd = -1;
    ds_boot_release(&link->boot);
}

/* The last line that ssh(1) wrote to stderr. */
static const char *complaint(struct link *link)
{
    char *line;

    for (size_t n = strlen(link->complaint); n > 0 && (unsigned char)link->complaint[n - 1] <= ' ';
         n--)
        link->complaint[n - 1] = '\0';
    line = strrchr(link->complaint, '\n');
    line = line == NULL ? link->complaint : line + 1;
    for (char *c = line; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    return line[0] == '\0' ? "ssh ended without a word" : line;
}

static void give_up(struct link *link, int rc, const struct ds_error *err)
{
    link->rc = rc;
    link->err = *err;
    drop(link);
    enter(link, GONE);
}

/* Some of what ssh(1) says; false: there is no more now. */
static bool hear_some(struct link *link)
{
    size_t used = strlen(link->complaint);
    char bytes[COMPLAINT_BYTES / 2];
    ssize_t n = read(link->err_fd, bytes, sizeof(bytes));

    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            ds_loop_remove(link->openssh->base.args.loop, &link->complaints);
        return false;
    }
    for (ssize_t i = 0; i < n; i++)
        if (bytes[i] == '\0')
            bytes[i] = '?';
    if (used + (size_t)n >= COMPLAINT_BYTES) { /* the last is what counts */
        size_t drop_bytes = used + (size_t)n - COMPLAINT_BYTES + 1;

        memmove(link->complaint, link->complaint + drop_bytes, used - drop_bytes);
        used -= drop_bytes;
    }
    memcpy(link->complaint + used, bytes, (size_t)n);
    link->complaint[used + (size_t)n] = '\0';
    return true;
}

static void hear(struct ds_watch *watch, uint32_t events)
{
    (void)events;
    (void)hear_some(watch->user);
}

/* ssh(1) hung up: all that it said before it went is there.  Its last words on a key that it does
 * not trust are always the same. */
static int lost(struct link *link, struct ds_error *err)
{
    const char *text;
    bool key;

    while (hear_some(link))
        continue;
    text = complaint(link);
    key = strcmp(text, "Host key verification failed.") == 0;

    return ds_fail(err, key ? EKEYREJECTED : EHOSTUNREACH, "%s", text);
}

/* --- the boot --------------------------------------------------------------------------------- */

static int send_boot(struct link *link, struct ds_error *err)
{
    while (link->boot.out_bytes > 0) {
        ssize_t n = send(link->fd, link->boot.out, link->boot.out_bytes, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return lost(link, err);
        ds_boot_sent(&link->boot, (size_t)n);
    }
    ds_loop_want(link->openssh->base.args.loop, &link->line,
                 link->boot.out_bytes > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
    return 0;
}

static int boot(struct link *link, struct ds_error *err)
{
    char bytes[BOOT_READ];
    size_t used;
    ssize_t n;
    int rc = send_boot(link, err);

    if (rc != 0)
        return rc;
    n = recv(link->fd, bytes, sizeof(bytes), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0) {
        return lost(link, err);
    }
    rc = ds_boot_feed(&link->boot, bytes, (size_t)n, &used, err);
    if (rc == 1 && used != (size_t)n)
        return ds_fail(err, EPROTO, "its agent spoke before it was asked");
    return rc == 0 ? send_boot(link, err) : rc;
}

static void on_line(struct ds_watch *watch, uint32_t events)
{
    struct link *link = watch->user;
    struct ds_error err = {0};
    int rc = boot(link, &err);

    (void)events;
    if (rc < 0) {
        give_up(link, rc, &err);
    } else if (link->phase == LOGIN && link->boot.here) {
        enter(link, READY);
    } else if (rc == 1) {
        ds_loop_remove(link->openssh->base.args.loop, &link->line);
        enter(link, STARTED);
    }
}

/* --- ssh(1) ----------------------------------------------------------------------------------- */

static int start_ssh(struct link *link, int line_fd, int err_fd, struct ds_error *err)
{
    const struct ds_host_spec *host = link->remote->host;
    char port[16];
    const char *argv[24] = {"ssh", "-T",
                            "-x",  "-a",
                            "-o",  "BatchMode=yes",
                            "-o",  "StrictHostKeyChecking=yes",
                            "-o",  "ClearAllForwardings=yes",
                            "-o",  "PermitLocalCommand=no",
                            "-o",  "ConnectTimeout=15"};
    struct ds_helper ssh = {.program = "ssh", .argv = argv, .fd = {line_fd, line_fd, err_fd, -1}};
    size_t n = 14;
    int rc;

    (void)snprintf(port, sizeof(port), "%u", host->port);
    if (host->port != 0) {
        argv[n++] = "-p";
        argv[n++] = port;
    }
    if (host->user != NULL) {
        argv[n++] = "-l";
        argv[n++] = host->user;
    }
    argv[n++] = "--";
    argv[n++] = host->address != NULL ? host->address : host->name;
    argv[n++] = ds_boot_command;
    rc = ds_helper_spawn(&link->remote->pid, &ssh);
    if (rc != 0)
        link->remote->pid = 0;
    return rc == 0 ? 0 : ds_fail(err, EHOSTUNREACH, "cannot run ssh: %s", strerror(-rc));
}

static int begin(struct link *link, struct ds_error *err)
{
    struct ds_loop *loop = link->openssh->base.args.loop;
    int line[2] = {-1, -1}, errors[2] = {-1, -1};
    int rc = ds_boot_init(&link->boot, &link->openssh->plan, true, err);

    if (rc != 0)
        return rc;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) != 0 ||
        pipe2(errors, O_CLOEXEC) != 0)
        rc = ds_fail(err, errno, "cannot create a socket: %s", strerror(errno));
    if (rc == 0)
        rc = start_ssh(link, line[1], errors[1], err);
    link->fd = line[0];
    link->err_fd = errors[0];
    if (line[1] >= 0)
        (void)close(line[1]);
    if (errors[1] >= 0)
        (void)close(errors[1]);
    if (rc != 0)
        return rc;
    (void)fcntl(link->fd, F_SETFL, O_RDWR | O_NONBLOCK);
    (void)fcntl(link->err_fd, F_SETFL, O_NONBLOCK);
    rc = ds_loop_add(loop, &link->line, link->fd, EPOLLIN | EPOLLOUT, err);
    if (rc == 0)
        rc = ds_loop_add(loop, &link->complaints, link->err_fd, EPOLLIN, err);
    return rc;
}

/* --- the transport ---------------------------------------------------------------------------- */

static void begin_booked(struct openssh *openssh)
{
    for (struct link *link = openssh->links; link != NULL; link = link->next) {
        struct ds_error err = {0};
        int rc;

        if (link->phase != BOOKED || openssh->count[LOGIN] >= WINDOW)
            continue;
        enter(link, LOGIN);
        rc = begin(link, &err);
        if (rc != 0)
            give_up(link, rc, &err);
    }
}

/* The first gate. */
static void let_boot(struct openssh *openssh)
{
    for (struct link *link = openssh->links; link != NULL; link = link->next) {
        struct ds_error err = {0};
        int rc;

        if (link->phase != READY)
            continue;
        enter(link, BOOTING);
        ds_boot_go(&link->boot);
        rc = send_boot(link, &err);
        if (rc != 0)
            give_up(link, rc, &err);
    }
}

/* The second. */
static void go_up(struct openssh *openssh)
{
    for (struct link *link = openssh->links; link != NULL; link = link->next) {
        if (link->phase != STARTED)
            continue;
        enter(link, UP);
        ds_boot_release(&link->boot);
        link->told = true;
        link->remote->in_fd = link->remote->out_fd = link->fd;
        link->fd = -1; /* the channel's now */
        openssh->base.args.ops->up(link->remote);
    }
}

/* Name the hosts that are gone; those whose key is not trusted, or all. */
static void tell_gone(struct openssh *openssh, bool all)
{
    for (struct link *link = openssh->links; link != NULL; link = link->next)
        if (link->phase == GONE && !link->told && (all || link->rc == -EKEYREJECTED)) {
            link->told = true;
            openssh->base.args.ops->down(link->remote, link->rc, &link->err);
        }
}

/* Every host has logged in or is gone.  One whose key is not trusted is named, and no other is let
 * on, ever.  What the slowest took does not count against the others. */
static bool verify(struct openssh *openssh)
{
    struct ds_transport_args *args = &openssh->base.args;

    if (openssh->verified)
        return true;
    for (struct link *link = openssh->links; link != NULL; link = link->next)
        if (link->rc == -EKEYREJECTED) {
            tell_gone(openssh, false);
            return false;
        }
    if (args->start_ns != 0)
        args->start_ns = ds_clock_mono_ns() + openssh->start_span_ns;
    openssh->verified = true;
    return true;
}

static void mind_gates(struct openssh *openssh)
{
    const struct ds_transport_args *args = &openssh->base.args;
    bool coming = openssh->count[BOOKED] + openssh->count[LOGIN] > 0;

    if (coming && (!args->apart || (args->verify && !openssh->verified)))
        return;
    if (args->verify && !verify(openssh))
        return;
    if (args->apart || openssh->count[GONE] == 0)
        let_boot(openssh);
    if (!args->apart && openssh->count[BOOTING] > 0)
        return;
    if (args->apart || openssh->count[GONE] == 0)
        go_up(openssh);
    tell_gone(openssh, true);
}

/* When a link must have moved on; 0: it waits for others, or runs. */
static uint64_t due_ns(const struct link *link)
{
    uint64_t start_ns = link->openssh->base.args.start_ns;

    if (link->phase > BOOTING || link->phase == READY)
        return 0;
    return start_ns != 0 && (link->deadline_ns == 0 || start_ns < link->deadline_ns)
               ? start_ns
               : link->deadline_ns;
}

static uint64_t openssh_tick(struct ds_starter *starter, uint64_t now_ns)
{
    struct openssh *openssh = (struct openssh *)starter;
    uint64_t next_ns = 0;

    if (openssh->count[UP] == openssh->hosts)
        return 0;
    begin_booked(openssh);
    for (struct link *link = openssh->links; link != NULL; link = link->next) {
        struct ds_error err = {0};

        if (due_ns(link) != 0 && now_ns >= due_ns(link))
            give_up(link, ds_fail(&err, EHOSTUNREACH, "no answer for too long"), &err);
    }
    mind_gates(openssh);
    for (struct link *link = openssh->links; link != NULL; link = link->next)
        if (due_ns(link) != 0 && (next_ns == 0 || due_ns(link) < next_ns))
            next_ns = due_ns(link);
    return next_ns;
}

static int openssh_start(struct ds_starter *starter, struct ds_remote *remote, struct ds_error *err)
{
    struct openssh *openssh = (struct openssh *)starter;
    int rc = ds_ssh_check_host(remote->host, err);
    struct link *link = rc == 0 ? calloc(1, sizeof(*link)) : NULL;

    if (rc != 0)
        return rc;
    if (link == NULL)
        return ds_fail(err, ENOMEM, "no memory for a host");
    link->openssh = openssh;
    link->remote = remote;
    link->fd = link->err_fd = -1;
    link->line = (struct ds_watch){.fd = -1, .ready = on_line, .user = link};
    link->complaints = (struct ds_watch){.fd = -1, .ready = hear, .user = link};
    link->next = openssh->links;
    openssh->links = link;
    openssh->hosts++;
    openssh->count[BOOKED]++;
    remote->state = link;
    return 0;
}

static void openssh_finish(struct ds_starter *starter, struct ds_remote *remote, bool force)
{
    struct link *link = remote->state;
    int status = 0;

    (void)starter;
    if (link == NULL)
        return;
    drop(link);
    if (remote->pid > 0) {
        if (force || !ds_proc_ends(remote->pid, PATIENCE_MS))
            (void)kill(remote->pid, SIGTERM);
        if (!ds_proc_ends(remote->pid, PATIENCE_MS))
            (void)kill(remote->pid, SIGKILL);
        while (waitpid(remote->pid, &status, 0) < 0 && errno == EINTR)
            continue;
        /* ssh(1) ends with the code of the guard, and with 255 for whatever was not one. */
        if (!force && WIFEXITED(status) && WEXITSTATUS(status) != 255) {
            remote->code = WEXITSTATUS(status);
            remote->signal = ds_guard_signal(remote->code);
        }
        remote->pid = 0;
    }
    if (link->phase != GONE)
        enter(link, GONE);
    remote->state = NULL;
}

static void openssh_close(struct ds_starter *starter)
{
    struct openssh *openssh = (struct openssh *)starter;

    if (openssh == NULL)
        return;
    while (openssh->links != NULL) {
        struct link *link = openssh->links;

        openssh->links = link->next;
        free(link);
    }
    ds_boot_plan_release(&openssh->plan);
    free(openssh);
}

static int openssh_open(struct ds_starter **starter, const struct ds_transport_args *args,
                        struct ds_error *err)
{
    struct openssh *openssh = calloc(1, sizeof(*openssh));
    int rc;

    if (openssh == NULL)
        return ds_fail(err, ENOMEM, "no memory for ssh");
    openssh->base = (struct ds_starter){.transport = &ds_transport_openssh, .args = *args};
    if (args->start_ns != 0)
        openssh->start_span_ns = args->start_ns - ds_clock_mono_ns();
    rc = ds_boot_plan_open(&openssh->plan, args->libexec, ds_build_id, args->push == DS_PUSH_AUTO,
                           args->worker, err);
    if (rc != 0) {
        openssh_close(&openssh->base);
        return rc;
    }
    *starter = &openssh->base;
    return 0;
}

const struct ds_transport ds_transport_openssh = {.name = "openssh",
                                                  .open = openssh_open,
                                                  .start = openssh_start,
                                                  .tick = openssh_tick,
                                                  .finish = openssh_finish,
                                                  .close = openssh_close};
