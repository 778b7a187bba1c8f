/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fleet_host.h - one host of an attempt, for fleet.c: its line, its agent's frames, its end.
 *
 * Callbacks only book and mark; a line is put away by ds__host_close(), between turns of the loop.
 */
#ifndef DS_LAUNCHER_FLEET_FLEET_HOST_H
#define DS_LAUNCHER_FLEET_FLEET_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "launcher/fleet/fleet.h"
#include "launcher/remote/channel.h"
#include "launcher/remote/transport.h"

struct ds_fleet_host {
    struct ds_fleet *fleet;
    const struct ds_place *place;
    uint32_t index;
    struct ds_remote remote;
    struct ds_channel channel;
    uint8_t nonce[16];
    bool up;                     /* the line carries frames */
    bool greeted, ended, closed; /* ended: nothing more will come; closed: and it is put away */
    char reason[512];            /* why it ended, when that is known */
};

/* fleet.c: give an event to supervise and carry out what it wants; a sink that failed ends the job,
 * once. */
void ds__fleet_tell(struct ds_fleet *fleet, const struct ds_super_event *event);
void ds__fleet_check(struct ds_fleet *fleet, int rc, const struct ds_error *err);

/* Is a host that could not be started for this reason the end of the attempt? */
bool ds__fleet_refuses(const struct ds_fleet *fleet, int code);

extern const struct ds_remote_ops ds__host_remote_ops;

void ds__host_init(struct ds_fleet_host *host, struct ds_fleet *fleet, uint32_t index);

/* A frame without a rank; lost where the line cannot take it. */
void ds__host_signal(struct ds_fleet_host *host, uint32_t what);
void ds__host_beat(struct ds_fleet_host *host);

/* Nothing more is to come from it, for this reason unless one is known. */
void ds__host_end(struct ds_fleet_host *host, const char *reason);
/* The same, because it was silent: says what its transport knows about it. */
void ds__host_drop(struct ds_fleet_host *host);

/* Put away a host whose line has ended, and say how its agent did. */
void ds__host_close(struct ds_fleet_host *host);

/* The store's answer to a rank; a host that takes none is lost.  `user` is the fleet. */
void ds__fleet_answer(void *user, uint32_t rank, const void *payload, size_t len);

#endif
