/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * host.c - the backend `host`: ranks on CPUs.  Its files are named in host.h.
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
    return host;
}

static int host_open(struct ds_comm **comm, const struct ds_comm_args *args, struct ds_error *err)
{
    struct ds__host *host = make(args->rank, args->world, err);
    const struct ds__region_args region = {.rank = args->rank,
                                           .ranks = args->world,
                                           .name = args->rank,
                                           .shm_fd = args->shm_fd,
                                           .arena_bytes = args->arena_bytes};
    int rc;

    if (host == NULL)
        return -ENOMEM;
    host->root = host;
    rc = ds__region_open(&host->store, &region, err);
    if (rc < 0) {
        free(host);
        return rc;
    }
    for (unsigned i = 0; i < args->world; i++)
        host->desk[i] = host->name[i] = i;
    host->sync = (struct ds__sync){
        .region = &host->store,
        .gate = ds__region_gate(&host->store, 0, 0),
        .desk = host->desk,
        .name = host->name,
        .me = args->rank,
        .members = args->world,
        .spin = args->spin,
        .timeout_ns = args->timeout_ms > UINT64_MAX / 1000000 ? 0 : args->timeout_ms * 1000000,
    };
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
    host->sync.members = group->count;
    host->sync.me = host->base.rank;
    for (unsigned i = 0; i < group->count; i++) {
        host->desk[i] = root->desk[group->first + i * group->stride];
        host->name[i] = root->name[group->first + i * group->stride];
    }
    host->sync.gate = ds__region_gate(host->sync.region, host->desk[0], host->sync.slot);
    open_slot(ds__region_control(host->sync.region), host->sync.slot);
    rc = ds__shm_meet(comm, &none, err); /* an abort before this is seen here, a later one there */
    if (rc < 0) {
        free(host);
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

static void host_abort(struct ds_comm *comm)
{
    struct ds__host *host = host_of(comm);

    ds__sync_abort_all(host->sync.region, host->name[host->sync.me]);
}

size_t ds_comm_overhead_bytes(unsigned world)
{
    size_t all;

    if (world == 0)
        return 0;
    all = ds__region_overhead_bytes(world);
    return all / world + (all % world != 0);
}

const struct ds_comm_backend ds_comm_backend_host = {
    .name = "host",
    .open = host_open,
    .split = host_split,
    .close = host_close,
    .arena = host_arena,
    .abort = host_abort,
    .run =
        {
            [DS_COMM_BARRIER] = ds__shm_meet,
            [DS_COMM_ALL_REDUCE_F32] = ds__shm_all_reduce_f32,
            [DS_COMM_ALL_REDUCE_F64] = ds__shm_all_reduce_f64,
            [DS_COMM_REDUCE_SCATTER] = ds__shm_reduce_scatter,
            [DS_COMM_ALL_GATHER] = ds__shm_all_gather,
            [DS_COMM_BROADCAST] = ds__shm_broadcast,
        },
};
