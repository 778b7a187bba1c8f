/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ranks.h - run a function as N real processes that share one empty memfd.
 *
 * A rank's function returns 0 or the number of the line that saw something wrong; the parent
 * gives back the first such line, so that a failing test names the place.  Criterion's asserts do
 * not work in the children.
 *
 * With RANKS_AS_THREADS ranks are threads of one process, for ThreadSanitizer: `make check-tsan`
 * gives them one mapping of the shared memory (tests/support/mini/one_map.c), so that it sees what
 * they do to each other there.  None of them can be killed then.
 */
#ifndef DS_TESTS_COMM_RANKS_H
#define DS_TESTS_COMM_RANKS_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/comm/comm.h"

enum { RANKS_MAX = 8, RANKS_LIMIT_S = 120 };
#if defined(RANKS_AS_THREADS)
enum { RANKS_LESS = 7 }; /* ThreadSanitizer takes that much longer */
#elif defined(__SANITIZE_ADDRESS__)
enum { RANKS_LESS = 3 }; /* still more than what is passed on at a time */
#else
enum { RANKS_LESS = 1 };
#endif

struct ranks {
    unsigned world;
    size_t arena_bytes, common_bytes, beside_bytes;
    uint64_t timeout_ms;
    unsigned spin;
    const void *user;
    int fd; /* set by ranks_run() */
};

typedef int ranks_fn(const struct ranks *setup, unsigned rank, struct ds_comm *comm);

#define EXPECT(cond)                                                                               \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "rank %u of %u: line %d: %s\n", rank, setup->world, __LINE__, #cond);  \
            return __LINE__;                                                                       \
        }                                                                                          \
    } while (0)

/* As EXPECT(rc == 0), with the error's text. */
#define EXPECT_OK(call, err)                                                                       \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        if (rc_ < 0) {                                                                             \
            fprintf(stderr, "rank %u of %u: line %d: %s\n", rank, setup->world, __LINE__,          \
                    ds_error_text((err), rc_));                                                    \
            return __LINE__;                                                                       \
        }                                                                                          \
    } while (0)

static inline struct ds_comm_args ranks_args(const struct ranks *setup, unsigned rank)
{
    return (struct ds_comm_args){.backend = "host",
                                 .rank = rank,
                                 .world = setup->world,
                                 .shm_fd = setup->fd,
                                 .arena_bytes = setup->arena_bytes,
                                 .common_bytes = setup->common_bytes,
                                 .beside_bytes = setup->beside_bytes,
                                 .timeout_ms = setup->timeout_ms,
                                 .spin = setup->spin};
}

extern void __gcov_dump(void) __attribute__((weak)); /* there in a coverage build only */

/* As _exit(), but a coverage build keeps its counts. */
static inline _Noreturn void ranks_exit(int status)
{
    if (__gcov_dump != NULL)
        __gcov_dump();
    _exit(status);
}

/* What one rank does: 0 or the line. `fn` is the test's function, of the type that this one knows. */
typedef int ranks_main(const void *setup, unsigned rank, void (*fn)(void));

#ifdef RANKS_AS_THREADS
struct ranks_thread {
    const void *setup;
    unsigned rank;
    ranks_main *main;
    void (*fn)(void);
    int line;
    pthread_t thread;
};

static inline void *ranks_thread_main(void *arg)
{
    struct ranks_thread *me = arg;

    me->line = me->main(me->setup, me->rank, me->fn);
    return NULL;
}

/* The first line that is not 0; no rank can be killed here. */
static inline int ranks_all(const void *setup, unsigned world, ranks_main *main, void (*fn)(void),
                            int allowed_signal)
{
    struct ranks_thread rank[RANKS_MAX];
    int line = 0;

    if (allowed_signal != 0)
        return -1;
    for (unsigned i = 0; i < world; i++) {
        rank[i] = (struct ranks_thread){.setup = setup, .rank = i, .main = main, .fn = fn};
        if (pthread_create(&rank[i].thread, NULL, ranks_thread_main, &rank[i]) != 0)
            abort();
    }
    for (unsigned i = 0; i < world; i++) {
        (void)pthread_join(rank[i].thread, NULL);
        line = line != 0 ? line : rank[i].line;
    }
    return line;
}
#else
/* The line travels through a pipe: an exit status has eight bits. */
static inline pid_t ranks_start(const void *setup, unsigned rank, ranks_main *main,
                                void (*fn)(void), int out)
{
    pid_t pid = fork();
    int line;

    if (pid != 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)alarm(RANKS_LIMIT_S);
    line = main(setup, rank, fn);
    if (line != 0 && write(out, &line, sizeof(line)) != (ssize_t)sizeof(line))
        ranks_exit(2);
    ranks_exit(line != 0);
}

/* 0, the first line that failed, or -1 when a rank died of a signal other than `allowed_signal`. */
static inline int ranks_all(const void *setup, unsigned world, ranks_main *main, void (*fn)(void),
                            int allowed_signal)
{
    int pipe_fd[2], status, line = 0, bad = 0;
    pid_t pid[RANKS_MAX];

    if (pipe(pipe_fd) < 0)
        return -1;
    for (unsigned rank = 0; rank < world; rank++)
        pid[rank] = ranks_start(setup, rank, main, fn, pipe_fd[1]);
    (void)close(pipe_fd[1]);
    for (unsigned rank = 0; rank < world; rank++)
        if (pid[rank] < 0 || waitpid(pid[rank], &status, 0) < 0 ||
            (WIFSIGNALED(status) && WTERMSIG(status) != allowed_signal))
            bad = -1;
    if (read(pipe_fd[0], &line, sizeof(line)) != (ssize_t)sizeof(line))
        line = 0;
    (void)close(pipe_fd[0]);
    return line != 0 ? line : bad;
}
#endif

static inline int ranks_child(const void *of, unsigned rank, void (*fn)(void))
{
    const struct ranks *setup = of;
    struct ds_comm_args args = ranks_args(setup, rank);
    struct ds_error err = {0};
    struct ds_comm *comm = NULL;
    int line;

    EXPECT_OK(ds_comm_open(&comm, &args, &err), &err);
    line = ((ranks_fn *)fn)(setup, rank, comm);
    ds_comm_close(comm);
    return line;
}

/* As ranks_all(). */
static inline int ranks_run_dying(struct ranks setup, ranks_fn *fn, int allowed_signal)
{
    int line;

    setup.fd = memfd_create("ranks", MFD_CLOEXEC);
    if (setup.fd < 0)
        return -1;
    line = ranks_all(&setup, setup.world, ranks_child, (void (*)(void))fn, allowed_signal);
    (void)close(setup.fd);
    return line;
}

static inline int ranks_run(struct ranks setup, ranks_fn *fn)
{
    return ranks_run_dying(setup, fn, 0);
}

/* --- numbers whose sum depends on the order, and the order that is right --------------------- */

static inline float ranks_value(unsigned rank, size_t i)
{
    uint64_t x = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) + rank * UINT64_C(0xbf58476d1ce4e5b9);

    x ^= x >> 29;
    x *= UINT64_C(0x94d049bb133111eb);
    x ^= x >> 32;
    return (float)((double)(int64_t)(x & 0xffffff) - 8388608.0) * (float)(1 + (x >> 60));
}

static inline float ranks_tree(unsigned lo, unsigned hi, size_t i)
{
    unsigned left = 1;

    if (hi - lo == 1)
        return ranks_value(lo, i);
    while (left * 2 < hi - lo)
        left *= 2;
    return ranks_tree(lo, lo + left, i) + ranks_tree(lo + left, hi, i);
}

#endif
