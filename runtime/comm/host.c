/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * host.c - the backend `host`: ranks on CPUs, of one host or of several.  Its files are named in
 * host.h.
 */
#include "runtime/comm/host.h"

#include <errno.h>
#include <stdlib.h>

#include "runtime/comm/comm.h"

static struct ds__host *host_of(struct ds_comm *comm)
{
    return (struct ds__host *)comm;
}

static void host_close(struct ds_comm *comm)
{
    struct ds__host *host = host_of(comm);

    ds__net_release(&host->net);
    ds__mesh_close(&host->mesh);
    ds__region_close(&host->store);
    free(host);
}

static struct ds__host *make(unsigned rank, unsigned world, struct ds_error *err)
{
    struct ds__host *host = calloc(1, sizeof(*host));

    if (host == NULL) {
        (void)ds_fail(err, ENOMEM, "no memory for a group of %u ranks", world);
        return NULL;
    }
    host->base.backend = &ds_comm_backend_host;
    host->base.rank = rank;
    host->base.world = world;
    host->root = host;
    return host;
}

/* The number of the host that `rank` of all is on; without a mesh there is but one. */
static unsigned node_of(const struct ds__host *root, unsigned rank)
{
    return root->mesh.world == 0 ? 0 : root->mesh.peer[rank].node;
}

/* Who of the group is here, in the order of ranks, and how the others are reached.  Rank i of the
 * group is rank first + i * stride of all. */
static int seat_members(struct ds__host *host, const struct ds_comm_group *group,
                        struct ds_error *err)
{
    const struct ds__host *root = host->root;
    unsigned mine = node_of(root, group->first + host->base.rank * group->stride);
    unsigned desk = 0, members = 0, *nodes = calloc(2 * (size_t)group->count, sizeof(*nodes));
    struct ds__net_args net = {.mesh = &root->mesh,
                               .sync = &host->sync,
                               .me = host->base.rank,
                               .ranks = group->count,
                               .slot = host->sync.slot,
                               .host_of = nodes,
                               .scratch = host->scratch};
    int rc = 0;

    if (nodes == NULL)
        return ds_fail(err, ENOMEM, "no memory for a group of %u ranks", group->count);
    for (unsigned rank = 0, i = 0; rank < root->base.world && i < group->count; rank++) {
        bool in = rank == group->first + i * group->stride;

        if (in && node_of(root, rank) == mine) {
            host->sync.me = i == host->base.rank ? members : host->sync.me;
            host->desk[members] = desk;
            host->name[members++] = rank;
        }
        if (in) {
            nodes[i] = node_of(root, rank);
            nodes[group->count + i] = rank;
            i++;
        }
        desk += node_of(root, rank) == mine;
    }
    host->sync.members = members;
    net.name = nodes + group->count;
    if (members < group->count)
        rc = ds__net_init(&host->net, &net, err);
    free(nodes);
    return rc;
}

static int open_region(struct ds__host *host, const struct ds_comm_args *args, struct ds_error *err)
{
    const bool far = args->meet != NULL;
    const struct ds__region_args region = {
        .rank = far ? args->local_rank : args->rank,
        .ranks = far ? args->local_world : args->world,
        .name = args->rank,
        .shm_fd = far && args->local_world == 1 ? -1 : args->shm_fd,
        .arena_bytes = args->arena_bytes,
        .common_bytes = args->common_bytes,
        .beside_bytes = args->beside_bytes,
        .windows = far && args->local_world < args->world,
    };

    return ds__region_open(&host->store, &region, err);
}

/* What the ranks told must be what the agent told. */
static int check_members(const struct ds__host *host, const struct ds_comm_args *args,
                         struct ds_error *err)
{
    if (args->meet == NULL ||
        (host->sync.members == args->local_world && host->sync.me == args->local_rank))
        return 0;
    return ds_fail(err, EPROTO, "rank %u is %u of %u on its host, others count %u of %u",
                   args->rank, args->local_rank, args->local_world, host->sync.me,
                   host->sync.members);
}

static int host_open(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err)
{
    const struct ds_comm_group all = {.first = 0, .stride = 1, .count = args->world};
    struct ds__host *host = make(args->rank, args->world, err);
    int rc;

    if (host == NULL)
        return -ENOMEM;
    rc = open_region(host, args, err);
    if (rc == 0 && args->meet != NULL && args->local_world < args->world)
        rc = ds__mesh_open(&host->mesh, args->rank, args->world, args->meet, err);
    host->sync = (struct ds__sync){
        .region = &host->store,
        .desk = host->desk,
        .name = host->name,
        .spin = args->spin,
        .timeout_ns = args->timeout_ms > UINT64_MAX / 1000000 ? 0 : args->timeout_ms * 1000000,
    };
    if (rc == 0)
        rc = seat_members(host, &all, err);
    if (rc == 0)
        rc = check_members(host, args, err);
    if (rc < 0) {
        host_close(&host->base);
        return rc;
    }
    host->sync.gate = ds__region_gate(&host->store, 0, 0);
    *comm = &host->base;
    return 0;
}

/* Everyone on the host must see a slot in use before it may wait there, or an abort misses it. */
static void open_slot(struct ds__control *control, uint32_t slot)
{
    uint32_t seen = atomic_load(&control->slots);

    while (seen < slot && !atomic_compare_exchange_weak(&control->slots, &seen, slot))
        continue;
}

static int host_split(struct ds_comm *comm, const struct ds_comm_group *group, struct ds_comm **out,
                      struct ds_error *err)
{
    const struct ds_comm_call none = {.op = DS_COMM_BARRIER};
    struct ds__host *root = host_of(comm);
    struct ds__host *host = make((comm->rank - group->first) / group->stride, group->count, err);
    int rc;

    if (host == NULL)
        return -ENOMEM;
    host->root = root;
    host->base.is_group = true;
    host->sync = root->sync;
    host->sync.wait_ns = 0;
    host->sync.slot = ++comm->groups;
    host->sync.desk = host->desk;
    host->sync.name = host->name;
    rc = seat_members(host, group, err);
    if (rc == 0) {
        host->sync.gate = ds__region_gate(host->sync.region, host->desk[0], host->sync.slot);
        open_slot(ds__region_control(host->sync.region), host->sync.slot);
        rc = ds__shm_meet(comm, &none, err); /* an abort before is seen here, a later one there */
    }
    if (rc < 0) {
        host_close(&host->base);
        return rc;
    }
    *out = &host->base;
    return 0;
}

static void *host_arena(struct ds_comm *comm)
{
    struct ds__host *host = host_of(comm);

    return ds__region_arena(host->sync.region, host->desk[host->sync.me]);
}

static void *host_border(struct ds_comm *comm)
{
    const struct ds__region *region = host_of(comm)->sync.region;

    return ds__region_common(region) + region->common_bytes;
}

static void host_abort(struct ds_comm *comm)
{
    struct ds__host *host = host_of(comm);

    ds__sync_abort_all(host->sync.region, host->name[host->sync.me]);
    if (host->root->mesh.world > 0)
        ds__mesh_abort(&host->root->mesh);
}

/* --- inside a host or between hosts ----------------------------------------------------------- */

static int meet(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    return ds__host_has_net(host_of(comm)) ? ds__net_all_reduce_f64(comm, call, err)
                                           : ds__shm_meet(comm, call, err);
}

static int all_reduce(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    return ds__host_has_net(host_of(comm)) ? ds__net_vector(comm, call, err)
                                           : ds__shm_all_reduce(comm, call, err);
}

static int all_reduce_f64(struct ds_comm *comm, const struct ds_comm_call *call,
                          struct ds_error *err)
{
    return ds__host_has_net(host_of(comm)) ? ds__net_all_reduce_f64(comm, call, err)
                                           : ds__shm_all_reduce_f64(comm, call, err);
}

static int reduce_scatter(struct ds_comm *comm, const struct ds_comm_call *call,
                          struct ds_error *err)
{
    return ds__host_has_net(host_of(comm)) ? ds__net_vector(comm, call, err)
                                           : ds__shm_reduce_scatter(comm, call, err);
}

static int all_gather(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    return ds__host_has_net(host_of(comm)) ? ds__net_vector(comm, call, err)
                                           : ds__shm_all_gather(comm, call, err);
}

static int broadcast(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    return ds__host_has_net(host_of(comm)) ? ds__net_vector(comm, call, err)
                                           : ds__shm_broadcast(comm, call, err);
}

const struct ds_comm_backend ds_comm_backend_host = {
    .name = "host",
    .open = host_open,
    .split = host_split,
    .close = host_close,
    .arena = host_arena,
    .border = host_border,
    .abort = host_abort,
    .run =
        {
            [DS_COMM_BARRIER] = meet,
            [DS_COMM_ALL_REDUCE_F32] = all_reduce,
            [DS_COMM_ALL_REDUCE_F64] = all_reduce_f64,
            [DS_COMM_REDUCE_SCATTER] = reduce_scatter,
            [DS_COMM_ALL_GATHER] = all_gather,
            [DS_COMM_BROADCAST] = broadcast,
            [DS_COMM_ALL_REDUCE_BF16] = all_reduce,
            [DS_COMM_REDUCE_SCATTER_BF16] = reduce_scatter,
            [DS_COMM_ALL_REDUCE_F16] = all_reduce,
            [DS_COMM_ALL_TO_ALL] = ds__swap,
            [DS_COMM_PASS] = ds__swap,
        },
};
