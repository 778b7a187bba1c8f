/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pieces - optimizer states in a file: every element is in one piece, a room holds one piece at
 * a time, and but for that the program is the one of states in memory.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

struct setting {
    unsigned world, local, stage;
    uint64_t replicate_below;
    enum ds_optim_kind optim;
    bool apart, large, async;
};

static const struct setting settings[] = {
    {.world = 1, .local = 1},
    {.world = 1, .local = 1, .large = true},
    {.world = 1, .local = 1, .large = true, .apart = true, .replicate_below = 1000},
    {.world = 3, .local = 3, .stage = 1, .replicate_below = 300},
    {.world = 4, .local = 2, .stage = 3, .large = true, .async = true},
    {.world = 2, .local = 2, .stage = 2, .apart = true, .replicate_below = 300},
    {.world = 4, .local = 4, .stage = 1, .optim = DS_OPTIM_MUON, .large = true},
    {.world = 2, .local = 2, .optim = DS_OPTIM_MUON},
    {.world = 2, .local = 2, .stage = 1, .optim = DS_OPTIM_MUON, .replicate_below = 10000},
    {.world = 3, .local = 3, .stage = 2, .optim = DS_OPTIM_LION, .large = true, .apart = true},
};
enum { SETTINGS = sizeof(settings) / sizeof(settings[0]) };

static void build(struct ds_plan *plan, const struct setting *set, enum ds_offload offload)
{
    struct ds_model_shape shape =
        set->large ? test_gpt2(4, 768, 12, 50257, 64) : test_llama(3, 64, 4, 2, 96, 113, 32);
    struct ds_job job = test_job(shape, 2 * set->world, 1, 32);
    const struct ds_plan_args args = {.job = &job,
                                      .world = set->world,
                                      .rank = set->world - 1,
                                      .threads = 1,
                                      .local_world = set->local,
                                      .common = !set->apart,
                                      .apart = set->apart};
    struct ds_error err = {0};

    job.zero.stage = set->stage;
    job.zero.bucket_mb = 1;
    job.zero.replicate_below = set->replicate_below;
    job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    job.optim.kind = set->optim;
    job.offload.optim = offload;
    job.checkpoint.async = set->async;
    job.checkpoint.every = 2;
    cr_assert_eq(ds_plan_build(plan, &args, &err), 0, "%s", err.text);
}

/* Every element of every state's line, but what pads one, is in one piece, in its room and in the
 * file beside the others. */
Test(pieces, hold_every_element_once)
{
    for (unsigned s = 0; s < SETTINGS; s++) {
        struct ds_plan plan;
        uint64_t at = 0, most = 0;

        build(&plan, &settings[s], DS_OFFLOAD_NVME);
        cr_assert_geq(plan.pieces,
                      settings[s].large && settings[s].optim != DS_OPTIM_MUON ? 20 : 1);
        for (unsigned state = 0; state < plan.optim_states; state++) {
            uint64_t elems = ds_plan_state_elems(&plan, state), all = 0, twice = 0;
            unsigned char *seen = calloc(elems, 1);

            for (size_t i = 0; i < plan.pieces; i++) {
                struct ds_held has = ds_plan_piece_state(&plan, i, state);

                cr_assert_leq(has.first + has.count, elems);
                cr_assert_leq((has.at + has.count) * sizeof(float), plan.piece[i].bytes);
                for (uint64_t k = 0; k < has.count; k++)
                    twice += seen[has.first + k]++ > 0;
                all += has.count;
            }
            cr_assert(all == elems && twice == 0, "%u: state %u", s, state);
            free(seen);
        }
        for (size_t i = 0; i < plan.pieces; i++) {
            struct ds_held first = ds_plan_piece_state(&plan, i, 0);

            cr_assert_eq(plan.piece[i].at, at);
            cr_assert_eq(plan.piece[i].bytes % DS_PIECE_ALIGN, 0);
            cr_assert(plan.optim_states == 1 || ds_plan_piece_state(&plan, i, 1).count == 0 ||
                      ds_plan_piece_state(&plan, i, 1).at >= first.at + first.count);
            at += plan.piece[i].bytes;
            most = plan.piece[i].bytes > most ? plan.piece[i].bytes : most;
        }
        cr_assert_eq(plan.disk_bytes, at);
        cr_assert_eq(plan.piece_room_bytes, most);
        ds_plan_release(&plan);
    }
}

/* Neither does a piece end within a matrix that is updated as a whole. */
Test(pieces, leave_matrices_whole)
{
    for (unsigned s = 0; s < SETTINGS; s++) {
        struct ds_plan plan;
        size_t matrices = 0;

        build(&plan, &settings[s], DS_OFFLOAD_NVME);
        for (size_t i = 0; i < plan.spans; i++) {
            const struct ds_plan_span *span = &plan.span[i];
            const struct ds_bucket *bucket = &plan.bucket[span->bucket];

            for (size_t k = 0; span->rows > 0 && k < plan.pieces; k++)
                if (plan.piece[k].bucket == span->bucket)
                    cr_assert_geq(plan.piece[k].elems,
                                  ds_plan_shard(&plan, DS_ARENA_MOMENTS, span->bucket).count,
                                  "%u: %s", s, bucket->replicated ? "replicated" : "shared");
            matrices += span->rows > 0;
        }
        cr_assert_eq(matrices > 0, settings[s].optim == DS_OPTIM_MUON);
        ds_plan_release(&plan);
    }
}

enum stay { EMPTY, LOADED, UPDATED, STORED };

/* In list order, two steps. */
Test(pieces, take_the_rooms_in_turn)
{
    for (unsigned s = 0; s < SETTINGS; s++) {
        uint32_t inside[DS_PIECE_ROOMS] = {0}, stored = 0;
        enum stay stay[DS_PIECE_ROOMS] = {EMPTY};
        bool computed = false;
        struct ds_plan plan;

        build(&plan, &settings[s], DS_OFFLOAD_NVME);
        for (size_t i = 0; i < 2 * plan.step.count; i++) {
            const struct ds_instr *instr = &plan.step.instr[i % plan.step.count];
            unsigned room = instr->piece % DS_PIECE_ROOMS;

            computed = i % plan.step.count != 0 && (computed || instr->op == DS_INSTR_FORWARD);
            if (instr->piece == UINT32_MAX) {
                cr_assert_neq(instr->op, DS_INSTR_UPDATE);
                continue;
            }
            cr_assert_eq(instr->bucket, plan.piece[instr->piece].bucket);
            if (instr->op == DS_INSTR_LOAD) {
                cr_assert(stay[room] == EMPTY || stay[room] == STORED, "%u: %zu", s, i);
                cr_assert_eq(computed, instr->piece >= DS_PIECE_ROOMS, "the first come early");
                inside[room] = instr->piece;
                stay[room] = LOADED;
                continue;
            }
            cr_assert_eq(inside[room], instr->piece, "%u: %zu", s, i);
            cr_assert_eq(stay[room], instr->op == DS_INSTR_UPDATE ? LOADED : UPDATED);
            stay[room] = instr->op == DS_INSTR_UPDATE ? UPDATED : STORED;
            stored += instr->op == DS_INSTR_STORE;
        }
        cr_assert_eq(stored, 2 * plan.pieces);
        ds_plan_release(&plan);
    }
}

/* The next instruction of a list that is not the disk's; an UPDATE from its first piece to its
 * last. */
static struct ds_instr next(const struct ds_program *program, size_t *at)
{
    struct ds_instr instr, piece;

    do
        instr = program->instr[(*at)++];
    while (instr.op == DS_INSTR_LOAD || instr.op == DS_INSTR_STORE);
    while (instr.op == DS_INSTR_UPDATE && *at < program->count) {
        piece = program->instr[*at];
        if (piece.op != DS_INSTR_LOAD && piece.op != DS_INSTR_STORE &&
            (piece.op != DS_INSTR_UPDATE || piece.bucket != instr.bucket))
            break;
        if (piece.op == DS_INSTR_UPDATE) {
            cr_assert_eq(instr.signals, DS_NO_EVENT, "not before the last");
            cr_assert_eq(piece.waits_for, DS_NO_EVENT);
            cr_assert_eq(piece.room_after, DS_NO_EVENT);
            instr.signals = piece.signals;
        }
        (*at)++;
    }
    return instr;
}

Test(pieces, leave_the_program_as_it_is)
{
    for (unsigned s = 0; s < SETTINGS; s++) {
        enum ds_offload alike = settings[s].apart ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
        struct ds_plan here, there;
        size_t at = 0;

        build(&here, &settings[s], alike);
        build(&there, &settings[s], DS_OFFLOAD_NVME);
        for (size_t i = 0; i < here.step.count; i++) {
            const struct ds_instr *a = &here.step.instr[i];
            struct ds_instr b = next(&there.step, &at);

            cr_assert(a->op == b.op && a->queue == b.queue && a->block == b.block &&
                          a->bucket == b.bucket && a->micro_batch == b.micro_batch &&
                          a->waits_for == b.waits_for && a->signals == b.signals &&
                          a->room_after == b.room_after && a->last_step == b.last_step,
                      "%u: %zu is %s, not %s", s, i, ds_instr_op_name(b.op),
                      ds_instr_op_name(a->op));
        }
        cr_assert_eq(here.eval.count, there.eval.count);
        for (unsigned k = 0; k < DS_ARENA_COUNT; k++)
            cr_assert(k == DS_ARENA_MOMENTS || here.arena_bytes[k] == there.arena_bytes[k]);
        ds_plan_release(&here);
        ds_plan_release(&there);
    }
}

/* Rooms instead of states; a copy for a checkpoint holds states all the same. */
Test(pieces, take_little_memory)
{
    for (unsigned s = 0; s < SETTINGS; s++) {
        enum ds_offload alike = settings[s].apart ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
        struct ds_plan here, there;

        build(&here, &settings[s], alike);
        build(&there, &settings[s], DS_OFFLOAD_NVME);
        cr_assert_eq(here.pieces, 0);
        cr_assert_eq(there.arena_bytes[DS_ARENA_MOMENTS],
                     there.piece_rooms * there.piece_room_bytes + DS_PIECE_ALIGN);
        cr_assert_geq(there.disk_bytes, here.arena_bytes[DS_ARENA_MOMENTS]);
        cr_assert_leq(there.disk_bytes,
                      here.arena_bytes[DS_ARENA_MOMENTS] + there.pieces * DS_PIECE_ALIGN);
        if (settings[s].large && settings[s].optim != DS_OPTIM_MUON) /* its buckets are not cut */
            cr_assert_leq(4 * there.arena_bytes[DS_ARENA_MOMENTS],
                          here.arena_bytes[DS_ARENA_MOMENTS], "%u: %zu pieces", s, there.pieces);
        cr_assert_eq(here.snapshot_bytes, there.snapshot_bytes);
        cr_assert_eq(here.snapshot_bytes > 0, settings[s].async);
        ds_plan_release(&here);
        ds_plan_release(&there);
    }
}
