/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_join.c - dsrun join: this host comes to a launcher by itself.
 *
 *     connect ─► dsrun-agent join NAME (the line is its stdout, a pipe its stdin)
 *        ▲             │ ends
 *        └─────────────┘ the launcher may start its job anew; given up after --wait
 *
 * What the agent starts ends with it, and it ends with the line or with this process.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "cli/cli.h"
#include "launcher/helper.h"
#include "launcher/remote/join.h"
#include "launcher/signals.h"

/* Who is turned away is so sooner than SERVED_MS, the door's patience and a little. */
enum { FIRST_MS = 100, MOST_MS = 2000, CONNECT_MS = 5000, SERVED_MS = 15000, WAIT_S = 60 };

struct join {
    struct ds_join_at at;
    uint8_t key[DS_SEAL_KEY_BYTES];
    const char *name;
    char agent[DS_MAX_PATH];
    int signal_fd;
    int stop;             /* the signal that came last, 0: none */
    unsigned stops;       /* how many came */
    bool served;          /* a job has ended here */
    struct ds_error last; /* why there is no launcher */
};

/* --- signals ---------------------------------------------------------------------------------- */

/* Sleep, or until a signal or `fd` has something; a signal that wants the end is noted. */
static void doze(struct join *join, int fd, short events, int ms)
{
    struct pollfd wait[2] = {{.fd = join->signal_fd, .events = POLLIN},
                             {.fd = fd, .events = events}};
    struct signalfd_siginfo info;

    if (poll(wait, 2, ms) > 0 && (wait[0].revents & POLLIN) != 0 &&
        read(join->signal_fd, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGCHLD) {
        join->stop = (int)info.ssi_signo;
        join->stops++;
    }
}

static int listen_for_signals(struct join *join, struct ds_error *err)
{
    sigset_t set;

    (void)signal(SIGPIPE, SIG_IGN);
    ds_signals_stop(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    join->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return join->signal_fd >= 0
               ? 0
               : ds_fail(err, errno, "cannot listen for signals: %s", strerror(errno));
}

/* --- the way to the launcher ------------------------------------------------------------------ */

/* A connected socket, or -1 and why. */
static int try_address(struct join *join, const struct addrinfo *to)
{
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    uint64_t until_ns = ds_clock_mono_ns() + CONNECT_MS * UINT64_C(1000000);
    int code = 0;
    socklen_t len = sizeof(code);

    if (fd < 0)
        return ds_fail(&join->last, errno, "%s", strerror(errno)), -1;
    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0)
        return fd;
    code = errno;
    while (code == EINPROGRESS && join->stop == 0 && ds_clock_mono_ns() < until_ns) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};

        doze(join, fd, POLLOUT, CONNECT_MS);
        if (poll(&ready, 1, 0) > 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) != 0)
            code = errno;
    }
    if (code == 0)
        return fd;
    (void)close(fd);
    code = code == EINPROGRESS ? ETIMEDOUT : code;
    return ds_fail(&join->last, code, "%s", strerror(code)), -1;
}

static int try_connect(struct join *join)
{
    const struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char port[8];
    int fd = -1, rc;

    (void)snprintf(port, sizeof(port), "%u", join->at.port);
    rc = getaddrinfo(join->at.address, port, &wanted, &found);
    if (rc != 0)
        return ds_fail(&join->last, EHOSTUNREACH, "%s", gai_strerror(rc)), -1;
    for (const struct addrinfo *to = found; to != NULL && fd < 0; to = to->ai_next)
        fd = try_address(join, to);
    freeaddrinfo(found);
    return fd;
}

/* --- the agent -------------------------------------------------------------------------------- */

static int spawn_agent(struct join *join, int line_fd, int lease_fd, pid_t *pid,
                       struct ds_error *err)
{
    const char *argv[] = {"dsrun-agent", "join", join->name, NULL};
    const struct ds_helper agent = {
        .program = join->agent, .argv = argv, .fd = {lease_fd, line_fd, -1, -1}};
    int rc = ds_helper_spawn(pid, &agent);

    return rc == 0 ? 0 : ds_fail(err, -rc, "cannot start '%s': %s", join->agent, strerror(-rc));
}

/* Its exit code, or 128 + its signal.  Every signal to us is its, too: a second one kills. */
static int await_agent(struct join *join, pid_t pid)
{
    unsigned told = 0;
    int status = 0;

    for (;;) {
        pid_t ended = waitpid(pid, &status, WNOHANG);

        if (ended == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        for (; told != join->stops; told++)
            (void)kill(pid, join->stop);
        doze(join, -1, 0, -1);
    }
}

/* Serve the launcher at the other end of `line_fd`, which is taken. */
static int serve(struct join *join, int line_fd, int *code, struct ds_error *err)
{
    struct ds_invitation invitation = {.port = join->at.port};
    char line[DS_INVITATION_BYTES];
    int lease[2], rc;
    pid_t pid = 0;

    if (pipe2(lease, O_CLOEXEC) != 0) {
        rc = ds_fail(err, errno, "cannot create a pipe: %s", strerror(errno));
        (void)close(line_fd);
        return rc;
    }
    rc = spawn_agent(join, line_fd, lease[0], &pid, err);
    (void)close(line_fd);
    (void)close(lease[0]);
    memcpy(invitation.key, join->key, sizeof(join->key));
    ds_invitation_write(&invitation, line);
    if (rc == 0 && ds_fs_write_all(lease[1], line, strlen(line), NULL) != 0)
        (void)kill(pid, SIGTERM); /* it has ended: the line fits into the pipe */
    sodium_memzero(line, sizeof(line));
    sodium_memzero(&invitation, sizeof(invitation));
    if (rc == 0)
        *code = await_agent(join, pid);
    (void)close(lease[1]);
    return rc;
}

/* --- the command ------------------------------------------------------------------------------ */

static int run(struct join *join, double wait_s, struct ds_error *err)
{
    uint64_t wait_ns = (uint64_t)(wait_s * 1e9), since_ns = ds_clock_mono_ns();
    int pause_ms = FIRST_MS, rc = 0;

    while (rc == 0 && join->stop == 0) {
        int fd = try_connect(join), code = -1;
        uint64_t began_ns = ds_clock_mono_ns();

        if (fd >= 0)
            rc = serve(join, fd, &code, err);
        join->served = join->served || code == DS_EXIT_OK;
        if (code == DS_EXIT_OK || ds_clock_mono_ns() - began_ns > SERVED_MS * UINT64_C(1000000)) {
            since_ns = ds_clock_mono_ns();
            pause_ms = FIRST_MS;
        }
        if (code == DS_EXIT_DATA) {
            rc = ds_fail(err, EKEYREJECTED, "the launcher at '%s' port %u has another key",
                         join->at.address, join->at.port);
        } else if (code > 0) {
            (void)ds_fail(&join->last, EPROTO, "it hung up");
        }
        if (rc != 0 || join->stop != 0 || ds_clock_mono_ns() - since_ns >= wait_ns)
            break;
        doze(join, -1, 0, pause_ms);
        pause_ms = 2 * pause_ms < MOST_MS ? 2 * pause_ms : MOST_MS;
    }
    return rc;
}

static int prepare(struct join *join, const struct ds_cli *cli, char own[256], struct ds_error *err)
{
    int rc = ds_join_at_parse(&join->at, cli->arg[0], err);

    if (rc == 0 && join->at.address[0] == '\0')
        rc = ds_fail(err, EINVAL, "'%s' names no launcher", cli->arg[0]);
    if (rc == 0 && gethostname(own, 256) != 0)
        rc = ds_fail(err, errno, "this host has no name: %s", strerror(errno));
    own[255] = '\0';
    join->name = cli->name != NULL ? cli->name : own;
    if (rc == 0 && (join->name[0] == '\0' || strlen(join->name) > DS_MAX_HOST_NAME))
        rc = ds_fail(err, EINVAL, "'--name' must be 1 to %d bytes", DS_MAX_HOST_NAME);
    if (rc == 0)
        rc = ds_join_key_read(cli->join_key, join->key, err);
    if (rc == 0)
        rc = ds_cli_libexec(join->agent, "dsrun-agent", err);
    return rc == 0 ? listen_for_signals(join, err) : rc;
}

static int usage(const char *what)
{
    ds_log(DS_LOG_ERROR, "%s", what);
    return DS_EXIT_USAGE;
}

int ds_cmd_join(const struct ds_cli *cli)
{
    struct join join = {.signal_fd = -1};
    struct ds_error err = {0};
    char own[256];
    int rc, code;

    if (cli->join_key == NULL)
        return usage("'join' needs '--join-key', the file of the key that all hosts have");
    if (cli->make_key != (cli->args == 0))
        return usage("'join' takes LAUNCHER[:PORT], or --make-key");
    if (cli->make_key) {
        rc = ds_join_key_make(cli->join_key, &err);
    } else {
        rc = prepare(&join, cli, own, &err);
        if (rc == 0)
            rc = run(&join, cli->wait_s < 0 ? WAIT_S : cli->wait_s, &err);
    }
    sodium_memzero(join.key, sizeof(join.key));
    if (join.signal_fd >= 0)
        (void)close(join.signal_fd);
    if (rc != 0) {
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
        return ds_exit_from_errno(rc);
    }
    code = cli->make_key || join.served ? DS_EXIT_OK : DS_EXIT_UNAVAILABLE;
    if (join.stop != 0)
        return 128 + join.stop;
    if (code != DS_EXIT_OK)
        ds_log(DS_LOG_ERROR, "no launcher at '%s' port %u took this host as '%s': %s",
               join.at.address, join.at.port, join.name, join.last.text);
    return code;
}
