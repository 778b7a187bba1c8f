/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trust.c - the contract is in trust.h.
 */
#include "runtime/trust.h"

#include <math.h>

static struct ds_held within(const struct ds_plan *plan, const struct ds_plan_span *span,
                             struct ds_held held)
{
    return ds_held_within(held, span->offset - plan->bucket[span->bucket].offset, span->elems);
}

/* Elements [first, end) of a span, which this rank's shard holds. */
static int advance(const struct ds_trust *trust, const struct ds_plan_span *span, uint64_t first,
                   uint64_t end, double *sums, struct ds_stream *stream, struct ds_error *err)
{
    static const enum ds_arena_kind kinds[] = {DS_ARENA_PARAMS, DS_ARENA_GRADS, DS_ARENA_MOMENTS};
    const struct ds_plan *plan = trust->plan;
    uint64_t at[3];

    for (unsigned i = 0; i < 3; i++) {
        struct ds_held held = within(plan, span, ds_plan_shard(plan, kinds[i], span->bucket));

        at[i] = held.at + (first - held.first);
    }
    const struct ds_lamb_moments_args args = {
        .n = end - first,
        .p = trust->lines.params + at[0],
        .m = trust->lines.state[0] + at[2],
        .v = trust->lines.state[1] + at[2],
        .grad_type = DS_F32,
        .grad = trust->lines.grads + at[1],
        .beta1 = trust->job->optim.beta1,
        .beta2 = trust->job->optim.beta2,
        .eps = trust->job->optim.eps,
        .weight_decay = span->weight_decay,
        .grad_scale = trust->grad_scale,
        .bias1 = 1.0 - pow(trust->job->optim.beta1, (double)trust->update),
        .bias2 = 1.0 - pow(trust->job->optim.beta2, (double)trust->update),
        .p_sumsq = &sums[0],
        .u_sumsq = &sums[1],
    };

    return first < end ? ds_lamb_moments(&args, stream, err) : 0;
}

/* The shard in three pieces, of which the slice counts. */
static int sum_span(const struct ds_trust *trust, const struct ds_plan_span *span, double *sums,
                    struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_plan *plan = trust->plan;
    struct ds_held shard = within(plan, span, ds_plan_shard(plan, DS_ARENA_MOMENTS, span->bucket));
    struct ds_held slice = within(plan, span, ds_plan_slice(plan, DS_ARENA_MOMENTS, span->bucket));
    uint64_t from = slice.count > 0 ? slice.first : shard.first, to = from + slice.count;
    double *beside = trust->sums + 2 * plan->spans;
    int rc;

    if (shard.count == 0)
        return 0;
    rc = advance(trust, span, shard.first, from, beside, stream, err);
    if (rc == 0)
        rc = advance(trust, span, from, to, sums, stream, err);
    return rc != 0 ? rc : advance(trust, span, to, shard.first + shard.count, beside, stream, err);
}

int ds_trust_norms(const struct ds_trust *trust, double *norm, struct ds_stream *stream,
                   struct ds_error *err)
{
    size_t count = 2 * trust->plan->spans;
    int rc = ds_stream_clear(stream, trust->sums, count * sizeof(*norm), err);

    for (size_t i = 0; rc == 0 && i < trust->plan->spans; i++)
        rc = sum_span(trust, &trust->plan->span[i], &trust->sums[2 * i], stream, err);
    if (rc == 0)
        rc = ds_stream_copy(stream, DS_COPY_DOWN, norm, trust->sums, count * sizeof(*norm), err);
    if (rc == 0)
        rc = ds_stream_finish(stream, err);
    for (size_t i = 0; rc == 0 && i < count; i += DS_COMM_MAX_F64) {
        size_t part = count - i < DS_COMM_MAX_F64 ? count - i : DS_COMM_MAX_F64;

        rc = ds_comm_all_reduce_f64(trust->comm, norm + i, part, err);
    }
    return rc;
}

double ds_trust_ratio(const double *norm, size_t span)
{
    double p = norm[2 * span], u = norm[2 * span + 1];

    return p > 0.0 && u > 0.0 ? sqrt(p) / sqrt(u) : 1.0;
}
