/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * agent.h - the one program on a host that starts ranks, and ends them.
 *
 *     launcher ── frames ──► agent ── link, stdout, stderr ──► rank 0 .. n-1
 *
 * The channel to the launcher is a lease: when it ends, or when nothing came through it for
 * SPEC's lease_ms (the launcher beats), whatever the agent started is killed.  What
 * ranks write is passed up in order; while the launcher takes nothing, their pipes are left full.
 * A rank's EXIT follows the last byte it wrote; ranks are reported in the order of their deaths.
 * The number of the rank in a frame is set here, never taken from the rank.
 *
 * SIGTERM, SIGINT, SIGHUP and SIGUSR1 to the agent are a stop request: ranks get SIGNAL(STOP),
 * after the grace of the SPEC, or at a second signal, SIGKILL.  Under Slurm a second signal is the
 * first one told twice (by slurmd and by srun): only time kills.  Where ranks gather, SIGUSR1 is
 * the programs', who had it from slurmd too; SIGUSR2 always is.
 *
 * Tests   tests/e2e/processes.py
 */
#ifndef DS_LAUNCHER_AGENT_H
#define DS_LAUNCHER_AGENT_H

#include <sys/types.h>

struct ds_join;

struct ds_agent_args {
    int in_fd, out_fd; /* the channel; taken */
    /* (optional) The channel is this connection instead; then in_fd is only the lease, and out_fd
     * is not used.  Its socket is taken. */
    const struct ds_join *join;
    pid_t guard;         /* the parent, without which nothing runs here; 0: dsrun is */
    const char *exe_dir; /* where dsrun-worker lies */
};

/* Serve one launcher until its job has ended here.  Returns the agent's exit code: OK, DATA where
 * the launcher has another key, or UNAVAILABLE when the line broke or spoke nonsense.  Nothing
 * started is left running. */
int ds_agent_run(const struct ds_agent_args *args);

#endif
