/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * helper.c - the contract is in helper.h.
 */
#include "launcher/helper.h"

#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <unistd.h>

int ds_helper_spawn(pid_t *pid, const struct ds_helper *helper)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    char *const *argv; /* posix_spawnp() does not change them */
    sigset_t set;
    int rc = 0;

    memcpy(&argv, &helper->argv, sizeof(argv));
    (void)posix_spawn_file_actions_init(&files);
    (void)posix_spawnattr_init(&attr);
    for (int i = 0; rc == 0 && i < DS_HELPER_FDS; i++)
        if (helper->fd[i] >= 0)
            rc = posix_spawn_file_actions_adddup2(&files, helper->fd[i], i);
    (void)sigemptyset(&set);
    (void)posix_spawnattr_setsigmask(&attr, &set);
    (void)sigfillset(&set);
    (void)posix_spawnattr_setsigdefault(&attr, &set);
    (void)posix_spawnattr_setflags(
        &attr, (short)(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
    if (rc == 0)
        rc = posix_spawnp(pid, helper->program, &files, &attr, argv,
                          helper->env != NULL ? helper->env : environ);
    (void)posix_spawnattr_destroy(&attr);
    (void)posix_spawn_file_actions_destroy(&files);
    return -rc;
}
