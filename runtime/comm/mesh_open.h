/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mesh_open.h - from nothing to connected; for mesh.c alone.
 */
#ifndef DS_RUNTIME_COMM_MESH_OPEN_H
#define DS_RUNTIME_COMM_MESH_OPEN_H

#include "runtime/comm/mesh.h"

/* Fill mesh->peer and mesh->fd.  Connections made before a failure stay in mesh->fd. */
int ds__mesh_connect(struct ds__mesh *mesh, const struct ds_comm_meet *meet, struct ds_error *err)
    DS_NODISCARD;

#endif
