/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * names.h - the addresses of hosts, looked up by threads while the loop goes on.
 *
 * A name server may take seconds to answer or never do.  One thread takes names in their order;
 * while others wait and nobody has answered for SLOW_MS, one more is started, up to THREADS.  So
 * names that a quick server knows cost one thread, all together, and a slow one does not keep the
 * others.  A thread ends when no name waits.  An IP address needs none, nor does what /etc/hosts
 * says (etc_hosts.h).
 *
 * Tests   tests/launcher/test_names.c, tests/e2e/ssh.py
 */
#ifndef DS_LAUNCHER_REMOTE_NAMES_H
#define DS_LAUNCHER_REMOTE_NAMES_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "launcher/loop.h"

enum { DS_NAMES_THREADS = 16, DS_NAMES_SLOW_MS = 10 };

struct ds_name;  /* one lookup */
struct ds_names; /* those who wait, and the threads */

struct ds_names_args {
    struct ds_loop *loop;
    void (*done)(void *user); /* some lookup is done; may ask and forget */
    void *user;
    /* getaddrinfo(), or what a test puts in its place; called by several threads. */
    const char *nsswitch, *hosts; /* paths */
    int (*look)(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **found);
};

int ds_names_open(struct ds_names **names, const struct ds_names_args *args, struct ds_error *err)
    DS_NODISCARD;
/* Every lookup was forgotten.  A thread that hangs in one is left to itself. */
void ds_names_close(struct ds_names *names);

/* Begin to look up a TCP port of a host; an IP address is done at once, without done(). */
int ds_names_ask(struct ds_names *names, const char *host, unsigned port, struct ds_name **name,
                 struct ds_error *err) DS_NODISCARD;

/* false: not yet.  Else *found, borrowed until the lookup is forgotten; or NULL, and *rc is what
 * gai_strerror() takes. */
bool ds_names_answer(struct ds_names *names, const struct ds_name *name, int *rc,
                     const struct addrinfo **found);
void ds_names_forget(struct ds_names *names, struct ds_name *name);

/* Start a thread if one is due; returns when to be called again at the latest, 0: no need. */
uint64_t ds_names_tick(struct ds_names *names, uint64_t now_ns);

#endif
