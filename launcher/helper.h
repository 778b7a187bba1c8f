/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * helper.h - a program that another one of ours works through: an agent, ssh(1), srun.
 *
 * It gets a session of its own, so that the terminal's signals reach its starter alone, which
 * decides what they mean, and signals as they are at a login.
 *
 * Tests   tests/e2e/exec.py (agents, srun), tests/e2e/ssh.py (ssh), tests/e2e/join.py
 */
#ifndef DS_LAUNCHER_HELPER_H
#define DS_LAUNCHER_HELPER_H

#include <sys/types.h>

enum { DS_HELPER_FDS = 4 };

struct ds_helper {
    const char *program;     /* a path, or a name that PATH has */
    const char *const *argv; /* NULL at its end */
    char *const *env;        /* NULL: this process's */
    int fd[DS_HELPER_FDS];   /* what its descriptors 0, 1, ... are; -1: as they are here */
};

/* 0, or a negative errno. */
int ds_helper_spawn(pid_t *pid, const struct ds_helper *helper);

#endif
