/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * comm.c - checks, dispatch and counters; the contract is in comm.h.
 */
#include "runtime/comm/comm.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "runtime/comm/backend.h"

/* The last place is a plug-in's. */
static const struct ds_comm_backend *backends[] = {&ds_comm_backend_host, NULL};

void ds_comm_add(const struct ds_comm_backend *backend)
{
    backends[sizeof(backends) / sizeof(backends[0]) - 1] = backend;
}

static int check_args(const struct ds_comm_args *args, struct ds_error *err)
{
    if (args->world == 0 || args->world > DS_MAX_SLOTS)
        return ds_fail(err, EINVAL, "world size %u is not in 1 to %d", args->world, DS_MAX_SLOTS);
    if (args->rank >= args->world)
        return ds_fail(err, EINVAL, "rank %u is not below world size %u", args->rank, args->world);
    if (args->meet != NULL && (args->local_world == 0 || args->local_world > args->world ||
                               args->local_rank >= args->local_world))
        return ds_fail(err, EINVAL, "rank %u of %u on a host does not fit a world of %u",
                       args->local_rank, args->local_world, args->world);
    if (args->control == NULL && args->shm_fd < 0 &&
        (args->meet != NULL ? args->local_world : args->world) > 1)
        return ds_fail(err, EINVAL, "%u ranks need shared memory and there is none", args->world);
    return 0;
}

int ds_comm_open(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err)
{
    const size_t count = sizeof(backends) / sizeof(backends[0]);
    int rc = check_args(args, err);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < count; i++)
        if (backends[i] != NULL && strcmp(backends[i]->name, args->backend) == 0)
            return backends[i]->open(comm, args, err);
    return ds_fail(err, ENOTSUP, "no communication backend '%s', use '%s'", args->backend,
                   backends[0]->name);
}

/* A group is kept for who splits off the same one again: its room in the region is given out once,
 * and NCCL takes long to connect ranks. */
void ds_comm_close(struct ds_comm *comm)
{
    struct ds_comm *parent = comm != NULL ? comm->parent : NULL;

    for (unsigned i = 0; parent != NULL && i < DS_COMM_MAX_GROUPS; i++)
        if (parent->idle[i] == NULL) {
            parent->idle[i] = comm;
            return;
        }
    for (unsigned i = 0; comm != NULL && i < DS_COMM_MAX_GROUPS; i++)
        if (comm->idle[i] != NULL)
            comm->backend->close(comm->idle[i]);
    if (comm != NULL)
        comm->backend->close(comm);
}

void *ds_comm_arena(struct ds_comm *comm)
{
    return comm->backend->arena(comm);
}

void *ds_comm_border(struct ds_comm *comm)
{
    return comm->backend->border != NULL ? comm->backend->border(comm) : NULL;
}

void ds_comm_abort(struct ds_comm *comm)
{
    comm->backend->abort(comm);
}

int ds_comm_check(struct ds_comm *comm, struct ds_error *err)
{
    return comm->backend->check != NULL ? comm->backend->check(comm, err) : 0;
}

unsigned ds_comm_rank(const struct ds_comm *comm)
{
    return comm->rank;
}

unsigned ds_comm_world(const struct ds_comm *comm)
{
    return comm->world;
}

void ds_comm_use_stream(struct ds_comm *comm, struct ds_stream *stream)
{
    comm->stream = stream;
}

void ds_comm_op_stats(const struct ds_comm *comm, enum ds_comm_op op, struct ds_comm_stats *stats)
{
    *stats = comm->stats[op];
}

void ds_comm_stats(const struct ds_comm *comm, struct ds_comm_stats *stats)
{
    *stats = (struct ds_comm_stats){0};
    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++) {
        stats->calls += comm->stats[op].calls;
        stats->bytes += comm->stats[op].bytes;
        stats->sent += comm->stats[op].sent;
        stats->lent += comm->stats[op].lent;
        stats->wait_ns += comm->stats[op].wait_ns;
        stats->work_ns += comm->stats[op].work_ns;
    }
}

static int dispatch(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds_comm_stats *stats = &comm->stats[call->op];
    uint64_t waited = comm->wait_ns, sent = comm->sent_bytes, lent = comm->lent_bytes;
    uint64_t began = ds_clock_mono_ns();
    int rc = comm->backend->run[call->op](comm, call, err);

    waited = comm->wait_ns - waited;
    stats->wait_ns += waited;
    stats->sent += comm->sent_bytes - sent;
    stats->lent += comm->lent_bytes - lent;
    stats->work_ns += ds_clock_mono_ns() - began - waited;
    if (rc < 0)
        return rc;
    stats->calls++;
    if (ds__call_gives(call, comm->rank))
        stats->bytes += ds_comm_wire_bytes(call->op, call->bytes, comm->world);
    return 0;
}

/* A vector of n elements of `size` bytes. */
static int vector_call(struct ds_comm *comm, enum ds_comm_op op, void *buf, size_t n, size_t size,
                       struct ds_error *err)
{
    if (n > SIZE_MAX / 2 / size)
        return ds_fail(err, EINVAL, "%s of %zu elements does not fit in memory",
                       ds_comm_op_name(op), n);
    return dispatch(comm, &(struct ds_comm_call){.op = op, .buf = buf, .bytes = n * size}, err);
}

static int check_shards(const struct ds_comm *comm, enum ds_comm_op op, size_t n,
                        struct ds_error *err)
{
    if (n % comm->world != 0)
        return ds_fail(err, EINVAL, "%s of %zu elements cannot be cut into %u equal shards",
                       ds_comm_op_name(op), n, comm->world);
    return 0;
}

int ds_comm_barrier(struct ds_comm *comm, struct ds_error *err)
{
    return dispatch(comm, &(struct ds_comm_call){.op = DS_COMM_BARRIER}, err);
}

int ds_comm_all_reduce_f32(struct ds_comm *comm, float *buf, size_t n, struct ds_error *err)
{
    return vector_call(comm, DS_COMM_ALL_REDUCE_F32, buf, n, sizeof(*buf), err);
}

int ds_comm_all_reduce_f64(struct ds_comm *comm, double *buf, size_t n, struct ds_error *err)
{
    if (n > DS_COMM_MAX_F64)
        return ds_fail(err, EINVAL, "all_reduce_f64 of %zu elements, at most %d are taken", n,
                       DS_COMM_MAX_F64);
    return vector_call(comm, DS_COMM_ALL_REDUCE_F64, buf, n, sizeof(*buf), err);
}

int ds_comm_reduce_scatter_f32(struct ds_comm *comm, float *buf, size_t n, struct ds_error *err)
{
    int rc = check_shards(comm, DS_COMM_REDUCE_SCATTER, n, err);

    return rc < 0 ? rc : vector_call(comm, DS_COMM_REDUCE_SCATTER, buf, n, sizeof(*buf), err);
}

int ds_comm_all_reduce_bf16(struct ds_comm *comm, uint16_t *buf, size_t n, struct ds_error *err)
{
    return vector_call(comm, DS_COMM_ALL_REDUCE_BF16, buf, n, sizeof(*buf), err);
}

int ds_comm_reduce_scatter_bf16(struct ds_comm *comm, uint16_t *buf, size_t n, struct ds_error *err)
{
    int rc = check_shards(comm, DS_COMM_REDUCE_SCATTER_BF16, n, err);

    return rc < 0 ? rc : vector_call(comm, DS_COMM_REDUCE_SCATTER_BF16, buf, n, sizeof(*buf), err);
}

int ds_comm_all_reduce_f16(struct ds_comm *comm, uint16_t *buf, size_t n, struct ds_error *err)
{
    return vector_call(comm, DS_COMM_ALL_REDUCE_F16, buf, n, sizeof(*buf), err);
}

int ds_comm_all_gather(struct ds_comm *comm, void *buf, size_t bytes, struct ds_error *err)
{
    int rc = check_shards(comm, DS_COMM_ALL_GATHER, bytes, err);

    return rc < 0 ? rc : vector_call(comm, DS_COMM_ALL_GATHER, buf, bytes, 1, err);
}

static int check_bytes(const struct ds_comm *comm, enum ds_comm_op op, size_t bytes,
                       struct ds_error *err)
{
    int rc = check_shards(comm, op, bytes, err);

    if (rc == 0 && bytes > SIZE_MAX / 2)
        rc = ds_fail(err, EINVAL, "%s of %zu bytes does not fit in memory", ds_comm_op_name(op),
                     bytes);
    return rc;
}

int ds_comm_all_gather_from(struct ds_comm *comm, const void *shard, void *buf, size_t bytes,
                            struct ds_error *err)
{
    const struct ds_comm_call call = {
        .op = DS_COMM_ALL_GATHER, .from = shard, .buf = buf, .bytes = bytes};
    int rc = check_bytes(comm, call.op, bytes, err);

    return rc < 0 ? rc : dispatch(comm, &call, err);
}

/* What is given away is not what is taken. */
static int check_apart(const struct ds_comm_call *call, struct ds_error *err)
{
    uintptr_t give = (uintptr_t)call->from, take = (uintptr_t)call->buf;

    if ((give > take ? give - take : take - give) < call->bytes)
        return ds_fail(err, EINVAL,
                       "%s of %zu bytes cannot read and write the same memory, give it two buffers",
                       ds_comm_op_name(call->op), call->bytes);
    return 0;
}

int ds_comm_all_to_all(struct ds_comm *comm, const void *from, void *to, size_t bytes,
                       struct ds_error *err)
{
    const struct ds_comm_call call = {
        .op = DS_COMM_ALL_TO_ALL, .from = from, .buf = to, .bytes = bytes};
    int rc = check_bytes(comm, call.op, bytes, err);

    if (rc == 0)
        rc = check_apart(&call, err);
    return rc < 0 ? rc : dispatch(comm, &call, err);
}

int ds_comm_pass(struct ds_comm *comm, const void *give, void *take, size_t bytes,
                 struct ds_error *err)
{
    const unsigned me = 1U << comm->rank, other = 3U & ~me;
    const struct ds_comm_call call = {.op = DS_COMM_PASS,
                                      .root = (give != NULL ? me : 0) | (take != NULL ? other : 0),
                                      .from = give,
                                      .buf = take,
                                      .bytes = bytes};
    int rc = 0;

    if (comm->world != 2)
        return ds_fail(err, EINVAL, "pass needs a group of two ranks, not of %u", comm->world);
    if (bytes > SIZE_MAX / 4)
        return ds_fail(err, EINVAL, "pass of %zu bytes does not fit in memory", bytes);
    if (call.root == 0)
        return ds_fail(err, EINVAL, "pass of %zu bytes neither gives nor takes", bytes);
    if (give != NULL && take != NULL)
        rc = check_apart(&call, err);
    return rc < 0 ? rc : dispatch(comm, &call, err);
}

int ds_comm_broadcast(struct ds_comm *comm, void *buf, size_t bytes, unsigned root,
                      struct ds_error *err)
{
    struct ds_comm_call call = {.op = DS_COMM_BROADCAST, .root = root, .buf = buf, .bytes = bytes};

    if (root >= comm->world)
        return ds_fail(err, EINVAL, "broadcast from rank %u, world size is %u", root, comm->world);
    return dispatch(comm, &call, err);
}

/* --- groups -------------------------------------------------------------------------------- */

static int check_group(const struct ds_comm *comm, const struct ds_comm_group *group,
                       struct ds_error *err)
{
    if (comm->is_group)
        return ds_fail(err, EINVAL, "a group cannot be split again");
    if (group->count == 0 || group->stride == 0 || group->first >= comm->world ||
        (group->count - 1) > (comm->world - 1 - group->first) / group->stride)
        return ds_fail(err, EINVAL, "no group of %u ranks from %u by %u in a world of %u",
                       group->count, group->first, group->stride, comm->world);
    if (comm->rank < group->first || (comm->rank - group->first) % group->stride != 0 ||
        (comm->rank - group->first) / group->stride >= group->count)
        return ds_fail(err, EINVAL, "rank %u is not in the group of %u ranks from %u by %u",
                       comm->rank, group->count, group->first, group->stride);
    return 0;
}

static bool same_group(const struct ds_comm_group *a, const struct ds_comm_group *b)
{
    return a->first == b->first && a->stride == b->stride && a->count == b->count;
}

/* Do the members of the group of `rank` all show that group?  The answer is the same everywhere. */
static int compare_groups(const struct ds_comm_group *all, unsigned rank, struct ds_error *err)
{
    const struct ds_comm_group *group = &all[rank];

    for (unsigned i = 0; i < group->count; i++) {
        unsigned other = group->first + i * group->stride;

        if (!same_group(group, &all[other]))
            return ds_fail(err, EPROTO,
                           "rank %u splits off %u ranks from %u by %u, rank %u %u from %u by %u",
                           rank, group->count, group->first, group->stride, other, all[other].count,
                           all[other].first, all[other].stride);
        if (i == 0 && other != rank)
            return 0; /* the first member compares for all */
    }
    return 0;
}

/* Everyone shows its group; one that does not fit ends the split for all. */
static int agree_on_groups(struct ds_comm *comm, const struct ds_comm_group *group,
                           struct ds_error *err)
{
    struct ds_comm_group *all = calloc(comm->world, sizeof(*all));
    int rc;

    if (all == NULL)
        return ds_fail(err, ENOMEM, "no memory for a group of %u ranks", group->count);
    all[comm->rank] = *group;
    rc = ds_comm_all_gather(comm->control != NULL ? comm->control : comm, all,
                            comm->world * sizeof(*all), err);
    for (unsigned rank = 0; rc == 0 && rank < comm->world; rank++)
        rc = compare_groups(all, rank, err);
    free(all);
    return rc;
}

/* The same group, closed before, as if it were new; or NULL.  All members closed it. */
static struct ds_comm *take_idle(struct ds_comm *comm, const struct ds_comm_group *group)
{
    for (unsigned i = 0; i < DS_COMM_MAX_GROUPS; i++) {
        struct ds_comm *idle = comm->idle[i];

        if (idle == NULL || !same_group(&idle->group, group))
            continue;
        comm->idle[i] = NULL;
        idle->stream = NULL;
        memset(idle->stats, 0, sizeof(idle->stats));
        return idle;
    }
    return NULL;
}

int ds_comm_split(struct ds_comm *comm, const struct ds_comm_group *group, struct ds_comm **out,
                  struct ds_error *err)
{
    struct ds_comm *idle;
    int rc = check_group(comm, group, err);

    if (rc == 0)
        rc = agree_on_groups(comm, group, err);
    if (rc != 0)
        return rc;
    idle = take_idle(comm, group);
    if (idle != NULL) {
        *out = idle;
        return 0;
    }
    if (comm->groups == DS_COMM_MAX_GROUPS)
        return ds_fail(err, EINVAL, "a rank splits off at most %d groups", DS_COMM_MAX_GROUPS);
    rc = comm->backend->split(comm, group, out, err);
    if (rc != 0)
        return rc;
    (*out)->parent = comm;
    (*out)->group = *group;
    return 0;
}
