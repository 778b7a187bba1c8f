/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pieces.c - the optimizer's states in a file: what is read, updated and written together, where it
 * lies, and the instructions that move it.
 *
 * Most optimizers go by elements, so that a bucket is cut where a disk likes it and the rooms in
 * memory are of one size, however large a bucket is.  A bucket whose matrices are updated as a
 * whole (owner.c) is one piece.  Ranks have shards of one size, so all have the same pieces.
 *
 * With R rooms one piece is updated while R - 1 others are on their way, one out and one in where R
 * is 3.  The first R are read while the step computes, the last R are written while the next one
 * begins.
 *
 * Tests   tests/plan/test_pieces.c
 */
#include <errno.h>

#include "runtime/plan/schedule.h"

/* Elements of a piece: with two states 8 MiB, which a disk transfers as fast as any more, and
 * little beside a rank's other memory.  Small models have smaller ones, so that the rooms do not
 * hold as much as there is. */
enum { MOST_ELEMS = 1 << 20, LEAST_ELEMS = 1 << 12, LEAST_PIECES = 24, ROOM_ALIGN_ELEMS = 16 };

/* Elements of a state in the shard of a bucket. */
static uint64_t shard_elems(const struct ds_plan *plan, size_t bucket, unsigned state)
{
    bool last = bucket + 1 == plan->buckets;

    if (state == 0)
        return ds_plan_shard(plan, DS_ARENA_MOMENTS, bucket).count;
    return (last ? plan->second_elems : plan->bucket[bucket + 1].second_at) -
           plan->bucket[bucket].second_at;
}

/* What of those a piece has. */
static uint64_t state_elems(const struct ds_plan *plan, size_t index, unsigned state)
{
    const struct ds_plan_piece *piece = &plan->piece[index];
    uint64_t all = shard_elems(plan, piece->bucket, state);
    uint64_t left = all > piece->first ? all - piece->first : 0;

    return left < piece->elems ? left : piece->elems;
}

struct ds_held ds_plan_piece_state(const struct ds_plan *plan, size_t index, unsigned state)
{
    const struct ds_plan_piece *piece = &plan->piece[index];
    struct ds_held shard = ds_plan_shard(plan, DS_ARENA_MOMENTS, piece->bucket);
    struct ds_held held = {.first = ds_plan_state_at(plan, piece->bucket, state, shard.at) +
                                    piece->first,
                           .count = state_elems(plan, index, state)};

    for (unsigned i = 0; i < state; i++)
        held.at += ds__round_up(state_elems(plan, index, i), ROOM_ALIGN_ELEMS);
    return held;
}

uint64_t ds__plan_state_bytes(const struct ds_plan *plan)
{
    uint64_t elems = 0;

    for (unsigned i = 0; i < plan->optim_states; i++)
        elems += ds_plan_state_elems(plan, i);
    return elems * sizeof(float);
}

/* The bucket that is updated as the i-th. */
static uint32_t updated_as(const struct ds_plan *plan, uint32_t i)
{
    uint32_t buckets = (uint32_t)plan->buckets;

    return plan->offload && plan->bucket[buckets - 1].replicated ? (i + buckets - 1) % buckets : i;
}

static uint64_t piece_elems(const struct ds_plan *plan)
{
    uint64_t elems = ds_plan_state_elems(plan, 0) / LEAST_PIECES;

    elems = elems < LEAST_ELEMS ? LEAST_ELEMS : elems;
    return elems > MOST_ELEMS ? MOST_ELEMS : ds__round_up(elems, DS_PIECE_ALIGN / sizeof(float));
}

/* Is a matrix of it updated as a whole?  What every rank has whole has matrices, too. */
static bool has_matrices(const struct ds_plan *plan, uint32_t bucket)
{
    for (size_t i = 0; i < plan->spans; i++)
        if (plan->span[i].bucket == bucket && plan->span[i].rows > 0)
            return true;
    return false;
}

/* Returns how many pieces there are; places them where plan->piece is there for it. */
static size_t cut(struct ds_plan *plan)
{
    size_t pieces = 0;

    for (uint32_t i = 0; i < plan->buckets; i++) {
        uint32_t bucket = updated_as(plan, i);
        uint64_t elems = shard_elems(plan, bucket, 0);
        uint64_t most = has_matrices(plan, bucket) ? elems : piece_elems(plan);

        for (uint64_t at = 0; at < elems; at += most, pieces++)
            if (plan->piece != NULL)
                plan->piece[pieces] = (struct ds_plan_piece){
                    .bucket = bucket, .first = at, .elems = elems - at < most ? elems - at : most};
    }
    return pieces;
}

static void place(struct ds_plan *plan)
{
    for (size_t i = 0; i < plan->pieces; i++) {
        struct ds_plan_piece *piece = &plan->piece[i];
        struct ds_held last = ds_plan_piece_state(plan, i, plan->optim_states - 1);

        piece->at = plan->disk_bytes;
        piece->bytes = ds__round_up((last.at + last.count) * sizeof(float), DS_PIECE_ALIGN);
        plan->disk_bytes += piece->bytes;
        if (piece->bytes > plan->piece_room_bytes)
            plan->piece_room_bytes = piece->bytes;
    }
    plan->piece_rooms = plan->pieces < DS_PIECE_ROOMS ? (unsigned)plan->pieces : DS_PIECE_ROOMS;
}

int ds__plan_pieces(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    size_t pieces = job->offload.optim == DS_OFFLOAD_NVME && plan->optim_states > 0 ? cut(plan) : 0;

    if (pieces == 0)
        return 0;
    if (pieces <= UINT32_MAX)
        plan->piece = ds_arena_alloc(&plan->arena, pieces, sizeof(*plan->piece));
    if (plan->piece == NULL)
        return ds_fail(err, ENOMEM, "no memory for %zu pieces of the optimizer's states", pieces);
    plan->pieces = cut(plan);
    place(plan);
    return 0;
}

/* --- instructions ----------------------------------------------------------------------------- */

static void emit_move(struct ds__writer *writer, enum ds_instr_op op, size_t piece)
{
    struct ds_instr *move = ds__emit(writer, op, DS_QUEUE_HOST);

    move->bucket = writer->plan->piece[piece].bucket;
    move->piece = (uint32_t)piece;
}

void ds__emit_first_loads(struct ds__writer *writer)
{
    for (size_t i = 0; i < writer->plan->piece_rooms; i++)
        emit_move(writer, DS_INSTR_LOAD, i);
}

/* The last one signals, the first one waits. */
void ds__emit_pieces(struct ds__writer *writer, struct ds_instr *update)
{
    const struct ds_plan *plan = writer->plan;
    struct ds_instr next = *update;
    uint32_t piece = 0, last;

    if (plan->pieces == 0)
        return;
    while (plan->piece[piece].bucket != next.bucket)
        piece++;
    for (last = piece; last + 1 < plan->pieces && plan->piece[last + 1].bucket == next.bucket;)
        last++;
    for (; piece <= last; piece++) {
        update->piece = piece;
        update->signals = piece == last ? next.signals : DS_NO_EVENT;
        emit_move(writer, DS_INSTR_STORE, piece);
        if (piece + plan->piece_rooms < plan->pieces)
            emit_move(writer, DS_INSTR_LOAD, piece + plan->piece_rooms);
        if (piece == last)
            break;
        update = ds__emit(writer, next.op, next.queue);
        update->bucket = next.bucket;
    }
}
