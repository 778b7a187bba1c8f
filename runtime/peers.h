/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * peers.h - the ranks of a job find each other over the link: what comm/ needs to go between hosts.
 *
 * Tests   tests/engine/test_peers.c
 */
#ifndef DS_RUNTIME_PEERS_H
#define DS_RUNTIME_PEERS_H

#include <stdint.h>

#include "base/error.h"
#include "runtime/comm/address.h"
#include "runtime/comm/comm.h"
#include "runtime/link.h"

struct ds_peers {
    struct ds_comm_meet comm; /* points into this */
    struct ds_link *link;
    unsigned rank, world;
    char host[256], address[DS_ADDRESS_BYTES];
    uint8_t key[DS_COMM_KEY_BYTES];
};

/* Get the job's key and choose an address.  `interface` is the job's launch.interface. */
int ds_peers_init(struct ds_peers *meet, struct ds_link *link, unsigned rank, unsigned world,
                  unsigned node, const char *interface, struct ds_error *err) DS_NODISCARD;
void ds_peers_release(struct ds_peers *meet); /* forget the key */

#endif
