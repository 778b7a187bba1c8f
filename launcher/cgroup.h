/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cgroup.h - a control group of the job's own on its host, where cgroup v2 lets this user have one.
 *
 *     .../the agent's own group/             agent
 *                             └─ dsrun-PID/  ranks and all that they start; PID: the agent's
 *
 * What is in it dies by one write to cgroup.kill, whatever sessions it made, and is counted apart
 * in memory.events.  It is there as long as the agent: removed at its end; by its guard when it is
 * killed; else by the next agent in the same group, which removes those of this user whose agent is
 * gone and that are empty.  Nothing else is changed: no limit, no controller.
 *
 * Where there can be none (no cgroup v2, no right to it, a threaded group) the job runs without.
 *
 * Source  cgroups(7), Documentation/admin-guide/cgroup-v2.rst of Linux
 * Tests   tests/launcher/test_cgroup.c, tests/e2e/cgroup.py
 */
#ifndef DS_LAUNCHER_CGROUP_H
#define DS_LAUNCHER_CGROUP_H

#include <sys/types.h>

#include "base/error.h"
#include "base/limits.h"

struct ds_cgroup {
    char path[DS_MAX_PATH];           /* "": there is none */
    int parent_fd, procs_fd, kill_fd; /* -1: none; procs_fd: write "0" to enter */
    pid_t agent;                      /* of its name */
};

/* The folder of this process's own group.  -ENOTSUP: there is no cgroup v2 here, or it lies outside
 * of what is seen. */
int ds_cgroup_own(char out[DS_MAX_PATH], struct ds_error *err) DS_NODISCARD;

/* The same from the text of /proc/self/cgroup and where the hierarchy is mounted.  Pure. */
int ds_cgroup_folder(const char *text, const char *mount, char out[DS_MAX_PATH],
                     struct ds_error *err) DS_NODISCARD;

/* Remove what dead agents left in `folder`, and make one for this process.  On failure `err` says
 * why, *cgroup is that of none, and nothing is left. */
int ds_cgroup_make(struct ds_cgroup *cgroup, const char *folder, struct ds_error *err) DS_NODISCARD;

void ds_cgroup_kill(const struct ds_cgroup *cgroup); /* SIGKILL to all in it, at once */

/* Kill, wait until it is empty (at most a second) and remove it; then there is none. */
void ds_cgroup_remove(struct ds_cgroup *cgroup);

/* The same for that of an agent, a child of this process in the same group, that has ended. */
void ds_cgroup_forget(pid_t agent);

#endif
