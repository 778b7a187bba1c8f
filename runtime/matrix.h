/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * matrix.h - a matrix of which each rank of a team has a part, whole for an update that needs that.
 *
 * All of a team gather the parts, which have the same bits then on each, work out the update of the
 * whole, and each takes its part of that.  So nobody waits for another's products, and what several
 * have alike (plan.h: doubled) stays so.  Whoever holds the part of a matrix in a shard of ZeRO has
 * a team of ranks that hold theirs.
 *
 * Owner   everything is borrowed; nothing is allocated.
 * Tests   tests/engine/test_team.c
 */
#ifndef DS_RUNTIME_MATRIX_H
#define DS_RUNTIME_MATRIX_H

#include "kernels/device.h"
#include "runtime/comm/comm.h"
#include "runtime/plan/plan.h"

struct ds_matrix {
    const struct ds_plan *plan;
    const struct ds_plan_span *span;
    struct ds_comm *team;
    float *room; /* ds_plan_matrix_parts(), in the memory of the stream's device */
};

/* Where in the room this rank's part is wanted. */
float *ds_matrix_own(const struct ds_matrix *matrix);
/* From all parts to `whole`.  Collective. */
int ds_matrix_join(const struct ds_matrix *matrix, float *whole, struct ds_stream *stream,
                   struct ds_error *err) DS_NODISCARD;
/* This rank's part of `whole`, where it lies there or in the room. */
int ds_matrix_part(const struct ds_matrix *matrix, float *whole, float **part,
                   struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;

#endif
