/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * offload.h - what OFFLOAD and FETCH, STASH and RESTORE copy between the device's memory and the
 * host's.
 *
 * The host keeps parameters and states of what this rank updates, and updates them there, bucket
 * by bucket in forward order.  Gradients come whole, for the norm of all must be known before the
 * first update.  New parameters of a narrower type go back through a room of two halves, in turn;
 * of FP32 what was updated is what goes back.
 *
 * Tests   tests/engine/test_stages.c; the order of copies in tests/plan/test_stages.c
 */
#ifndef DS_RUNTIME_OFFLOAD_H
#define DS_RUNTIME_OFFLOAD_H

#include "kernels/device.h"
#include "runtime/plan/plan.h"

/* `memory` holds the plan's arenas by kind.  Errors of ds_stream_copy(). */
int ds_offload_grads(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT], size_t bucket,
                     struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;
int ds_offload_fetch(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT], size_t bucket,
                     struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;

/* STASH and RESTORE: the output of a block, at `out` on the device. */
int ds_offload_out(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT],
                   const struct ds_instr *instr, void *out, struct ds_stream *stream,
                   struct ds_error *err) DS_NODISCARD;

/* The half of HOST_ROOM that the bucket's new parameters go through; NULL: there is none, they are
 * FP32. */
void *ds_offload_room(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT],
                      size_t bucket);

/* Where the update of a span reads this rank's gradients, and where the new parameters go in the
 * kernels' type; NULL: nowhere, what was updated is what kernels read or what is copied.  With or
 * without offload. */
const float *ds_offload_read(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT],
                             const struct ds_plan_span *span);
void *ds_offload_written(const struct ds_plan *plan, void *const memory[DS_ARENA_COUNT],
                         const struct ds_plan_span *span);

#endif
