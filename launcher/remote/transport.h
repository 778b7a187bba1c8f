/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * transport.h - how an agent is started on a host; everything after that is the channel.
 *
 * A transport starts dsrun-agent and gives the two ends of its stdin and stdout.  The end of those
 * is the end of the job on that host, whatever the transport.
 */
#ifndef DS_LAUNCHER_REMOTE_TRANSPORT_H
#define DS_LAUNCHER_REMOTE_TRANSPORT_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

struct ds_remote {     /* one agent as its transport sees it */
    int in_fd, out_fd; /* frames from and to the agent; given to a channel by the caller */
    pid_t pid;         /* the local process that stands for it; 0: none */
    int code, signal;  /* how that ended, after finish(); code -1: it had to be killed */
};

struct ds_transport_args {
    const char *libexec; /* where dsrun-agent lies, for transports that run it from here */
    int lease_fd;        /* (local) a lock the agent keeps until it has ended; -1: none */
};

/* Descriptor at which a local agent holds the lock. */
enum { DS_LEASE_FD = 3 };

struct ds_transport {
    const char *name; /* also a value of --via */
    int (*start)(struct ds_remote *remote, const struct ds_transport_args *args,
                 struct ds_error *err);
    /* After the channel was closed: wait for the agent's end, not longer than about a second, or
     * not at all when `force`; then make sure that nothing of it is left. */
    void (*finish)(struct ds_remote *remote, bool force);
};

extern const struct ds_transport ds_transport_local;

#endif
