/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gather.h - how the ranks of any program are told where rank 0 waits for the others.
 *
 *     agent    ─ READY ─► launcher    its host can start its ranks; the address by which it was
 *                                     reached, and of rank 0's host a free port
 *     launcher ─ GO ────► agents      once all are ready: address and port of rank 0's host
 *
 * So nothing is started anywhere unless every host can start its part, and the port is one that is
 * free on the host where it is needed.  It lies below those that the kernel gives to connections,
 * and is held until the ranks start; what they bind they must bind soon.
 *
 * Payload of both:  u16 port | address, the rest of the frame.
 *
 * Tests   tests/launcher/test_gather.c, tests/e2e/launch.py
 */
#ifndef DS_LAUNCHER_GATHER_H
#define DS_LAUNCHER_GATHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { DS_GATHER_BYTES = 2 + DS_MAX_HOST_NAME };

struct ds_gather {
    uint16_t port;                      /* 0: none */
    char address[DS_MAX_HOST_NAME + 1]; /* "": not known */
};

/* Returns the bytes of out[DS_GATHER_BYTES] that are used. */
size_t ds_gather_write(const struct ds_gather *gather, unsigned char *out);
/* -EPROTO: malformed. */
int ds_gather_read(struct ds_gather *gather, const void *payload, size_t len, struct ds_error *err)
    DS_NODISCARD;

/* A port that is free here; it is so while `*fd` is open. */
int ds_gather_port(int *fd, uint16_t *port, struct ds_error *err) DS_NODISCARD;

/* The address by which `connection`, the value of SSH_CONNECTION, was made to this host; "" without
 * one.  out[DS_MAX_HOST_NAME + 1]. */
void ds_gather_here(const char *connection, char *out);

/* Is the address one of this machine only: localhost, 127.0.0.0/8, ::1? */
bool ds_gather_is_loopback(const char *address);

#endif
