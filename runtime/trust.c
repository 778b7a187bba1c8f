/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trust.c - the contract is in trust.h.
 */
#include "runtime/trust.h"

#include "runtime/update.h"

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
        .bias1 = ds_update_bias(trust->job->optim.beta1, trust->update),
        .bias2 = ds_update_bias(trust->job->optim.beta2, trust->update),
        .p_sumsq = &sums[0],
        .u_sumsq = &sums[1],
        .verdict = trust->verdict,
        .behind_bias1 = ds_update_bias(trust->job->optim.beta1, trust->update - 1),
        .behind_bias2 = ds_update_bias(trust->job->optim.beta2, trust->update - 1),
    };

    return first < end ? ds_lamb_moments(&args, stream, err) : 0;
}

/* The room has two doubles more, for what does not count. */
static double *sums_end(const struct ds_trust *trust)
{
    return trust->sums + ds_plan_norms_bytes(trust->plan) / sizeof(*trust->sums) - 2;
}

/* The shard in three pieces, of which the slice counts, but of what a team or some of it hold alike
 * on the first of these ranks only. */
static int sum_span(const struct ds_trust *trust, const struct ds_plan_span *span, double *sums,
                    struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_plan *plan = trust->plan;
    struct ds_held shard = within(plan, span, ds_plan_shard(plan, DS_ARENA_MOMENTS, span->bucket));
    struct ds_held slice = within(plan, span, ds_plan_slice(plan, DS_ARENA_MOMENTS, span->bucket));
    uint64_t from = slice.count > 0 ? slice.first : shard.first, to = from + slice.count;
    double *beside = sums_end(trust);
    int rc;

    if (shard.count == 0)
        return 0;
    if ((plan->tensor_rank > 0 && plan->bucket[span->bucket].replicated) ||
        ds_plan_doubled_place(plan, span->doubled) > 0)
        sums = beside;
    rc = advance(trust, span, shard.first, from, beside, stream, err);
    if (rc == 0)
        rc = advance(trust, span, from, to, sums, stream, err);
    return rc != 0 ? rc : advance(trust, span, to, shard.first + shard.count, beside, stream, err);
}

/* The device adds what all ranks have sent. */
static int add_late(const struct ds_trust *trust, struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_rank_sum_args args = {.ranks = ds_plan_part_ranks(trust->plan),
                                          .n = ds_plan_norms(trust->plan),
                                          .x = trust->sums};
    int rc;

    if (args.ranks == 1)
        return 0;
    ds_comm_use_stream(trust->comm, stream);
    rc = ds_comm_all_gather(trust->comm, args.x, args.ranks * args.n * sizeof(*args.x), err);
    return rc != 0 ? rc : ds_rank_sum(&args, stream, err);
}

/* Sums in memory of the host, which is where kernels run, too. */
static int add_now(const struct ds_trust *trust, struct ds_stream *stream, struct ds_error *err)
{
    size_t count = ds_plan_norms(trust->plan);
    int rc = ds_stream_finish(stream, err);

    const bool alone = ds_plan_part_ranks(trust->plan) == 1;
    for (size_t i = 0; rc == 0 && !alone && i < count; i += DS_COMM_MAX_F64) {
        size_t part = count - i < DS_COMM_MAX_F64 ? count - i : DS_COMM_MAX_F64;

        rc = ds_comm_all_reduce_f64(trust->comm, trust->sums + i, part, err);
    }
    return rc;
}

int ds_trust_norms(const struct ds_trust *trust, struct ds_stream *stream, struct ds_error *err)
{
    const struct ds_plan *plan = trust->plan;
    uint64_t row = ds_plan_norms(plan);
    double *mine = trust->sums + (plan->late ? plan->rank % ds_plan_part_ranks(plan) * row : 0);
    int rc = ds_stream_clear(stream, mine, row * sizeof(*mine), err);

    for (size_t i = 0; rc == 0 && i < plan->spans; i++)
        rc = sum_span(trust, &plan->span[i], &mine[ds_plan_norms_at(plan, i)], stream, err);
    if (rc != 0)
        return rc;
    return plan->late ? add_late(trust, stream, err) : add_now(trust, stream, err);
}
