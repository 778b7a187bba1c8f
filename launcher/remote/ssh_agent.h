/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_agent.h - the keys that a running ssh-agent holds, and what it signs with them.
 *
 * Nothing here waits: an agent is a watch in the loop, one connection for all hosts, one request
 * under way at a time, the others behind it in their order.  An answer usually takes an agent a
 * millisecond; it may take as long as DS_SSH_AGENT_PATIENCE_S (a key that asks for a confirmation).
 * One that takes longer, hangs up, or says what it should not is failed for good, and so is all
 * that it is asked; no other host waits for it.
 *
 *     connecting ─► listing ─► listed            at any time ─► failed
 *
 * Source  draft-miller-ssh-agent
 * Tests   tests/launcher/test_ssh_agent.c, tests/fuzz/fuzz_ssh_agent.c, tests/e2e/ssh.py
 */
#ifndef DS_LAUNCHER_REMOTE_SSH_AGENT_H
#define DS_LAUNCHER_REMOTE_SSH_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "launcher/loop.h"

enum { DS_SSH_AGENT_PATIENCE_S = 10, DS_SSH_AGENT_KEYS = 64 };

enum ds_ssh_agent_state {
    DS_SSH_AGENT_CONNECTING,
    DS_SSH_AGENT_LISTING,
    DS_SSH_AGENT_LISTED, /* `key` is what it has */
    DS_SSH_AGENT_FAILED  /* `err` says why; keys that were listed stay */
};

struct ds_ssh_agent_key {
    const unsigned char *blob; /* borrowed from the agent */
    size_t len;
};

enum ds_ssh_ask_state { DS_SSH_ASK_NONE, DS_SSH_ASK_WAITS, DS_SSH_ASK_DONE };

struct ds_ssh_agent_ask { /* one signature; of the asker, zeroed: nothing was asked */
    struct ds_ssh_agent *agent;
    struct ds_ssh_agent_ask *next;
    struct ds_buf request;
    enum ds_ssh_ask_state state;
    int rc; /* done: 0, or why there is none */
    unsigned char *sig;
    size_t sig_len;
    void *user; /* of the asker */
};

struct ds_ssh_agent {
    struct ds_ssh_agent *next; /* of the owner */
    const char *path;          /* borrowed */
    struct ds_loop *loop;
    /* It was listed or has failed (`ask` NULL), or this ask is done.  May ask and forget, may not
     * close the agent. */
    void (*ready)(struct ds_ssh_agent *agent, struct ds_ssh_agent_ask *ask);
    void *user;
    enum ds_ssh_agent_state state;
    struct ds_watch watch;
    int fd;
    bool busy;            /* a request is under way */
    uint64_t deadline_ns; /* of it, or of the connection; 0: none */
    struct ds_buf out, in;
    struct ds_buf list;                    /* its keys */
    struct ds_ssh_agent_ask *asked;        /* whose request is under way; NULL: nobody's any more */
    struct ds_ssh_agent_ask *first, *last; /* that wait for their turn */
    struct ds_ssh_agent_key key[DS_SSH_AGENT_KEYS];
    size_t keys;
    struct ds_error err;
};

/* Begin to connect and to list; path, loop, ready and user are set by the caller, all else is
 * zeroed.  What cannot be shows as DS_SSH_AGENT_FAILED at once, without a call. */
void ds_ssh_agent_open(struct ds_ssh_agent *agent);
void ds_ssh_agent_close(struct ds_ssh_agent *agent); /* nobody waits any more */

/* Do what is due; returns when to be called again at the latest, 0: no need. */
uint64_t ds_ssh_agent_tick(struct ds_ssh_agent *agent, uint64_t now_ns);

/* Ask for the signature of `data` (copied).  0: ask->state tells; once DONE with rc 0, ask->sig is
 * the signature without its type, malloc'ed, the asker's to move.  -EIO the agent has failed;
 * -ENOMEM. */
int ds_ssh_agent_sign(struct ds_ssh_agent *agent, struct ds_ssh_agent_ask *ask,
                      const struct ds_ssh_agent_key *key, const void *data, size_t len,
                      struct ds_error *err) DS_NODISCARD;

/* Back to nothing asked, whatever its state; an answer that still comes is dropped. */
void ds_ssh_agent_forget(struct ds_ssh_agent_ask *ask);

#endif
