/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * guard.h - a process that outlives its agent, to leave nothing of it behind.
 *
 * Ranks die with their agent, but what they have started does not.  The guard is the agent's parent
 * and a subreaper: when the agent is gone, however that came, it kills all that is left and removes
 * the job's cgroup.  It passes on the signals of ds_signals_agent().  When the guard itself is
 * killed, the agent gets SIGCHLD, sees that its parent is another, and ends as at the end of its
 * lease.
 *
 * Tests   tests/e2e/replay.py
 */
#ifndef DS_LAUNCHER_GUARD_H
#define DS_LAUNCHER_GUARD_H

#include <stdbool.h>

#include "base/error.h"

/* The guard ends with the code of its agent, or with 128 and more: N for signal N, which killed it.
 * That N of a code, or 0. */
int ds_guard_signal(int code);

/* Fork the agent.  In the agent: 0, *guard is false.  In the guard, once the agent has ended and
 * nothing is left: 0, *guard is true and *code what the agent ended with. */
int ds_guard_enter(bool *guard, int *code, struct ds_error *err) DS_NODISCARD;

#endif
