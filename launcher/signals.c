/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * signals.c - the contract is in signals.h.
 */
#include "launcher/signals.h"

#include <stddef.h>

#include "base/wire.h"

void ds_signals_stop(sigset_t *set)
{
    struct sigaction hangup;

    (void)sigemptyset(set);
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGTERM);
    if (sigaction(SIGHUP, NULL, &hangup) != 0 || hangup.sa_handler != SIG_IGN)
        (void)sigaddset(set, SIGHUP);
}

void ds_signals_agent(sigset_t *set)
{
    (void)sigemptyset(set);
    (void)sigaddset(set, SIGCHLD);
    (void)sigaddset(set, SIGTERM);
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGHUP);
    (void)sigaddset(set, SIGUSR1); /* Slurm sends these to every process of a step */
    (void)sigaddset(set, SIGUSR2);
}

int ds_signals_own(uint32_t what)
{
    return what == DS_SIGNAL_USR1 ? SIGUSR1 : what == DS_SIGNAL_USR2 ? SIGUSR2 : 0;
}
