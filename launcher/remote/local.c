/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * local.c - the transport to this machine: an agent beside us, on a socket pair.
 *
 * The agent gets a session of its own, so that the terminal's signals reach dsrun alone, which
 * decides what they mean.  Ranks that outlive a killed agent become children of dsrun (a
 * subreaper) and are killed in finish(); the fleet ends whoever made a session of its own.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsio.h"
#include "launcher/cgroup.h"
#include "launcher/helper.h"
#include "launcher/reap.h"
#include "launcher/remote/transport.h"

enum { PATIENCE_MS = 1000 };

struct local {
    struct ds_starter base;
    struct ds_remote *booked;
};

static int local_open(struct ds_starter **starter, const struct ds_transport_args *args,
                      struct ds_error *err)
{
    struct local *local = calloc(1, sizeof(*local));

    if (local == NULL)
        return ds_fail(err, ENOMEM, "no memory to start an agent");
    local->base = (struct ds_starter){.transport = &ds_transport_local, .args = *args};
    *starter = &local->base;
    return 0;
}

static void local_close(struct ds_starter *starter)
{
    free(starter);
}

static int spawn_agent(const char *path, int fd, int lease_fd, pid_t *pid)
{
    const char *argv[] = {"dsrun-agent", "local", NULL};
    const struct ds_helper agent = {
        .program = path, .argv = argv, .fd = {fd, fd, -1, [DS_LEASE_FD] = lease_fd}};

    return ds_helper_spawn(pid, &agent);
}

static int start_agent(struct ds_remote *remote, const struct ds_transport_args *args,
                       struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int fd[2], rc;

    rc = ds_path_join(path, args->libexec, "dsrun-agent", err);
    if (rc != 0)
        return rc;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0)
        return ds_fail(err, errno, "cannot create a socket: %s", strerror(errno));
    rc = spawn_agent(path, fd[1], args->lease_fd, &remote->pid);
    (void)close(fd[1]);
    if (rc != 0) {
        (void)close(fd[0]);
        remote->pid = 0;
        return ds_fail(err, -rc, "cannot start '%s': %s%s", path, strerror(-rc),
                       rc == -ENOENT ? ", install all of dsrun or name its folder of programs in "
                                       "DSRUN_LIBEXEC"
                                     : "");
    }
    remote->in_fd = remote->out_fd = fd[0];
    return 0;
}

static int local_start(struct ds_starter *starter, struct ds_remote *remote, struct ds_error *err)
{
    struct local *local = (struct local *)starter;

    (void)err;
    remote->next = local->booked;
    local->booked = remote;
    return 0;
}

static uint64_t local_tick(struct ds_starter *starter, uint64_t now_ns)
{
    struct local *local = (struct local *)starter;

    (void)now_ns;
    while (local->booked != NULL) {
        struct ds_remote *remote = local->booked;
        struct ds_error err = {0};
        int rc = start_agent(remote, &starter->args, &err);

        local->booked = remote->next;
        if (rc == 0)
            starter->args.ops->up(remote);
        else
            starter->args.ops->down(remote, rc, &err);
    }
    return 0;
}

static void local_finish(struct ds_starter *starter, struct ds_remote *remote, bool force)
{
    int status = 0;
    pid_t agent = remote->pid;

    (void)starter;
    if (remote->pid > 0) {
        bool kill_it = force || !ds_proc_ends(remote->pid, PATIENCE_MS);

        if (kill_it)
            (void)kill(remote->pid, SIGKILL);
        while (waitpid(remote->pid, &status, 0) < 0 && errno == EINTR)
            continue;
        remote->code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
        remote->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        if (kill_it)
            remote->code = -1;
        remote->pid = 0;
    }
    if (agent > 0) {
        ds_reap_session(agent); /* its own, which it leads */
        ds_cgroup_forget(agent);
    }
}

/* It shares this kernel: only its own process can be stopped. */
static enum ds_reach local_reach(struct ds_starter *starter, struct ds_remote *remote)
{
    (void)starter;
    return remote->pid > 0 && ds_proc_state(remote->pid) == 'T' ? DS_REACH_FROZEN
                                                                : DS_REACH_UNKNOWN;
}

const struct ds_transport ds_transport_local = {.name = "local",
                                                .open = local_open,
                                                .start = local_start,
                                                .tick = local_tick,
                                                .finish = local_finish,
                                                .reach = local_reach,
                                                .close = local_close};
