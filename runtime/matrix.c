/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * matrix.c - the contract is in matrix.h.
 */
#include "runtime/matrix.h"

#include "kernels/op.h"
#include "kernels/probe.h"

float *ds_matrix_own(const struct ds_matrix *matrix)
{
    return matrix->room + matrix->plan->tensor_rank * matrix->span->elems;
}

static int gather(const struct ds_matrix *matrix, struct ds_stream *stream, struct ds_error *err)
{
    const size_t bytes = matrix->plan->tensor_ranks * matrix->span->elems * sizeof(float);
    size_t at;
    int rc = ds__probe_begin(stream, &at, err);

    ds_comm_use_stream(matrix->team, stream);
    if (rc == 0)
        rc = ds_comm_all_gather(matrix->team, matrix->room, bytes, err);
    return rc == 0 ? ds__probe_end_bytes(stream, at, "all_gather", bytes, err) : rc;
}

/* Parts that are rows, one behind the other; of those that several have the first one's. */
static int join_rows(const struct ds_matrix *matrix, float *whole, struct ds_stream *stream,
                     struct ds_error *err)
{
    const size_t part = matrix->span->elems * sizeof(float);
    const unsigned alike = matrix->span->doubled;
    const struct ds_reorder_args args = {
        .outer = matrix->plan->tensor_ranks / alike,
        .inner = 1,
        .run = part,
        .from_outer = alike * part,
        .to_outer = part,
        .from = matrix->room,
        .to = whole,
    };

    return ds_reorder(&args, stream, err);
}

/* Parts that are runs of columns: of each run the first rank's, then the next one's. */
static int join_columns(const struct ds_matrix *matrix, const struct ds_plan_cut *cut, float *whole,
                        struct ds_stream *stream, struct ds_error *err)
{
    uint64_t at = 0;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < cut->runs; i++) {
        const uint64_t count = cut->run[i].count;
        const struct ds_reorder_args args = {
            .outer = matrix->plan->tensor_ranks,
            .inner = matrix->span->elems / cut->width,
            .run = count * sizeof(float),
            .from_outer = matrix->span->elems * sizeof(float),
            .from_inner = cut->width * sizeof(float),
            .to_outer = count * sizeof(float),
            .to_inner = cut->row * sizeof(float),
            .from = matrix->room + at,
            .to = whole + cut->run[i].first - matrix->plan->tensor_rank * count,
        };

        rc = ds_reorder(&args, stream, err);
        at += count;
    }
    return rc;
}

int ds_matrix_join(const struct ds_matrix *matrix, float *whole, struct ds_stream *stream,
                   struct ds_error *err)
{
    const struct ds_plan_cut cut = ds_plan_cut(matrix->plan, matrix->span->tensor);
    int rc = gather(matrix, stream, err);

    if (rc != 0)
        return rc;
    return cut.runs > 0 ? join_columns(matrix, &cut, whole, stream, err)
                        : join_rows(matrix, whole, stream, err);
}

int ds_matrix_part(const struct ds_matrix *matrix, float *whole, float **part,
                   struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_plan_cut cut = ds_plan_cut(matrix->plan, matrix->span->tensor);
    uint64_t at = 0;
    int rc = 0;

    *part = cut.runs > 0 ? ds_matrix_own(matrix) : whole + cut.first;
    for (unsigned i = 0; rc == 0 && i < cut.runs; i++) {
        const struct ds_reorder_args args = {
            .outer = 1,
            .inner = matrix->span->elems / cut.width,
            .run = cut.run[i].count * sizeof(float),
            .from_inner = cut.row * sizeof(float),
            .to_inner = cut.width * sizeof(float),
            .from = whole + cut.run[i].first,
            .to = *part + at,
        };

        rc = ds_reorder(&args, stream, err);
        at += cut.run[i].count;
    }
    return rc;
}
