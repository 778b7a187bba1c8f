/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pool.c - every task runs once, whatever the numbers of tasks and threads.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
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
