/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * slurm.h - the transport inside a Slurm allocation: one srun step with one agent on each node.
 *
 *     dsrun ── argv ──► srun ─► slurmd ─► dsrun-agent slurm        on every node
 *       │  └─ stdin: the invitation (port, key); open as long as dsrun lives
 *       └◄════ sealed TCP (sealed.h), one connection for each agent ════┘
 *
 * srun only starts agents.  What they say goes over a connection that each opens to the address
 * from which srun came (SLURM_LAUNCH_NODE_IPADDR). The key is made for the step and travels
 * through srun's stdin: never in an argument or a variable. An agent ends when its connection or
 * its stdin ends, so nothing outlives dsrun or srun.
 *
 * dsrun decides who dies and which code is returned: -K0, and --no-kill where a node fails.
 * Nothing of srun's geometry is inherited from the job, so that an agent finds all cores and
 * devices that the job has on its node.
 *
 * Tests   tests/launcher/test_slurm.c, tests/e2e/slurm.py
 */
#ifndef DS_LAUNCHER_REMOTE_SLURM_H
#define DS_LAUNCHER_REMOTE_SLURM_H

#include <stddef.h>

#include "base/arena.h"
#include "base/error.h"
#include "launcher/hosts/roster.h"
#include "launcher/remote/transport.h"

extern const struct ds_transport ds_transport_slurm;

/* The argument vector of srun for these hosts, NULL at its end; in `arena`, `more` borrowed.
 * Pure. */
int ds_slurm_argv(struct ds_arena *arena, const char *const *host, size_t hosts, const char *agent,
                  const struct ds_srun_more *more, const char *const **argv, struct ds_error *err)
    DS_NODISCARD;

/* May a user give srun this argument?  -EINVAL: it is not "--name" or "--name=value", or is an
 * option that is dsrun's to set, or would make the step another thing than agents that wait. */
int ds_slurm_check(const char *arg, struct ds_error *err) DS_NODISCARD;

/* This process's environment without variables of the job that srun would take for options of the
 * step; in `arena`, strings borrowed.  NULL: no memory. */
char **ds_slurm_environment(struct ds_arena *arena);

#endif
