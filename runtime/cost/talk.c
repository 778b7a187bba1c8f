/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * talk.c - seconds that ranks need to tell each other something; the contract is in work.h.
 *
 * Tests   tests/cost/test_predict.c, test_pipeline.c, test_team.c
 */
#include "runtime/cost/work.h"
#include "runtime/plan/away.h"

struct talk {
    const struct ds_cluster *cluster;
    const struct ds_plan *plan;
};

static double collective(const struct talk *t, struct ds_comm_group group, double bytes,
                         unsigned trips)
{
    return ds_work_collective(t->cluster, ds_ring_of(t->cluster, group), bytes, trips);
}

static double among_holders(const struct talk *t, bool experts, double bytes, unsigned trips)
{
    return collective(t, ds_plan_holders_group(t->plan, experts), bytes, trips);
}

/* In a shard group, then of each shard between the groups. */
static double by_groups(const struct talk *t, bool experts, double bytes, unsigned trips)
{
    const double shards = (double)ds_plan_holders(t->plan, experts).shards;

    return collective(t, ds_plan_inside_group(t->plan, experts), bytes, trips) +
           collective(t, ds_plan_across_group(t->plan, experts), bytes / shards, 2);
}

/* In bf16: half of it travels, and it is packed and unpacked. */
static double packed_s(const struct talk *t, const struct ds_bucket *bucket)
{
    double elems = (double)bucket->padded_elems, bytes = elems * sizeof(uint16_t);
    const struct ds_plan_holders of = ds_plan_holders(t->plan, bucket->experts);
    bool whole = t->plan->stage == 0 || bucket->replicated || of.shards == 1;
    double parts = whole ? 2.0 : 1.0 + 1.0 / (double)of.shards;
    double pack =
        elems * parts * (sizeof(float) + sizeof(uint16_t)) / t->cluster->device.pointwise.bf16;

    return pack + (whole && (of.replicas == 1 || of.shards == 1)
                       ? among_holders(t, bucket->experts, bytes, 2)
                       : by_groups(t, bucket->experts, bytes, whole ? 2 : 1));
}

static double reduce_s(const struct talk *t, const struct ds_bucket *bucket)
{
    const struct ds_plan_holders of = ds_plan_holders(t->plan, bucket->experts);
    double bytes = (double)bucket->padded_elems * sizeof(float);
    bool whole = t->plan->stage == 0 || bucket->replicated || of.shards == 1;

    if (of.count == 1)
        return 0.0;
    if (t->plan->bf16_wire)
        return packed_s(t, bucket);
    return whole ? among_holders(t, bucket->experts, bytes, 2)
                 : by_groups(t, bucket->experts, bytes, 1);
}

/* Of parameters that are held once per host nothing is moved; those of the host's memory come from
 * there first, what this rank has of them. */
static double gather_s(const struct talk *t, size_t index)
{
    const struct ds_bucket *bucket = &t->plan->bucket[index];
    const struct ds_comm_group group = ds_plan_inside_group(t->plan, bucket->experts);
    bool there = t->plan->common_bytes > 0 && !t->plan->ahead;
    double elem = (double)ds_dtype_bytes(ds_compute_dtype(t->plan->compute));
    double bytes = there ? 0.0 : (double)bucket->padded_elems * elem;
    unsigned givers = ds_plan_givers(t->plan, index);

    return (t->plan->offload_params ? ds_work_link(t->cluster, bytes / givers) : 0.0) +
           (givers > 1 ? collective(t, group, bytes, 1) : 0.0);
}

/* Where there are fewer key/value heads than ranks: they are laid out for one rank after the other,
 * and added up on the way back, from a room for each rank's. */
static double repeats_s(const struct talk *t, bool back)
{
    const struct ds_plan *plan = t->plan;
    const double heads = (double)(ds_plan_kv_heads(plan) * plan->sequence_ranks);
    const double repeats = heads / (double)plan->shape.kv_heads;
    const double tokens = (double)(plan->micro_batch * plan->sequence);
    const double bytes = tokens * 2.0 * heads * (double)plan->shape.head_size *
                         (double)ds_dtype_bytes(ds_compute_dtype(plan->compute));

    if (repeats <= 1.0)
        return 0.0;
    return back ? ds_work_pointwise(t->cluster, plan->compute, bytes * (1.0 + 3.0 / repeats),
                                    repeats + 1.0)
                : ds_work_pointwise(t->cluster, plan->compute, 0.0, 2.0 * (repeats - 1.0));
}

/* Who shares sequences: what they give each other, laid out before and behind. */
static double swap_s(const struct talk *t, const struct ds_instr *instr)
{
    uint64_t bytes[DS_PLAN_SWAPS];
    double seconds = 0.0;

    ds_plan_swaps(t->plan, instr, bytes);
    for (unsigned i = 0; i < DS_PLAN_SWAPS; i++) {
        bool to_heads = (i == 0) == (instr->op == DS_INSTR_FORWARD);
        double times = to_heads && t->plan->micro_batch == 1 ? 1.0 : 2.0;

        if (bytes[i] > 0)
            seconds += collective(t, ds_plan_sequence_group(t->plan), (double)bytes[i], 1) +
                       ds_work_pointwise(t->cluster, t->plan->compute,
                                         times * 2.0 * (double)bytes[i], times);
        if (bytes[i] > 0 && i == 0)
            seconds += repeats_s(t, !to_heads);
    }
    return seconds;
}

/* Who divides experts: rows and what was said of them, parts of sums, gradients of weights. */
static double meet_s(const struct talk *t, const struct ds_instr *instr)
{
    const struct ds_comm_group group = ds_plan_meet_group(t->plan);
    const struct ds_plan_meets meets = ds_plan_meets(t->plan, instr);
    double seconds =
        meets.gathers > 0 ? meets.gathers * collective(t, group, (double)meets.rows, 1) : 0.0;

    if (meets.said > 0)
        seconds += 2.0 * collective(t, group, (double)meets.said, 1);
    if (meets.parts > 0)
        seconds += collective(t, group, (double)meets.parts, 1) +
                   ds_work_pointwise(t->cluster, t->plan->compute, (double)meets.parts, 1.0);
    if (meets.weights > 0)
        seconds += collective(t, group, (double)meets.weights, 2);
    return seconds;
}

/* Who shares layers: sums of activations, and what each says of its logits. */
static double sum_s(const struct talk *t, const struct ds_instr *instr)
{
    const struct ds_comm_group team = ds_plan_team_group(t->plan);
    struct ds_plan_sums sums = ds_plan_sums(t->plan, instr);

    if (sums.chunks == 0)
        return sums.calls * collective(t, team, (double)sums.bytes, 2);
    return sums.calls * collective(t, team, (double)sums.bytes, 2) +
           sums.chunks * collective(t, team, (double)sums.said / sums.chunks, 1);
}

/* What experts and norms of heads add up of a layer. */
static double adds_s(const struct talk *t, const struct ds_instr *instr)
{
    const struct ds_comm_group team = ds_plan_team_group(t->plan);
    struct ds_plan_adds adds = ds_plan_adds(t->plan, instr);
    double seconds = 0.0;

    if (adds.weights > 0)
        seconds += collective(t, team, (double)adds.weights, 2);
    if (adds.norms > 0)
        seconds += collective(t, team, (double)adds.norms, 2);
    if (adds.loads > 0)
        seconds += collective(t, ds_plan_sequence_group(t->plan), (double)adds.loads, 2);
    return seconds;
}

/* Activations to the next part or a gradient to the one before, at once with what comes from there
 * where the two are paired; every rank of a host has its own pair. */
static double pass_s(const struct talk *t, const struct ds_instr *instr)
{
    const unsigned apart = t->plan->holders * t->plan->tensor_ranks;
    const struct ds_comm_group pair = {.first = 0, .stride = apart, .count = 2};
    bool there = instr->op == DS_INSTR_RECV && instr->paired;
    double ranks = (double)(apart < t->cluster->ranks ? apart : t->cluster->ranks);
    bool shares = ds_ring_of(t->cluster, pair).per_host < 2; /* the way out of a host */

    return there ? 0.0
                 : collective(t, pair, (double)t->plan->passed_bytes * (shares ? ranks : 1.0), 2);
}

/* The shard of the tied matrix' gradient, between both ends of the line; and of those of keys and
 * values and of adapters, between ranks of a team. */
static double tie_s(const struct talk *t, const struct ds_instr *instr)
{
    const struct ds_plan *plan = t->plan;
    const unsigned apart = (plan->pipeline_ranks - 1) * plan->holders * plan->tensor_ranks;
    const struct ds_comm_group ends = {.first = 0, .stride = apart, .count = 2};
    double elems = (double)ds_plan_shard(plan, DS_ARENA_GRADS, instr->bucket).count, seconds = 0.0;

    if (plan->bucket[instr->bucket].tied)
        seconds = collective(t, ends, elems * sizeof(float), 2);
    for (size_t i = 0; i < plan->spans; i++) {
        const struct ds_held held = ds_plan_doubled(plan, instr->bucket, i);

        if (held.count > 0)
            seconds += collective(t, ds_plan_doubled_group(plan, plan->span[i].doubled),
                                  (double)held.count * sizeof(float), 2);
    }
    return seconds;
}

double ds_work_talk(const struct ds_cluster *cluster, const struct ds_plan *plan,
                    const struct ds_instr *instr)
{
    const struct talk t = {.cluster = cluster, .plan = plan};

    switch (instr->op) {
    case DS_INSTR_FORWARD:
    case DS_INSTR_BACKWARD:
        return swap_s(&t, instr) + meet_s(&t, instr) + sum_s(&t, instr) + adds_s(&t, instr);
    case DS_INSTR_REDUCE: return reduce_s(&t, &plan->bucket[instr->bucket]);
    case DS_INSTR_GATHER: return gather_s(&t, instr->bucket);
    case DS_INSTR_SEND:
    case DS_INSTR_RECV: return pass_s(&t, instr);
    case DS_INSTR_TIE: return tie_s(&t, instr);
    default: return 0.0;
    }
}
