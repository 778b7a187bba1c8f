/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * signalled.h - end a wait from a signal handler of the rank that waits.
 */
#ifndef DS_TESTS_COMM_SIGNALLED_H
#define DS_TESTS_COMM_SIGNALLED_H

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "runtime/comm/comm.h"

static struct ds_comm *signalled_comm;

static void signalled_abort(int signum)
{
    (void)signum;
    ds_comm_abort(signalled_comm);
}

/* By now the rank is asleep in the kernel, or comes later: both must end. */
static void *signalled_later(void *rank)
{
    const struct timespec nap = {.tv_nsec = 50 * 1000 * 1000};

    (void)nanosleep(&nap, NULL);
    (void)pthread_kill(*(pthread_t *)rank, SIGUSR1);
    return NULL;
}

/* What a barrier gives back to which nobody else comes. */
static inline int signalled_barrier(struct ds_comm *comm, struct ds_error *err)
{
    struct sigaction action = {.sa_handler = signalled_abort};
    pthread_t self = pthread_self(), other;
    int rc;

    signalled_comm = comm;
    if (sigaction(SIGUSR1, &action, NULL) != 0 ||
        pthread_create(&other, NULL, signalled_later, &self) != 0)
        return 0;
    rc = ds_comm_barrier(comm, err);
    (void)pthread_join(other, NULL);
    return rc;
}

#endif
