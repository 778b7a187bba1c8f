/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * board.h - where a rank that waits in vain tells the others what it waits for: the launcher's
 * rendezvous, so that it works between hosts and needs nothing of the network that does not move.
 *
 * Tests   tests/e2e/cuda.py
 */
#ifndef DS_RUNTIME_BOARD_H
#define DS_RUNTIME_BOARD_H

#include "runtime/comm/comm.h"
#include "runtime/link.h"

struct ds_board {
    struct ds_comm_board comm; /* points into this */
    struct ds_link *link;
    unsigned rank;
};

void ds_board_init(struct ds_board *board, struct ds_link *link, unsigned rank);

#endif
