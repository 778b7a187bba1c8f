/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pool.h - threads that run the numbered tasks of one operation.
 *
 * Tasks are handed out in order to whoever is free; a task's result must not
 * depend on the thread that runs it, and then the number of threads does not
 * show in the bits.  The caller is thread 0.  Idle threads spin briefly, then
 * sleep on a futex.  Where other programs run on the same cores, the caller does
 * what a thread without a core does not come to, and waits for no more than a
 * task that was begun.
 *
 * Tests   tests/kernels/test_pool.c
 */
#ifndef DS_KERNELS_CPU_POOL_H
#define DS_KERNELS_CPU_POOL_H

#include <stddef.h>

#include "base/error.h"

struct ds_pool;

typedef void ds_task_fn(void *arg, size_t task, unsigned thread);

/* `cores` [threads] to pin to, the caller included, or NULL.  -ENOMEM, -EAGAIN, -EINVAL (a core
 * that does not exist or is not ours). */
int ds__pool_open(struct ds_pool **pool, unsigned threads, const int *cores, struct ds_error *err)
    DS_NODISCARD;
void ds__pool_close(struct ds_pool *pool);

unsigned ds__pool_threads(const struct ds_pool *pool);

/* Run fn(arg, 0 ... tasks - 1) and wait for all of them. */
void ds__pool_run(struct ds_pool *pool, size_t tasks, ds_task_fn *fn, void *arg);

#endif
