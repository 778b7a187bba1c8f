/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pool.c - every task runs once, whatever the numbers of tasks and threads, and the caller
 * waits for no helper that has no core.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/pool.h"

enum { MOST = 300 };

struct job {
    _Atomic unsigned ran[MOST];
    _Atomic unsigned wrong;
    unsigned threads;
};

static void task(void *arg, size_t number, unsigned thread)
{
    struct job *job = arg;

    job->ran[number]++;
    if (thread >= job->threads)
        job->wrong++;
}

static void run(struct ds_pool *pool, size_t tasks)
{
    static struct job job;

    memset(&job, 0, sizeof(job));
    job.threads = ds__pool_threads(pool);
    ds__pool_run(pool, tasks, task, &job);
    for (size_t i = 0; i < MOST; i++)
        cr_assert(job.ran[i] == (i < tasks), "task %zu of %zu ran %u times", i, tasks, job.ran[i]);
    cr_assert(job.wrong == 0);
}

Test(pool, every_task_runs_once)
{
    for (unsigned threads = 1; threads <= 5; threads++) {
        struct ds_pool *pool = NULL;

        cr_assert(ds__pool_open(&pool, threads, NULL, NULL) == 0);
        for (size_t tasks = 0; tasks < 20; tasks++)
            run(pool, tasks);
        for (int i = 0; i < 200; i++)
            run(pool, (size_t)(i * 37) % MOST);
        ds__pool_close(pool);
    }
}

/* Helpers that went to sleep wake up again. */
Test(pool, sleepers_wake)
{
    struct ds_pool *pool = NULL;

    cr_assert(ds__pool_open(&pool, 3, NULL, NULL) == 0);
    for (int i = 0; i < 5; i++) {
        struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};

        nanosleep(&pause, NULL);
        run(pool, 3 + (size_t)i);
    }
    ds__pool_close(pool);
}

Test(pool, opens_and_closes_without_work)
{
    for (unsigned threads = 1; threads < 4; threads++) {
        struct ds_pool *pool = NULL;

        cr_assert(ds__pool_open(&pool, threads, NULL, NULL) == 0);
        ds__pool_close(pool);
    }
    ds__pool_close(NULL);
}

Test(pool, pins_to_cores)
{
    struct ds_pool *pool = NULL;
    struct ds_error err = {0};
    cpu_set_t before, after;
    size_t core = 0;
    int cores[2];

    cr_assert(sched_getaffinity(0, sizeof(before), &before) == 0);
    while (!CPU_ISSET(core, &before))
        core++;
    cores[0] = cores[1] = (int)core;
    cr_assert(ds__pool_open(&pool, 2, cores, &err) == 0, "%s", err.text);
    cr_assert(sched_getaffinity(0, sizeof(after), &after) == 0);
    cr_assert(CPU_COUNT(&after) == 1 && CPU_ISSET(core, &after));
    run(pool, 50);
    ds__pool_close(pool);
}

static _Atomic bool stalled, go_on;

static void stall(int signum)
{
    struct timespec pause = {.tv_nsec = 1000 * 1000};

    (void)signum;
    stalled = true;
    while (!go_on)
        nanosleep(&pause, NULL);
}

struct met {
    _Atomic bool helper; /* took a task */
    pthread_t thread;
};

static void meet(void *arg, size_t number, unsigned thread)
{
    struct met *met = arg;

    (void)number;
    if (thread == 1) {
        met->thread = pthread_self();
        met->helper = true;
    }
    sched_yield();
}

static void until_met(struct ds_pool *pool, struct met *met)
{
    met->helper = false;
    while (!met->helper)
        ds__pool_run(pool, MOST, meet, met);
}

/* What a helper looks like whose core another program has: it is told of a job and does not come. */
Test(pool, does_not_wait_for_who_did_not_come, .timeout = 60)
{
    struct sigaction action = {.sa_handler = stall};
    struct ds_pool *pool = NULL;
    struct met met = {0};
    cpu_set_t cores;

    if (sched_getaffinity(0, sizeof(cores), &cores) == 0 && CPU_COUNT(&cores) < 2)
        return; /* on one core the helper never comes */
    cr_assert(sigaction(SIGUSR1, &action, NULL) == 0);
    cr_assert(ds__pool_open(&pool, 2, NULL, NULL) == 0);
    until_met(pool, &met);
    cr_assert(pthread_kill(met.thread, SIGUSR1) == 0);
    while (!stalled)
        sched_yield();
    for (size_t tasks = 2; tasks < 20; tasks++)
        run(pool, tasks);
    go_on = true;
    until_met(pool, &met);
    ds__pool_close(pool);
}

static void yields(void *arg, size_t number, unsigned thread)
{
    _Atomic unsigned *helped = arg;

    (void)number;
    *helped += thread != 0;
    sched_yield();
}

/* On one core a helper could only take the caller's place.  One that loses the core between looking
 * where it is and going in may do it for a job. */
Test(pool, a_helper_on_the_callers_core_stands_aside)
{
    struct ds_pool *pool = NULL;
    _Atomic unsigned helped = 0;
    int cores[2];

    cores[0] = cores[1] = sched_getcpu();
    cr_assert(ds__pool_open(&pool, 2, cores, NULL) == 0);
    for (int i = 0; i < 50; i++)
        ds__pool_run(pool, MOST, yields, &helped);
    ds__pool_close(pool);
    cr_assert(helped <= MOST, "the helper took %u tasks of 50 jobs", helped);
}

Test(pool, refuses_cores_that_are_not_there)
{
    static const int wrong[][2] = {{0, -1}, {0, 1000000}, {-5, 0}};

    for (size_t i = 0; i < 3; i++) {
        struct ds_pool *pool = NULL;
        struct ds_error err = {0};

        cr_assert(ds__pool_open(&pool, 2, wrong[i], &err) == -EINVAL);
        cr_assert(err.text[0] != '\0');
        cr_assert(pool == NULL);
    }
}
