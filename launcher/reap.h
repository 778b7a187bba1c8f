/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reap.h - end every process below this one.
 *
 * A child subreaper inherits what its children leave behind, even a daemon that made its own
 * session; so killing children until there are none leaves nothing running.
 */
#ifndef DS_LAUNCHER_REAP_H
#define DS_LAUNCHER_REAP_H

#include <stdbool.h>
#include <sys/types.h>

/* Orphans of this process's children become its own children. */
void ds_reap_become(void);

/* State of a process as the kernel tells it: 'R', 'S', 'T' stopped, 'Z' ...; 0: there is none. */
char ds_proc_state(pid_t pid);

/* Does the child `pid` end within `ms` milliseconds?  It is not collected. */
bool ds_proc_ends(pid_t pid, int ms);

/* Kill and wait for every child and whatever they leave, with SIGKILL.  Bounded: a process that
 * cannot die (uninterruptible sleep) is left behind after about a second. */
void ds_reap_all(void);

/* The same for the children of one session: what a dead agent left behind while
 * other agents live.  Who made a session of its own is left to ds_reap_all(). */
void ds_reap_session(pid_t session);

#endif
