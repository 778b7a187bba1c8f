/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * door.h - a launcher's port at which agents knock that it did not reach by itself.
 *
 * Who comes must prove that it has the key (seal.h) and name itself; until then it is nobody.  One
 * that does neither in ten seconds is dropped, and only so many may be undecided at a time: the
 * next wait in the listener's queue until one of them has had three seconds.  So a crowd of
 * strangers cannot keep an agent out, nor take memory.
 *
 * Owner   links are the door's; that of a remote lives until ds_door_finish().  What is dead is
 *         freed in ds_door_tick(), between turns of the loop.
 * Tests   tests/launcher/test_sealed.c, tests/e2e/slurm.py, tests/e2e/join.py
 */
#ifndef DS_LAUNCHER_REMOTE_DOOR_H
#define DS_LAUNCHER_REMOTE_DOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "launcher/loop.h"
#include "launcher/remote/seal.h"
#include "launcher/remote/sealed.h"
#include "launcher/remote/transport.h"

struct ds_door_link { /* one accepted connection */
    struct ds_sealed sealed;
    struct ds_door *door;
    uint64_t proof_ns; /* when it must have proved the key */
    bool taken;        /* it has said who it is */
    bool dead, evicted;
    struct ds_door_link *next;
};

struct ds_door { /* zero it, or open it */
    struct ds_loop *loop;
    struct ds_watch listener;
    struct ds_door_link *link; /* the newest first */
    size_t links;
    bool full;                 /* nobody is accepted at present */
    struct ds_remote *waiting; /* neither up nor down */
    size_t expected;           /* remotes that may come, all that were ever waited for */
    /* By the owner, before the door is opened: */
    const uint8_t *key;
    const struct ds_remote_ops *ops; /* up() from the loop, down() from ds_door_give_up() */
};

/* Wait for an agent of this remote's name. */
void ds_door_expect(struct ds_door *door, struct ds_remote *remote);
/* All that are waited for are down. */
void ds_door_give_up(struct ds_door *door, int rc, const struct ds_error *err);

/* Listen at a numeric address, or NULL: at any; port 0: some port.  Returns the port, or a negative
 * errno: -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL no address. */
int ds_door_open(struct ds_door *door, struct ds_loop *loop, const char *address, unsigned port,
                 struct ds_error *err) DS_NODISCARD;

/* Drop what is dead or too slow.  Returns when to be called again, 0: no need. */
uint64_t ds_door_tick(struct ds_door *door, uint64_t now_ns);

/* Its line is closed, it is waited for no longer. */
void ds_door_finish(struct ds_door *door, struct ds_remote *remote);
/* Hang up on all; who was taken in reads the end of its stream. */
void ds_door_hang_up(struct ds_door *door);
void ds_door_close(struct ds_door *door); /* fine on one that was not opened */

#endif
