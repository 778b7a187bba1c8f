/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * wire.c - what the collectives of a step move, and the memory that they move it through.
 *
 * Counted over the instruction list, as the comm layer counts what it does.  For P parameters, G
 * micro-batches and N ranks that is, in units of P x element size x (N - 1) / N: 2 at stage 0, 2 at
 * stage 1, G + 1 at stage 2; at stage 3 3 G less what a pass need not gather again (window.c), and
 * G + 1 where the ranks that share hold parameters once.
 * In a pipeline P is what a part has and N the ranks that hold it; and of each micro-batch a rank
 * sends its activations once, and once their gradient, but for the ends of the line.
 * Sums in bf16 count half.  A team sums activations besides: of each layer twice forward and twice
 * backward, once more where the first half is computed again, of the embedding and of the
 * classifier's gradient once; and once a step those who have the same key/value heads sum their
 * gradients, of which a rank has its shards', and with Muon a rank gathers the matrices of these.
 * Ranks that share sequences swap activations: of each layer four times a micro-batch, the two
 * forward again where they are computed again.
 *
 * Arenas that collectives work in lie in shared memory, one behind the other, so that ranks of a
 * host read each other's without a copy.  Pages of a peer that a rank reads count to the resident
 * size of both.  What is common lies there once, and counts to every rank's.  The bytes of gathers
 * are those of a wire also where they move nothing.
 *
 * Tests   tests/plan/test_stages.c; tests/engine/test_stages.c compares with what was counted
 */
#include "kernels/dtype.h"
#include "kernels/verdict.h"
#include "runtime/model/family.h"
#include "runtime/plan/internal.h"

enum { SHARED_ALIGN = 4096 };

static void count(struct ds_plan *plan, enum ds_comm_op op, uint64_t bytes, uint64_t ranks)
{
    if (ranks < 2)
        return;
    plan->traffic[op].calls++;
    plan->traffic[op].bytes += ds_comm_wire_bytes(op, bytes, ranks);
}

static uint64_t param_bytes(const struct ds_plan *plan)
{
    return ds_dtype_bytes(ds_compute_dtype(plan->compute));
}

/* Half the bytes; a bucket held whole takes the hops of a shard where there are groups. */
static void count_packed(struct ds_plan *plan, const struct ds_bucket *bucket)
{
    uint64_t bytes = bucket->padded_elems * sizeof(uint16_t);
    const struct ds_plan_holders of = ds_plan_holders(plan, bucket->experts);
    bool whole = plan->stage == 0 || bucket->replicated;

    if (of.shards == 1 || (whole && of.replicas == 1)) {
        count(plan, DS_COMM_ALL_REDUCE_BF16, bytes, of.count);
        return;
    }
    count(plan, DS_COMM_REDUCE_SCATTER_BF16, bytes, of.shards);
    count(plan, DS_COMM_ALL_REDUCE_BF16, bytes / of.shards, of.replicas);
    if (whole)
        count(plan, DS_COMM_ALL_GATHER, bytes, of.shards);
}

static void count_reduce(struct ds_plan *plan, const struct ds_bucket *bucket)
{
    const struct ds_plan_holders of = ds_plan_holders(plan, bucket->experts);
    uint64_t bytes = bucket->padded_elems * sizeof(float);

    if (plan->bf16_wire) {
        count_packed(plan, bucket);
        return;
    }

    if (plan->stage == 0 || bucket->replicated || of.shards == 1) {
        count(plan, DS_COMM_ALL_REDUCE_F32, bytes, of.count);
        return;
    }
    count(plan, DS_COMM_REDUCE_SCATTER, bytes, of.shards);
    count(plan, DS_COMM_ALL_REDUCE_F32, bytes / of.shards, of.replicas);
}

/* What a step came to and norms of tensors: small messages, of which the number is told. */
static uint64_t count_late(struct ds_plan *plan)
{
    const uint64_t part = ds_plan_part_ranks(plan);

    if (plan->world == 1)
        return 0;
    count(plan, DS_COMM_ALL_GATHER, plan->world * sizeof(struct ds_entry), plan->world);
    if (plan->by_tensor)
        count(plan, DS_COMM_ALL_GATHER, part * ds_plan_norms(plan) * sizeof(double), part);
    return plan->by_tensor && part > 1 ? 2 : 1;
}

static uint64_t count_now(struct ds_plan *plan)
{
    count(plan, DS_COMM_ALL_REDUCE_F64, DS_STEP_FLAGS * sizeof(double), plan->world);
    for (size_t left = ds_plan_norms(plan), part; left > 0; left -= part) {
        part = left < DS_COMM_MAX_F64 ? left : DS_COMM_MAX_F64;
        count(plan, DS_COMM_ALL_REDUCE_F64, part * sizeof(double), ds_plan_part_ranks(plan));
    }
    return plan->traffic[DS_COMM_ALL_REDUCE_F64].calls;
}

uint64_t ds_plan_norms(const struct ds_plan *plan)
{
    return plan->by_tensor ? 2 * plan->spans * plan->expert_ranks : 0;
}

uint64_t ds_plan_norms_at(const struct ds_plan *plan, size_t span)
{
    bool experts = plan->bucket[plan->span[span].bucket].experts;

    return 2 * (span + (experts ? plan->expert_rank * plan->spans : 0));
}

uint64_t ds_plan_norms_bytes(const struct ds_plan *plan)
{
    uint64_t rows = plan->late ? ds_plan_part_ranks(plan) : 1;

    return plan->by_tensor ? (rows * ds_plan_norms(plan) + 2) * sizeof(double) : 0;
}

void ds_plan_swaps(const struct ds_plan *plan, const struct ds_instr *instr,
                   uint64_t bytes[DS_PLAN_SWAPS])
{
    const struct ds_model_shape *shape = &plan->shape;
    uint64_t row = plan->micro_batch * plan->sequence * param_bytes(plan);
    bool layer = instr->block >= 1 && instr->block <= shape->layers;
    bool pass = instr->op == DS_INSTR_FORWARD || instr->op == DS_INSTR_BACKWARD;
    bool swaps = plan->sequence_ranks > 1 && layer && pass, again = instr->recompute;

    bytes[0] = bytes[1] = 0;
    if (swaps && (!again || ds_plan_drops(plan, instr->block, DS_BUFFER_QKV)))
        bytes[0] = row * ds_plan_swap_width(plan);
    if (swaps && (!again || ds_plan_drops(plan, instr->block, DS_BUFFER_ATTENTION)))
        bytes[1] = row * shape->heads * shape->head_size;
}

struct ds_plan_adds ds_plan_adds(const struct ds_plan *plan, const struct ds_instr *instr)
{
    const struct ds_model_shape *shape = &plan->shape;
    const uint64_t tokens = plan->micro_batch * plan->sequence;
    bool layer = instr->block >= 1 && instr->block <= shape->layers;
    struct ds_plan_adds adds = {0};

    if (instr->op != DS_INSTR_BACKWARD || !layer)
        return adds;
    if (plan->tensor_ranks > 1) {
        adds.weights = tokens * shape->experts_each * sizeof(float);
        adds.norms = ds_arch_norms_heads(shape->arch) ? 2 * shape->head_size * sizeof(float) : 0;
    }
    if (plan->sequence_ranks > 1 && shape->balance > 0.0)
        adds.loads = plan->micro_batch * shape->experts * sizeof(float);
    return adds;
}

static void count_adds(struct ds_plan *plan, const struct ds_instr *instr)
{
    struct ds_plan_adds adds = ds_plan_adds(plan, instr);

    if (adds.weights > 0)
        count(plan, DS_COMM_ALL_REDUCE_F32, adds.weights, plan->tensor_ranks);
    if (adds.norms > 0)
        count(plan, DS_COMM_ALL_REDUCE_F32, adds.norms, plan->tensor_ranks);
    if (adds.loads > 0)
        count(plan, DS_COMM_ALL_REDUCE_F32, adds.loads, plan->sequence_ranks);
}

static void count_swaps(struct ds_plan *plan, const struct ds_instr *instr)
{
    uint64_t bytes[DS_PLAN_SWAPS];

    ds_plan_swaps(plan, instr, bytes);
    for (unsigned i = 0; i < DS_PLAN_SWAPS; i++)
        if (bytes[i] > 0)
            count(plan, DS_COMM_ALL_TO_ALL, bytes[i], plan->sequence_ranks);
}

static void count_meets(struct ds_plan *plan, const struct ds_instr *instr)
{
    const struct ds_plan_meets meets = ds_plan_meets(plan, instr);
    const uint64_t ranks = plan->expert_ranks;

    for (unsigned i = 0; i < meets.gathers; i++)
        count(plan, DS_COMM_ALL_GATHER, meets.rows, ranks);
    for (unsigned i = 0; meets.said > 0 && i < 2; i++)
        count(plan, DS_COMM_ALL_GATHER, meets.said, ranks);
    if (meets.parts > 0)
        count(plan, DS_COMM_ALL_TO_ALL, meets.parts, ranks);
    if (meets.weights > 0)
        count(plan, DS_COMM_ALL_REDUCE_F32, meets.weights, ranks);
}

static enum ds_comm_op sum_op(enum ds_compute compute)
{
    return compute == DS_COMPUTE_FP32   ? DS_COMM_ALL_REDUCE_F32
           : compute == DS_COMPUTE_BF16 ? DS_COMM_ALL_REDUCE_BF16
                                        : DS_COMM_ALL_REDUCE_F16;
}

static void count_sums(struct ds_plan *plan, const struct ds_instr *instr)
{
    struct ds_plan_sums sums = ds_plan_sums(plan, instr);

    for (unsigned i = 0; i < sums.calls; i++)
        count(plan, sum_op(plan->compute), sums.bytes, plan->tensor_ranks);
    if (sums.chunks > 0) {
        plan->traffic[DS_COMM_ALL_GATHER].calls += sums.chunks;
        plan->traffic[DS_COMM_ALL_GATHER].bytes +=
            ds_comm_wire_bytes(DS_COMM_ALL_GATHER, sums.said, plan->tensor_ranks);
    }
}

/* Of the tied matrix both ends; of keys and values and of adapters those who have them alike. */
static void count_tie(struct ds_plan *plan, uint32_t bucket)
{
    if (plan->bucket[bucket].tied)
        count(plan, DS_COMM_ALL_REDUCE_F32,
              ds_plan_shard(plan, DS_ARENA_GRADS, bucket).count * sizeof(float), 2);
    for (size_t i = 0; i < plan->spans; i++) {
        const struct ds_held held = ds_plan_doubled(plan, bucket, i);

        if (held.count > 0)
            count(plan, DS_COMM_ALL_REDUCE_F32, held.count * sizeof(float), plan->span[i].doubled);
    }
}

/* Parts of the matrices that it updates as a whole. */
static void count_matrices(struct ds_plan *plan, uint32_t bucket)
{
    for (size_t i = 0; i < plan->spans; i++) {
        const struct ds_plan_span *span = &plan->span[i];
        const uint64_t parts = ds_plan_matrix_parts(plan, span);

        if (span->bucket == bucket && parts > 0 &&
            ds_plan_held_span(plan, DS_ARENA_MOMENTS, span).count > 0)
            count(plan, DS_COMM_ALL_GATHER, parts * sizeof(float), plan->tensor_ranks);
    }
}

/* A SEND and the RECV that is paired with it are one call, of which what is given counts. */
static void count_pass(struct ds_plan *plan, const struct ds_instr *instr)
{
    struct ds_plan_traffic *traffic = &plan->traffic[DS_COMM_PASS];

    if (instr->op == DS_INSTR_RECV && instr->paired)
        return;
    traffic->calls++;
    if (instr->op == DS_INSTR_SEND)
        traffic->bytes += ds_comm_wire_bytes(DS_COMM_PASS, plan->passed_bytes, 2);
}

void ds__plan_traffic(struct ds_plan *plan)
{
    plan->wire_bytes_per_step = plan->messages_per_step = 0;
    for (size_t i = 0; i < plan->step.count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i];
        const struct ds_bucket *bucket = &plan->bucket[instr->bucket];

        count_swaps(plan, instr);
        count_meets(plan, instr);
        count_sums(plan, instr);
        count_adds(plan, instr);
        if (instr->op == DS_INSTR_REDUCE)
            count_reduce(plan, bucket);
        if (instr->op == DS_INSTR_SEND || instr->op == DS_INSTR_RECV)
            count_pass(plan, instr);
        if (instr->op == DS_INSTR_UPDATE)
            count_matrices(plan, instr->bucket);
        if (instr->op == DS_INSTR_TIE)
            count_tie(plan, instr->bucket);
        if (instr->op == DS_INSTR_GATHER)
            count(plan, DS_COMM_ALL_GATHER, bucket->padded_elems * param_bytes(plan),
                  ds_plan_givers(plan, instr->bucket));
    }
    for (unsigned op = 0; op < DS_COMM_OP_COUNT; op++) {
        plan->messages_per_step += plan->traffic[op].calls;
        plan->wire_bytes_per_step += plan->traffic[op].bytes;
    }
    if (plan->late)
        plan->messages_per_step += count_late(plan);
    else
        plan->messages_per_step += count_now(plan);
}

/* --- memory between ranks --- */

int ds__plan_comm(struct ds_plan *plan, struct ds_error *err)
{
    const struct ds_plan_holders of = ds_plan_holders(plan, true);
    bool groups = plan->stage > 0 && plan->replicas > 1, divides = plan->expert_ranks > 1;
    bool of_experts = divides && groups && of.shards > 1;
    const struct ds_comm_group group[] = {
        {.first = 0, .stride = 1, .count = plan->world},
        ds_plan_inside_group(plan, false),
        ds_plan_across_group(plan, false),
        ds_plan_inside_group(plan, true),
        ds_plan_across_group(plan, true),
        ds_plan_holders_group(plan, true),
        ds_plan_meet_group(plan),
        ds_plan_sequence_group(plan),
        ds_plan_holders_group(plan, false),
        ds_plan_pair_group(plan, 0),
        ds_plan_pair_group(plan, 1),
        ds_plan_tie_group(plan),
        ds_plan_team_group(plan),
        ds_plan_kv_group(plan),
        ds_plan_part_group(plan),
    };
    const bool parts = plan->pipeline_ranks > 1;
    const bool there[] = {true,
                          groups,
                          groups,
                          of_experts,
                          of_experts,
                          divides && of.count > 1,
                          divides,
                          plan->sequence_ranks > 1,
                          plan->holders < plan->world && plan->holders > 1,
                          parts,
                          parts && plan->pipeline_ranks > 2,
                          ds_plan_ties(plan) && plan->pipeline_ranks > 2,
                          plan->tensor_ranks > 1,
                          plan->kv_ranks > 1,
                          ds_plan_splits_part(plan)};
    int rc = 0;

    plan->comm_bytes = ds_comm_overhead_bytes(plan->local_world, plan->world);
    for (unsigned i = 0; rc == 0 && i < sizeof(there) / sizeof(there[0]); i++) {
        size_t bytes = 0;

        if (!there[i])
            continue;
        rc = ds_comm_staging_bytes(&group[i], plan->rank, plan->local_world, &bytes, err);
        plan->comm_bytes += bytes;
    }
    return rc;
}

/* --- shared memory --------------------------------------------------------------------------- */

static void share(struct ds_plan *plan, enum ds_arena_kind kind)
{
    plan->shared_at[kind] = plan->shared_bytes;
    plan->shared_bytes += ds__round_up(plan->arena_bytes[kind], SHARED_ALIGN);
}

static enum ds_arena_kind written_arena(const struct ds_plan *plan)
{
    if (plan->bf16_wire)
        return DS_ARENA_PACKED;
    return plan->stage >= 2 ? DS_ARENA_STAGED : DS_ARENA_GRADS;
}

void ds__plan_share(struct ds_plan *plan)
{
    for (unsigned i = 0; i < DS_ARENA_COUNT; i++)
        plan->shared_at[i] = DS_NOT_SHARED;
    plan->shared_bytes = 0;
    share(plan, written_arena(plan));
    if (plan->arena_bytes[DS_ARENA_SWAPPED] > 0)
        share(plan, DS_ARENA_SWAPPED);
    if (plan->common_bytes > 0)
        plan->beside_bytes = plan->arena_bytes[ds__plan_read_arena(plan)] - plan->common_bytes;
    else if (plan->stage > 0)
        share(plan, ds__plan_read_arena(plan));
}

struct span {
    uint64_t from, to;
};

/* Elements of an arena that lie in the part [part, part + 1) / parts of any bucket of the kind,
 * each once. */
static uint64_t touched(const struct ds_plan *plan, enum ds_arena_kind kind, struct span *span,
                        bool experts, uint64_t part, uint64_t parts)
{
    uint64_t sum = 0, end = 0;
    size_t n = 0;

    for (size_t i = 0; i < plan->buckets; i++) {
        const struct ds_bucket *bucket = &plan->bucket[i];
        uint64_t elems = bucket->padded_elems / parts;
        bool there = kind == DS_ARENA_GATHERED || ds_plan_held(plan, kind, i).count > 0;
        uint64_t at = kind == DS_ARENA_GATHERED ? bucket->gathered_at
                      : kind == DS_ARENA_STAGED ? bucket->staged_at
                      : kind == DS_ARENA_PACKED ? 0
                      : there                   ? ds_plan_bucket_at(plan, kind, i)
                                                : 0;
        size_t j;

        if (bucket->experts != experts)
            continue;
        j = n++;
        if (kind == DS_ARENA_GATHERED ? bucket->replicated : !there)
            elems = 0;
        for (; j > 0 && span[j - 1].from > at + part * elems; j--)
            span[j] = span[j - 1];
        span[j] = (struct span){.from = at + part * elems, .to = at + (part + 1) * elems};
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t from = span[i].from > end ? span[i].from : end;

        if (span[i].to <= from)
            continue;
        sum += span[i].to - from;
        end = span[i].to;
    }
    return sum;
}

static bool on_this_host(const struct ds_plan *plan, uint64_t rank)
{
    return rank / plan->local_world == plan->rank / plan->local_world;
}

/* Of a group whose ranks give each other equal parts of so many bytes: those of peers here. */
static uint64_t given_here(const struct ds_plan *plan, struct ds_comm_group group, uint64_t bytes)
{
    uint64_t here = 0;

    for (unsigned i = 0; i < group.count; i++)
        here += on_this_host(plan, group.first + i * group.stride) ? 1 : 0;
    return (here - 1) * (bytes / group.count);
}

/* Its part of what those that share its sequences give away, or that divide experts with it, and
 * what its likes of other parts pass on. */
static uint64_t swapped_peers(const struct ds_plan *plan)
{
    uint64_t swaps = given_here(plan, ds_plan_sequence_group(plan), ds__plan_swapped_bytes(plan));
    uint64_t meets = given_here(plan, ds_plan_meet_group(plan), ds__plan_met_bytes(plan));
    uint64_t bytes = swaps > meets ? swaps : meets, at = plan->rank;
    uint64_t step = (uint64_t)plan->holders * plan->tensor_ranks;

    if (!ds_plan_embeds(plan) && on_this_host(plan, at - step))
        bytes += plan->passed_bytes;
    if (!ds_plan_classifies(plan) && on_this_host(plan, at + step))
        bytes += plan->passed_bytes;
    return bytes;
}

/* Those of peers here that this rank reads to sum its shard of such buckets, or where they gather
 * them. */
static uint64_t touched_peers(const struct ds_plan *plan, struct span *span, bool experts)
{
    const struct ds_plan_holders of = ds_plan_holders(plan, experts);
    bool divided = plan->stage > 0 && of.shards > 1, copied = divided && plan->common_bytes == 0;
    uint64_t parts = divided ? of.shards : of.count, part = divided ? of.shard : of.place;
    uint64_t here = plan->local_world > of.stride ? plan->local_world / of.stride : 1;
    uint64_t local = here < parts ? here : parts;
    uint64_t host = part / local * local, end = host + local < parts ? host + local : parts;
    uint64_t elem = plan->bf16_wire ? sizeof(uint16_t) : sizeof(float);
    uint64_t bytes =
        (end - host - 1) * elem * touched(plan, written_arena(plan), span, experts, part, parts);

    for (uint64_t peer = host; copied && peer < end; peer++)
        if (peer != part)
            bytes += param_bytes(plan) *
                     touched(plan, ds__plan_read_arena(plan), span, experts, peer, parts);
    return bytes;
}

int ds__plan_peers(struct ds_plan *plan, struct ds_error *err)
{
    struct span *span = ds_arena_alloc(&plan->arena, plan->buckets, sizeof(*span));

    if (span == NULL)
        return ds_fail(err, ENOMEM, "no memory for a plan of %zu buckets", plan->buckets);
    if (plan->apart)
        return 0; /* each has a copy of its own on its device */
    plan->peer_bytes = swapped_peers(plan) + touched_peers(plan, span, false);
    if (plan->expert_ranks > 1)
        plan->peer_bytes += touched_peers(plan, span, true);
    return 0;
}
