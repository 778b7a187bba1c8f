/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nodefile.h - the hosts of a job of PBS, LSF, Grid Engine or Cobalt, as a roster.
 *
 *     PBS_NODEFILE       a host a line, again for each of its slots
 *     LSB_DJOB_HOSTFILE  the same
 *     LSB_MCPU_HOSTS     no file: "node1 4 node2 2"
 *     PE_HOSTFILE        "node1 4 all.q@node1 UNDEFINED" a line; slots of several queues add up
 *     COBALT_NODEFILE    a host a line
 *
 * One slot on each host is what these schedulers give to whom asked for hosts, so it says nothing
 * of ranks: slots stay 0, not said.  Anyone can set variables and write files: sizes are bounded,
 * and a bad line is named.
 *
 * Source  the manuals of OpenPBS, pbs_resources(7B); of IBM Spectrum LSF 10.1, "Environment
 *         variables set for job execution"; of Grid Engine, sge_pe(5).  Cobalt's file is read as
 *         RADICAL-Pilot and PRRTE do.
 * Tests   tests/launcher/test_nodefile.c, tests/fuzz/fuzz_nodefile.c, tests/e2e/schedulers.py
 */
#ifndef DS_LAUNCHER_HOSTS_NODEFILE_H
#define DS_LAUNCHER_HOSTS_NODEFILE_H

#include <stdbool.h>

#include "launcher/hosts/roster.h"

enum { DS_NODEFILE_BYTES = 16 * 1024 * 1024 }; /* the most that is read */

struct ds_nodefile {
    const char *scheduler, *variable;
    bool inlined; /* the variable's value is the text itself, else it is a path */
    /* Add what one line says; `line` may be cut into words. */
    int (*line)(struct ds_roster *roster, char *line, struct ds_error *err);
};

/* The one whose variable is set, and its value, or NULL.  The first of several, as above. */
const struct ds_nodefile *ds_nodefile_here(const char **value);

/* Number `index` of them, NULL behind the last. */
const struct ds_nodefile *ds_nodefile_at(size_t index);

/* Add the hosts that the variable's value names.  -EINVAL, with variable and line: malformed or too
 * large; what reading the file says. */
int ds_nodefile_load(struct ds_roster *roster, const struct ds_nodefile *file, const char *value,
                     struct ds_error *err) DS_NODISCARD;
int ds_nodefile_parse(struct ds_roster *roster, const struct ds_nodefile *file, const char *text,
                      size_t len, struct ds_error *err) DS_NODISCARD;

#endif
