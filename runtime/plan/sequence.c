/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sequence.c - what a pass computes in order, and which buckets each instruction reads and writes;
 * from that the programs (schedule.c) and the rooms.
 *
 * The head's training FORWARD also goes back through the classifier (model/net.h): it reads the
 * classifier's matrix, which is the embedding's where it is tied, and writes its gradient.  The
 * embedding's BACKWARD reads no parameter.
 *
 * Prefetch depth where the job leaves it open (cost/depth.c settles it before a run): the deepest
 * for which the room of gathered parameters is no larger than one bucket ahead needs anyway, or
 * than a sixteenth of all parameters.
 *
 * Tests   tests/plan/test_plan.c, tests/plan/test_stages.c
 */
#include <assert.h>

#include "runtime/plan/schedule.h"

enum { PREFETCH_SHARE = 16 };

#define NONE                                                                                       \
    {                                                                                              \
        UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX                                 \
    } /* DS__USES */

static const struct ds__use nothing = {.read = NONE, .write = NONE, .whole = NONE};

static void add_bucket(uint32_t list[DS__USES], uint32_t bucket)
{
    for (unsigned i = 0; i < DS__USES; i++) {
        if (list[i] == bucket)
            return;
        if (list[i] == UINT32_MAX) {
            list[i] = bucket;
            return;
        }
    }
    assert(false); /* no instruction uses more */
}

static struct ds__use use_of(const struct ds_plan *plan, enum ds_instr_op op, uint32_t block)
{
    struct ds__use use = nothing;
    uint32_t head = ds_model_blocks(&plan->shape) - 1;
    bool forward = op == DS_INSTR_FORWARD, tied = plan->shape.tie_embeddings;

    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        bool classifier = block == head && (param->param.role == DS_ROLE_HEAD_W ||
                                            (tied && param->param.role == DS_ROLE_WTE));
        bool own = param->param.block == block;
        bool whole = !ds_plan_comes(plan, param->bucket) &&
                     (plan->bucket[param->bucket].replicated ||
                      (plan->stage > 0 && ds_plan_whole(plan, param->bucket)));

        if ((!own && !classifier) || (!forward && block < plan->first_trained))
            continue;
        if (forward && whole)
            add_bucket(use.whole, param->bucket);
        if (!whole && (forward || (block > 0 && !classifier)))
            add_bucket(use.read, param->bucket);
        if (!plan->bucket[param->bucket].frozen && (classifier ? forward : own && !forward))
            add_bucket(use.write, param->bucket);
    }
    return use;
}

static void add_op(const struct ds_plan *plan, struct ds__sequence *sequence, enum ds_instr_op op,
                   uint32_t block, bool recompute)
{
    struct ds__op *new = &sequence->op[sequence->count++];

    *new = (struct ds__op){.op = op,
                           .block = block,
                           .recompute = recompute,
                           .use = use_of(plan, op, block),
                           .complete = NONE};
}

/* The block's output, or the gradient of that, to another part or from there. */
static void add_pass(struct ds__sequence *sequence, enum ds_instr_op op, uint32_t block,
                     bool gradient)
{
    sequence->op[sequence->count++] = (struct ds__op){
        .op = op,
        .block = block,
        .gradient = gradient,
        .use = nothing,
        .complete = NONE,
    };
}

static bool lists(const uint32_t list[DS__USES], uint32_t bucket)
{
    for (unsigned i = 0; i < DS__USES; i++)
        if (list[i] == bucket)
            return true;
    return false;
}

static void mark_complete(struct ds__sequence *sequence, uint32_t bucket)
{
    for (uint32_t i = sequence->count; i-- > 0;) {
        struct ds__op *op = &sequence->op[i];

        if (!lists(op->use.write, bucket))
            continue;
        add_bucket(op->complete, bucket);
        return;
    }
}

static int make_sequence(struct ds_plan *plan, struct ds__sequence *sequence, bool eval,
                         struct ds_error *err)
{
    const uint32_t first = plan->first_block, end = plan->end_block, most = 3 * (end - first) + 4;
    const bool front = ds_plan_embeds(plan), back = ds_plan_classifies(plan);

    *sequence = (struct ds__sequence){.eval = eval};
    sequence->op = ds_arena_alloc(&plan->arena, most, sizeof(*sequence->op));
    if (sequence->op == NULL || ds__window_init(&sequence->window, &plan->arena, most) != 0)
        return ds_fail(err, ENOMEM, "no memory for a schedule of %u blocks", end - first);
    if (!front)
        add_pass(sequence, DS_INSTR_RECV, first - 1, false);
    for (uint32_t block = first; block < end; block++)
        add_op(plan, sequence, DS_INSTR_FORWARD, block, false);
    if (!back)
        add_pass(sequence, DS_INSTR_SEND, end - 1, false);
    sequence->forward = sequence->count;
    if (!eval && !back)
        add_pass(sequence, DS_INSTR_RECV, end - 1, true);
    for (uint32_t block = eval ? first : end; block-- > first;) {
        if (ds_plan_recomputes(plan, block))
            add_op(plan, sequence, DS_INSTR_FORWARD, block, true);
        add_op(plan, sequence, DS_INSTR_BACKWARD, block, false);
    }
    if (!eval && !front)
        add_pass(sequence, DS_INSTR_SEND, first - 1, true);
    for (uint32_t i = 0; !eval && i < plan->buckets; i++)
        mark_complete(sequence, i);
    sequence->window.positions = sequence->count;
    sequence->window.rounds = eval ? 1 : plan->micro_batches;
    sequence->window.depth = 1;
    for (uint32_t i = 0; i < sequence->count; i++)
        for (unsigned j = 0; j < DS__USES && sequence->op[i].use.read[j] != UINT32_MAX; j++)
            ds__window_read(&sequence->window, i, sequence->op[i].use.read[j]);
    return 0;
}

/* --- depth and rooms --------------------------------------------------------------------------*/

struct maker {
    struct ds_plan *plan;
    struct ds__sequence step, eval;
    struct ds__rooms rooms;
    struct ds__writer writer;
};

/* Go through both programs with this depth; elements of the room of gathered parameters. */
static uint64_t try_depth(struct maker *maker, unsigned depth)
{
    struct ds__writer *writer = &maker->writer;
    struct ds_program counted = {.instr = NULL};
    uint64_t rounds = maker->step.window.rounds;

    ds__room_clear(&maker->rooms.gathered);
    ds__room_clear(&maker->rooms.staged);
    maker->step.window.depth = maker->eval.window.depth = depth;
    maker->step.window.rounds = rounds < 3 ? rounds : 3; /* the others are as the second */
    writer->program = &counted;
    writer->sequence = &maker->step;
    ds__write(writer);
    maker->step.window.rounds = rounds;
    writer->sequence = &maker->eval;
    ds__write(writer);
    return ds__room_pack(&maker->rooms.gathered, maker->plan->bucket);
}

static unsigned choose_depth(struct maker *maker)
{
    uint64_t most = try_depth(maker, 1), share = maker->plan->padded_elems / PREFETCH_SHARE;
    unsigned depth = DS_MAX_PREFETCH;

    if (!maker->plan->ahead)
        return 0;
    if (maker->plan->prefetch > 0)
        return maker->plan->prefetch;
    if (most < share)
        most = share;
    while (depth > 1 && try_depth(maker, depth) > most)
        depth--;
    return depth;
}

static int write_program(struct maker *maker, const struct ds__sequence *sequence,
                         struct ds_program *program, struct ds_error *err)
{
    struct ds__writer *writer = &maker->writer;

    writer->sequence = sequence;
    writer->program = program;
    ds__write(writer); /* counts */
    if (writer->count <= UINT32_MAX)
        program->instr =
            ds_arena_alloc(&maker->plan->arena, writer->count, sizeof(*program->instr));
    if (program->instr == NULL)
        return ds_fail(err, ENOMEM, "no memory for a schedule of %llu instructions",
                       (unsigned long long)writer->count);
    ds__write(writer);
    program->count = writer->count;
    return 0;
}

static void place_rooms(struct maker *maker)
{
    struct ds_plan *plan = maker->plan;

    if (plan->ahead)
        plan->gathered_elems = try_depth(maker, plan->prefetch);
    else
        (void)try_depth(maker, 1);
    plan->staged_elems = ds__room_pack(&maker->rooms.staged, plan->bucket);
    for (size_t i = 0; i < plan->buckets; i++) {
        plan->bucket[i].gathered_at = maker->rooms.gathered.at[i];
        plan->bucket[i].staged_at = maker->rooms.staged.at[i];
    }
}

int ds__plan_schedule(struct ds_plan *plan, struct ds_error *err)
{
    struct maker maker = {.plan = plan};
    int rc = make_sequence(plan, &maker.step, false, err);

    if (rc == 0)
        rc = make_sequence(plan, &maker.eval, true, err);
    if (rc != 0)
        return rc;
    maker.writer = (struct ds__writer){.plan = plan, .rooms = &maker.rooms};
    maker.writer.gathered =
        ds_arena_alloc(&plan->arena, plan->buckets, sizeof(*maker.writer.gathered));
    if (maker.writer.gathered == NULL ||
        ds__room_init(&maker.rooms.gathered, &plan->arena, plan->buckets) != 0 ||
        ds__room_init(&maker.rooms.staged, &plan->arena, plan->buckets) != 0)
        return ds_fail(err, ENOMEM, "no memory for a schedule of %zu buckets", plan->buckets);
    plan->prefetch = choose_depth(&maker);
    place_rooms(&maker);
    rc = write_program(&maker, &maker.step, &plan->step, err);
    return rc != 0 ? rc : write_program(&maker, &maker.eval, &plan->eval, err);
}
