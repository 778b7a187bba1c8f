/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl.c - a libnccl.so.2 without a device, for tests: processes that share a folder.  Here are its
 * communicators; collectives are in nccl_calls.c.
 *
 * Communicators are non-blocking: what is asked of one goes on in a thread, and it takes no other
 * call meanwhile.  The first collective connects the ranks, on the host; then collectives run on the
 * thread of the fake stream (fake.h), those of a communicator one after the other whatever streams
 * they are on.  They are refused from a second thread of a process: so two
 * ranks call them in the same order.  Numbers are summed in the order of ranks.  A rank that does
 * not come leaves the others waiting for ever, and two ranks on one device of one host (NCCL_HOSTID,
 * or its name) are refused, as NCCL does.
 *
 *     FAKE_NCCL_FAIL=init:2    making a communicator gives error 2; async:6: the third collective
 *     on
 *                              does, later, as an error of the communicator
 *     FAKE_NCCL_FAIL=send:4    ncclSend() gives error 4, on the rank above 0
 *     FAKE_NCCL_NEVER=1:5      the process with RANK 1 never returns from its fifth collective;
 *                              1:5:FILE: once, the first that does makes the file
 *     FAKE_NCCL_VERSION=21500
 *     FAKE_NCCL_IFNAME==eth0   a communicator is refused unless NCCL_SOCKET_IFNAME says so
 *     FAKE_NCCL_FOLDER=/tmp/x  where the shared files are, for hosts that share no /dev/shm
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/fakes/fake.h"
#include "tests/fakes/nccl_comm.h"

enum { HOST = 64 };

struct seat { /* where a rank is */
    char host[HOST];
    int device;
};

/* Arenas that some communicator knows. */
static atomic_uint listed;

/* Nobody has a header for them: the plug-in looks them up by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

int nccl_go_on(ds_nccl_comm *comm, void *(*run)(void *arg), void *arg)
{
    if (comm->threaded)
        pthread_join(comm->thread, NULL);
    atomic_store(&comm->state, DS_NCCL_IN_PROGRESS);
    if (pthread_create(&comm->thread, NULL, run, arg) != 0)
        abort();
    comm->threaded = true;
    return DS_NCCL_IN_PROGRESS;
}

int nccl_not_ready(ds_nccl_comm *comm)
{
    int state = atomic_load(&comm->state);

    return state == DS_NCCL_IN_PROGRESS ? INVALID_ARGUMENT : state;
}

bool nccl_meet(ds_nccl_comm *comm)
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

const char *nccl_wish_of(const char *name)
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
    return result == 2                  ? "unhandled system error"
           : result == INVALID_ARGUMENT ? "invalid argument"
           : result == INVALID_USAGE    ? "invalid usage"
           : result == REMOTE_ERROR     ? "remote process exited"
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

/* Two ranks on one device of one host are taken for a mistake. */
static bool is_twice(ds_nccl_comm *comm)
{
    const struct seat *mine = (const void *)comm->shared->slot[comm->rank];

    for (int rank = 0; rank < comm->world; rank++) {
        const struct seat *theirs = (const void *)comm->shared->slot[rank];

        if (rank != comm->rank && theirs->device == mine->device &&
            strcmp(theirs->host, mine->host) == 0)
            return true;
    }
    return false;
}

static void sit_down(ds_nccl_comm *comm)
{
    struct seat *mine = (void *)comm->shared->slot[comm->rank];
    const char *host = getenv("NCCL_HOSTID");

    memset(mine, 0, sizeof(*mine));
    if (host != NULL)
        snprintf(mine->host, HOST, "%s", host);
    else
        (void)gethostname(mine->host, HOST - 1);
    (void)cudaGetDevice(&mine->device);
}

static void *join_group(void *arg)
{
    ds_nccl_comm *comm = arg;
    int fd = open(comm->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    bool all, twice = false;

    if (fd < 0 || ftruncate(fd, sizeof(struct shared)) != 0)
        abort();
    comm->shared = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (comm->shared == MAP_FAILED)
        abort();
    close(fd);
    sit_down(comm);
    all = nccl_meet(comm);
    (void)unlink(comm->path); /* all have it open, or nobody will */
    twice = all && is_twice(comm);
    all = all && nccl_meet(comm);
    atomic_store(&comm->state, !all ? REMOTE_ERROR : twice ? INVALID_USAGE : DS_NCCL_OK);
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
    *out = comm;
    return nccl_go_on(comm, join_group, comm);
}

int ncclCommInitRankConfig(ds_nccl_comm **out, int world, struct ds_nccl_id id, int rank,
                           struct ds_nccl_config *config)
{
    const char *wish = nccl_wish_of("init"), *name = getenv("FAKE_NCCL_IFNAME");
    const char *told = getenv("NCCL_SOCKET_IFNAME");

    if (name != NULL && (told == NULL || strcmp(name, told) != 0))
        return INVALID_ARGUMENT;
    if (config->blocking != 0 || config->size != sizeof(*config) || getenv("NCCL_COMM_ID") != NULL)
        return INVALID_ARGUMENT;
    return wish != NULL ? (int)strtol(wish, NULL, 10) : start(out, id.bytes, rank, world);
}

struct split {
    ds_nccl_comm *comm, **out;
    int color, key;
    unsigned number;
};

static void *split_group(void *arg)
{
    struct split *split = arg;
    ds_nccl_comm *comm = split->comm;
    char path[DS_NCCL_ID_BYTES + 32];
    int *mine = (int *)(void *)comm->shared->slot[comm->rank], count = 0;
    bool all;

    *mine = split->color;
    all = nccl_meet(comm);
    for (int i = 0; all && i < comm->world; i++)
        count += *(int *)(void *)comm->shared->slot[i] == split->color;
    all = all && nccl_meet(comm);
    snprintf(path, sizeof(path), "%.120s-%u-%d", comm->path, split->number, split->color);
    if (all)
        (void)start(split->out, path, split->key, count);
    atomic_store(&comm->state, all ? DS_NCCL_OK : REMOTE_ERROR);
    free(split);
    return NULL;
}

/* Ranks of one color in the order of their keys, which are 0, 1, ... here.  The new one is there
 * when the old one is ready. */
int ncclCommSplit(ds_nccl_comm *comm, int color, int key, ds_nccl_comm **out,
                  struct ds_nccl_config *config)
{
    struct split *split = malloc(sizeof(*split));
    int refused = nccl_not_ready(comm);

    (void)config;
    if (split == NULL)
        abort();
    *out = NULL;
    if (refused != 0) {
        free(split);
        return refused;
    }
    *split = (struct split){
        .comm = comm, .out = out, .color = color, .key = key, .number = ++comm->splits};
    return nccl_go_on(comm, split_group, split);
}

int ncclCommGetAsyncError(ds_nccl_comm *comm, int *result)
{
    *result = atomic_load(&comm->state);
    return DS_NCCL_OK;
}

static void *end_group(void *arg)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    ds_nccl_comm *comm = arg;

    nanosleep(&pause, NULL);
    atomic_store(&comm->state, DS_NCCL_OK);
    return NULL;
}

int ncclCommFinalize(ds_nccl_comm *comm)
{
    int refused = nccl_not_ready(comm);

    return refused != 0 ? refused : nccl_go_on(comm, end_group, comm);
}

int ncclCommDestroy(ds_nccl_comm *comm)
{
    int refused = nccl_not_ready(comm);

    if (refused != 0)
        return refused;
    pthread_join(comm->thread, NULL);
    listed -= comm->listed;
    munmap(comm->shared, sizeof(struct shared));
    free(comm);
    return DS_NCCL_OK;
}

/* It waits for the stream, as NCCL does: for what another communicator has queued there before, too.
 * The memory stays. */
int ncclCommAbort(ds_nccl_comm *comm)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};

    atomic_store(&comm->aborted, true);
    pthread_join(comm->thread, NULL);
    while (atomic_load(&comm->queued) > 0)
        nanosleep(&pause, NULL);
    listed -= comm->listed;
    return DS_NCCL_OK;
}

int ncclCommRegister(ds_nccl_comm *comm, void *memory, size_t bytes, void **handle)
{
    int refused = nccl_not_ready(comm);

    if (refused != 0)
        return refused;
    if (memory == NULL || bytes == 0)
        return INVALID_ARGUMENT;
    comm->listed++;
    listed++;
    *handle = memory;
    return DS_NCCL_OK;
}

int ncclCommDeregister(ds_nccl_comm *comm, void *handle)
{
    if (handle == NULL || comm->listed == 0)
        return INVALID_USAGE;
    comm->listed--;
    listed--;
    return DS_NCCL_OK;
}

int ncclMemAlloc(void **memory, size_t bytes)
{
    return cudaMalloc(memory, bytes) == cudaSuccess ? DS_NCCL_OK : 1;
}

int ncclMemFree(void *memory)
{
    if (listed != 0) { /* NCCL would read and write what is gone */
        fprintf(stderr, "fake NCCL: memory is freed that %u communicators know\n",
                atomic_load(&listed));
        abort();
    }
    return cudaFree(memory) == cudaSuccess ? DS_NCCL_OK : 1;
}
