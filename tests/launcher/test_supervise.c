/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_supervise.c - the state tables: stories of events with what must be done and the final code;
 * and thousands of seeded random stories that must all end.
 */
#include <criterion/criterion.h>

#include <signal.h>
#include <string.h>

#include "base/exit.h"
#include "base/rng.h"
#include "launcher/fleet/cause.h"
#include "launcher/fleet/supervise.h"

#define S UINT64_C(1000000000)

enum { WORLD = 4, HOSTS = 2, PER_HOST = 2 };

struct scene {
    struct ds_super_host host[HOSTS];
    struct ds_super_rank rank[WORLD];
    struct ds_supervise super;
    uint64_t now_ns;
};

static void begin(struct scene *scene, unsigned silent_s, unsigned hang_s)
{
    struct ds_super_args args = {.host = scene->host,
                                 .rank = scene->rank,
                                 .hosts = HOSTS,
                                 .world = WORLD,
                                 .start_ns = 60 * S,
                                 .grace_ns = 30 * S,
                                 .abort_ns = 2 * S,
                                 .close_ns = 5 * S,
                                 .silent_ns = silent_s * S,
                                 .hang_ns = hang_s * S};

    memset(scene, 0, sizeof(*scene));
    for (uint32_t i = 0; i < HOSTS; i++) {
        scene->host[i].first_rank = i * PER_HOST;
        scene->host[i].ranks = PER_HOST;
    }
    scene->now_ns = S;
    ds_supervise_init(&scene->super, &args, scene->now_ns);
}

/* One line of a story.  `wait_s` passes first; `want` are the actions of the event. */
struct beat {
    unsigned wait_s;
    struct ds_super_event event;
    unsigned want;
    enum ds_job_state job;
};

#define UP(h)                                                                                      \
    {                                                                                              \
        .kind = DS_SUPER_HOST_UP, .host = (h)                                                      \
    }
#define HEARD(h)                                                                                   \
    {                                                                                              \
        .kind = DS_SUPER_HOST_HEARD, .host = (h)                                                   \
    }
#define STEP(r, s)                                                                                 \
    {                                                                                              \
        .kind = DS_SUPER_STEP, .rank = (r), .host = (r) / 2, .step = (s)                           \
    }
#define PHASE(r, s, p)                                                                             \
    {                                                                                              \
        .kind = DS_SUPER_STEP, .rank = (r), .host = (r) / 2, .step = (s), .phase = DS_PHASE_##p    \
    }
#define SAYS(r)                                                                                    \
    {                                                                                              \
        .kind = DS_SUPER_ANSWER, .rank = (r), .host = (r) / 2                                      \
    }
#define GONE(h)                                                                                    \
    {                                                                                              \
        .kind = DS_SUPER_HOST_GONE, .host = (h)                                                    \
    }
#define RUNS(r)                                                                                    \
    {                                                                                              \
        .kind = DS_SUPER_SPAWNED, .rank = (r), .host = (r) / 2                                     \
    }
#define EXIT(r, c)                                                                                 \
    {                                                                                              \
        .kind = DS_SUPER_EXIT, .rank = (r), .host = (r) / 2, .code = (c)                           \
    }
#define KILLED(r, s)                                                                               \
    {                                                                                              \
        .kind = DS_SUPER_EXIT, .rank = (r), .host = (r) / 2, .signal = (s)                         \
    }
#define STOP(s)                                                                                    \
    {                                                                                              \
        .kind = DS_SUPER_STOP, .signal = (s)                                                       \
    }
#define BROKEN(c)                                                                                  \
    {                                                                                              \
        .kind = DS_SUPER_BROKEN, .code = (c)                                                       \
    }
#define TICK                                                                                       \
    {                                                                                              \
        .kind = DS_SUPER_TICK                                                                      \
    }

/* clang-format off */
#define START \
    {0, UP(0), 0, DS_JOB_LAUNCHING}, {0, RUNS(0), 0, DS_JOB_LAUNCHING}, \
    {0, RUNS(1), 0, DS_JOB_LAUNCHING}, {0, UP(1), 0, DS_JOB_LAUNCHING}, \
    {0, RUNS(2), 0, DS_JOB_LAUNCHING}, {0, RUNS(3), 0, DS_JOB_RUNNING}
#define CLOSED {0, GONE(0), 0, DS_JOB_ENDING}, {0, GONE(1), DS_DO_END, DS_JOB_DONE}

static const struct story {
    const char *name;
    int code;
    enum ds_failure_kind first;
    uint32_t rank, victims; /* rank of the first failure */
    unsigned silent_s, hang_s; /* heartbeat limit, least time of a hang */
    struct beat beat[24];
} stories[] = {
    { "all is well", 0, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, EXIT(2, 0), 0, DS_JOB_RUNNING}, {0, EXIT(0, 0), 0, DS_JOB_RUNNING},
        {0, EXIT(3, 0), 0, DS_JOB_RUNNING}, {0, EXIT(1, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "the first failure wins", 3, DS_FAILURE_RANK, 2, 3, 0, 0, { START,
        {9, EXIT(2, 3), DS_DO_ABORT, DS_JOB_FAILING}, {0, EXIT(0, 1), 0, DS_JOB_FAILING},
        {0, KILLED(3, SIGSEGV), 0, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_ENDING}, CLOSED } },
    { "a signal is 128 + its number", 139, DS_FAILURE_RANK, 1, 0, 0, 0, { START,
        {9, KILLED(1, SIGSEGV), DS_DO_ABORT, DS_JOB_FAILING}, {0, EXIT(0, 0), 0, DS_JOB_FAILING},
        {0, EXIT(2, 0), 0, DS_JOB_FAILING}, {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "a victim that ends first is not blamed", 5, DS_FAILURE_RANK, 3, 3, 0, 0, { START,
        {1, EXIT(0, 79), DS_DO_ABORT, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_FAILING},
        {0, EXIT(3, 5), 0, DS_JOB_FAILING}, {0, EXIT(2, 79), 0, DS_JOB_ENDING}, CLOSED } },
    { "only victims", 79, DS_FAILURE_RANK, 0, 3, 0, 0, { START,
        {1, EXIT(0, 79), DS_DO_ABORT, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_FAILING},
        {0, EXIT(3, 79), 0, DS_JOB_FAILING}, {0, EXIT(2, 79), 0, DS_JOB_ENDING}, CLOSED } },
    { "who does not end is killed", 3, DS_FAILURE_RANK, 0, 3, 0, 0, { START,
        {1, EXIT(0, 3), DS_DO_ABORT, DS_JOB_FAILING}, {1, TICK, 0, DS_JOB_FAILING},
        {1, TICK, DS_DO_KILL, DS_JOB_ENDING}, {0, KILLED(1, SIGKILL), 0, DS_JOB_ENDING},
        {0, KILLED(2, SIGKILL), 0, DS_JOB_ENDING}, {0, KILLED(3, SIGKILL), 0, DS_JOB_ENDING},
        CLOSED } },
    { "a host that does not answer is dropped", 3, DS_FAILURE_RANK, 0, 0, 0, 0, { START,
        {1, EXIT(0, 3), DS_DO_ABORT, DS_JOB_FAILING}, {2, TICK, DS_DO_KILL, DS_JOB_ENDING},
        {4, TICK, 0, DS_JOB_ENDING}, {1, TICK, DS_DO_CLOSE, DS_JOB_ENDING},
        {9, TICK, 0, DS_JOB_ENDING}, {0, GONE(0), 0, DS_JOB_ENDING},
        {0, GONE(1), DS_DO_END, DS_JOB_DONE} } },
    { "a stop, everyone saves", 75, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, STOP(SIGTERM), DS_DO_STOP, DS_JOB_STOPPING}, {0, EXIT(0, 75), 0, DS_JOB_STOPPING},
        {0, EXIT(1, 75), 0, DS_JOB_STOPPING}, {0, EXIT(2, 75), 0, DS_JOB_STOPPING},
        {0, EXIT(3, 75), 0, DS_JOB_ENDING}, CLOSED } },
    { "ranks stop by themselves, then the signal comes", 75, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, EXIT(0, 75), DS_DO_STOP, DS_JOB_STOPPING}, {0, STOP(SIGTERM), 0, DS_JOB_STOPPING},
        {0, EXIT(1, 75), 0, DS_JOB_STOPPING}, {0, EXIT(2, 75), 0, DS_JOB_STOPPING},
        {0, EXIT(3, 75), 0, DS_JOB_ENDING}, CLOSED } },
    { "and a second one kills", 143, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, EXIT(0, 75), DS_DO_STOP, DS_JOB_STOPPING}, {0, STOP(SIGTERM), 0, DS_JOB_STOPPING},
        {1, STOP(SIGTERM), DS_DO_KILL, DS_JOB_ENDING}, {0, KILLED(1, SIGKILL), 0, DS_JOB_ENDING},
        {0, KILLED(2, SIGKILL), 0, DS_JOB_ENDING}, {0, KILLED(3, SIGKILL), 0, DS_JOB_ENDING},
        CLOSED } },
    { "a stop after the last step", 0, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, STOP(SIGINT), DS_DO_STOP, DS_JOB_STOPPING}, {0, EXIT(0, 0), 0, DS_JOB_STOPPING},
        {0, EXIT(1, 0), 0, DS_JOB_STOPPING}, {0, EXIT(2, 0), 0, DS_JOB_STOPPING},
        {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "a stop that is too slow", 143, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, STOP(SIGTERM), DS_DO_STOP, DS_JOB_STOPPING}, {29, TICK, 0, DS_JOB_STOPPING},
        {0, EXIT(0, 75), 0, DS_JOB_STOPPING}, {1, TICK, DS_DO_KILL, DS_JOB_ENDING},
        {0, KILLED(1, SIGKILL), 0, DS_JOB_ENDING}, {0, KILLED(2, SIGKILL), 0, DS_JOB_ENDING},
        {0, KILLED(3, SIGKILL), 0, DS_JOB_ENDING}, CLOSED } },
    { "a stop, twice", 130, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, STOP(SIGINT), DS_DO_STOP, DS_JOB_STOPPING},
        {0, STOP(SIGINT), 0, DS_JOB_STOPPING}, /* an echo */
        {1, STOP(SIGTERM), DS_DO_KILL, DS_JOB_ENDING}, {0, STOP(SIGTERM), 0, DS_JOB_ENDING},
        {0, KILLED(0, SIGKILL), 0, DS_JOB_ENDING}, {0, KILLED(1, SIGKILL), 0, DS_JOB_ENDING},
        {0, KILLED(2, SIGKILL), 0, DS_JOB_ENDING}, {0, KILLED(3, SIGKILL), 0, DS_JOB_ENDING},
        CLOSED } },
    { "a stop where checkpoints are off", 130, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, STOP(SIGINT), DS_DO_STOP, DS_JOB_STOPPING}, {0, EXIT(0, 143), 0, DS_JOB_STOPPING},
        {0, EXIT(1, 143), 0, DS_JOB_STOPPING}, {0, EXIT(2, 143), 0, DS_JOB_STOPPING},
        {0, EXIT(3, 143), 0, DS_JOB_ENDING}, CLOSED } },
    { "a stop of programs that know no checkpoints", 143, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, STOP(SIGTERM), DS_DO_STOP, DS_JOB_STOPPING}, {0, KILLED(0, SIGTERM), 0, DS_JOB_STOPPING},
        {0, KILLED(1, SIGTERM), 0, DS_JOB_STOPPING}, {0, KILLED(2, SIGTERM), 0, DS_JOB_STOPPING},
        {0, KILLED(3, SIGTERM), 0, DS_JOB_ENDING}, CLOSED } },
    { "a failure while stopping", 9, DS_FAILURE_RANK, 1, 0, 0, 0, { START,
        {9, STOP(SIGINT), DS_DO_STOP, DS_JOB_STOPPING}, {0, EXIT(0, 75), 0, DS_JOB_STOPPING},
        {0, EXIT(1, 9), DS_DO_ABORT, DS_JOB_FAILING}, {0, EXIT(2, 75), 0, DS_JOB_FAILING},
        {0, EXIT(3, 75), 0, DS_JOB_ENDING}, CLOSED } },
    { "a stop while failing kills", 9, DS_FAILURE_RANK, 1, 3, 0, 0, { START,
        {9, EXIT(1, 9), DS_DO_ABORT, DS_JOB_FAILING}, {0, STOP(SIGINT), DS_DO_KILL, DS_JOB_ENDING},
        {0, KILLED(0, SIGKILL), 0, DS_JOB_ENDING}, {0, KILLED(2, SIGKILL), 0, DS_JOB_ENDING},
        {0, KILLED(3, SIGKILL), 0, DS_JOB_ENDING}, CLOSED } },
    { "ranks that stop by themselves", 75, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, EXIT(0, 75), DS_DO_STOP, DS_JOB_STOPPING}, {0, EXIT(1, 75), 0, DS_JOB_STOPPING},
        {0, EXIT(2, 75), 0, DS_JOB_STOPPING}, {0, EXIT(3, 75), 0, DS_JOB_ENDING}, CLOSED } },
    { "a rank that cannot be started", 127, DS_FAILURE_RANK, 0, 0, 0, 0, {
        {0, UP(0), 0, DS_JOB_LAUNCHING}, {0, EXIT(0, 127), DS_DO_ABORT, DS_JOB_FAILING},
        {0, RUNS(1), 0, DS_JOB_FAILING}, {0, EXIT(1, 0), 0, DS_JOB_FAILING},
        {0, UP(1), 0, DS_JOB_FAILING}, {0, EXIT(2, 0), 0, DS_JOB_FAILING},
        {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "a start that takes too long", 124, DS_FAILURE_START, 0, 2, 0, 0, {
        {0, UP(0), 0, DS_JOB_LAUNCHING}, {0, RUNS(0), 0, DS_JOB_LAUNCHING},
        {59, TICK, 0, DS_JOB_LAUNCHING}, {1, TICK, DS_DO_KILL, DS_JOB_ENDING},
        {0, KILLED(0, SIGKILL), 0, DS_JOB_ENDING}, {0, KILLED(1, SIGKILL), 0, DS_JOB_ENDING},
        {0, GONE(0), 0, DS_JOB_ENDING}, {5, TICK, DS_DO_CLOSE, DS_JOB_ENDING},
        {0, GONE(1), DS_DO_END, DS_JOB_DONE} } },
    { "a host is lost before the start", 69, DS_FAILURE_HOST, 0, 0, 0, 0, {
        {0, UP(0), 0, DS_JOB_LAUNCHING}, {0, RUNS(0), 0, DS_JOB_LAUNCHING},
        {0, GONE(1), DS_DO_ABORT, DS_JOB_FAILING}, {0, RUNS(1), 0, DS_JOB_FAILING},
        {0, EXIT(0, 0), 0, DS_JOB_FAILING}, {0, EXIT(1, 0), 0, DS_JOB_ENDING},
        {0, GONE(0), DS_DO_END, DS_JOB_DONE} } },
    { "a host is lost later", 70, DS_FAILURE_HOST, 0, 2, 0, 0, { START,
        {9, GONE(1), DS_DO_ABORT, DS_JOB_FAILING}, {0, GONE(1), 0, DS_JOB_FAILING},
        {0, EXIT(0, 79), 0, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_ENDING},
        {0, GONE(0), DS_DO_END, DS_JOB_DONE} } },
    { "dsrun cannot keep its record", 1, DS_FAILURE_LAUNCHER, 0, 2, 0, 0, { START,
        {9, BROKEN(1), DS_DO_ABORT, DS_JOB_FAILING}, {0, BROKEN(1), 0, DS_JOB_FAILING},
        {0, EXIT(0, 0), 0, DS_JOB_FAILING}, {0, EXIT(1, 0), 0, DS_JOB_FAILING},
        {0, EXIT(2, 0), 0, DS_JOB_FAILING}, {0, EXIT(3, 79), 0, DS_JOB_ENDING}, CLOSED } },
    { "a rank is told dead twice", 0, DS_FAILURE_NONE, 0, 0, 0, 0, { START,
        {9, EXIT(0, 0), 0, DS_JOB_RUNNING}, {0, EXIT(0, 9), 0, DS_JOB_RUNNING},
        {0, RUNS(0), 0, DS_JOB_RUNNING}, {0, EXIT(1, 0), 0, DS_JOB_RUNNING},
        {0, EXIT(2, 0), 0, DS_JOB_RUNNING}, {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "a silent host is lost", 70, DS_FAILURE_SILENT, 0, 2, 15, 0, { START,
        {1, HEARD(0), 0, DS_JOB_RUNNING}, {1, HEARD(1), 0, DS_JOB_RUNNING},
        {3, HEARD(0), 0, DS_JOB_RUNNING}, {3, TICK, 0, DS_JOB_RUNNING},
        {3, TICK, 0, DS_JOB_RUNNING}, {3, TICK, 0, DS_JOB_RUNNING}, {2, TICK, 0, DS_JOB_RUNNING},
        {1, TICK, DS_DO_DROP | DS_DO_ABORT, DS_JOB_FAILING}, {0, TICK, 0, DS_JOB_FAILING},
        {0, EXIT(0, 79), 0, DS_JOB_FAILING}, {0, GONE(1), 0, DS_JOB_FAILING},
        {0, EXIT(1, 79), 0, DS_JOB_ENDING}, {0, GONE(0), DS_DO_END, DS_JOB_DONE} } },
    { "a host is not waited for before its agent has spoken", 124, DS_FAILURE_START, 0, 0, 15, 0, {
        {0, {.kind = DS_SUPER_HOST_LINKED}, 0, DS_JOB_LAUNCHING},
        {1, {.kind = DS_SUPER_HOST_LOGGED_IN}, 0, DS_JOB_LAUNCHING},
        {58, TICK, 0, DS_JOB_LAUNCHING}, {1, TICK, DS_DO_KILL, DS_JOB_ENDING},
        {0, GONE(0), 0, DS_JOB_ENDING}, {0, GONE(1), DS_DO_END, DS_JOB_DONE} } },
    { "a dsrun that slept blames nobody", 0, DS_FAILURE_NONE, 0, 0, 15, 0, { START,
        {14, TICK, 0, DS_JOB_RUNNING}, {1, TICK, 0, DS_JOB_RUNNING},
        {0, HEARD(0), 0, DS_JOB_RUNNING}, {0, HEARD(1), 0, DS_JOB_RUNNING},
        {9, EXIT(0, 0), 0, DS_JOB_RUNNING}, {0, EXIT(1, 0), 0, DS_JOB_RUNNING},
        {0, EXIT(2, 0), 0, DS_JOB_RUNNING}, {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "hosts gave up a dsrun that slept", 124, DS_FAILURE_SLEPT, 0, 1, 15, 0, { START,
        {20, TICK, 0, DS_JOB_RUNNING}, {0, GONE(1), DS_DO_ABORT, DS_JOB_FAILING},
        {0, GONE(0), DS_DO_END, DS_JOB_DONE} } },
    { "victims, and a host that does not answer", 70, DS_FAILURE_SILENT, 0, 2, 0, 0, { START,
        {1, EXIT(0, 79), DS_DO_ABORT, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_FAILING},
        {2, TICK, DS_DO_KILL, DS_JOB_ENDING}, {5, TICK, DS_DO_CLOSE, DS_JOB_ENDING},
        {0, GONE(0), 0, DS_JOB_ENDING}, {0, GONE(1), DS_DO_END, DS_JOB_DONE} } },
    { "a rank that hangs does not answer", 124, DS_FAILURE_HANG, 2, 3, 0, 60, { START,
        {1, STEP(0, 1), 0, DS_JOB_RUNNING}, {1, STEP(0, 2), 0, DS_JOB_RUNNING},
        {59, TICK, 0, DS_JOB_RUNNING}, {1, TICK, 0, DS_JOB_RUNNING},
        {2, TICK, DS_DO_ASK, DS_JOB_RUNNING}, {0, SAYS(0), 0, DS_JOB_RUNNING},
        {0, SAYS(1), 0, DS_JOB_RUNNING}, {0, SAYS(3), 0, DS_JOB_RUNNING},
        {1, TICK, DS_DO_ABORT, DS_JOB_FAILING}, {0, KILLED(2, SIGKILL), 0, DS_JOB_FAILING},
        {0, EXIT(0, 79), 0, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_FAILING},
        {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "a rank that is behind", 124, DS_FAILURE_HANG, 1, 0, 0, 60, { START,
        {1, STEP(0, 1), 0, DS_JOB_RUNNING}, {0, STEP(1, 1), 0, DS_JOB_RUNNING},
        {1, STEP(0, 2), 0, DS_JOB_RUNNING}, {0, STEP(2, 2), 0, DS_JOB_RUNNING},
        {0, STEP(3, 2), 0, DS_JOB_RUNNING}, {62, TICK, 0, DS_JOB_RUNNING},
        {2, TICK, DS_DO_ASK, DS_JOB_RUNNING}, {1, TICK, DS_DO_ABORT, DS_JOB_FAILING},
        {0, EXIT(0, 0), 0, DS_JOB_FAILING}, {0, EXIT(1, 0), 0, DS_JOB_FAILING},
        {0, EXIT(2, 0), 0, DS_JOB_FAILING}, {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "a step just in time", 0, DS_FAILURE_NONE, 0, 0, 0, 60, { START,
        {1, STEP(0, 1), 0, DS_JOB_RUNNING}, {1, STEP(0, 2), 0, DS_JOB_RUNNING},
        {62, TICK, 0, DS_JOB_RUNNING}, {2, TICK, DS_DO_ASK, DS_JOB_RUNNING},
        {0, STEP(1, 3), 0, DS_JOB_RUNNING}, {1, TICK, 0, DS_JOB_RUNNING},
        {3, TICK, 0, DS_JOB_RUNNING}, {0, EXIT(0, 0), 0, DS_JOB_RUNNING},
        {0, EXIT(1, 0), 0, DS_JOB_RUNNING}, {0, EXIT(2, 0), 0, DS_JOB_RUNNING},
        {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "no hang while a rank saves", 0, DS_FAILURE_NONE, 0, 0, 0, 60, { START,
        {1, STEP(0, 1), 0, DS_JOB_RUNNING}, {1, PHASE(0, 2, SAVE), 0, DS_JOB_RUNNING},
        {1, PHASE(0, 2, SAVE), 0, DS_JOB_RUNNING}, {900, TICK, 0, DS_JOB_RUNNING},
        {3, TICK, 0, DS_JOB_RUNNING}, {1, PHASE(0, 2, STEP), 0, DS_JOB_RUNNING},
        {59, TICK, 0, DS_JOB_RUNNING}, {0, EXIT(0, 0), 0, DS_JOB_RUNNING},
        {0, EXIT(1, 0), 0, DS_JOB_RUNNING}, {0, EXIT(2, 0), 0, DS_JOB_RUNNING},
        {0, EXIT(3, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "a disk that is full", 1, DS_FAILURE_RANK, 3, 2, 0, 0, { START,
        {1, PHASE(3, 7, DISK_FULL), 0, DS_JOB_RUNNING},
        {0, EXIT(3, 1), DS_DO_ABORT, DS_JOB_FAILING},
        {0, EXIT(0, 79), 0, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_FAILING},
        {0, EXIT(2, 0), 0, DS_JOB_ENDING}, CLOSED } },
    { "no memory, told before and not taken back", 65, DS_FAILURE_RANK, 3, 2, 0, 0, { START,
        {1, PHASE(3, 7, NO_MEMORY), 0, DS_JOB_RUNNING}, {0, STEP(3, 8), 0, DS_JOB_RUNNING},
        {0, EXIT(3, 65), DS_DO_ABORT, DS_JOB_FAILING},
        {0, EXIT(0, 79), 0, DS_JOB_FAILING}, {0, EXIT(1, 79), 0, DS_JOB_FAILING},
        {0, EXIT(2, 0), 0, DS_JOB_ENDING}, CLOSED } },
};
/* clang-format on */

Test(supervise, stories)
{
    for (size_t s = 0; s < sizeof(stories) / sizeof(stories[0]); s++) {
        const struct story *story = &stories[s];
        struct scene scene;

        begin(&scene, story->silent_s, story->hang_s);
        for (size_t i = 0; i < 24 && scene.super.job != DS_JOB_DONE; i++) {
            const struct beat *beat = &story->beat[i];
            unsigned got;

            scene.now_ns += beat->wait_s * S;
            got = ds_supervise(&scene.super, &beat->event, scene.now_ns) & ~(unsigned)DS_DO_BEAT;
            cr_assert_eq(got, beat->want, "'%s', beat %zu: actions %u, not %u", story->name, i, got,
                         beat->want);
            cr_assert_eq(scene.super.job, beat->job, "'%s', beat %zu: state %d, not %d",
                         story->name, i, (int)scene.super.job, (int)beat->job);
        }
        cr_assert_eq(scene.super.job, DS_JOB_DONE, "'%s' does not end", story->name);
        cr_assert_eq(ds_supervise_code(&scene.super), story->code, "'%s': code %d, not %d",
                     story->name, ds_supervise_code(&scene.super), story->code);
        cr_assert_eq(scene.super.first.kind, story->first, "'%s': first failure", story->name);
        cr_assert_eq(scene.super.first.rank, story->rank, "'%s': first rank", story->name);
        cr_assert_eq(scene.super.victims, story->victims, "'%s': %u victims", story->name,
                     scene.super.victims);
    }
}

/* Ranks that have nothing to do with each other: no end is the reason of another. */
Test(supervise, apart)
{
    static const struct beat beats[] = {
        {0, UP(0), 0, DS_JOB_LAUNCHING},       {0, RUNS(0), 0, DS_JOB_LAUNCHING},
        {0, EXIT(0, 3), 0, DS_JOB_LAUNCHING},  {0, RUNS(1), 0, DS_JOB_LAUNCHING},
        {0, EXIT(1, 75), 0, DS_JOB_LAUNCHING}, {0, GONE(0), 0, DS_JOB_LAUNCHING},
        {0, UP(1), 0, DS_JOB_LAUNCHING},       {0, RUNS(2), 0, DS_JOB_LAUNCHING},
        {0, RUNS(3), 0, DS_JOB_RUNNING},       {500, TICK, 0, DS_JOB_RUNNING},
        {0, EXIT(2, 0), 0, DS_JOB_RUNNING},    {0, GONE(1), DS_DO_END, DS_JOB_DONE},
    };
    struct scene scene;

    begin(&scene, 0, 0);
    scene.super.args.apart = true;
    scene.super.deadline_ns = 0;
    for (size_t i = 0; i < sizeof(beats) / sizeof(beats[0]); i++) {
        scene.now_ns += beats[i].wait_s * S;
        cr_expect_eq(ds_supervise(&scene.super, &beats[i].event, scene.now_ns) &
                         ~(unsigned)DS_DO_BEAT,
                     beats[i].want, "beat %zu", i);
        cr_expect_eq(scene.super.job, beats[i].job, "beat %zu", i);
    }
    cr_expect_eq(scene.super.first.rank, 0);
    cr_expect_eq(scene.super.first.code, 3);
    cr_expect_eq(scene.super.victims, 2, "the other two that ended badly");
}

/* Of hosts that are all up the one whose rank does not run is late. */
Test(supervise, who_is_late)
{
    static const struct ds_super_event events[] = {UP(0), UP(1), RUNS(0), RUNS(1), RUNS(2)};
    struct scene scene;

    begin(&scene, 0, 0);
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
        (void)ds_supervise(&scene.super, &events[i], scene.now_ns);
    (void)ds_supervise(&scene.super, &(struct ds_super_event)TICK, scene.now_ns + 60 * S);
    cr_expect_eq(scene.super.first.kind, DS_FAILURE_START);
    cr_expect_eq(scene.super.first.host, 1);
}

/* A stop reaches them all, and time kills. */
Test(supervise, apart_and_stopped)
{
    static const struct beat beats[] = {
        START,
        {0, EXIT(0, 1), 0, DS_JOB_RUNNING},
        {0, STOP(SIGINT), DS_DO_STOP, DS_JOB_STOPPING},
        {0, KILLED(1, SIGTERM), 0, DS_JOB_STOPPING},
        {30, TICK, DS_DO_KILL, DS_JOB_ENDING},
        {0, KILLED(2, SIGKILL), 0, DS_JOB_ENDING},
        {0, KILLED(3, SIGKILL), 0, DS_JOB_ENDING},
        CLOSED,
    };
    struct scene scene;

    begin(&scene, 0, 0);
    scene.super.args.apart = true;
    for (size_t i = 0; i < sizeof(beats) / sizeof(beats[0]); i++) {
        scene.now_ns += beats[i].wait_s * S;
        cr_expect_eq(ds_supervise(&scene.super, &beats[i].event, scene.now_ns) &
                         ~(unsigned)DS_DO_BEAT,
                     beats[i].want, "beat %zu", i);
        cr_expect_eq(scene.super.job, beats[i].job, "beat %zu", i);
    }
}

/* What the world does next: mostly ranks that end one way or another, sometimes a host. */
static struct ds_super_event misfortune(struct scene *scene, uint64_t seed, uint64_t i)
{
    static const int codes[] = {0, 0, 75, 79, 1, 65, 143};
    uint64_t dice = ds_rng_u64(seed, 0, i);
    uint32_t rank = (uint32_t)(dice >> 8) % WORLD;
    struct ds_super_event event = {.rank = rank, .host = rank / PER_HOST};

    switch (dice % 8) {
    case 0: event.kind = DS_SUPER_HOST_UP; break;
    case 1: event.kind = DS_SUPER_SPAWNED; break;
    case 2:
        event.kind = DS_SUPER_STOP;
        event.signal = SIGINT;
        break;
    case 3:
        event.kind = (dice >> 16) % 8 == 0 ? DS_SUPER_BROKEN : DS_SUPER_TICK;
        event.code = 1;
        break;
    case 4: event.kind = DS_SUPER_HOST_GONE; break;
    case 5:
        event.kind = DS_SUPER_EXIT;
        event.signal = scene->super.killed ? SIGKILL : SIGSEGV;
        break;
    default:
        event.kind = DS_SUPER_EXIT;
        event.code = codes[(dice >> 20) % 7];
        break;
    }
    return event;
}

/* One event as fleet.c would bring it: CLOSE and DROP are answered by the end of hosts. */
static unsigned happen(struct scene *scene, const struct ds_super_event *event)
{
    unsigned actions = ds_supervise(&scene->super, event, scene->now_ns);
    unsigned ends = (actions & DS_DO_END) != 0;

    for (uint32_t h = 0; h < HOSTS; h++) {
        const struct ds_super_event gone = {.kind = DS_SUPER_HOST_GONE, .host = h};

        if ((actions & DS_DO_CLOSE) == 0 &&
            ((actions & DS_DO_DROP) == 0 || !scene->super.args.host[h].drop))
            continue;
        ends += (ds_supervise(&scene->super, &gone, scene->now_ns) & DS_DO_END) != 0;
    }
    return ends;
}

/* Whatever happens: a stop, asked for often enough, and time end every job, once, with a code that
 * may be told; only what failed or was stopped has another code than 0. */
Test(supervise, every_random_story_ends)
{
    static const struct ds_super_event stop = STOP(SIGTERM), tick = TICK;

    for (uint64_t seed = 0; seed < 5000; seed++) {
        struct scene scene;
        unsigned ends = 0;

        begin(&scene, seed % 3 == 0 ? 15 : 0, seed % 2 == 0 ? 60 : 0);
        for (uint64_t i = 0; i < 1 + seed % 40; i++) {
            struct ds_super_event event = misfortune(&scene, seed, i);

            ends += happen(&scene, &event);
            scene.now_ns += ds_rng_u64(seed, 1, i) % (2 * S);
        }
        for (int i = 0; i < 3; i++, scene.now_ns += S)
            ends += happen(&scene, &stop);
        for (int i = 0; i < 4; i++) {
            scene.now_ns += 40 * S;
            ends += happen(&scene, &tick);
        }
        cr_assert_eq(scene.super.job, DS_JOB_DONE, "seed %llu does not end",
                     (unsigned long long)seed);
        cr_assert_eq(ends, 1, "seed %llu ends %u times", (unsigned long long)seed, ends);
        cr_assert(ds_supervise_code(&scene.super) >= 0 && ds_supervise_code(&scene.super) <= 255);
        cr_assert(scene.super.first.kind != DS_FAILURE_NONE || scene.super.stop_signal != 0 ||
                  ds_supervise_code(&scene.super) == 0);
    }
}

Test(supervise, causes)
{
    static const struct {
        struct ds_failure first;
        enum ds_cause cause;
        const char *name, *says; /* part of the sentence */
    } table[] = {
        {{.kind = DS_FAILURE_NONE}, DS_CAUSE_NONE, "", ""},
        {{.kind = DS_FAILURE_HOST}, DS_CAUSE_HOST_LOST, "host-lost", "was lost: it hung up"},
        {{.kind = DS_FAILURE_SILENT}, DS_CAUSE_HOST_LOST, "host-lost", "was lost: it hung up"},
        {{.kind = DS_FAILURE_SLEPT}, DS_CAUSE_HOST_LOST, "host-lost", "dsrun itself was stopped"},
        {{.kind = DS_FAILURE_START}, DS_CAUSE_START, "start", "start time-out"},
        {{.kind = DS_FAILURE_HANG}, DS_CAUSE_HANG, "hang", "hang: no rank"},
        {{.kind = DS_FAILURE_LAUNCHER, .code = 1}, DS_CAUSE_LAUNCHER, "launcher", "cannot write"},
        {{.kind = DS_FAILURE_LAUNCHER, .code = 1, .disk = true},
         DS_CAUSE_DISK_FULL,
         "disk-full",
         "cannot write"},
        {{.kind = DS_FAILURE_RANK, .code = 3}, DS_CAUSE_RANK, "rank", "ended with code 3"},
        {{.kind = DS_FAILURE_RANK, .signal = 11}, DS_CAUSE_RANK, "rank", "killed by signal 11"},
        {{.kind = DS_FAILURE_RANK, .signal = 9, .oom = true},
         DS_CAUSE_OOM,
         "oom",
         "the host ran out of memory"},
        {{.kind = DS_FAILURE_RANK, .code = 65, .oom = true},
         DS_CAUSE_OOM,
         "oom",
         "no memory is left"},
        {{.kind = DS_FAILURE_RANK, .code = 1, .disk = true},
         DS_CAUSE_DISK_FULL,
         "disk-full",
         "a disk is full"},
        {{.kind = DS_FAILURE_RANK, .code = 124, .comm = true},
         DS_CAUSE_COMM,
         "comm",
         "code 124: a collective failed"},
        {{.kind = DS_FAILURE_RANK, .code = 79, .victim = true}, DS_CAUSE_COMM, "comm", "code 79"},
        {{.kind = DS_FAILURE_RANK, .code = 2}, DS_CAUSE_INPUT, "input", "code 2"},
        {{.kind = DS_FAILURE_RANK, .code = 65}, DS_CAUSE_INPUT, "input", "code 65"},
        {{.kind = DS_FAILURE_RANK, .code = 69}, DS_CAUSE_RANK, "rank", "code 69"},
        {{.kind = DS_FAILURE_RANK, .code = 69, .held = true},
         DS_CAUSE_START,
         "start",
         "on n1 was not started: another job holds a GPU"},
    };
    static const struct ds_cause_facts facts = {
        .host = "n1", .reason = "it hung up", .broken = "cannot write"};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char text[DS_MAX_ERROR_TEXT];

        ds_cause_text(&table[i].first, &facts, text);
        cr_expect_eq(ds_cause_class(&table[i].first), table[i].cause, "%s", text);
        cr_expect_str_eq(ds_cause_name(table[i].cause), table[i].name);
        cr_expect(strstr(text, table[i].says) != NULL, "%s", text);
    }
}
