/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * walk.h - which thread begins which instruction of a step, and when.
 *
 * One thread takes the list in its order.  A second one, where there is one, takes
 *   on the CPU          what moves between ranks and what copies, while the caller computes: a
 *                       group of ranks takes one call at a time in one order;
 *   on a device apart   the updates of the host, for which the caller does not wait: what stands
 *                       behind NORM is left for the next step, where the caller begins it, in the
 *                       order of the list, as far as an instruction waits for it.  So all calls to
 *                       other ranks are the caller's, in an order that the lists alone decide.
 *
 * Tests   tests/engine/test_engine.c, tests/engine/test_stages.c, tests/e2e/cuda_kinds.py
 */
#ifndef DS_RUNTIME_WALK_H
#define DS_RUNTIME_WALK_H

#include "runtime/plan/plan.h"
#include "runtime/queue.h"

/* What a walk begins.  Instruction i of the list, or what begins there and is done as one, whose
 * last instruction goes to *last. */
struct ds_walk_work {
    int (*exec)(void *user, uint64_t step, size_t i, size_t *last, struct ds_error *err);
    void *user;
};

struct ds_walk {
    const struct ds_program *program;
    struct ds_device *device;
    struct ds_walk_work work;
    struct ds_queue_set queues;
    bool apart;
    uint64_t steps;      /* begun since open: the number that events count in */
    size_t norm;         /* where that is, of a walk that leaves what is behind */
    size_t rest;         /* of the last step: from here on nothing is begun */
    atomic_size_t at[2]; /* instructions begun by the caller and by the other thread */
};

/* The plan's list for training, on its device; `overlap` lets the CPU have a second thread. */
int ds_walk_open(struct ds_walk *walk, const struct ds_plan *plan, struct ds_device *device,
                 bool overlap, const struct ds_walk_work *work, struct ds_error *err) DS_NODISCARD;
/* Ends every wait; may come without an open. */
void ds_walk_close(struct ds_walk *walk);

/* The next step; what the last one left comes with it. */
int ds_walk_step(struct ds_walk *walk, struct ds_error *err) DS_NODISCARD;
/* Begin all that is left, and wait for the other thread and for the device. */
int ds_walk_settle(struct ds_walk *walk, struct ds_error *err) DS_NODISCARD;
/* Wait until no other thread speaks to ranks. */
int ds_walk_hush(struct ds_walk *walk, struct ds_error *err) DS_NODISCARD;

/* What both threads are at: "instruction 17 of 40: reduce bucket 3".  From any thread. */
void ds_walk_where(const struct ds_walk *walk, const struct ds_plan *plan, char *out, size_t cap);

#endif
