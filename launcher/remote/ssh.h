/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh.h - inside of the ssh transport; others include transport.h.
 *
 *     ssh.c          the transport: window, barrier, retries, deadlines, jumps
 *     ssh_link.c     one connection: name, socket, handshake, host key
 *     ssh_auth.c     whose key opens it (ssh_key.h: the files, ssh_agent.h: an agent's)
 *     ssh_session.c  one channel in it: command, boot, stream
 *     ssh_crypto.c   what OpenSSL does before all that
 *
 * libssh2 works without blocking: a step is called again until it is not LIBSSH2_ERROR_EAGAIN.  A
 * link is moved on by ds__ssh_drive() whenever its socket, or that of the host it is reached
 * through, has something, and by time.
 */
#ifndef DS_LAUNCHER_REMOTE_SSH_H
#define DS_LAUNCHER_REMOTE_SSH_H

#include <libssh2.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "launcher/remote/boot.h"
#include "launcher/remote/names.h"
#include "launcher/remote/ssh_agent.h"
#include "launcher/remote/ssh_key.h"
#include "launcher/remote/ssh_site.h"
#include "launcher/remote/transport.h"

/* The phases of a link, in order; each has its own deadline. */
/* clang-format off */
#define DS_SSH_PHASES(X) \
    X(BOOKED,    0,  "waiting for its turn") \
    X(RESOLVE,   15, "looking up its address") \
    X(CONNECT,   0,  "connecting") \
    X(HANDSHAKE, 30, "greeting its sshd") \
    X(AUTH,      30, "logging in") \
    X(READY,     0,  "waiting for the other hosts") \
    X(OPEN,      30, "opening a channel") \
    X(EXEC,      30, "asking for the agent") \
    X(BOOT,      60, "starting the agent") \
    X(STARTED,   0,  "waiting for the other agents") \
    X(UP,        0,  "running") \
    X(GONE,      0,  "gone")
/* clang-format on */

enum ds_ssh_phase {
#define X(id, seconds, text) DS_SSH_##id,
    DS_SSH_PHASES(X)
#undef X
        DS_SSH_PHASE_COUNT
};

struct ds_ssh_auth {            /* what was tried */
    struct ds_ssh_agent *agent; /* of ssh->agents; NULL: none */
    struct ds_ssh_agent_ask ask;
    size_t next; /* candidate */
    bool begun;  /* it */
    unsigned tried;
    char notes[256]; /* keys that could not be tried, and why */
};

struct ds_ssh_link {
    struct ds_ssh *ssh;
    struct ds_ssh_link *next;
    struct ds_remote *remote;            /* NULL: only a way to others */
    struct ds_ssh_link *via;             /* the host it is reached through, or NULL */
    LIBSSH2_CHANNEL *tunnel;             /* in via's session */
    struct ds_ssh_link *opener, *writer; /* of those reached through this: who has a tunnel half
                                            open, a packet half sent; nobody else may */
    struct ds_ssh_target *target;
    enum ds_ssh_phase phase;
    uint64_t deadline_ns, retry_ns, eof_ns;
    unsigned tries;
    bool cut;                       /* no more I/O */
    bool told;                      /* up or down was called */
    bool shared;                    /* others are reached through it */
    struct ds_name *name;           /* being looked up, or found */
    const struct addrinfo *address; /* being tried */
    struct ds_watch watch;
    int fd;
    bool dry;                 /* the socket was empty; until it reports something */
    unsigned char ahead[256]; /* read from it, not yet wanted */
    unsigned ahead_at, ahead_len;
    struct ds_known *known; /* until the key is checked */
    LIBSSH2_SESSION *session;
    LIBSSH2_CHANNEL *channel;
    struct ds_ssh_auth *auth; /* until logged in */
    struct ds_boot *boot;     /* until the agent runs */
    struct ds_stream stream;
    bool want_in, want_out;
    int rc; /* why it is gone */
    struct ds_error *err;
    char *complaint; /* the last of its stderr */
};

struct ds_ssh {
    struct ds_starter base;
    struct ds_ssh_site site;
    struct ds_names *names;      /* NULL: no address was asked for yet */
    struct ds_ssh_agent *agents; /* one for each socket that is named */
    struct ds_ssh_key *keys;     /* of the files that were tried */
    struct ds_boot_plan plan;
    struct ds_ssh_link *links;
    unsigned hosts, count[DS_SSH_PHASE_COUNT]; /* links with a remote: all, by phase */
    unsigned open;                             /* of the two gates: before OPEN, before UP */
    unsigned ends;                             /* links between end-of-file and the end */
    bool planned;
    bool verified; /* (verify) every key */
    uint64_t start_span_ns;
};

/* Move on as far as it goes now. */
void ds__ssh_drive(struct ds_ssh_link *link);
void ds__ssh_enter(struct ds_ssh_link *link, enum ds_ssh_phase phase);
/* Give up; `err` says why. */
void ds__ssh_fail(struct ds_ssh_link *link, int rc, const struct ds_error *err);
/* Listen for what libssh2 waits for. */
void ds__ssh_listen(struct ds_ssh_link *link);
/* Socket, session and all go; the link can be started again. */
void ds__ssh_drop(struct ds_ssh_link *link);

/* Steps: 1 the next phase is entered, 0 not now, negative: failed; -ECONNRESET may be retried. */
int ds__ssh_resolve(struct ds_ssh_link *link, struct ds_error *err);
int ds__ssh_connect(struct ds_ssh_link *link, struct ds_error *err);
int ds__ssh_handshake(struct ds_ssh_link *link, struct ds_error *err);
int ds__ssh_authenticate(struct ds_ssh_link *link, struct ds_error *err);
int ds__ssh_open(struct ds_ssh_link *link, struct ds_error *err);
int ds__ssh_exec(struct ds_ssh_link *link, struct ds_error *err);
int ds__ssh_boot(struct ds_ssh_link *link, struct ds_error *err);

/* The ssh-agent is asked and has not answered: the socket has nothing to say meanwhile. */
bool ds__ssh_awaits_agent(const struct ds_ssh_link *link);
void ds__ssh_auth_free(struct ds_ssh_link *link);
void ds__ssh_agents_close(struct ds_ssh *ssh); /* no link is logging in any more */

/* Before libssh2 and anything of OpenSSL; false: no memory. */
bool ds__ssh_crypto_init(void);

/* The text of libssh2's last error. */
const char *ds__ssh_text(const struct ds_ssh_link *link);
void ds__ssh_session_init(struct ds_ssh_link *link);
void ds__ssh_hear_stderr(struct ds_ssh_link *link);

#endif
