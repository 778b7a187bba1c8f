/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl.c - a libnccl.so.2 without a device, for tests: processes that share a folder.
 *
 * Communicators are non-blocking: making one goes on in a thread, collectives run on the thread of
 * the fake stream (fake.h).  Numbers are summed in the order of ranks.  A rank that does not come
 * leaves the others waiting for ever, as NCCL does.
 *
 *     FAKE_NCCL_FAIL=init:2    making a communicator gives error 2; async:6: the third collective
 *     on
 *                              does, later, as an error of the communicator
 *     FAKE_NCCL_NEVER=1:5      the process with RANK 1 never returns from its fifth collective;
 *                              1:5:FILE: once, the first that does makes the file
 *     FAKE_NCCL_VERSION=21500
 *     FAKE_NCCL_FOLDER=/tmp/x  where the shared files are, for hosts that share no /dev/shm
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "runtime/comm/nccl_lib.h"
#include "tests/fakes/fake.h"

enum { SLOT = 1 << 20, MAX_RANKS = 8, PAUSE_NS = 50 * 1000, LATE_CALL = 3 };

struct shared {
    atomic_uint arrived;
    char pad[4092];
    char slot[MAX_RANKS][SLOT];
};

struct ds_nccl_comm_opaque {
    int rank, world;
    char path[DS_NCCL_ID_BYTES + 32];
    struct shared *shared;
    unsigned round, splits;
    atomic_int state; /* what ncclCommGetAsyncError tells */
    atomic_bool aborted;
    pthread_t thread;
};

/* Nobody has a header for them: the plug-in looks them up by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* Wait until all have come as often as this rank; false: aborted. */
static bool meet(ds_nccl_comm *comm)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    unsigned wanted = ++comm->round * (unsigned)comm->world;

    atomic_fetch_add(&comm->shared->arrived, 1);
    while (atomic_load(&comm->shared->arrived) < wanted) {
        if (atomic_load(&comm->aborted))
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

static const char *wish_of(const char *name)
{
    const char *wish = getenv("FAKE_NCCL_FAIL");
    size_t length = strlen(name);

    return wish != NULL && strncmp(wish, name, length) == 0 && wish[length] == ':'
               ? wish + length + 1
               : NULL;
}

/* --- communicators
 * ------------------------------------------------------------------------------ */

int ncclGetVersion(int *version)
{
    const char *text = getenv("FAKE_NCCL_VERSION");

    *version = text == NULL ? 22809 : (int)strtol(text, NULL, 10);
    return DS_NCCL_OK;
}

const char *ncclGetErrorString(int result)
{
    return result == 2   ? "unhandled system error"
           : result == 6 ? "remote process exited"
                         : "internal error";
}

int ncclGetUniqueId(struct ds_nccl_id *id)
{
    const char *folder = getenv("FAKE_NCCL_FOLDER");
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    memset(id, 0, sizeof(*id));
    snprintf(id->bytes, sizeof(id->bytes), "%s/dsrun-fake-nccl-%ld-%ld",
             folder != NULL ? folder : "/dev/shm", (long)getpid(), now.tv_nsec);
    return DS_NCCL_OK;
}

static void *join_group(void *arg)
{
    ds_nccl_comm *comm = arg;
    int fd = open(comm->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    bool all;

    if (fd < 0 || ftruncate(fd, sizeof(struct shared)) != 0)
        abort();
    comm->shared = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (comm->shared == MAP_FAILED)
        abort();
    close(fd);
    all = meet(comm);
    (void)unlink(comm->path); /* all have it open, or nobody will */
    atomic_store(&comm->state, all ? DS_NCCL_OK : 6);
    return NULL;
}

static int start(ds_nccl_comm **out, const char *path, int rank, int world)
{
    ds_nccl_comm *comm = calloc(1, sizeof(*comm));

    if (comm == NULL || world > MAX_RANKS)
        abort();
    comm->rank = rank;
    comm->world = world;
    snprintf(comm->path, sizeof(comm->path), "%s", path);
    atomic_store(&comm->state, DS_NCCL_IN_PROGRESS);
    *out = comm;
    if (pthread_create(&comm->thread, NULL, join_group, comm) != 0)
        abort();
    return DS_NCCL_IN_PROGRESS;
}

int ncclCommInitRankConfig(ds_nccl_comm **out, int world, struct ds_nccl_id id, int rank,
                           struct ds_nccl_config *config)
{
    const char *wish = wish_of("init");

    if (config->blocking != 0 || config->size != sizeof(*config) || getenv("NCCL_COMM_ID") != NULL)
        return 4;
    return wish != NULL ? (int)strtol(wish, NULL, 10) : start(out, id.bytes, rank, world);
}

/* Ranks of one color in the order of their keys, which are 0, 1, ... here. */
int ncclCommSplit(ds_nccl_comm *comm, int color, int key, ds_nccl_comm **out,
                  struct ds_nccl_config *config)
{
    char path[DS_NCCL_ID_BYTES + 32];
    unsigned split = ++comm->splits, count = 0;
    int *colors = (int *)(void *)comm->shared->slot[comm->rank];

    (void)config;
    colors[0] = color;
    if (!meet(comm))
        return 6;
    for (int i = 0; i < comm->world; i++)
        count += *(int *)(void *)comm->shared->slot[i] == color;
    if (!meet(comm))
        return 6;
    snprintf(path, sizeof(path), "%.120s-%u-%d", comm->path, split, color);
    return start(out, path, key, (int)count);
}

int ncclCommGetAsyncError(ds_nccl_comm *comm, int *result)
{
    *result = atomic_load(&comm->state);
    return DS_NCCL_OK;
}

int ncclCommFinalize(ds_nccl_comm *comm)
{
    (void)comm;
    return DS_NCCL_OK;
}

int ncclCommDestroy(ds_nccl_comm *comm)
{
    pthread_join(comm->thread, NULL);
    munmap(comm->shared, sizeof(struct shared));
    free(comm);
    return DS_NCCL_OK;
}

/* A collective may still be on its way out of meet(): the memory stays. */
int ncclCommAbort(ds_nccl_comm *comm)
{
    atomic_store(&comm->aborted, true);
    pthread_join(comm->thread, NULL);
    return DS_NCCL_OK;
}

int ncclMemAlloc(void **memory, size_t bytes)
{
    return cudaMalloc(memory, bytes) == cudaSuccess ? DS_NCCL_OK : 1;
}

int ncclMemFree(void *memory)
{
    return cudaFree(memory) == cudaSuccess ? DS_NCCL_OK : 1;
}

/* --- collectives
 * -------------------------------------------------------------------------------- */

struct call {
    ds_nccl_comm *comm;
    const char *from;
    char *to;
    size_t bytes;      /* that each rank gives */
    size_t first, end; /* of the vector: what this rank takes, sums only */
    bool gather;
};

/* Sums of one piece of the vector into where this rank wants it. */
static void take_sums(const struct call *call, size_t at, size_t bytes)
{
    size_t from = at > call->first ? at : call->first;
    size_t end = at + bytes < call->end ? at + bytes : call->end;

    for (size_t i = from; i < end; i += sizeof(float)) {
        float sum = 0.0f;

        for (int rank = 0; rank < call->comm->world; rank++) {
            float x;

            memcpy(&x, call->comm->shared->slot[rank] + (i - at), sizeof(x));
            sum += x;
        }
        memcpy(call->to + (i - call->first), &sum, sizeof(sum));
    }
}

static void work(void *arg)
{
    struct call *call = arg;
    ds_nccl_comm *comm = call->comm;
    bool going = true;

    for (size_t at = 0; going && at < call->bytes; at += SLOT) {
        size_t bytes = call->bytes - at < SLOT ? call->bytes - at : SLOT;

        fake_open();
        memcpy(comm->shared->slot[comm->rank], call->from + at, bytes);
        fake_close();
        going = meet(comm);
        fake_open();
        if (going && !call->gather)
            take_sums(call, at, bytes);
        for (int i = 0; going && call->gather && i < comm->world; i++)
            memcpy(call->to + (size_t)i * call->bytes + at, comm->shared->slot[i], bytes);
        fake_close();
        going = going && meet(comm);
    }
    free(call);
}

/* "" or ":FILE": only the first process that comes here, which makes the file. */
static void sleep_for_ever(const char *once)
{
    int fd = once[0] != ':' ? -1 : open(once + 1, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (once[0] == ':' && fd < 0)
        return;
    for (;;)
        pause();
}

static int queue(struct call wanted, cudaStream_t stream)
{
    static unsigned calls;
    const char *never = getenv("FAKE_NCCL_NEVER"), *rank = getenv("RANK"), *wish = wish_of("async");
    struct call *call = malloc(sizeof(*call));
    char mine[32];

    if (call == NULL)
        abort();
    *call = wanted;
    calls++;
    snprintf(mine, sizeof(mine), "%s:%u", rank != NULL ? rank : "0", calls);
    if (never != NULL && strncmp(never, mine, strlen(mine)) == 0)
        sleep_for_ever(never + strlen(mine));
    if (wish != NULL && calls >= LATE_CALL)
        atomic_store(&wanted.comm->state, (int)strtol(wish, NULL, 10));
    fake_defer(stream, work, call);
    return DS_NCCL_OK;
}

int ncclAllReduce(const void *from, void *to, size_t n, int type, int op, ds_nccl_comm *comm,
                  void *stream)
{
    if (type != DS_NCCL_F32 || op != DS_NCCL_SUM)
        return 4;
    return queue((struct call){.comm = comm,
                               .from = from,
                               .to = to,
                               .bytes = n * sizeof(float),
                               .end = n * sizeof(float)},
                 stream);
}

int ncclReduceScatter(const void *from, void *to, size_t n, int type, int op, ds_nccl_comm *comm,
                      void *stream)
{
    size_t shard = n * sizeof(float), first = (size_t)comm->rank * shard;

    if (type != DS_NCCL_F32 || op != DS_NCCL_SUM)
        return 4;
    return queue((struct call){.comm = comm,
                               .from = from,
                               .to = to,
                               .bytes = shard * (size_t)comm->world,
                               .first = first,
                               .end = first + shard},
                 stream);
}

int ncclAllGather(const void *from, void *to, size_t n, int type, ds_nccl_comm *comm, void *stream)
{
    if (type != DS_NCCL_BYTE)
        return 4;
    return queue((struct call){.comm = comm, .from = from, .to = to, .bytes = n, .gather = true},
                 stream);
}
