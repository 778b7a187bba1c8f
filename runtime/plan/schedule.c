/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * schedule.c - the instruction lists of a training step and of an evaluation pass.
 *
 *   for each micro-batch   FORWARD 0 .. head, BACKWARD head .. 0
 *                          (recompute: FORWARD again before each layer's BACKWARD)
 *   last micro-batch       REDUCE of a bucket as soon as its first block's BACKWARD is done
 *   then                   NORM (waits for the last REDUCE), UPDATE of every bucket
 *
 * Two events per bucket: its gradients are complete; they are reduced.  Each is signalled once a
 * step.  Instructions of one queue run in list order, so waiting for the last REDUCE waits for all.
 *
 * Tests   tests/plan/test_plan.c
 */
#include <errno.h>

#include "runtime/plan/internal.h"

struct writer {
    const struct ds_plan *plan;
    struct ds_program *program;
    bool recompute;
};

static struct ds_instr *emit(struct writer *writer, enum ds_instr_op op, enum ds_queue queue)
{
    struct ds_instr *instr = &writer->program->instr[writer->program->count++];

    *instr = (struct ds_instr){
        .op = op,
        .queue = queue,
        .block = UINT32_MAX,
        .bucket = UINT32_MAX,
        .micro_batch = UINT32_MAX,
        .waits_for = DS_NO_EVENT,
        .signals = DS_NO_EVENT,
    };
    return instr;
}

static struct ds_instr *emit_block(struct writer *writer, enum ds_instr_op op, uint32_t block,
                                   uint32_t micro_batch)
{
    struct ds_instr *instr = emit(writer, op, DS_QUEUE_COMPUTE);

    instr->block = block;
    instr->micro_batch = micro_batch;
    instr->accumulate = micro_batch > 0;
    return instr;
}

static uint32_t event_complete(uint32_t bucket)
{
    return 2 * bucket;
}

static uint32_t event_reduced(uint32_t bucket)
{
    return 2 * bucket + 1;
}

/* `backward` was the last to write into the buckets whose first block it is: hand them over. */
static void emit_reduce(struct writer *writer, struct ds_instr *backward)
{
    for (uint32_t i = 0; i < writer->plan->buckets; i++) {
        struct ds_instr *reduce;

        if (writer->plan->bucket[i].first_block != backward->block)
            continue;
        if (backward->signals == DS_NO_EVENT)
            backward->signals = event_complete(i);
        reduce = emit(writer, DS_INSTR_REDUCE, DS_QUEUE_REDUCE);
        reduce->bucket = i;
        reduce->waits_for = backward->signals;
        reduce->signals = event_reduced(i);
    }
}

static void emit_micro_batch(struct writer *writer, uint32_t micro_batch)
{
    const struct ds_plan *plan = writer->plan;
    uint32_t blocks = ds_model_blocks(&plan->shape);
    bool reduce = plan->world > 1 && micro_batch + 1 == plan->micro_batches;

    for (uint32_t block = 0; block < blocks; block++)
        emit_block(writer, DS_INSTR_FORWARD, block, micro_batch);
    for (uint32_t block = blocks; block-- > 0;) {
        struct ds_instr *backward;

        if (writer->recompute && block > 0 && block + 1 < blocks)
            emit_block(writer, DS_INSTR_FORWARD, block, micro_batch)->recompute = true;
        backward = emit_block(writer, DS_INSTR_BACKWARD, block, micro_batch);
        if (reduce)
            emit_reduce(writer, backward);
    }
}

static void emit_step(struct writer *writer)
{
    const struct ds_plan *plan = writer->plan;
    struct ds_instr *norm;

    for (uint32_t i = 0; i < plan->micro_batches; i++)
        emit_micro_batch(writer, i);
    norm = emit(writer, DS_INSTR_NORM, DS_QUEUE_COMPUTE);
    if (plan->world > 1)
        norm->waits_for = writer->program->instr[writer->program->count - 2].signals;
    for (uint32_t i = 0; i < plan->buckets; i++)
        emit(writer, DS_INSTR_UPDATE, DS_QUEUE_COMPUTE)->bucket = i;
}

static int make_room(struct ds_plan *plan, struct ds_program *program, uint64_t count,
                     struct ds_error *err)
{
    program->instr =
        count > UINT32_MAX ? NULL : ds_arena_alloc(&plan->arena, count, sizeof(*program->instr));
    if (program->instr == NULL)
        return ds_fail(err, ENOMEM, "no memory for a schedule of %llu instructions",
                       (unsigned long long)count);
    return 0;
}

int ds__plan_schedule(struct ds_plan *plan, bool recompute, struct ds_error *err)
{
    uint64_t blocks = ds_model_blocks(&plan->shape);
    struct writer step = {.plan = plan, .program = &plan->step, .recompute = recompute};
    struct writer eval = {.plan = plan, .program = &plan->eval};
    int rc =
        make_room(plan, &plan->step, plan->micro_batches * 3 * blocks + 2 * plan->buckets + 1, err);

    if (rc == 0)
        rc = make_room(plan, &plan->eval, blocks, err);
    if (rc != 0)
        return rc;
    emit_step(&step);
    plan->step.events = 2 * (uint32_t)plan->buckets;
    for (uint32_t block = 0; block < blocks; block++)
        emit_block(&eval, DS_INSTR_FORWARD, block, 0);
    return 0;
}
