/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * stash.c - inputs of layers that wait in the host's memory for their backward pass.
 *
 * With activation.recompute full the input of a layer, which is the output of the block before, is
 * what it keeps.  These outputs lie in two places of the device, in turn: while one is made from
 * the other, the one before is copied out, and on the way back the one after next is copied in.
 *
 *   FORWARD b           HOLD until the output of b - 2 has left the place; STASH of its own
 *   BACKWARD b + 1      HOLD until the output of b is back; RESTORE of that of b - 2, whose place
 *                       is free now
 *
 * The last two are where they are when the passes turn.  Outputs in front of the first layer that
 * a gradient comes to are nobody's afterwards, and stay out of this.
 *
 * Tests   tests/plan/test_stash.c, tests/engine/test_stages.c
 */
#include "runtime/plan/schedule.h"

int ds__plan_stash(struct ds_plan *plan, const struct ds_job *job, struct ds_error *err)
{
    const uint32_t first = plan->first_trained > 0 ? plan->first_trained - 1 : 0;
    const uint32_t end = ds_model_blocks(&plan->shape) - 1; /* the head has no output */

    if (job->activation.offload == DS_OFFLOAD_NONE)
        return 0;
    if (plan->pipeline_ranks > 1)
        return ds_fail(err, EINVAL,
                       "'activation.offload' cpu and 'parallel.pipeline' %u are not supported "
                       "together: a part has inputs of several micro-batches",
                       plan->pipeline_ranks);
    if (plan->recompute != DS_RECOMPUTE_FULL || end <= first + DS_STASH_PLACES)
        return 0;
    plan->stash_first = first;
    plan->stash_end = end;
    plan->stash_bytes = plan->micro_batch * plan->sequence * plan->shape.hidden *
                        ds_dtype_bytes(ds_compute_dtype(plan->compute));
    plan->host[DS_ARENA_HOST_OUTS] = true;
    return 0;
}

/* The output that an operation of a step makes, or the backward half reads; false: none that moves.
 */
static bool output_of(const struct ds_plan *plan, const struct ds__op *op, uint32_t *block)
{
    bool forward = op->op == DS_INSTR_FORWARD && !op->recompute;

    if (op->op != DS_INSTR_FORWARD && op->op != DS_INSTR_BACKWARD)
        return false;
    *block = forward ? op->block : op->block - 1; /* of block 0 as if it had the last number */
    return ds_plan_takes_turns(plan, *block);
}

void ds__emit_hold(struct ds__writer *writer, const struct ds__op *op)
{
    struct ds_instr *hold;
    uint32_t block, *moved;

    if (writer->sequence->eval || !output_of(writer->plan, op, &block))
        return;
    moved = &writer->moved[ds_plan_stash_place(writer->plan, block)];
    if (*moved == DS_NO_EVENT)
        return;
    hold = ds__emit(writer, DS_INSTR_HOLD, DS_QUEUE_COMPUTE);
    hold->block = block;
    hold->waits_for = *moved;
    *moved = DS_NO_EVENT;
}

/* What moves once this operation is done: an output that leaves, or one that comes back. */
static bool mover(const struct ds__writer *writer, const struct ds__op *op, uint32_t *block)
{
    const struct ds_plan *plan = writer->plan;

    if (writer->sequence->eval || op->recompute || !output_of(plan, op, block))
        return false;
    if (op->op == DS_INSTR_FORWARD)
        return *block + DS_STASH_PLACES < plan->stash_end;
    if (*block < plan->stash_first + DS_STASH_PLACES)
        return false;
    *block -= DS_STASH_PLACES;
    return true;
}

bool ds__moves(const struct ds__writer *writer, const struct ds__op *op)
{
    uint32_t block;

    return mover(writer, op, &block);
}

void ds__emit_move(struct ds__writer *writer, const struct ds__op *op, uint64_t micro_batch,
                   uint32_t done)
{
    bool out = op->op == DS_INSTR_FORWARD;
    struct ds_instr *move;
    uint32_t block;

    if (!mover(writer, op, &block))
        return;
    move = ds__emit(writer, out ? DS_INSTR_STASH : DS_INSTR_RESTORE,
                    out ? DS_QUEUE_COPY_OUT : DS_QUEUE_COPY_IN);
    move->block = block;
    move->micro_batch = (uint32_t)micro_batch;
    move->waits_for = done;
    move->signals = writer->moved[ds_plan_stash_place(writer->plan, block)] =
        writer->program->events++;
}
