/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * updater.c - the contract is in updater.h.
 */
#include "runtime/updater.h"

#include "runtime/offload.h"
#include "runtime/update.h"

static int update_span(const struct ds_updater *updater, const struct ds_plan_span *span,
                       struct ds_error *err)
{
    const struct ds_plan *plan = updater->plan;
    struct ds_held states = ds_plan_held_span(plan, DS_ARENA_MOMENTS, span);
    struct ds_update args = {
        .n = states.count,
        .p = updater->lines.params + ds_plan_held_span(plan, DS_ARENA_PARAMS, span).at,
        .grad = ds_offload_read(plan, updater->memory, span),
        .low_type = ds_compute_dtype(plan->compute),
        .low = ds_offload_written(plan, updater->memory, span),
        .lr = updater->lr * span->lr_mult,
        .weight_decay = span->weight_decay,
        .grad_scale = updater->grad_scale,
        .update = updater->update,
        .verdict = updater->verdict,
        .rows = span->rows,
        .cols = span->cols,
        .scale = span->scale,
        .work = updater->work,
    };

    if (plan->by_tensor)
        args.norms = updater->norms + 2 * (span - plan->span);
    for (unsigned i = 0; i < plan->optim_states; i++)
        args.state[i] =
            updater->lines.state[i] + ds_plan_state_at(plan, span->bucket, i, states.at);
    return args.n == 0 ? 0 : ds_update(updater->job, &args, updater->stream, err);
}

int ds_updater_bucket(const struct ds_updater *updater, uint32_t bucket, struct ds_error *err)
{
    const struct ds_plan *plan = updater->plan;
    int rc = 0;

    if (updater->skip)
        return 0;
    for (size_t i = 0; rc == 0 && i < plan->spans; i++)
        if (plan->span[i].bucket == bucket)
            rc = update_span(updater, &plan->span[i], err);
    return rc;
}

int ds_updater_cast(const struct ds_updater *updater, size_t bucket, void *to, struct ds_error *err)
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
