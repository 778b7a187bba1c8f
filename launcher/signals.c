/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * signals.c - the contract is in signals.h.
 */
#include "launcher/signals.h"

#include <stddef.h>

void ds_signals_stop(sigset_t *set)
{
    struct sigaction hangup;

    (void)sigemptyset(set);
    (void)sigaddset(set, SIGINT);
    (void)sigaddset(set, SIGTERM);
    if (sigaction(SIGHUP, NULL, &hangup) != 0 || hangup.sa_handler != SIG_IGN)
        (void)sigaddset(set, SIGHUP);
}
