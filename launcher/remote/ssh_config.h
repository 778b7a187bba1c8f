/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_config.h - what ~/.ssh/config says about one host.
 *
 * Pure but for `include`, by which the caller reads other files.  As in ssh_config(5) the first
 * value of a keyword wins, Host takes patterns with !, Include stands for the files it names.
 * Honoured:
 *
 *     HostName User Port IdentityFile IdentitiesOnly IdentityAgent UserKnownHostsFile
 *     GlobalKnownHostsFile HostKeyAlias ProxyJump ConnectTimeout
 *
 * A keyword without which the host cannot be reached as the user wants it (ProxyCommand and the
 * like), and a Match on anything but all, host and originalhost, is an error for the hosts that it
 * applies to, and names `--via openssh`.  Other keywords are passed over; no keyword makes a
 * connection less strict.
 *
 * Owner   strings live in the arena.
 * Tests   tests/launcher/test_ssh_config.c, tests/fuzz/fuzz_ssh_config.c
 */
#ifndef DS_LAUNCHER_REMOTE_SSH_CONFIG_H
#define DS_LAUNCHER_REMOTE_SSH_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/limits.h"

struct ds_ssh_list { /* values in order; `none` given: count 0 and set */
    const char *item[DS_MAX_SSH_IDENTITY];
    size_t count;
    bool set;
};

struct ds_ssh_config { /* NULL, 0, not set: the files do not say */
    const char *hostname, *user, *alias, *jump, *agent;
    struct ds_ssh_list identity, known, global_known;
    uint32_t port, connect_s;
    bool identities_only, identities_set, jump_set;
};

struct ds_ssh_reader {
    const char *host; /* as the user named it */
    const char *home; /* for ~ */
    struct ds_arena *arena;
    struct ds_ssh_config *config; /* zeroed by the caller; values found are added */
    /* Apply the files that `pattern` names with ds_ssh_config_apply(), `depth` as given. */
    int (*include)(struct ds_ssh_reader *reader, const char *pattern, unsigned depth,
                   struct ds_error *err);
    void *user;
};

/* -EINVAL "file:line: ...". */
int ds_ssh_config_apply(struct ds_ssh_reader *reader, const char *file, const char *text,
                        size_t len, unsigned depth, struct ds_error *err) DS_NODISCARD;

struct ds_ssh_tokens { /* what %h and the like stand for */
    const char *home, *host, *name, *user, *local_user;
    uint32_t port;
};

/* Expand ~ and %d %h %n %p %r %u %%; NULL: no memory, or a % that is none of these. */
const char *ds_ssh_expand(struct ds_arena *arena, const char *text,
                          const struct ds_ssh_tokens *tokens);

struct ds_ssh_hop {          /* one of ProxyJump's [user@]host[:port] */
    const char *user, *host; /* user NULL: not said */
    uint32_t port;           /* 0: not said */
};

/* Split ProxyJump; hops in the order of the way.  The number of them, or -EINVAL. */
int ds_ssh_jumps(struct ds_arena *arena, const char *text, struct ds_ssh_hop *hop, size_t room,
                 struct ds_error *err) DS_NODISCARD;

#endif
