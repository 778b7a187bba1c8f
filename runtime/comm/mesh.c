/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mesh.c - the contract is in mesh.h: what a mesh is, and what ranks tell each other to make one;
 * connecting is in mesh_open.c.
 */
#include "runtime/comm/mesh.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/comm/mesh_open.h"

enum { SPARE_FDS = 256 }; /* what else a rank has open */

void ds__mesh_abort(const struct ds__mesh *mesh)
{
    const uint64_t one = 1;
    int saved = errno; /* may run in a signal handler */

    for (unsigned rank = 0; rank < mesh->world; rank++)
        if (mesh->fd[rank] >= 0)
            (void)shutdown(mesh->fd[rank], SHUT_RDWR);
    while (write(mesh->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
    errno = saved;
}

const char *ds__mesh_name(const struct ds__mesh *mesh, unsigned rank, char out[DS_MESH_NAME])
{
    const struct ds__mesh_peer *peer = &mesh->peer[rank];

    (void)snprintf(out, DS_MESH_NAME, "rank %u on '%.40s' (%s)", rank, peer->host, peer->address);
    return out;
}

/* Descriptors for all peers, where the system allows it. */
static int raise_limit(unsigned world, struct ds_error *err)
{
    rlim_t wanted = (rlim_t)world + DS_MESH_GUESTS + SPARE_FDS;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return 0;
    if (limit.rlim_max < wanted)
        return ds_fail(err, EMFILE, "%u ranks need %ju open files, this host allows %ju", world,
                       (uintmax_t)wanted, (uintmax_t)limit.rlim_max);
    limit.rlim_cur = wanted;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? 0
                                                 : ds_fail(err, errno, "cannot open more files");
}

int ds__mesh_open(struct ds__mesh *mesh, unsigned rank, unsigned world,
                  const struct ds_comm_meet *meet, struct ds_error *err)
{
    int rc = raise_limit(world, err);

    if (rc != 0)
        return rc;
    *mesh = (struct ds__mesh){.rank = rank,
                              .world = world,
                              .fd = malloc(world * sizeof(*mesh->fd)),
                              .peer = calloc(world, sizeof(*mesh->peer)),
                              .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    for (unsigned i = 0; mesh->fd != NULL && i < world; i++)
        mesh->fd[i] = -1;
    if (mesh->fd == NULL || mesh->peer == NULL)
        rc = ds_fail(err, ENOMEM, "no memory for %u connections", world);
    else if (mesh->wake < 0)
        rc = ds_fail(err, errno, "cannot make an event descriptor");
    if (rc == 0)
        rc = ds__mesh_connect(mesh, meet, err);
    if (rc != 0)
        ds__mesh_close(mesh);
    return rc;
}

void ds__mesh_close(struct ds__mesh *mesh)
{
    for (unsigned rank = 0; mesh->fd != NULL && rank < mesh->world; rank++)
        if (mesh->fd[rank] >= 0)
            (void)close(mesh->fd[rank]);
    if (mesh->world > 0 && mesh->wake >= 0)
        (void)close(mesh->wake);
    free(mesh->fd);
    free(mesh->peer);
    *mesh = (struct ds__mesh){0};
}
