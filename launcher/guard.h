/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * guard.h - a process that outlives its agent, to leave nothing of it behind.
 *
 * Ranks die with their agent, but what they have started does not.  The guard is the agent's parent
 * and a subreaper: when the agent is gone, however that came, it kills all that is left.  It passes
 * on SIGTERM, SIGINT and SIGHUP.  When the guard itself is killed, whoever started it sees its end,
 * closes the line, and the agent's lease ends.
 *
 * Tests   tests/e2e/replay.py
 */
#ifndef DS_LAUNCHER_GUARD_H
#define DS_LAUNCHER_GUARD_H

#include <stdbool.h>

#include "base/error.h"

/* Fork the agent.  In the agent: 0, *guard is false.  In the guard, once the agent has ended and
 * nothing is left: 0, *guard is true and *code what the agent ended with. */
int ds_guard_enter(bool *guard, int *code, struct ds_error *err) DS_NODISCARD;

#endif
