/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pool.c - the contract is in pool.h.
 *
 * One word, `epoch`, carries the number of the job and how many helpers may
 * take part in it; storing it tells them.  Helpers with a higher index ignore
 * it.  Another, `door`, is open while there are tasks and counts the helpers
 * inside.  The caller shuts it when the last task is taken and waits for those
 * alone: a helper that has no core just then, as other programs run on it, finds
 * it shut and is waited for by nobody.  When it is shut and nobody is inside,
 * nobody looks at the job any more and the next one may be written.
 */
#include "kernels/cpu/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/limits.h"

/* Of `door`; the bits below count. */
static const uint32_t OPEN = 1u << 31, WAITED = 1u << 30; /* the caller sleeps, or is about to */

enum { HELPER_BITS = 11, HELPER_MASK = (1 << HELPER_BITS) - 1, SPINS = 4000 };
enum { ASIDE_NS = 1000 * 1000 };
_Static_assert((int)DS_MAX_THREADS <= (int)HELPER_MASK,
               "the number of helpers must fit into the epoch");

struct helper {
    struct ds_pool *pool;
    unsigned index; /* 1 ... threads - 1 */
    pthread_t thread;
    bool started;
};

struct ds_pool {
    _Alignas(64) _Atomic uint32_t epoch; /* job number << HELPER_BITS | who may take part */
    _Atomic uint32_t sleepers;           /* helpers that wait on `epoch` */
    _Alignas(64) _Atomic uint32_t door;  /* OPEN | WAITED | helpers inside */
    _Atomic bool stop;
    _Alignas(64) _Atomic size_t next; /* first task that nobody has taken */
    _Atomic int core;                 /* where the caller was when it took its last one */
    size_t tasks;
    ds_task_fn *fn;
    void *arg;
    unsigned threads;
    struct helper *helper; /* [threads], the first unused */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void note_core(struct ds_pool *pool)
{
    atomic_store_explicit(&pool->core, sched_getcpu(), memory_order_relaxed);
}

static void work(struct ds_pool *pool, unsigned thread)
{
    size_t task;

    while ((task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < pool->tasks) {
        pool->fn(pool->arg, task, thread);
        if (thread == 0)
            note_core(pool);
    }
}

/* The first epoch other than `seen`. */
static uint32_t await_epoch(struct ds_pool *pool, uint32_t seen)
{
    uint32_t epoch;

    for (int i = 0; i < SPINS; i++) {
        epoch = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (epoch != seen)
            return epoch;
        relax();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    while ((epoch = atomic_load(&pool->epoch)) == seen)
        futex_wait(&pool->epoch, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
    return epoch;
}

static void leave(struct ds_pool *pool)
{
    if (atomic_fetch_sub_explicit(&pool->door, 1, memory_order_release) == (WAITED | 1))
        futex_wake(&pool->door);
}

/* Whether the door was open: then what is written of the job stands until leave(). */
static bool enter(struct ds_pool *pool)
{
    if ((atomic_load_explicit(&pool->door, memory_order_relaxed) & OPEN) == 0)
        return false;
    if ((atomic_fetch_add_explicit(&pool->door, 1, memory_order_acquire) & OPEN) != 0)
        return true;
    leave(pool); /* it was shut just now */
    return false;
}

/* While this helper has the caller's core it is no help, for when it runs the caller does not:
 * another program has its own.  It stands aside until a core gets free, or the job ends. */
static void stand_aside(struct ds_pool *pool)
{
    const struct timespec pause = {.tv_nsec = ASIDE_NS};

    while ((atomic_load_explicit(&pool->door, memory_order_acquire) & OPEN) != 0 &&
           atomic_load_explicit(&pool->core, memory_order_relaxed) == sched_getcpu())
        (void)nanosleep(&pause, NULL);
}

static void *helper_main(void *arg)
{
    struct helper *self = arg;
    struct ds_pool *pool = self->pool;
    uint32_t epoch = 0;

    for (;;) {
        epoch = await_epoch(pool, epoch);
        if (self->index > (epoch & HELPER_MASK))
            continue;
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        stand_aside(pool);
        if (enter(pool)) {
            work(pool, self->index);
            leave(pool);
        }
    }
}

static void call(struct ds_pool *pool, unsigned helpers)
{
    uint32_t number = (atomic_load_explicit(&pool->epoch, memory_order_relaxed) >> HELPER_BITS) + 1;

    atomic_store(&pool->epoch, (number << HELPER_BITS) | helpers);
    if (atomic_load(&pool->sleepers) != 0)
        futex_wake(&pool->epoch);
}

/* Shut the door and wait until nobody is inside. */
static void finish(struct ds_pool *pool)
{
    uint32_t door = atomic_fetch_and_explicit(&pool->door, ~OPEN, memory_order_acquire) & ~OPEN;

    for (int i = 0; i < SPINS && door != 0; i++) {
        relax();
        door = atomic_load_explicit(&pool->door, memory_order_acquire);
    }
    if (door != 0)
        door = atomic_fetch_or_explicit(&pool->door, WAITED, memory_order_acquire) | WAITED;
    while ((door & ~WAITED) != 0) {
        futex_wait(&pool->door, door);
        door = atomic_load_explicit(&pool->door, memory_order_acquire);
    }
    if (door != 0)
        (void)atomic_fetch_and_explicit(&pool->door, ~WAITED, memory_order_relaxed);
}

void ds__pool_run(struct ds_pool *pool, size_t tasks, ds_task_fn *fn, void *arg)
{
    unsigned helpers = pool->threads - 1;

    if (tasks <= helpers)
        helpers = tasks == 0 ? 0 : (unsigned)tasks - 1;
    if (helpers == 0) {
        for (size_t task = 0; task < tasks; task++)
            fn(arg, task, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    note_core(pool);
    (void)atomic_fetch_or_explicit(&pool->door, OPEN, memory_order_release);
    call(pool, helpers);
    work(pool, 0);
    finish(pool);
}

unsigned ds__pool_threads(const struct ds_pool *pool)
{
    return pool->threads;
}

static int pin(pthread_t thread, int core, struct ds_error *err)
{
    cpu_set_t *set;
    size_t bytes;
    int rc;

    if (core < 0 || core >= INT_MAX - 64)
        return ds_fail(err, EINVAL, "core %d does not exist", core);
    set = CPU_ALLOC((size_t)core + 1);
    if (set == NULL)
        return ds_fail(err, ENOMEM, "no memory for a set of %d cores", core + 1);
    bytes = CPU_ALLOC_SIZE((size_t)core + 1);
    CPU_ZERO_S(bytes, set);
    CPU_SET_S((size_t)core, bytes, set);
    rc = pthread_setaffinity_np(thread, bytes, set);
    CPU_FREE(set);
    if (rc != 0)
        return ds_fail(err, EINVAL, "cannot pin a thread to core %d: %s", core, strerror(rc));
    return 0;
}

static int start_helpers(struct ds_pool *pool, const int *cores, struct ds_error *err)
{
    for (unsigned i = 1; i < pool->threads; i++) {
        struct helper *helper = &pool->helper[i];
        int rc;

        helper->pool = pool;
        helper->index = i;
        rc = pthread_create(&helper->thread, NULL, helper_main, helper);
        if (rc != 0)
            return ds_fail(err, EAGAIN, "cannot start thread %u: %s", i, strerror(rc));
        helper->started = true;
        rc = cores == NULL ? 0 : pin(helper->thread, cores[i], err);
        if (rc != 0)
            return rc;
    }
    return cores == NULL ? 0 : pin(pthread_self(), cores[0], err);
}

int ds__pool_open(struct ds_pool **out, unsigned threads, const int *cores, struct ds_error *err)
{
    struct ds_pool *pool = aligned_alloc(64, (sizeof(*pool) + 63) / 64 * 64);
    int rc;

    if (pool == NULL)
        return ds_fail(err, ENOMEM, "no memory for a pool of threads");
    memset(pool, 0, sizeof(*pool));
    pool->threads = threads;
    pool->helper = calloc(threads, sizeof(*pool->helper));
    if (pool->helper == NULL) {
        free(pool);
        return ds_fail(err, ENOMEM, "no memory for %u threads", threads);
    }
    rc = start_helpers(pool, cores, err);
    if (rc != 0) {
        ds__pool_close(pool);
        return rc;
    }
    *out = pool;
    return 0;
}

void ds__pool_close(struct ds_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, true);
    call(pool, pool->threads - 1);
    for (unsigned i = 1; i < pool->threads; i++) {
        if (pool->helper[i].started)
            pthread_join(pool->helper[i].thread, NULL);
    }
    free(pool->helper);
    free(pool);
}
