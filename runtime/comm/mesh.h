/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mesh.h - one connection between every two ranks that are on different hosts.
 *
 * A rank listens on one address, on a port that the system picks, for as long as it opens the mesh
 * and no longer.  Addresses go through `gather` (the control channel).  The higher rank connects;
 * both prove that they hold the job's key (greet.h) before anything else is read.  What a stranger
 * can do is bounded: DS_MESH_GUESTS connections that have not proven themselves, the oldest gives
 * way to a new one; DS_MESH_PATIENCE_MS for each; no memory beyond its slot.
 *
 * Private to runtime/comm/.
 * Tests   tests/comm/test_mesh.c
 */
#ifndef DS_RUNTIME_COMM_MESH_H
#define DS_RUNTIME_COMM_MESH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/comm/comm.h"

enum {
    DS_MESH_GUESTS = 64,
    DS_MESH_PATIENCE_MS = 5000, /* for a greeting, from the first byte */
    DS_MESH_REFUSED_MS = 3000,  /* for a peer whose port nobody listens on */
    DS_MESH_NAME = 128,         /* bytes of a peer's name in messages */
};

struct ds__mesh_peer {
    uint32_t node;
    uint16_t port;
    char host[40], address[46]; /* numeric */
};

struct ds__mesh {
    unsigned rank, world;
    int *fd; /* [world]; -1: this rank, or one on this host */
    struct ds__mesh_peer *peer;
    int wake;         /* readable once aborted */
    unsigned refused; /* strangers that were turned away */
};

/* Meet all ranks.  0: every pair of ranks on two hosts is connected.  -EHOSTUNREACH: the
 * pair that is not, by name, whichever of the two tells; -EKEYREJECTED: who listens there is not
 * of this job; -EINVAL an address
 * that cannot be listened on; -ENOMEM, -EMFILE.  On failure nothing is held. */
int ds__mesh_open(struct ds__mesh *mesh, unsigned rank, unsigned world,
                  const struct ds_comm_meet *meet, struct ds_error *err) DS_NODISCARD;
void ds__mesh_close(struct ds__mesh *mesh); /* fine on a zeroed struct */

/* End every connection: peers learn of it at once.  Async-signal-safe. */
void ds__mesh_abort(const struct ds__mesh *mesh);

/* "rank 3 on 'b' (10.0.0.2)" */
const char *ds__mesh_name(const struct ds__mesh *mesh, unsigned rank, char out[DS_MESH_NAME]);

#endif
