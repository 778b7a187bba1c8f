/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ops.c - the list of operations as data; what the planner links of comm/ needs no more than this.
 */
#include "runtime/comm/backend.h"

static const struct {
    const char *name;
    unsigned trips;
} ops[DS_COMM_OP_COUNT] = {
#define X(id, name, trips) [DS_COMM_##id] = {#name, trips},
    DS_COMM_OPS(X)
#undef X
};

const char *ds_comm_op_name(unsigned op)
{
    return op < DS_COMM_OP_COUNT ? ops[op].name : "unknown";
}

/* trips x bytes x (world - 1) / world, in an order that cannot overflow before the result does. */
uint64_t ds_comm_wire_bytes(enum ds_comm_op op, uint64_t bytes, uint64_t world)
{
    uint64_t all = ops[op].trips * bytes;

    return all / world * (world - 1) + all % world * (world - 1) / world;
}
