/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trust.h - host keys that are in no known_hosts file: look at them, and record them when told to.
 *
 * Looking goes through the ssh transport, so that config, jumps and windows are those of a job; no
 * host is logged in to but those on the way to others.  A key that changed, is revoked or is of
 * another type than those known is a reason, never a key to record.
 *
 * Owner   ds_trust_release() frees all; fine on a zeroed struct.
 * Tests   tests/launcher/test_trust.c, tests/e2e/ssh.py
 */
#ifndef DS_LAUNCHER_REMOTE_TRUST_H
#define DS_LAUNCHER_REMOTE_TRUST_H

#include "base/arena.h"
#include "base/error.h"
#include "launcher/hosts/placement.h"
#include "launcher/remote/transport.h"

struct ds_trust_key {
    struct ds_shown_key shown; /* the arena's */
    char type[64], print[64];  /* print: SHA256:... */
    struct ds_trust_key *next; /* hosts in their order: node2, node10 */
    bool done;
};

struct ds_trust_host { /* one per place */
    int rc; /* -EALREADY: its key is known; -ENOKEY: it is among the keys; else see err */
    struct ds_error err;
};

struct ds_trust {
    struct ds_arena arena;
    struct ds_trust_key *keys;
    struct ds_trust_host *host;
    int rc; /* of the memory for them */
};

/* `timeout_s` 0: none but those of each step. */
int ds_trust_look(struct ds_trust *trust, const struct ds_place *place, uint32_t places,
                  double timeout_s, struct ds_error *err) DS_NODISCARD;

/* Append the keys to the known_hosts files they belong to: under a lock, what is recorded there by
 * now is looked at again, in one write; hashed when the file has hashed names; a new file has mode
 * 0600.  -EKEYREJECTED: the file has another key for a name by now. */
int ds_trust_record(struct ds_trust *trust, struct ds_error *err) DS_NODISCARD;
void ds_trust_release(struct ds_trust *trust);

#endif
