/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * schedule.c - the instruction lists of a training step and of an evaluation pass.
 *
 *   for each micro-batch   FORWARD 0 .. head, BACKWARD head .. 0
 *                          (recompute: FORWARD again before each layer's BACKWARD)
 *   part p of a pipeline   RECV, FORWARD, SEND of P - 1 - p micro-batches; then those of one more
 *   of P                   and RECV, BACKWARD, SEND of the oldest one, in turn; then the backward
 *                          passes that are left.  Where a SEND stands before the RECV of what the
 *                          same rank sends, the two are one exchange: both ranks would wait
 *                          otherwise until the other takes what it sends
 *   stages 0, 1            REDUCE of a bucket in the last micro-batch, as soon as nothing of it is
 *                          still to come
 *   stages 2, 3            that in every micro-batch; gradients lie in a room that buckets share
 *   stage 3                GATHER of a bucket ahead of its first use, FREE after the last; but is
 *                          as stage 2 where the ranks that share hold parameters once
 *   then                   TIE of gradients that both ends of a pipeline, or several ranks of a
 *                          team, have parts of, NORM (waits for the last REDUCE), UPDATE of every
 *                          bucket
 *   stages 1, 2            GATHER of a bucket after its UPDATE; in the next step the first
 *                          instruction that reads it waits for that
 *   offload                OFFLOAD of a bucket's gradients in the last micro-batch, once reduced;
 *                          UPDATE by the host, in forward order; FETCH of what it made of the
 *                          parameters, for which the next step's first reader or GATHER waits
 *
 *   activations offloaded  STASH of a layer's input, RESTORE for its backward pass; HOLD where an
 *                          operation waits for that (stash.c)
 *
 *   states on a disk       LOAD of the first pieces before all else; behind the UPDATE of a piece
 *                          its STORE and the LOAD of the one that comes into its room (pieces.c)
 *
 * The list in its order is a correct program by itself: whatever an instruction waits for stands
 * before it, or was in the step before.  Instructions of one queue run in list order, so waiting
 * for the last of several waits for all.
 *
 *   frozen     only gathered, if at all: ahead of uses as stage 3 does, else once before the first
 *              step (engine.c)
 *
 * Events   of stages above 0 and with offload, [0, buckets): gathered after the update; [buckets,
 *          2 buckets): updated, and fetched; with offload [2 buckets, 3 buckets): updated on the
 *          host; then in list order, each signalled once a step.
 * Rooms    a bucket's gradients may come into the room while those of one other bucket are on
 *          their way; the instruction that writes first waits for the REDUCE before that one.
 *
 * Tests   tests/plan/test_plan.c, tests/plan/test_stages.c
 */
#include <assert.h>

#include "runtime/plan/schedule.h"

/* A writer without room for instructions counts them. */
struct ds_instr *ds__emit(struct ds__writer *writer, enum ds_instr_op op, enum ds_queue queue)
{
    uint64_t at = writer->count++;
    struct ds_instr *instr =
        writer->program->instr == NULL ? &writer->counted : &writer->program->instr[at];

    *instr = (struct ds_instr){
        .op = op,
        .queue = queue,
        .block = UINT32_MAX,
        .bucket = UINT32_MAX,
        .micro_batch = UINT32_MAX,
        .piece = UINT32_MAX,
        .waits_for = DS_NO_EVENT,
        .signals = DS_NO_EVENT,
        .room_after = DS_NO_EVENT,
    };
    return instr;
}

static bool offloads(const struct ds__writer *writer)
{
    return writer->plan->offload && !writer->sequence->eval;
}

static bool copies_out(const struct ds__writer *writer)
{
    return ds_plan_copies_out(writer->plan) && !writer->sequence->eval;
}

static uint32_t event_gathered(uint32_t bucket)
{
    return bucket;
}

static uint32_t event_updated(const struct ds_plan *plan, uint32_t bucket)
{
    return (uint32_t)plan->buckets + bucket;
}

static uint32_t event_hosted(const struct ds_plan *plan, uint32_t bucket)
{
    return 2 * (uint32_t)plan->buckets + bucket;
}

static uint32_t next_event(struct ds__writer *writer)
{
    return writer->program->events++;
}

/* --- gathered parameters ----------------------------------------------------------------------*/

/* A bucket whose update stands for the end of the last step's passes: what is frozen has none. */
static uint32_t updated_with(const struct ds_plan *plan, uint32_t bucket)
{
    while (plan->bucket[bucket].frozen)
        bucket++;
    return bucket;
}

static void emit_gather(struct ds__writer *writer, uint32_t bucket, uint64_t micro_batch)
{
    struct ds_instr *gather = ds__emit(writer, DS_INSTR_GATHER, DS_QUEUE_GATHER);

    gather->bucket = bucket;
    gather->micro_batch = (uint32_t)micro_batch;
    gather->waits_for = writer->freed;
    if (writer->freed == DS_NO_EVENT && !writer->sequence->eval) {
        gather->waits_for = event_updated(writer->plan, updated_with(writer->plan, bucket));
        gather->last_step = true;
    } else if (offloads(writer) && micro_batch == 0 && !writer->plan->bucket[bucket].frozen) {
        /* it is not compute that updates */
        gather->room_after = event_updated(writer->plan, bucket);
        gather->room_last_step = true;
    }
    gather->signals = writer->gathered[bucket] = next_event(writer);
    ds__room_enter(&writer->rooms->gathered, bucket);
}

/* What is due at `position`, counted through all micro-batches. */
static void emit_gathers(struct ds__writer *writer, uint64_t position)
{
    const struct ds__window *window = &writer->sequence->window;

    for (; writer->ref < window->rounds * window->refs; writer->ref++) {
        if (ds__window_issue(window, writer->ref) > position)
            break;
        if (ds__window_arrives(window, writer->ref))
            emit_gather(writer, ds__window_bucket(window, writer->ref), writer->ref / window->refs);
    }
}

/* The buckets whose last reference of a stay this position had. */
static void emit_frees(struct ds__writer *writer, uint64_t position)
{
    const struct ds__window *window = &writer->sequence->window;

    for (; writer->left < window->rounds * window->refs &&
           ds__window_position(window, writer->left) <= position;
         writer->left++) {
        uint32_t bucket = ds__window_bucket(window, writer->left);
        struct ds_instr *instr;

        if (!ds__window_leaves(window, writer->left))
            continue;
        instr = ds__emit(writer, DS_INSTR_FREE, DS_QUEUE_COMPUTE);
        instr->bucket = bucket;
        instr->signals = writer->freed = next_event(writer);
        ds__room_leave(&writer->rooms->gathered, bucket);
    }
}

/* Wait for the parameters that are read, once per stay: of two events the later. */
static void wait_for_reads(struct ds__writer *writer, const struct ds__use *use,
                           struct ds_instr *instr)
{
    for (unsigned i = 0; i < DS__USES; i++) {
        uint32_t bucket = use->read[i];

        if (bucket == UINT32_MAX || writer->gathered[bucket] == DS_NO_EVENT)
            continue;
        if (instr->waits_for == DS_NO_EVENT || instr->waits_for < writer->gathered[bucket])
            instr->waits_for = writer->gathered[bucket];
        writer->gathered[bucket] = DS_NO_EVENT;
    }
    instr->last_step = instr->waits_for < 2 * writer->plan->buckets && !writer->plan->ahead;
}

/* The same for buckets that are fetched and never gathered: of two the one that is updated later.
 * No place is waited for then: it is a FORWARD of the first micro-batch, before any REDUCE. */
static void wait_for_whole(struct ds__writer *writer, const struct ds__use *use,
                           struct ds_instr *instr)
{
    size_t latest = 0;

    for (unsigned i = 0; i < DS__USES; i++) {
        uint32_t bucket = use->whole[i];

        if (bucket == UINT32_MAX || writer->gathered[bucket] == DS_NO_EVENT)
            continue;
        if (!instr->room_last_step || ds_plan_turn(writer->plan, bucket) > latest) {
            assert(instr->room_after == DS_NO_EVENT || instr->room_last_step);
            latest = ds_plan_turn(writer->plan, bucket);
            instr->room_after = writer->gathered[bucket];
            instr->room_last_step = true;
        }
        writer->gathered[bucket] = DS_NO_EVENT;
    }
}

/* --- gradients --------------------------------------------------------------------------------*/

/* Gradients of `bucket` come into the room with this instruction. */
static void wait_for_room(struct ds__writer *writer, uint32_t bucket, struct ds_instr *instr)
{
    uint32_t event;

    if (bucket == UINT32_MAX || writer->rooms->staged.inside[bucket] == DS__ROOM_WRITING)
        return;
    event = bucket == writer->reduced ? writer->reduced_event : writer->reduced_before;
    if (bucket == writer->reduced)
        writer->reduced = UINT32_MAX;
    if (instr->room_after == DS_NO_EVENT || (event != DS_NO_EVENT && event > instr->room_after))
        instr->room_after = event;
    ds__room_enter(&writer->rooms->staged, bucket);
    writer->rooms->staged.inside[bucket] = DS__ROOM_WRITING;
}

/* Returns the event of its end. */
static uint32_t emit_reduce(struct ds__writer *writer, uint32_t bucket, uint64_t micro_batch,
                            uint32_t complete)
{
    struct ds_instr *reduce = ds__emit(writer, DS_INSTR_REDUCE, DS_QUEUE_REDUCE);
    struct ds__room *staged = &writer->rooms->staged;

    reduce->bucket = bucket;
    reduce->micro_batch = (uint32_t)micro_batch;
    reduce->accumulate = writer->plan->stage >= 2 && micro_batch > 0;
    reduce->waits_for = complete;
    reduce->signals = next_event(writer);
    if (writer->plan->stage < 2) {
        return writer->reduced_event = reduce->signals;
    }
    if (writer->reduced != UINT32_MAX)
        ds__room_leave(staged, writer->reduced);
    staged->inside[bucket] = DS__ROOM_REDUCING;
    writer->reduced_before = writer->reduced_event;
    writer->reduced = bucket;
    return writer->reduced_event = reduce->signals;
}

static void emit_offload(struct ds__writer *writer, uint32_t bucket, uint64_t micro_batch,
                         uint32_t ready)
{
    struct ds_instr *offload = ds__emit(writer, DS_INSTR_OFFLOAD, DS_QUEUE_COPY_OUT);

    offload->bucket = bucket;
    offload->micro_batch = (uint32_t)micro_batch;
    offload->waits_for = ready;
    offload->signals = writer->offloaded = next_event(writer);
}

/* Has somebody else a part of its gradient, or must it leave the room? */
static bool reduces(const struct ds_plan *plan, uint32_t bucket)
{
    return plan->stage >= 2 || ds_plan_holders_of(plan, bucket).count > 1;
}

/* Has somebody else a part of it who is no holder of the bucket? */
static bool ties(const struct ds_plan *plan, uint32_t bucket)
{
    return plan->bucket[bucket].tied || plan->bucket[bucket].doubled;
}

/* Hand over the buckets that `backward`, the last instruction, was the last to write into. */
static void emit_reduces(struct ds__writer *writer, const struct ds__op *op, uint64_t micro_batch,
                         struct ds_instr *backward)
{
    bool last = micro_batch + 1 == writer->plan->micro_batches;
    bool due = !writer->sequence->eval && (writer->plan->stage >= 2 || last);
    bool offload = copies_out(writer) && last;

    for (unsigned i = 0; i < DS__USES && op->complete[i] != UINT32_MAX; i++) {
        bool reduce = due && reduces(writer->plan, op->complete[i]);
        uint32_t ready;

        if (!reduce && !offload)
            continue;
        if (backward->signals == DS_NO_EVENT)
            backward->signals = next_event(writer);
        ready = backward->signals;
        if (reduce)
            ready = emit_reduce(writer, op->complete[i], micro_batch, ready);
        if (offload && !ties(writer->plan, op->complete[i]))
            emit_offload(writer, op->complete[i], micro_batch, ready);
    }
}

/* --- programs ---------------------------------------------------------------------------------*/

/* Operations of a micro-batch, which of its RECV and its SEND are paired. */
struct part {
    uint64_t micro_batch;
    uint32_t from, to;
    bool recv, send;
};

/* Does a pass find what an earlier micro-batch has left: gradients, largest elements? */
static bool adds(const struct ds_plan *plan, const struct ds__op *op, uint64_t micro_batch)
{
    if (plan->stage >= 2)
        return false;
    return (op->op == DS_INSTR_BACKWARD && micro_batch > 0) ||
           (op->op == DS_INSTR_FORWARD && micro_batch >= plan->slots);
}

static void emit_part(struct ds__writer *writer, const struct part *part)
{
    const struct ds__sequence *sequence = writer->sequence;
    const struct ds_plan *plan = writer->plan;
    const uint64_t micro_batch = part->micro_batch;

    for (uint32_t i = part->from; i < part->to; i++) {
        const struct ds__op *op = &sequence->op[i];
        uint64_t position = micro_batch * sequence->count + i;
        uint32_t done = DS_NO_EVENT;
        struct ds_instr *instr;

        if (plan->ahead)
            emit_gathers(writer, position);
        ds__emit_hold(writer, op);
        instr = ds__emit(writer, op->op, DS_QUEUE_COMPUTE);
        instr->block = op->block;
        instr->micro_batch = (uint32_t)micro_batch;
        instr->recompute = op->recompute;
        instr->gradient = op->gradient;
        instr->paired =
            op->op == DS_INSTR_SEND ? part->send : op->op == DS_INSTR_RECV && part->recv;
        instr->accumulate = adds(plan, op, micro_batch);
        wait_for_reads(writer, &op->use, instr);
        wait_for_whole(writer, &op->use, instr);
        for (unsigned j = 0; plan->stage >= 2 && !sequence->eval && j < DS__USES; j++)
            wait_for_room(writer, op->use.write[j], instr);
        if (ds__moves(writer, op))
            done = instr->signals = next_event(writer);
        emit_reduces(writer, op, micro_batch, instr);
        ds__emit_move(writer, op, micro_batch, done);
        if (plan->ahead)
            emit_frees(writer, position);
    }
}

static void emit_half(struct ds__writer *writer, struct part part, bool backward)
{
    part.from = backward ? writer->sequence->forward : 0;
    part.to = backward ? writer->sequence->count : writer->sequence->forward;
    emit_part(writer, &part);
}

/* One forward, one backward; at each end of that what the parts behind have still to get, or to
 * give back. */
static void emit_pipeline(struct ds__writer *writer)
{
    const struct ds_plan *plan = writer->plan;
    const uint64_t all = writer->sequence->window.rounds, behind = plan->pipeline_ranks - 1;
    const uint64_t wanted = behind - plan->pipeline_rank, ahead = wanted < all ? wanted : all;

    for (uint64_t i = 0; i < ahead; i++)
        emit_half(writer, (struct part){.micro_batch = i}, false);
    for (uint64_t i = 0; i < all - ahead; i++) {
        const struct part forward = {.micro_batch = ahead + i, .recv = i > 0, .send = true};
        const struct part backward = {.micro_batch = i, .recv = true, .send = i + 1 < all - ahead};

        emit_half(writer, forward, false);
        emit_half(writer, backward, true);
    }
    for (uint64_t i = all - ahead; i < all; i++)
        emit_half(writer, (struct part){.micro_batch = i}, true);
}

static void emit_passes(struct ds__writer *writer)
{
    if (writer->plan->pipeline_ranks > 1 && !writer->sequence->eval) {
        emit_pipeline(writer);
        return;
    }
    for (uint64_t i = 0; i < writer->sequence->window.rounds; i++)
        emit_part(writer, &(struct part){.micro_batch = i, .to = writer->sequence->count});
}

/* The first one waits for the flags and for all gradients; a later one for its half of the room. */
static void emit_host_update(struct ds__writer *writer, uint32_t bucket, uint32_t before,
                             uint32_t normed)
{
    const struct ds_plan *plan = writer->plan;
    struct ds_instr *instr = ds__emit(writer, DS_INSTR_UPDATE, DS_QUEUE_HOST);

    instr->bucket = bucket;
    if (ds_plan_turn(plan, bucket) == 0) {
        instr->waits_for = normed;
        instr->room_after = writer->offloaded;
    }
    if (before != UINT32_MAX && plan->room_elems > 0)
        instr->room_after = event_updated(plan, before);
    instr->signals = copies_out(writer) ? event_hosted(plan, bucket) : event_updated(plan, bucket);
    ds__emit_pieces(writer, instr);
    if (!copies_out(writer))
        return;
    instr = ds__emit(writer, DS_INSTR_FETCH, DS_QUEUE_COPY_IN);
    instr->bucket = bucket;
    instr->waits_for = event_hosted(plan, bucket);
    instr->signals = event_updated(plan, bucket);
}

static void emit_update(struct ds__writer *writer, uint32_t bucket)
{
    struct ds_instr *instr = ds__emit(writer, DS_INSTR_UPDATE, DS_QUEUE_COMPUTE);

    instr->bucket = bucket;
    if (writer->plan->stage > 0)
        instr->signals = event_updated(writer->plan, bucket);
    ds__emit_pieces(writer, instr);
}

static void emit_last_gather(struct ds__writer *writer, uint32_t bucket)
{
    const struct ds_plan *plan = writer->plan;
    struct ds_instr *instr;

    if (plan->stage == 0 || plan->ahead || ds_plan_whole(plan, bucket))
        return;
    instr = ds__emit(writer, DS_INSTR_GATHER, DS_QUEUE_GATHER);
    instr->bucket = bucket;
    instr->waits_for = event_updated(plan, bucket);
    instr->signals = event_gathered(bucket);
}

/* The gradient of the embedding's matrix, of which each end of the pipeline has a part; those of
 * keys and values, of which several ranks of a team have. */
static void emit_tie(struct ds__writer *writer)
{
    const struct ds_plan *plan = writer->plan;

    for (uint32_t bucket = 0; bucket < plan->buckets; bucket++) {
        struct ds_instr *tie;

        if (!ties(plan, bucket))
            continue;
        tie = ds__emit(writer, DS_INSTR_TIE, DS_QUEUE_COMPUTE);
        tie->bucket = bucket;
        tie->waits_for = writer->reduced_event;
        if (copies_out(writer)) {
            tie->signals = next_event(writer);
            emit_offload(writer, bucket, plan->micro_batches - 1, tie->signals);
        }
    }
}

/* NORM, then every bucket: by the host in the order in which the next step reads them. */
static void emit_end(struct ds__writer *writer)
{
    const struct ds_plan *plan = writer->plan;
    uint32_t buckets = (uint32_t)plan->buckets, last[2] = {UINT32_MAX, UINT32_MAX};
    uint32_t first = plan->bucket[buckets - 1].replicated ? buckets - 1 : 0, normed = DS_NO_EVENT;
    struct ds_instr *norm;

    emit_tie(writer);
    norm = ds__emit(writer, DS_INSTR_NORM, DS_QUEUE_COMPUTE);
    norm->waits_for = writer->reduced_event;
    if (plan->offload)
        norm->signals = normed = next_event(writer);
    for (uint32_t i = 0; i < buckets; i++) {
        uint32_t bucket = plan->offload ? (first + i) % buckets : i;
        size_t half = ds_plan_turn(plan, bucket) % 2;

        if (plan->bucket[bucket].frozen)
            continue;
        if (plan->offload)
            emit_host_update(writer, bucket, last[half], normed);
        else
            emit_update(writer, bucket);
        emit_last_gather(writer, bucket);
        last[half] = bucket;
    }
}

/* What stands for a bucket's parameters being there when a step begins. */
static uint32_t first_wait(const struct ds__writer *writer, uint32_t bucket)
{
    const struct ds_plan *plan = writer->plan;
    bool whole = ds_plan_whole(plan, bucket);

    if (plan->bucket[bucket].frozen)
        return DS_NO_EVENT;
    if (!writer->sequence->eval && !whole && plan->stage > 0 && !plan->ahead)
        return event_gathered(bucket);
    if (copies_out(writer) && (whole || plan->stage == 0))
        return event_updated(plan, bucket);
    return DS_NO_EVENT;
}

void ds__write(struct ds__writer *writer)
{
    const struct ds_plan *plan = writer->plan;
    uint32_t kinds = plan->offload ? 3 : plan->stage > 0 ? 2 : 0;

    writer->count = writer->ref = writer->left = 0;
    writer->freed = writer->reduced_event = writer->reduced_before = DS_NO_EVENT;
    writer->offloaded = DS_NO_EVENT;
    for (unsigned i = 0; i < DS_STASH_PLACES; i++)
        writer->moved[i] = DS_NO_EVENT;
    writer->reduced = UINT32_MAX;
    writer->program->events = kinds * (uint32_t)plan->buckets;
    for (uint32_t i = 0; i < plan->buckets; i++)
        writer->gathered[i] = first_wait(writer, i);
    if (!writer->sequence->eval)
        ds__emit_first_loads(writer);
    emit_passes(writer);
    if (!writer->sequence->eval)
        emit_end(writer);
}
