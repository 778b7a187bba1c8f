/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * queue.c - the contract is in queue.h.
 */
#include "runtime/queue.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

int ds_queue_init(struct ds_queue_set *set, struct ds_device *device, unsigned by_host,
                  uint32_t events, struct ds_error *err)
{
    memset(set, 0, sizeof(*set));
    set->device = device;
    set->by_host = by_host;
    set->event = calloc(events > 0 ? events : 1, sizeof(*set->event));
    if (set->event == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u events", events);
    set->events = events;
    (void)pthread_mutex_init(&set->lock, NULL);
    (void)pthread_cond_init(&set->changed, NULL);
    set->made = true;
    return ds_device_events(device, events, err);
}

/* Wait until *value reaches `step`. */
static int wait_for(struct ds_queue_set *set, atomic_uint_least64_t *value, uint64_t step)
{
    if (atomic_load_explicit(value, memory_order_acquire) >= step)
        return 0;
    (void)pthread_mutex_lock(&set->lock);
    while (atomic_load_explicit(value, memory_order_acquire) < step && !atomic_load(&set->over))
        (void)pthread_cond_wait(&set->changed, &set->lock);
    (void)pthread_mutex_unlock(&set->lock);
    return atomic_load_explicit(value, memory_order_acquire) >= step ? 0 : -ECANCELED;
}

static void reach(struct ds_queue_set *set, atomic_uint_least64_t *value, uint64_t step)
{
    atomic_store_explicit(value, step, memory_order_release);
    (void)pthread_mutex_lock(&set->lock);
    (void)pthread_cond_broadcast(&set->changed);
    (void)pthread_mutex_unlock(&set->lock);
}

/* Let every wait end; the first failure is kept for who waits next. */
static void finish(struct ds_queue_set *set, int failure, const struct ds_error *err)
{
    (void)pthread_mutex_lock(&set->lock);
    if (failure != 0 && set->failure == 0) {
        set->failure = failure;
        set->err = *err;
    }
    atomic_store(&set->over, true);
    (void)pthread_cond_broadcast(&set->changed);
    (void)pthread_mutex_unlock(&set->lock);
}

static void *run_steps(void *arg)
{
    struct ds_queue_set *set = arg;
    struct ds_error err = {0};
    int rc = 0;

    for (uint64_t step = 1; wait_for(set, &set->started, step) == 0; step++) {
        rc = set->run(set->user, step, &err);
        if (rc != 0)
            break;
        reach(set, &set->done, step);
    }
    finish(set, rc, &err);
    return NULL;
}

int ds_queue_thread(struct ds_queue_set *set,
                    int (*run)(void *user, uint64_t step, struct ds_error *err), void *user,
                    struct ds_error *err)
{
    sigset_t all, before;
    int rc;

    set->run = run;
    set->user = user;
    (void)sigfillset(&all); /* signals are the main thread's */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&set->thread, NULL, run_steps, set);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return ds_fail(err, rc, "cannot start the thread that talks to the other ranks");
    set->threaded = true;
    return 0;
}

void ds_queue_release(struct ds_queue_set *set)
{
    if (!set->made)
        return;
    finish(set, 0, NULL);
    if (set->threaded)
        (void)pthread_join(set->thread, NULL);
    (void)pthread_cond_destroy(&set->changed);
    (void)pthread_mutex_destroy(&set->lock);
    free(set->event);
    memset(set, 0, sizeof(*set));
}

void ds_queue_start(struct ds_queue_set *set, uint64_t step)
{
    reach(set, &set->started, step);
}

int ds_queue_signal(struct ds_queue_set *set, unsigned queue, uint32_t event, uint64_t step,
                    struct ds_error *err)
{
    int rc = 0;

    if (event == DS_QUEUE_NO_EVENT)
        return 0;
    if (queue != set->by_host) /* what the host does is done */
        rc = ds_stream_signal(ds_device_queue(set->device, queue), event, err);
    if (rc == 0)
        reach(set, &set->event[event], step);
    return rc;
}

bool ds_queue_has(struct ds_queue_set *set, uint32_t event, uint64_t step)
{
    return atomic_load_explicit(&set->event[event], memory_order_acquire) >= step;
}

static int wait_or_say(struct ds_queue_set *set, atomic_uint_least64_t *value, uint64_t step,
                       struct ds_error *err)
{
    int rc = wait_for(set, value, step);

    if (rc == 0)
        return 0;
    (void)pthread_mutex_lock(&set->lock);
    if (set->failure != 0) {
        rc = set->failure;
        if (err != NULL)
            *err = set->err;
    } else {
        rc = ds_fail(err, ECANCELED, "the step was given up");
    }
    (void)pthread_mutex_unlock(&set->lock);
    return rc;
}

int ds_queue_wait(struct ds_queue_set *set, unsigned queue, uint32_t event, uint64_t step,
                  struct ds_error *err)
{
    int rc;

    if (event == DS_QUEUE_NO_EVENT)
        return 0;
    rc = wait_or_say(set, &set->event[event], step, err);
    if (rc != 0)
        return rc;
    return queue == set->by_host ? ds_device_await(set->device, event, err)
                                 : ds_stream_await(ds_device_queue(set->device, queue), event, err);
}

int ds_queue_settle(struct ds_queue_set *set, uint64_t step, struct ds_error *err)
{
    int rc = set->threaded ? wait_or_say(set, &set->done, step, err) : 0;

    for (unsigned i = 0; rc == 0 && i < DS_DEVICE_QUEUES; i++)
        rc = ds_stream_finish(ds_device_queue(set->device, i), err);
    return rc;
}
