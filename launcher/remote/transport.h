/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * transport.h - how agents are started on hosts; everything after that is the channel.
 *
 * Starting is asynchronous: start() books a host and returns; then, out of tick() or the loop, each
 * host gets exactly one call: up(), its line carries frames, or down(), it could not be started.
 * Nothing begins before the first tick(), so a transport knows all hosts of an attempt by then: it
 * may start them in one go (a Slurm step), or make sure that every host can be reached and trusted
 * before an agent starts on any (ssh).  A transport that refuses the whole attempt calls down() for
 * the hosts that are to blame, and nothing for the others.
 *
 * A line's end is the end of the job on that host, whatever the transport.
 *
 *     open ─► start, start, ... ─► tick, tick, ... ─► finish, finish, ... ─► close
 *                                   └► up or down, once per host
 *
 * Owner   the caller owns each ds_remote and keeps it until close(); the transport owns streams.
 */
#ifndef DS_LAUNCHER_REMOTE_TRANSPORT_H
#define DS_LAUNCHER_REMOTE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "launcher/hosts/roster.h"
#include "launcher/loop.h"
#include "launcher/remote/channel.h"

struct ds_remote {                   /* one agent as caller and transport see it */
    const struct ds_host_spec *host; /* by the caller: whom to reach */
    void *user;                      /* of the caller */
    struct ds_remote *next;          /* of the transport */
    void *state;                     /* of the transport */
    int in_fd, out_fd;        /* with up(): frames from and to the agent, for a channel ... */
    struct ds_stream *stream; /* ... unless it speaks through this */
    pid_t pid;                /* the local process that stands for it; 0: none */
    int code, signal;         /* how it ended, after finish(), as far as is known; code -1: had to
                                 be killed */
};

/* Called from tick() or the loop, never from start() or finish(); may not call the transport. */
struct ds_remote_ops {
    void (*up)(struct ds_remote *remote);
    /* `rc` is -EKEYREJECTED for a host whose key is not trusted, -EHOSTUNREACH for what else the
     * user can mend (network, login), else what went wrong. */
    void (*down)(struct ds_remote *remote, int rc, const struct ds_error *err);
};

enum ds_reach {
    DS_REACH_UNKNOWN,
    DS_REACH_NONE,  /* nothing that is sent to it is confirmed */
    DS_REACH_FROZEN /* it confirms what is sent to it, or is seen to be stopped */
};

struct ds_join_site;

enum ds_push { DS_PUSH_AUTO, DS_PUSH_NEVER };

struct ds_srun_more { /* arguments of the user's, that ds_slurm_check() let pass; borrowed */
    const char *const *arg;
    size_t count;
};

struct ds_shown_key {           /* of a host that is in no known_hosts file; for the call only */
    const char *host, *address; /* as the user names it; where it is */
    const char *name, *file;    /* to record it by, and in: the user's own known_hosts, or NULL */
    const void *blob;
    size_t len;
};

struct ds_transport_args {
    struct ds_loop *loop;
    const struct ds_remote_ops *ops;
    const char *libexec; /* where dsrun-agent and dsrun-worker lie here */
    int lease_fd;        /* (local) a lock the agent keeps until it has ended; -1: none */
    bool apart;          /* hosts do not wait for each other: one that is ready starts */
    bool verify;         /* (apart) ... but not before the key of every host that can be reached was
                            checked; one that is not trusted refuses them all */
    uint64_t start_ns;   /* monotonic time by which every host must be up or down; 0: none */
    enum ds_push push;   /* may programs be copied to hosts that lack this build? */
    bool worker;         /* ranks are dsrun-worker, which must be there too */
    /* (ssh) Only look at keys: an unknown one is shown, no host is logged in to but those on the
     * way to others; a host with a trusted key is down with -EALREADY, one whose key was shown
     * with -ENOKEY.  NULL: start agents. */
    void (*key)(void *user, const struct ds_shown_key *key);
    void *key_user;
    const struct ds_join_site *join; /* (join) where agents come to */
    struct ds_srun_more srun;        /* (slurm) behind those of dsrun's own */
};

/* Descriptor at which a local agent holds the lock. */
enum { DS_LEASE_FD = 3 };

struct ds_starter { /* one attempt's use of a transport; the first member of the transport's own */
    const struct ds_transport *transport;
    struct ds_transport_args args;
};

struct ds_transport {
    const char *name; /* also a value of --via */
    int (*open)(struct ds_starter **starter, const struct ds_transport_args *args,
                struct ds_error *err);
    int (*start)(struct ds_starter *starter, struct ds_remote *remote, struct ds_error *err);
    /* Do what is due; returns when to be called again at the latest, 0: no need. */
    uint64_t (*tick)(struct ds_starter *starter, uint64_t now_ns);
    /* After the channel was released, or at any time before: wait for the agent's end, not longer
     * than about a second, or not at all when `force`; then nothing of it is left here. */
    void (*finish)(struct ds_starter *starter, struct ds_remote *remote, bool force);
    /* What the transport can tell of a host that has been silent; NULL: nothing. */
    enum ds_reach (*reach)(struct ds_starter *starter, struct ds_remote *remote);
    void (*close)(struct ds_starter *starter); /* every remote was finished; fine with NULL */
};

extern const struct ds_transport ds_transport_local, ds_transport_ssh, ds_transport_openssh;

#endif
