/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * roster.h - the hosts that a job may use, in the order in which they were named.
 *
 *   hostfile.c      both forms of the hostfile            ─┐
 *   slurm_env.c     the allocation that this runs in       ├─► roster ─► select.c ─► placement.h
 *   nodefile.c      the same of other batch systems        │
 *   (this machine)  ds_roster_add() of one name           ─┘
 *   range.c         node[01-16,20] to names, for all of them
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
    const char *address, *user;       /* NULL: not said */
    uint32_t port, slots, cpus, gpus; /* 0: not said; cpus and gpus are Slurm's to say */
    uint32_t max_slots;               /* more are refused; 0: not said */
    const uint32_t *device;           /* NULL: not said */
    uint32_t devices;
    const uint32_t *slot; /* after selection: the slots chosen, rising; NULL: all */
    uint32_t chosen;      /* how many */
    bool open;            /* nobody says how many slots it has: --include may name any */
    bool counted;         /* its GPUs were, to say it */
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

/* Names of a pattern: "node[01-16,20]" is 17, "r[1-2]n[1-4]" is 8.  Bounds keep leading zeros. */
int ds_range_count(const char *pattern, size_t *count, struct ds_error *err) DS_NODISCARD;

/* The names of a pattern that ds_range_count() accepted, one after the other, each into
 * out[DS_MAX_HOST_NAME + 1].  False: that was all. */
enum { DS_RANGE_BRACKETS = 4 };
struct ds_range_part {
    unsigned long first, last;
    int width; /* digits of the first bound, kept when it has leading zeros */
};
struct ds_range {
    const char *pattern; /* borrowed */
    struct ds_range_bracket {
        const char *open, *at; /* its '['; behind the part that is read now */
        struct ds_range_part part;
        unsigned long value;
    } bracket[DS_RANGE_BRACKETS];
    unsigned brackets;
    bool over;
};
void ds_range_start(struct ds_range *range, const char *pattern);
bool ds_range_next(struct ds_range *range, char *out);

/* Read a hostfile, YAML or one host a line.  -ENOENT missing; -EINVAL "file:line:column: ...". */
int ds_hostfile_load(struct ds_roster *roster, const char *path, struct ds_error *err) DS_NODISCARD;
int ds_hostfile_parse(struct ds_roster *roster, const char *name, const char *text, size_t len,
                      struct ds_error *err) DS_NODISCARD;
int ds__hostfile_yaml(struct ds_roster *roster, const char *name, const char *text, size_t len,
                      struct ds_error *err) DS_NODISCARD;

/* "unknown key 'slot', did you mean 'slots'?", or which are known: up to 8 of them.  Returns
 * -EINVAL. */
int ds__hostfile_unknown(const char *word, const char *const *known, size_t count,
                         struct ds_error *err);

/* Narrow the roster to `include` or by `exclude` ("HOST[:SLOT[,SLOT...]][@HOST...]", either may be
 * NULL, not both given); every host must have slots by now. */
int ds_roster_select(struct ds_roster *roster, const char *include, const char *exclude,
                     struct ds_error *err) DS_NODISCARD;

/* Is this host the machine called `hostname`?  By name or address, no look-up. */
bool ds_host_is_here(const struct ds_host_spec *host, const char *hostname);

#endif
