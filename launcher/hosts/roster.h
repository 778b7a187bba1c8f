/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * roster.h - the hosts that a job may use, in the order in which they were named.
 *
 *   hostfile.c      both forms of the hostfile            ─┐
 *   range.c         node[01-16,20] to names                ├─► roster ─► select.c ─► placement.h
 *   (this machine)  ds_roster_add() of one name           ─┘
 *
 * Names are [A-Za-z0-9._-], at most DS_MAX_HOST_NAME bytes, and unique.
 *
 * Owner   everything hangs on roster->arena.
 * Tests   tests/launcher/test_hostfile.c, test_select.c
 */
#ifndef DS_LAUNCHER_HOSTS_ROSTER_H
#define DS_LAUNCHER_HOSTS_ROSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"

struct ds_host_spec {
    const char *name;
    const char *address, *user; /* NULL: not said */
    uint32_t port, slots;       /* 0: not said */
    const uint32_t *device;     /* NULL: not said */
    uint32_t devices;
    const uint32_t *slot; /* after selection: the slots chosen, rising; NULL: all */
    uint32_t chosen;      /* how many */
    bool excluded;        /* by selection */
};

struct ds_roster {
    struct ds_arena arena;
    struct ds_host_spec *host;
    size_t hosts, cap;
    uint32_t *table; /* names to 1 + index, open addressing; 0: free */
    size_t table_cap;
};

void ds_roster_init(struct ds_roster *roster);
void ds_roster_release(struct ds_roster *roster);

/* Add `host` once per name of `pattern`; strings are copied.  -EINVAL, without a position. */
int ds_roster_add(struct ds_roster *roster, const char *pattern, const struct ds_host_spec *host,
                  struct ds_error *err) DS_NODISCARD;
struct ds_host_spec *ds_roster_find(const struct ds_roster *roster, const char *name);

/* Names of a pattern: "node[01-16,20]" is 17.  One bracket; bounds keep their leading zeros. */
int ds_range_count(const char *pattern, size_t *count, struct ds_error *err) DS_NODISCARD;
/* Name `index` of a pattern that ds_range_count() accepted, into out[DS_MAX_HOST_NAME + 1]. */
void ds_range_name(const char *pattern, size_t index, char *out);

/* Read a hostfile, YAML or one host a line.  -ENOENT missing; -EINVAL "file:line:column: ...". */
int ds_hostfile_load(struct ds_roster *roster, const char *path, struct ds_error *err) DS_NODISCARD;
int ds_hostfile_parse(struct ds_roster *roster, const char *name, const char *text, size_t len,
                      struct ds_error *err) DS_NODISCARD;
int ds__hostfile_yaml(struct ds_roster *roster, const char *name, const char *text, size_t len,
                      struct ds_error *err) DS_NODISCARD;

/* Narrow the roster to `include` or by `exclude` ("HOST[:SLOT[,SLOT...]][@HOST...]", either may be
 * NULL, not both given); every host must have slots by now. */
int ds_roster_select(struct ds_roster *roster, const char *include, const char *exclude,
                     struct ds_error *err) DS_NODISCARD;

/* Is this host the machine called `hostname`?  By name or address, no look-up. */
bool ds_host_is_here(const struct ds_host_spec *host, const char *hostname);

#endif
