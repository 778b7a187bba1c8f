/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spawn.h - one rank as a process: pipes, link, environment, exec.
 *
 * Everything the child needs is built before fork; between fork and exec it only makes
 * async-signal-safe calls.  The child is in the job's cgroup where there is one; it gets stdin from
 * /dev/null, stdout and stderr as pipes, the link at DS_SPAWN_LINK_FD and the shared memory at
 * DS_SPAWN_SHM_FD; every other descriptor is closed by exec.  It leads its own process group, runs
 * on its own cores, with the memory near them where bind.h says so, and dies with its parent.
 *
 * slurmd signals every process of a step.  A shielded rank ignores USR1, and one with a link TERM
 * too: its agent gets the same signal and tells it to stop, so that all ranks save at the same
 * step.
 *
 * Tests   tests/launcher/test_spawn.c
 */
#ifndef DS_LAUNCHER_SPAWN_H
#define DS_LAUNCHER_SPAWN_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/error.h"
#include "launcher/bind.h"
#include "launcher/gather.h"
#include "launcher/spec.h"

enum { DS_SPAWN_LINK_FD = 3, DS_SPAWN_SHM_FD = 4 };

/* What all ranks of a host share. */
struct ds_spawn {
    const struct ds_spec *spec; /* borrowed */
    char program[DS_MAX_PATH], cwd[DS_MAX_PATH];
    struct ds_error problem;      /* why no rank can be started here; code 0: none */
    struct ds_gather meet;        /* where ranks meet, when they gather; set before the first one */
    bool no_program;              /* and that is because there is no such program */
    bool shielded;                /* Slurm's signals to the job are for the agent, not for ranks */
    int shm_fd, null_fd;          /* owned */
    int cgroup_fd;                /* cgroup.procs that ranks enter; -1: none; borrowed */
    const struct ds_bound *bound; /* what each rank is given; NULL: cores in order; borrowed */
    cpu_set_t allowed;
    unsigned threads;    /* cores per rank */
    struct rlimit files; /* limit on open files as it was, given back to the ranks */
};

struct ds_spawned {
    pid_t pid;                   /* also its process group */
    int out_fd, err_fd, link_fd; /* this end; link_fd is -1 without a link */
    int exec_fd;                 /* end of file: exec happened; else an errno as int */
};

/* `exe_dir` is where dsrun-worker lies.  A program or working directory that is not there is not
 * an error here: it is each rank's, when it is started. */
int ds_spawn_init(struct ds_spawn *spawn, const struct ds_spec *spec, const char *exe_dir,
                  struct ds_error *err) DS_NODISCARD;
void ds_spawn_release(struct ds_spawn *spawn);

/* Start local rank `local` (0 .. spec->ranks - 1).  Nothing is left behind on failure.  -ENOENT:
 * there is no such program. */
int ds_spawn_rank(const struct ds_spawn *spawn, unsigned local, struct ds_spawned *out,
                  struct ds_error *err) DS_NODISCARD;

#endif
