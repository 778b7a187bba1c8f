/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * queue.h - events between the queues of a step, and the thread that a queue may have.
 *
 * An event is a number that grows: it has happened in step g once it is g or more.  So nothing has
 * to be reset between steps.  A queue with a thread runs `run(user, step)` once per
 * ds_queue_start().  Where a device works while the host goes on, an event is also one of the
 * device's: to have passed a wait means that the queue will wait, not that it has.  What queue
 * `by_host` is given the host does itself, in the call: it waits until what it waits for has
 * happened.  After a failure, or once the queue is closed, every wait ends with -ECANCELED.
 *
 * Tests   tests/engine/test_engine.c (same bits with and without a thread)
 */
#ifndef DS_RUNTIME_QUEUE_H
#define DS_RUNTIME_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/device.h"

struct ds_queue_set {
    struct ds_device *device;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_uint_least64_t *event; /* [events]: the last step in which it happened */
    uint32_t events;
    unsigned by_host; /* whatever does what the other queues are given */
    atomic_bool over;
    bool made;
    pthread_t thread; /* of the queues that are not the caller's */
    bool threaded;
    atomic_uint_least64_t started, done; /* steps given to the thread, finished by it */
    int (*run)(void *user, uint64_t step, struct ds_error *err);
    void *user;
    int failure; /* of the thread, under lock */
    struct ds_error err;
};

int ds_queue_init(struct ds_queue_set *set, struct ds_device *device, unsigned by_host,
                  uint32_t events, struct ds_error *err) DS_NODISCARD;
int ds_queue_thread(struct ds_queue_set *set,
                    int (*run)(void *user, uint64_t step, struct ds_error *err), void *user,
                    struct ds_error *err) DS_NODISCARD;
void ds_queue_release(struct ds_queue_set *set);

void ds_queue_start(struct ds_queue_set *set, uint64_t step);
/* Wait until the thread, where there is one, has finished `step`, and the device all it was
 * given. */
int ds_queue_settle(struct ds_queue_set *set, uint64_t step, struct ds_error *err) DS_NODISCARD;
/* `event` may be DS_QUEUE_NO_EVENT: nothing is done. */
#define DS_QUEUE_NO_EVENT UINT32_MAX
int ds_queue_signal(struct ds_queue_set *set, unsigned queue, uint32_t event, uint64_t step,
                    struct ds_error *err) DS_NODISCARD;
/* Has it happened in `step`? */
bool ds_queue_has(struct ds_queue_set *set, uint32_t event, uint64_t step);
int ds_queue_wait(struct ds_queue_set *set, unsigned queue, uint32_t event, uint64_t step,
                  struct ds_error *err) DS_NODISCARD;

#endif
