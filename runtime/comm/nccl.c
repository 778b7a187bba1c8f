/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl.c - open, split, close and the collectives; the contract is in nccl.h.
 */
#include "runtime/comm/nccl.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "kernels/device.h"

enum { POLL_NS = 200 * 1000, SHORT_POLL_NS = 5 * 1000 };

struct nccl { /* a group as one rank sees it */
    struct ds_comm base;
    struct ds__nccl_root *root;
    ds_nccl_comm *comm; /* NULL in a world of one */
    void *listed;       /* what NCCL knows the arena by */
};

static struct nccl *nccl_of(struct ds_comm *comm)
{
    return (struct nccl *)(void *)comm;
}

/* Has NCCL taken a call, or is it taking it in? */
static bool taken(int result)
{
    return result == DS_NCCL_OK || result == DS_NCCL_IN_PROGRESS;
}

int ds__nccl_check(const struct ds__nccl_root *root, int result, const char *what,
                   struct ds_error *err)
{
    if (taken(result))
        return 0;
    return ds_fail(err, EREMOTEIO, "NCCL cannot %s on rank %u: %s (NCCL_DEBUG=INFO tells more)",
                   what, root->rank, root->lib.error_string(result));
}

/* Why nothing can be done any more. */
static int told(const struct ds__nccl_root *root, struct ds_error *err)
{
    if (err != NULL)
        *err = root->err;
    return root->failure;
}

int ds__nccl_settle(struct ds__nccl_root *root, ds_nccl_comm *comm, const char *what,
                    struct ds_error *err)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    uint64_t began = ds_clock_mono_ns();
    int result = DS_NCCL_IN_PROGRESS, rc;

    while (result == DS_NCCL_IN_PROGRESS) {
        rc = ds__nccl_check(root, root->lib.async_error(comm, &result), what, err);
        if (rc == 0)
            rc = ds__nccl_check(root, result, what, err);
        if (rc != 0)
            return rc;
        if (result != DS_NCCL_IN_PROGRESS)
            return 0;
        if (atomic_load(&root->wanted))
            return ds_fail(err, ECANCELED, "another rank has failed");
        if (root->timeout_ns > 0 && ds_clock_mono_ns() - began > root->timeout_ns)
            return ds_fail(err, ETIMEDOUT, "NCCL did not %s on rank %u within %llu s", what,
                           root->rank, (unsigned long long)(root->timeout_ns / 1000000000));
        (void)nanosleep(&pause, NULL);
    }
    return 0;
}

static struct ds_nccl_config config(void)
{
    return (struct ds_nccl_config){
        .size = sizeof(struct ds_nccl_config),
        .magic = DS_NCCL_CONFIG_MAGIC,
        .version = DS_NCCL_MIN_VERSION,
        .blocking = 0,
        .cga_cluster_size = INT_MIN, /* NCCL's own choice */
        .min_ctas = INT_MIN,
        .max_ctas = INT_MIN,
        .split_share = INT_MIN,
        .traffic_class = INT_MIN,
    };
}

static struct nccl *make(struct ds__nccl_root *root, unsigned rank, unsigned world,
                         struct ds_error *err)
{
    struct nccl *nccl = calloc(1, sizeof(*nccl));

    if (nccl == NULL) {
        (void)ds_fail(err, ENOMEM, "no memory for a group of %u ranks", world);
        return NULL;
    }
    nccl->base.backend = &ds_comm_backend_nccl;
    nccl->base.rank = rank;
    nccl->base.world = world;
    nccl->base.control = root->control;
    nccl->root = root;
    return nccl;
}

/* --- open and close
 * ----------------------------------------------------------------------------- */

/* A call on the host's memory. */
static int control(struct ds__nccl_root *root, enum ds_comm_op op, void *buf, size_t bytes,
                   struct ds_error *err)
{
    const struct ds_comm_call call = {.op = op, .buf = buf, .bytes = bytes};

    return root->control->backend->run[op](root->control, &call, err);
}

/* Rank 0's id for all; a rank that could not load NCCL shows no id, and nobody waits for it. */
static int agree_on_id(struct ds__nccl_root *root, int loaded, struct ds_nccl_id *id,
                       struct ds_error *err)
{
    double failed = 0.0;
    int rc = loaded;

    memset(id, 0, sizeof(*id));
    if (rc == 0 && root->rank == 0)
        rc = ds__nccl_check(root, root->lib.unique_id(id), "make an id", err);
    failed = rc != 0 ? 1.0 : 0.0;
    if (rc != 0)
        (void)control(root, DS_COMM_ALL_REDUCE_F64, &failed, sizeof(failed), NULL);
    else
        rc = control(root, DS_COMM_ALL_REDUCE_F64, &failed, sizeof(failed), err);
    if (rc == 0 && failed > 0.0)
        rc = ds_fail(err, ECANCELED, "another rank has failed");
    return rc != 0 ? rc : control(root, DS_COMM_BROADCAST, id, sizeof(*id), err);
}

static int connect_ranks(struct ds__nccl_root *root, ds_nccl_comm **comm, struct ds_error *err)
{
    struct ds_nccl_config wanted = config();
    struct ds_nccl_id id;
    int rc = agree_on_id(root, ds__nccl_load(&root->lib, err), &id, err);

    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&root->gate);
    rc = ds__nccl_check(root, root->lib.init(comm, (int)root->world, id, (int)root->rank, &wanted),
                        "start", err);
    if (rc == 0)
        rc = ds__nccl_settle(root, *comm, "connect the ranks", err);
    if (*comm != NULL)
        root->comm[root->comms++] = *comm;
    (void)pthread_mutex_unlock(&root->gate);
    return rc;
}

static int make_arena(struct ds__nccl_root *root, size_t bytes, struct ds_error *err)
{
    size_t left = 0, all = 0;
    cudaError_t error;
    int rc;

    if (bytes == 0)
        return 0;
    root->arena_bytes = bytes;
    if (root->world == 1)
        return ds_device_alloc(root->device, bytes, &root->arena, err);
    rc = ds__nccl_check(root, root->lib.mem_alloc(&root->arena, bytes), "allocate its memory", err);
    if (rc != 0 && cudaMemGetInfo(&left, &all) == cudaSuccess && left < bytes)
        rc = ds_fail(err, ENOMEM,
                     "no room for %zu bytes that ranks share, the GPU of rank %u has %zu free",
                     bytes, root->rank, left);
    if (rc != 0)
        return rc;
    root->arena_of_nccl = true;
    error = cudaMemset(root->arena, 0, bytes);
    if (error == cudaSuccess)
        error = cudaDeviceSynchronize();
    return error == cudaSuccess
               ? 0
               : ds_fail(err, EIO, "cannot clear memory: %s", cudaGetErrorString(error));
}

/* NCCL's own transports then read and write it in place. */
static int enlist(struct nccl *nccl, struct ds_error *err)
{
    struct ds__nccl_root *root = nccl->root;

    if (!root->arena_of_nccl || nccl->comm == NULL)
        return 0;
    return ds__nccl_check(
        root, root->lib.enlist(nccl->comm, root->arena, root->arena_bytes, &nccl->listed),
        "register its memory (NCCL_LOCAL_REGISTER=0 does without)", err);
}

static void release(struct ds__nccl_root *root)
{
    ds__nccl_unwatch(root);
    for (unsigned i = 0; i < DS_NCCL_NOTES; i++)
        if (root->note[i].end != NULL)
            (void)cudaEventDestroy(root->note[i].end);
    if (root->arena != NULL && root->arena_of_nccl)
        (void)root->lib.mem_free(root->arena);
    else if (root->arena != NULL)
        ds_device_free(root->device, root->arena, root->arena_bytes);
    (void)pthread_mutex_destroy(&root->gate);
    free(root);
}

/* Give a communicator back in peace; when one will not go all are aborted. */
static void finish(struct ds__nccl_root *root, ds_nccl_comm *comm, void *listed)
{
    struct ds_error err = {0};

    if (root->dead)
        return;
    if (listed != NULL)
        (void)root->lib.strike(comm, listed);
    if (ds__nccl_check(root, root->lib.finalize(comm), "end", &err) == 0 &&
        ds__nccl_settle(root, comm, "end", &err) == 0)
        (void)root->lib.destroy(comm);
    else
        ds__nccl_kill(root, -EREMOTEIO, &err);
}

static void nccl_close(struct ds_comm *comm)
{
    struct nccl *nccl = nccl_of(comm);
    struct ds__nccl_root *root = nccl->root;

    (void)pthread_mutex_lock(&root->gate);
    for (unsigned i = 0; i < root->comms; i++) {
        if (root->comm[i] != nccl->comm)
            continue;
        finish(root, nccl->comm, nccl->listed);
        root->comm[i] = root->comm[--root->comms];
        break;
    }
    (void)pthread_mutex_unlock(&root->gate);
    if (!comm->is_group)
        release(root);
    free(nccl);
}

static int prepare(struct ds__nccl_root *root, struct ds_error *err)
{
    cudaError_t error = cudaGetDevice(&root->index);

    for (unsigned i = 0; error == cudaSuccess && root->world > 1 && i < DS_NCCL_NOTES; i++)
        error = cudaEventCreateWithFlags(&root->note[i].end, cudaEventDisableTiming);
    return error == cudaSuccess
               ? 0
               : ds_fail(err, EIO, "cannot make events: %s", cudaGetErrorString(error));
}

static int nccl_open(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err)
{
    struct ds__nccl_root *root = calloc(1, sizeof(*root));
    struct nccl *nccl;
    int rc;

    if (root == NULL)
        return ds_fail(err, ENOMEM, "no memory for a group of %u ranks", args->world);
    root->control = args->control;
    root->board = args->board;
    root->device = args->device;
    root->rank = args->rank;
    root->world = args->world;
    root->timeout_ns = args->timeout_ms > UINT64_MAX / 1000000 ? 0 : args->timeout_ms * 1000000;
    (void)pthread_mutex_init(&root->gate, NULL);
    nccl = make(root, args->rank, args->world, err);
    if (nccl == NULL) {
        release(root);
        return -ENOMEM;
    }
    rc = prepare(root, err);
    if (rc == 0 && args->world > 1)
        rc = connect_ranks(root, &nccl->comm, err);
    if (rc == 0)
        rc = make_arena(root, args->arena_bytes, err);
    if (rc == 0)
        rc = enlist(nccl, err);
    if (rc == 0 && args->world > 1)
        rc = ds__nccl_watch(root, err);
    if (rc != 0) {
        nccl_close(&nccl->base);
        return rc;
    }
    *comm = &nccl->base;
    return 0;
}

/* The group's communicator, which NCCL stores when it is made, from a thread of its own: after a
 * failure all are aborted, so that nothing is stored any more when this returns. */
static int split_off(struct nccl *nccl, const struct nccl *parent, unsigned color,
                     struct ds_error *err)
{
    struct ds__nccl_root *root = nccl->root;
    struct ds_nccl_config wanted = config();
    struct ds_error why = {0};
    int rc = ds__nccl_check(
        root, root->lib.split(parent->comm, (int)color, (int)nccl->base.rank, &nccl->comm, &wanted),
        "split", &why);

    if (rc == 0)
        rc = ds__nccl_settle(root, parent->comm, "split", &why);
    if (rc == 0)
        rc = ds__nccl_settle(root, nccl->comm, "split", &why);
    if (nccl->comm != NULL)
        root->comm[root->comms++] = nccl->comm;
    if (rc == 0)
        rc = enlist(nccl, &why);
    if (rc == 0)
        return 0;
    ds__nccl_kill(root, rc, &why);
    return told(root, err);
}

static int nccl_split(struct ds_comm *comm, const struct ds_comm_group *group, struct ds_comm **out,
                      struct ds_error *err)
{
    struct nccl *parent = nccl_of(comm), *nccl;
    struct ds__nccl_root *root = parent->root;
    int rc = 0;

    nccl = make(root, (comm->rank - group->first) / group->stride, group->count, err);
    if (nccl == NULL)
        return -ENOMEM;
    nccl->base.is_group = true;
    (void)pthread_mutex_lock(&root->gate);
    if (root->dead)
        rc = told(root, err);
    else if (parent->comm != NULL) /* members agree on their first rank, and nobody else has it */
        rc = split_off(nccl, parent, group->first, err);
    (void)pthread_mutex_unlock(&root->gate);
    if (rc != 0) {
        nccl_close(&nccl->base);
        return rc;
    }
    comm->groups++;
    *out = &nccl->base;
    return 0;
}

static void *nccl_arena(struct ds_comm *comm)
{
    return nccl_of(comm)->root->arena;
}

/* The watchdog does it: it may take a lock. */
static void nccl_abort(struct ds_comm *comm)
{
    struct ds__nccl_root *root = nccl_of(comm)->root;

    atomic_store(&root->wanted, true);
    root->control->backend->abort(root->control);
}

static int nccl_check(struct ds_comm *comm, struct ds_error *err)
{
    struct ds__nccl_root *root = nccl_of(comm)->root;
    int rc = 0;

    (void)pthread_mutex_lock(&root->gate); /* while the watchdog aborts, it holds it */
    if (root->dead)
        rc = told(root, err);
    (void)pthread_mutex_unlock(&root->gate);
    return rc;
}

/* --- collectives
 * -------------------------------------------------------------------------------- */

/* The parts of this rank and of the others for each other, as one.  What was begun is ended, or
 * NCCL would wait for more with the next call. */
static int queue_parts(const struct nccl *nccl, const struct ds_comm_call *call)
{
    const struct ds__nccl_lib *lib = &nccl->root->lib;
    const unsigned world = nccl->base.world, me = nccl->base.rank;
    const size_t part = call->bytes / world;
    const unsigned char *from = call->from;
    unsigned char *to = call->buf;
    void *stream = ds_stream_handle(nccl->base.stream);
    int result = lib->group_start(), end;

    if (!taken(result))
        return result;
    for (unsigned i = 1; taken(result) && i < world; i++) {
        unsigned peer = (me + i) % world;

        result = lib->send(from + peer * part, part, DS_NCCL_BYTE, (int)peer, nccl->comm, stream);
        if (taken(result))
            result = lib->recv(to + peer * part, part, DS_NCCL_BYTE, (int)peer, nccl->comm, stream);
    }
    end = lib->group_end();
    return taken(result) ? end : result;
}

/* What goes to the other of two ranks and what comes from it, as one. */
static int queue_pass(const struct nccl *nccl, const struct ds_comm_call *call)
{
    const struct ds__nccl_lib *lib = &nccl->root->lib;
    const int peer = 1 - (int)nccl->base.rank;
    void *stream = ds_stream_handle(nccl->base.stream);
    int result = lib->group_start(), end;

    if (!taken(result))
        return result;
    if (call->from != NULL)
        result = lib->send(call->from, call->bytes, DS_NCCL_BYTE, peer, nccl->comm, stream);
    if (taken(result) && call->buf != NULL)
        result = lib->recv(call->buf, call->bytes, DS_NCCL_BYTE, peer, nccl->comm, stream);
    end = lib->group_end();
    return taken(result) ? end : result;
}

/* Hand a call to NCCL. */
static int queue_call(const struct nccl *nccl, const struct ds_comm_call *call)
{
    const struct ds__nccl_lib *lib = &nccl->root->lib;
    static const int types[] = {
        [DS_F32] = DS_NCCL_F32, [DS_BF16] = DS_NCCL_BF16, [DS_F16] = DS_NCCL_F16};
    const unsigned world = nccl->base.world;
    const size_t size = ds__op_elem_bytes(call->op), shard = call->bytes / world;
    const int type = types[ds__op_type(call->op)];
    unsigned char *buf = call->buf;
    unsigned char *mine = buf + nccl->base.rank * shard;
    void *stream = ds_stream_handle(nccl->base.stream);

    switch (call->op) {
    case DS_COMM_ALL_REDUCE_F32:
    case DS_COMM_ALL_REDUCE_BF16:
    case DS_COMM_ALL_REDUCE_F16:
        return lib->all_reduce(buf, buf, call->bytes / size, type, DS_NCCL_SUM, nccl->comm, stream);
    case DS_COMM_REDUCE_SCATTER:
    case DS_COMM_REDUCE_SCATTER_BF16:
        return lib->reduce_scatter(buf, mine, shard / size, type, DS_NCCL_SUM, nccl->comm, stream);
    case DS_COMM_ALL_TO_ALL: return queue_parts(nccl, call);
    case DS_COMM_PASS: return queue_pass(nccl, call);
    default:
        return lib->all_gather(call->from != NULL ? call->from : mine, buf, shard, DS_NCCL_BYTE,
                               nccl->comm, stream);
    }
}

/* Note what is begun, for the watchdog. */
static struct ds__nccl_note *note(struct ds__nccl_root *root, const struct nccl *nccl,
                                  const struct ds_comm_call *call)
{
    struct ds__nccl_note *note = &root->note[root->begun % DS_NCCL_NOTES];

    note->op = call->op;
    note->world = nccl->base.world;
    note->bytes = call->bytes;
    note->queued = false;
    root->begun++;
    return note;
}

/* Wait until NCCL has taken a collective in.  What connects the ranks waits for all of them: then
 * the watchdog looks at the note as at any other, and ends it. */
static int taken_in(struct ds__nccl_root *root, ds_nccl_comm *comm, const char *what,
                    struct ds_error *err)
{
    struct timespec pause = {.tv_nsec = SHORT_POLL_NS};

    for (;;) {
        int result = DS_NCCL_OK, rc = 0;

        if (root->dead)
            return told(root, err);
        rc = ds__nccl_check(root, root->lib.async_error(comm, &result), what, err);
        if (rc == 0)
            rc = ds__nccl_check(root, result, what, err);
        if (rc != 0 || result != DS_NCCL_IN_PROGRESS)
            return rc;
        (void)pthread_mutex_unlock(&root->gate);
        (void)nanosleep(&pause, NULL);
        (void)pthread_mutex_lock(&root->gate);
        if (pause.tv_nsec < POLL_NS)
            pause.tv_nsec *= 2;
    }
}

/* Hand it to NCCL, and say where in the stream it ends. */
static int queue(struct ds__nccl_root *root, const struct nccl *nccl,
                 const struct ds_comm_call *call, struct ds_error *err)
{
    const char *name = ds_comm_op_name(call->op);
    struct ds__nccl_note *noted = note(root, nccl, call);
    cudaError_t error;
    int rc = ds__nccl_check(root, queue_call(nccl, call), name, err);

    if (rc == 0)
        rc = taken_in(root, nccl->comm, name, err);
    if (rc != 0)
        return rc;
    error = cudaEventRecord(noted->end, (cudaStream_t)ds_stream_handle(nccl->base.stream));
    if (error != cudaSuccess)
        return ds_fail(err, EIO, "cannot record an event: %s", cudaGetErrorString(error));
    noted->queued = true;
    return 0;
}

/* Wait, without the gate, until there is room for one more note. */
static void make_room(struct ds__nccl_root *root)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};

    while (!root->dead && root->begun - root->ended >= DS_NCCL_NOTES) {
        (void)pthread_mutex_unlock(&root->gate);
        (void)nanosleep(&pause, NULL);
        (void)pthread_mutex_lock(&root->gate);
    }
}

static int run(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct nccl *nccl = nccl_of(comm);
    struct ds__nccl_root *root = nccl->root;
    int rc = 0;

    if (comm->world == 1 || call->bytes == 0)
        return 0;
    (void)pthread_mutex_lock(&root->gate);
    make_room(root);
    if (root->dead)
        rc = told(root, err);
    else
        rc = queue(root, nccl, call, err);
    (void)pthread_mutex_unlock(&root->gate);
    return rc;
}

/* The stream copies what a rank has for itself. */
static int all_to_all(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    size_t part = call->bytes / comm->world, at = comm->rank * part;
    int rc = ds_stream_copy(comm->stream, DS_COPY_ASIDE, (unsigned char *)call->buf + at,
                            (const unsigned char *)call->from + at, part, err);

    return rc != 0 ? rc : run(comm, call, err);
}

/* What is in the host's memory.  It waits for peers, so it comes after what the watchdog has
 * found. */
static int run_control(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__nccl_root *root = nccl_of(comm)->root;
    int rc = root->control->backend->run[call->op](root->control, call, err);

    (void)pthread_mutex_lock(&root->gate);
    if (rc != 0 && root->dead && root->failure != -ECANCELED)
        rc = told(root, err);
    (void)pthread_mutex_unlock(&root->gate);
    return rc;
}

const struct ds_comm_backend ds_comm_backend_nccl = {
    .name = "nccl",
    .open = nccl_open,
    .split = nccl_split,
    .close = nccl_close,
    .arena = nccl_arena,
    .abort = nccl_abort,
    .check = nccl_check,
    .run =
        {
            [DS_COMM_BARRIER] = run_control,
            [DS_COMM_ALL_REDUCE_F32] = run,
            [DS_COMM_ALL_REDUCE_F64] = run_control,
            [DS_COMM_ALL_REDUCE_BF16] = run,
            [DS_COMM_REDUCE_SCATTER_BF16] = run,
            [DS_COMM_ALL_REDUCE_F16] = run,
            [DS_COMM_REDUCE_SCATTER] = run,
            [DS_COMM_ALL_GATHER] = run,
            [DS_COMM_BROADCAST] = run_control,
            [DS_COMM_ALL_TO_ALL] = all_to_all,
            [DS_COMM_PASS] = run,
        },
};
