/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl_calls.c - the collectives of the double of NCCL; nccl.c says how it can be told to fail.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/dtype.h"
#include "tests/fakes/fake.h"
#include "tests/fakes/nccl_comm.h"

enum { LATE_CALL = 3, PARCEL = SLOT / MAX_RANKS };

/* Nobody has a header for them: the plug-in looks them up by name. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

struct parcel { /* what goes to a rank, or comes from one */
    char *at;
    size_t bytes;
};

struct call {
    ds_nccl_comm *comm;
    const char *from;
    char *to;
    size_t bytes;      /* that each rank gives */
    size_t first, end; /* of the vector: what this rank takes, sums only */
    size_t size;       /* of an element, sums only */
    int type;          /* and its type */
    bool gather, swap;
    unsigned turn;                                  /* of the communicator's calls */
    struct parcel give[MAX_RANKS], take[MAX_RANKS]; /* of a group of ncclSend() and ncclRecv() */
};

static float get(const char *from, int type)
{
    uint16_t low;
    float x;

    if (type != DS_NCCL_F32) {
        memcpy(&low, from, sizeof(low));
        return type == DS_NCCL_F16 ? ds_f16_to_f32(low) : ds_bf16_to_f32(low);
    }
    memcpy(&x, from, sizeof(x));
    return x;
}

static void put(char *to, float x, int type)
{
    uint16_t low = type == DS_NCCL_F16 ? ds_f16_from_f32(x) : ds_bf16_from_f32(x);

    if (type == DS_NCCL_F32)
        memcpy(to, &x, sizeof(x));
    else
        memcpy(to, &low, sizeof(low));
}

/* 0: a type that has no sums here. */
static size_t size_of(int type)
{
    if (type == DS_NCCL_F32)
        return sizeof(float);
    return type == DS_NCCL_BF16 || type == DS_NCCL_F16 ? sizeof(uint16_t) : 0;
}

/* Sums of one piece of the vector into where this rank wants it. */
static void take_sums(const struct call *call, size_t at, size_t bytes)
{
    size_t from = at > call->first ? at : call->first;
    size_t end = at + bytes < call->end ? at + bytes : call->end;

    for (size_t i = from; i < end; i += call->size) {
        float sum = 0.0f;

        for (int rank = 0; rank < call->comm->world; rank++)
            sum += get(call->comm->shared->slot[rank] + (i - at), call->type);
        put(call->to + (i - call->first), sum, call->type);
    }
}

/* All tell what they give: sizes of which one rank knows another one are a bug of the caller's, with
 * which NCCL would wait for ever.  The most of all of them; 0: aborted. */
static size_t compare_sizes(const struct call *call)
{
    const ds_nccl_comm *comm = call->comm;
    size_t *mine = (void *)comm->shared->slot[comm->rank], most = 0;

    for (int peer = 0; peer < comm->world; peer++)
        mine[peer] = call->give[peer].bytes;
    if (!nccl_meet(call->comm))
        return 0;
    for (int from = 0; from < comm->world; from++) {
        const size_t *its = (const void *)comm->shared->slot[from];

        for (int to = 0; to < comm->world; to++)
            most = its[to] > most ? its[to] : most;
        if (its[comm->rank] != call->take[from].bytes) {
            fprintf(stderr, "fake NCCL: rank %d sends %zu bytes, rank %d takes %zu\n", from,
                    its[comm->rank], comm->rank, call->take[from].bytes);
            abort();
        }
    }
    return nccl_meet(call->comm) ? most : 0;
}

/* Bytes of a parcel in the piece of all that begins at `at`. */
static size_t piece_of(const struct parcel *parcel, size_t at)
{
    size_t left = parcel->bytes > at ? parcel->bytes - at : 0;

    return left < PARCEL ? left : PARCEL;
}

static void swap(const struct call *call)
{
    ds_nccl_comm *comm = call->comm;
    size_t most = compare_sizes(call);
    bool going = true;

    for (size_t at = 0; going && at < most; at += PARCEL) {
        fake_open();
        for (int peer = 0; peer < comm->world; peer++)
            if (piece_of(&call->give[peer], at) > 0)
                memcpy(comm->shared->slot[comm->rank] + peer * PARCEL, call->give[peer].at + at,
                       piece_of(&call->give[peer], at));
        fake_close();
        going = nccl_meet(comm);
        fake_open();
        for (int peer = 0; going && peer < comm->world; peer++)
            if (piece_of(&call->take[peer], at) > 0)
                memcpy(call->take[peer].at + at, comm->shared->slot[peer] + comm->rank * PARCEL,
                       piece_of(&call->take[peer], at));
        fake_close();
        going = going && nccl_meet(comm);
    }
}

/* Calls of one communicator are made one after the other, whatever streams they are on. */
static bool come_to_turn(const struct call *call)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};

    while (atomic_load(&call->comm->done) != call->turn) {
        if (atomic_load(&call->comm->aborted))
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

static void work(void *arg)
{
    struct call *call = arg;
    ds_nccl_comm *comm = call->comm;
    bool going = come_to_turn(call);

    if (going && call->swap)
        swap(call);
    for (size_t at = 0; going && at < call->bytes; at += SLOT) {
        size_t bytes = call->bytes - at < SLOT ? call->bytes - at : SLOT;

        fake_open();
        memcpy(comm->shared->slot[comm->rank], call->from + at, bytes);
        fake_close();
        going = nccl_meet(comm);
        fake_open();
        if (going && !call->gather)
            take_sums(call, at, bytes);
        for (int i = 0; going && call->gather && i < comm->world; i++)
            memcpy(call->to + (size_t)i * call->bytes + at, comm->shared->slot[i], bytes);
        fake_close();
        going = going && nccl_meet(comm);
    }
    atomic_fetch_add(&comm->done, 1);
    atomic_fetch_sub(&comm->queued, 1);
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

/* A collective on its way into the stream. */
struct entry {
    struct call *call;
    cudaStream_t stream;
};

/* The first collective connects the ranks: it waits for them on the host. */
static void *enter(void *arg)
{
    struct entry *entry = arg;
    ds_nccl_comm *comm = entry->call->comm;
    bool all = comm->connected || nccl_meet(comm);

    comm->connected = true;
    if (all) {
        atomic_fetch_add(&comm->queued, 1);
        fake_defer(entry->stream, work, entry->call);
    } else {
        free(entry->call);
    }
    atomic_store(&comm->state, all ? DS_NCCL_OK : REMOTE_ERROR);
    free(entry);
    return NULL;
}

/* Calls of two threads come in an order that no rank knows of the others, and may wait for each
 * other for ever. */
static bool is_another_thread(void)
{
    static _Thread_local char mine;
    static char *_Atomic caller;
    char *nobody = NULL;

    if (atomic_compare_exchange_strong(&caller, &nobody, &mine) || nobody == &mine)
        return false;
    fprintf(stderr, "fake NCCL: a second thread of rank %s calls\n", getenv("RANK"));
    return true;
}

static int queue(struct call wanted, cudaStream_t stream)
{
    static unsigned calls;
    const char *never = getenv("FAKE_NCCL_NEVER"), *rank = getenv("RANK"),
               *wish = nccl_wish_of("async");
    struct call *call = malloc(sizeof(*call));
    struct entry *entry = malloc(sizeof(*entry));
    int refused = is_another_thread() ? INVALID_USAGE : nccl_not_ready(wanted.comm);
    char mine[32];

    if (call == NULL || entry == NULL)
        abort();
    calls++;
    snprintf(mine, sizeof(mine), "%s:%u", rank != NULL ? rank : "0", calls);
    if (never != NULL && strncmp(never, mine, strlen(mine)) == 0)
        sleep_for_ever(never + strlen(mine));
    if (refused != 0) {
        free(call);
        free(entry);
        return refused;
    }
    if (wish != NULL && calls >= LATE_CALL) {
        free(call);
        free(entry);
        atomic_store(&wanted.comm->state, (int)strtol(wish, NULL, 10));
        return DS_NCCL_IN_PROGRESS;
    }
    *call = wanted;
    call->turn = wanted.comm->called++;
    *entry = (struct entry){.call = call, .stream = stream};
    return nccl_go_on(wanted.comm, enter, entry);
}

int ncclAllReduce(const void *from, void *to, size_t n, int type, int op, ds_nccl_comm *comm,
                  void *stream)
{
    const size_t size = size_of(type);

    if (size == 0 || op != DS_NCCL_SUM)
        return INVALID_ARGUMENT;
    return queue((struct call){.comm = comm,
                               .from = from,
                               .to = to,
                               .bytes = n * size,
                               .end = n * size,
                               .size = size,
                               .type = type},
                 stream);
}

int ncclReduceScatter(const void *from, void *to, size_t n, int type, int op, ds_nccl_comm *comm,
                      void *stream)
{
    const size_t size = size_of(type), shard = n * size, first = (size_t)comm->rank * shard;

    if (size == 0 || op != DS_NCCL_SUM)
        return INVALID_ARGUMENT;
    return queue((struct call){.comm = comm,
                               .from = from,
                               .to = to,
                               .bytes = shard * (size_t)comm->world,
                               .first = first,
                               .end = first + shard,
                               .size = size,
                               .type = type},
                 stream);
}

int ncclAllGather(const void *from, void *to, size_t n, int type, ds_nccl_comm *comm, void *stream)
{
    if (type != DS_NCCL_BYTE)
        return INVALID_ARGUMENT;
    return queue((struct call){.comm = comm, .from = from, .to = to, .bytes = n, .gather = true},
                 stream);
}

/* --- groups of parcels
 * -------------------------------------------------------------------------- */

/* What this thread has begun; one communicator and one stream, and nothing inside but parcels. */
static _Thread_local struct {
    bool open, used;
    struct call call;
    cudaStream_t stream;
} group;

int ncclGroupStart(void)
{
    if (group.open)
        return INVALID_USAGE;
    memset(&group, 0, sizeof(group));
    group.open = true;
    return DS_NCCL_OK;
}

static int add_parcel(bool gives, struct parcel parcel, int type, int peer, ds_nccl_comm *comm,
                      cudaStream_t stream)
{
    struct parcel *place = gives ? &group.call.give[peer] : &group.call.take[peer];

    if (!group.open || (group.used && (group.call.comm != comm || group.stream != stream)))
        return INVALID_USAGE;
    if (type != DS_NCCL_BYTE || peer < 0 || peer >= comm->world || parcel.bytes == 0 ||
        place->bytes != 0)
        return INVALID_ARGUMENT;
    group.used = true;
    group.call.comm = comm;
    group.call.swap = true;
    group.stream = stream;
    *place = parcel;
    return DS_NCCL_OK;
}

int ncclSend(const void *from, size_t n, int type, int peer, ds_nccl_comm *comm, void *stream)
{
    const char *wish = nccl_wish_of("send");

    if (wish != NULL && comm->rank > 0)
        return (int)strtol(wish, NULL, 10);
    return add_parcel(true, (struct parcel){(char *)(uintptr_t)from, n}, type, peer, comm, stream);
}

int ncclRecv(void *to, size_t n, int type, int peer, ds_nccl_comm *comm, void *stream)
{
    return add_parcel(false, (struct parcel){to, n}, type, peer, comm, stream);
}

int ncclGroupEnd(void)
{
    if (!group.open)
        return INVALID_USAGE;
    group.open = false;
    return group.used ? queue(group.call, group.stream) : DS_NCCL_OK;
}
