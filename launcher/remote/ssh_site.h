/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_site.h - what the user's files say about reaching a host: ~/.ssh/config, known_hosts, keys.
 *
 * What the hostfile says (user, port, address) goes before ~/.ssh/config.  Files are read once per
 * attempt, whatever the number of hosts.
 *
 * Owner   everything lives in site->arena until ds_ssh_site_release().
 * Tests   tests/launcher/test_ssh_site.c, tests/e2e/ssh.py
 */
#ifndef DS_LAUNCHER_REMOTE_SSH_SITE_H
#define DS_LAUNCHER_REMOTE_SSH_SITE_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "launcher/hosts/roster.h"
#include "launcher/remote/known_hosts.h"
#include "launcher/remote/ssh_config.h"

struct ds_ssh_file { /* read once */
    const char *path;
    struct ds_buf text;
    struct ds_ssh_file *next;
};

struct ds_ssh_site {
    struct ds_arena arena;
    struct ds_ssh_file *files;
    const char *home, *local_user, *config_path;
};

struct ds_ssh_target {                            /* one host, resolved; borrowed from the site */
    const char *name, *address, *user, *key_name; /* key_name: as in known_hosts */
    const char *agent;                            /* socket; NULL: none */
    uint32_t port, connect_s;
    struct ds_ssh_list identity; /* expanded paths */
    bool identities_given, identities_only;
    struct ds_ssh_list known; /* expanded paths, the user's first */
    const char *known_own;    /* the first of the user's; NULL: none */
    struct ds_ssh_hop hop[DS_MAX_SSH_JUMPS];
    size_t hops;
};

int ds_ssh_site_init(struct ds_ssh_site *site, struct ds_error *err) DS_NODISCARD;
void ds_ssh_site_release(struct ds_ssh_site *site);

/* How to reach `host`; also a hop of a jump, as a host of that name. */
int ds_ssh_site_resolve(struct ds_ssh_site *site, const struct ds_host_spec *host,
                        struct ds_ssh_target *target, struct ds_error *err) DS_NODISCARD;

/* What the known_hosts files say about the target; a file that is not there is empty. */
int ds_ssh_site_known(struct ds_ssh_site *site, const struct ds_ssh_target *target,
                      struct ds_known *known, struct ds_error *err) DS_NODISCARD;

/* May these be given to ssh?  Letters, digits and . _ - @ + : % [ ] and no '-' first. */
int ds_ssh_check_host(const struct ds_host_spec *host, struct ds_error *err) DS_NODISCARD;

#endif
