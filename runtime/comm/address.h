/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * address.h - on which of its addresses a host speaks to the others.
 *
 *     auto       under Slurm what the node's name means; else the address that the SSH login came
 *                to (SSH_CONNECTION), so the interface on which the launcher reached the host; else
 *                127.0.0.1
 *     eth1       the first address of that interface, IPv4 before IPv6
 *     10.0.0.5   that address
 *     10.0.0.0/8 the first address of the host in that network
 *
 * Tests   tests/comm/test_address.c, tests/comm/test_interfaces.c
 */
#ifndef DS_RUNTIME_COMM_ADDRESS_H
#define DS_RUNTIME_COMM_ADDRESS_H

#include "base/error.h"

enum { DS_ADDRESS_BYTES = 46 };

/* -EINVAL: the host has no such interface, address or network; the message says what it has. */
int ds_comm_address(const char *interface, char out[DS_ADDRESS_BYTES], struct ds_error *err)
    DS_NODISCARD;

#endif
