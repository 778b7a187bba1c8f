/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * meet.h - the launcher's side of gather.h: who is ready, and where all meet.
 *
 * Pure.   Tests   tests/launcher/test_meet.c
 */
#ifndef DS_LAUNCHER_FLEET_MEET_H
#define DS_LAUNCHER_FLEET_MEET_H

#include "launcher/gather.h"
#include "launcher/hosts/placement.h"

struct ds_meet_host {
    struct ds_gather here; /* what it sent with READY */
    bool ready;
};

struct ds_meet {
    const struct ds_place *place; /* borrowed; place[0] has rank 0 */
    struct ds_meet_host *host;    /* one per place */
    uint32_t places, ready;
};

int ds_meet_init(struct ds_meet *meet, const struct ds_place *place, uint32_t places,
                 struct ds_error *err) DS_NODISCARD;
void ds_meet_release(struct ds_meet *meet); /* fine on a zeroed struct */

/* The payload of a host's READY.  1: now all are ready; 0; -EPROTO. */
int ds_meet_ready(struct ds_meet *meet, uint32_t host, const void *payload, size_t len,
                  struct ds_error *err) DS_NODISCARD;

/* Once all are ready, the payload of GO, out[DS_GATHER_BYTES]: the address by which the others
 * reach rank 0's host, and its port.  -EDOM: that host was reached by an address of its own machine
 * alone, others were not. */
int ds_meet_choose(const struct ds_meet *meet, unsigned char *out, uint32_t *len,
                   struct ds_error *err) DS_NODISCARD;

#endif
