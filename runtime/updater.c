/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * updater.c - the contract is in updater.h.
 */
#include "runtime/updater.h"

#include "runtime/offload.h"
#include "runtime/plan/away.h"
#include "runtime/update.h"

/* What is updated together: elements of MOMENTS, as of the first state, and where their states
 * are. */
struct stretch {
    uint64_t at, count;
    float *state[DS_OPTIM_STATES];
};

/* Behind what the update of a matrix works in, for parts of it; NULL: it is whole. */
static float *parts_of(const struct ds_updater *updater, const struct ds_plan_span *span)
{
    return ds_plan_matrix_parts(updater->plan, span) > 0
               ? updater->work + ds_optim_matrix_room(span->rows, span->cols)
               : NULL;
}

static int update_span(const struct ds_updater *updater, const struct ds_plan_span *span,
                       const struct stretch *stretch, struct ds_error *err)
{
    const struct ds_plan *plan = updater->plan;
    struct ds_held held = ds_plan_held_span(plan, DS_ARENA_MOMENTS, span), part;
    size_t low = ds_dtype_bytes(ds_compute_dtype(plan->compute));
    unsigned char *written = ds_offload_written(plan, updater->memory, span);
    const struct ds_matrix matrix = {
        .plan = plan, .span = span, .team = updater->team, .room = parts_of(updater, span)};
    uint64_t skip;

    held.first = held.at; /* what of the stretch it has, and where from there */
    held.at = 0;
    part = ds_held_within(held, stretch->at, stretch->count);
    if (part.count == 0)
        return 0;
    skip = part.at;
    struct ds_update args = {
        .n = part.count,
        .p = updater->lines.params + ds_plan_held_span(plan, DS_ARENA_PARAMS, span).at + skip,
        .grad = ds_offload_read(plan, updater->memory, span) + skip,
        .low_type = ds_compute_dtype(plan->compute),
        .low = written != NULL ? written + skip * low : NULL,
        .lr = updater->lr * span->lr_mult,
        .weight_decay = span->weight_decay,
        .grad_scale = updater->grad_scale,
        .update = updater->update,
        .verdict = updater->verdict,
        .rows = span->rows,
        .cols = span->cols,
        .scale = span->scale,
        .work = updater->work,
        .matrix = matrix.room != NULL ? &matrix : NULL,
    };

    if (plan->by_tensor)
        args.norms = updater->norms + ds_plan_norms_at(plan, (size_t)(span - plan->span));
    for (unsigned i = 0; i < plan->optim_states; i++)
        args.state[i] = stretch->state[i] + part.first;
    return ds_update(updater->job, &args, updater->stream, err);
}

/* A whole bucket, whose states are in memory. */
static struct stretch whole(const struct ds_updater *updater, uint32_t bucket)
{
    const struct ds_plan *plan = updater->plan;
    struct ds_held shard = ds_plan_shard(plan, DS_ARENA_MOMENTS, bucket);
    struct stretch stretch = {.at = shard.at, .count = shard.count};

    for (unsigned i = 0; i < plan->optim_states; i++)
        stretch.state[i] = updater->lines.state[i] + ds_plan_state_at(plan, bucket, i, shard.at);
    return stretch;
}

static int update(const struct ds_updater *updater, const struct ds_instr *instr,
                  struct ds_error *err)
{
    const struct ds_plan *plan = updater->plan;
    struct stretch stretch;
    int rc = 0;

    if (instr->piece == UINT32_MAX) {
        stretch = whole(updater, instr->bucket);
    } else {
        stretch = (struct stretch){.at = ds_plan_piece_state(plan, instr->piece, 0).first,
                                   .count = plan->piece[instr->piece].elems};
        rc = ds_states_use(updater->states, instr->piece, stretch.state, err);
    }
    if (updater->skip)
        return rc;
    for (size_t i = 0; rc == 0 && i < plan->spans; i++)
        if (plan->span[i].bucket == instr->bucket)
            rc = update_span(updater, &plan->span[i], &stretch, err);
    return rc;
}

/* After a step that was skipped there is nothing new to store. */
int ds_updater_do(const struct ds_updater *updater, const struct ds_instr *instr,
                  struct ds_error *err)
{
    if (instr->op == DS_INSTR_UPDATE)
        return update(updater, instr, err);
    if (instr->op == DS_INSTR_LOAD)
        ds_states_load(updater->states, instr->piece);
    else if (!updater->skip)
        ds_states_store(updater->states, instr->piece);
    return 0;
}

int ds_updater_open(struct ds_updater *updater, struct ds_error *err)
{
    const struct ds_plan *plan = updater->plan;

    return plan->pieces > 0 ? ds_states_open(&updater->states, plan, updater->job->offload.path,
                                             updater->memory[DS_ARENA_MOMENTS], err)
                            : 0;
}

void ds_updater_close(struct ds_updater *updater)
{
    ds_states_close(updater->states);
    updater->states = NULL;
}

int ds_updater_settle(const struct ds_updater *updater, struct ds_error *err)
{
    return updater->states != NULL ? ds_states_settle(updater->states, err) : 0;
}

/* This rank's shard of the bucket in the type that kernels read. */
static int cast(const struct ds_updater *updater, size_t bucket, void *to, struct ds_error *err)
{
    struct ds_held shard = ds_plan_shard(updater->plan, DS_ARENA_PARAMS, bucket);
    const struct ds_cast_args args = {
        .n = shard.count,
        .from = DS_F32,
        .to = ds_compute_dtype(updater->plan->compute),
        .x = updater->lines.params + shard.at,
        .y = to,
    };

    return ds_cast(&args, updater->stream, err);
}

int ds_updater_publish(const struct ds_updater *updater, size_t bucket, void *own,
                       struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_plan *plan = updater->plan;
    const bool copied = ds_plan_copies_out(plan);
    void *to = copied ? ds_offload_room(plan, updater->memory, bucket) : own;
    int rc = to != NULL ? cast(updater, bucket, to, err) : 0;

    if (rc != 0 || !copied)
        return rc;
    rc = ds_offload_fetch(plan, updater->memory, bucket, stream, err);
    return rc == 0 ? ds_stream_finish(stream, err) : rc;
}
