/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pipeline - the plans of all parts of a pipeline fit together: every block is somebody's, all
 * ranks that wait for each other come, whoever sends waits until it is taken; what a micro-batch
 * keeps is not overwritten before its backward pass; and all ranks have one hash and one size of
 * shared memory.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

enum { MAX_PARTS = 6, LAYERS = 7, MAX_PASSES = 9 };

struct line {
    struct ds_plan plan[MAX_PARTS];
    unsigned parts;
};

static struct ds_job job_of(unsigned parts, uint64_t passes, bool tied)
{
    struct ds_model_shape shape = test_llama(LAYERS, 32, 4, 2, 48, 97, 16);
    struct ds_job job;

    shape.tie_embeddings = tied;
    job = test_job(shape, 2 * passes, 1, 16);
    job.parallel.pipeline = parts;
    job.zero.bucket_mb = 1;
    return job;
}

/* One plan of each part, of two ranks each. */
static void build(struct line *line, const struct ds_job *job, unsigned holder)
{
    struct ds_error err = {0};

    line->parts = (unsigned)job->parallel.pipeline;
    for (unsigned part = 0; part < line->parts; part++) {
        const struct ds_plan_args args = {
            .job = job, .world = 2 * line->parts, .rank = 2 * part + holder, .threads = 1};

        cr_assert_eq(ds_plan_build(&line->plan[part], &args, &err), 0, "%s", err.text);
    }
}

static void release(struct line *line)
{
    for (unsigned part = 0; part < line->parts; part++)
        ds_plan_release(&line->plan[part]);
}

/* --- who has what ----------------------------------------------------------------------------- */

static unsigned layers_of(const struct ds_plan *plan)
{
    unsigned blocks = plan->end_block - plan->first_block;

    blocks -= ds_plan_embeds(plan) ? 1 : 0;
    return blocks - (ds_plan_classifies(plan) ? 1 : 0);
}

static void check_blocks(const struct line *line)
{
    uint32_t next = 0;
    uint64_t elems = 0;

    for (unsigned part = 0; part < line->parts; part++) {
        const struct ds_plan *plan = &line->plan[part];

        cr_assert_eq(plan->first_block, next);
        cr_assert_gt(layers_of(plan), 0);
        next = plan->end_block;
        for (size_t i = 0; i < plan->params; i++)
            if (!plan->bucket[plan->param[i].bucket].twin)
                elems += plan->param[i].param.elems;
        cr_assert_eq(plan->hash, line->plan[0].hash);
        cr_assert_eq(plan->shared_bytes, line->plan[0].shared_bytes);
        cr_assert_eq(plan->part[part].owned_bytes, line->plan[0].part[part].owned_bytes);
    }
    cr_assert_eq(next, LAYERS + 2);
    cr_assert_eq(elems, ds_model_elems(&line->plan[0].shape));
}

/* --- who waits for whom ----------------------------------------------------------------------- */

struct state { /* of a part that walks its program */
    size_t at;
    unsigned held;              /* micro-batches between forward and backward */
    uint64_t forward, backward; /* done */
    uint32_t slot[MAX_PASSES];  /* whose activations a slot has, + 1 */
};

static const struct ds_instr *at(const struct line *line, const struct state *state, unsigned part)
{
    const struct ds_program *step = &line->plan[part].step;

    return state[part].at < step->count ? &step->instr[state[part].at] : NULL;
}

static bool passes(const struct ds_instr *instr)
{
    return instr->op == DS_INSTR_SEND || instr->op == DS_INSTR_RECV;
}

/* The part that an instruction speaks to. */
static unsigned other_of(unsigned part, const struct ds_instr *instr)
{
    return (instr->op == DS_INSTR_SEND) != instr->gradient ? part + 1 : part - 1;
}

/* What a rank gives and takes in the exchange that begins here: micro-batch + 1; 0 is nothing. */
struct exchange {
    uint32_t give, take;
    bool gradient; /* is given */
};

static struct exchange exchange_of(const struct ds_instr *instr)
{
    bool send = instr->op == DS_INSTR_SEND;
    struct exchange exchange = {.gradient = send ? instr->gradient : !instr->gradient};

    if (send)
        exchange.give = instr->micro_batch + 1;
    if (!send || instr->paired)
        exchange.take = (send ? instr[1].micro_batch : instr->micro_batch) + 1;
    if (send && instr->paired)
        cr_assert(instr[1].op == DS_INSTR_RECV && instr[1].paired &&
                  instr[1].gradient != instr->gradient);
    return exchange;
}

static bool meet(const struct line *line, struct state *state, unsigned part)
{
    const struct ds_instr *mine = at(line, state, part), *its;
    unsigned other = other_of(part, mine);
    struct exchange a = exchange_of(mine), b;

    its = at(line, state, other);
    if (its == NULL || !passes(its) || other_of(other, its) != part)
        return false;
    b = exchange_of(its);
    cr_assert(a.give == b.take && a.take == b.give && a.gradient != b.gradient,
              "%u parts: part %u gives %u and takes %u, part %u gives %u and takes %u", line->parts,
              part, a.give, a.take, other, b.give, b.take);
    state[part].at += mine->op == DS_INSTR_SEND && mine->paired ? 2 : 1;
    state[other].at += its->op == DS_INSTR_SEND && its->paired ? 2 : 1;
    return true;
}

/* A pass over a block: its slot is its micro-batch's. */
static void compute(const struct ds_plan *plan, struct state *state, const struct ds_instr *instr)
{
    uint32_t slot = instr->micro_batch % plan->slots;
    bool first =
        instr->op == DS_INSTR_FORWARD && !instr->recompute && instr->block == plan->first_block;

    if (first) {
        cr_assert_eq(instr->micro_batch, state->forward++);
        cr_assert_eq(state->slot[slot], 0, "a slot is taken twice");
        state->slot[slot] = instr->micro_batch + 1;
        state->held++;
    }
    if (instr->op != DS_INSTR_FORWARD && instr->op != DS_INSTR_BACKWARD)
        return;
    cr_assert_eq(state->slot[slot], instr->micro_batch + 1);
    if (instr->op == DS_INSTR_BACKWARD && instr->block == plan->first_block) {
        cr_assert_eq(instr->micro_batch, state->backward++);
        state->slot[slot] = 0;
        state->held--;
    }
}

/* All parts walk on as far as they can: everybody comes to the end. */
static void check_walk(const struct line *line)
{
    struct state state[MAX_PARTS] = {0};
    bool moved = true;

    while (moved) {
        moved = false;
        for (unsigned part = 0; part < line->parts; part++) {
            const struct ds_instr *instr = at(line, state, part);

            if (instr == NULL)
                continue;
            if (passes(instr)) {
                moved = meet(line, state, part) || moved;
                continue;
            }
            compute(&line->plan[part], &state[part], instr);
            state[part].at++;
            moved = true;
        }
    }
    for (unsigned part = 0; part < line->parts; part++) {
        cr_assert_eq(state[part].at, line->plan[part].step.count, "%u parts: part %u stands at %zu",
                     line->parts, part, state[part].at);
        cr_assert_eq(state[part].backward, line->plan[part].micro_batches);
    }
}

/* --- where it lies ---------------------------------------------------------------------------- */

/* Slots lie one behind the other, what is in none of them behind; of that no two that live at one
 * time overlap. */
static void check_places(const struct ds_plan *plan)
{
    uint64_t slots = plan->slots > 1 ? plan->slots * plan->slot_bytes : 0;

    for (size_t i = 0; i < plan->buffers; i++) {
        const struct ds_plan_buffer *a = &plan->buffer[i];

        cr_assert_leq(a->offset + a->bytes, plan->arena_bytes[DS_ARENA_ACTIVATIONS]);
        if (a->pass == DS_PASS_EVAL)
            continue;
        if (a->kept)
            cr_assert(plan->slots > 1 && a->offset + a->bytes <= plan->slot_bytes);
        else
            cr_assert_geq(a->offset, slots);
        for (size_t k = 0; k < i; k++) {
            const struct ds_plan_buffer *b = &plan->buffer[k];
            bool apart = a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset;
            bool together =
                a->kept == b->kept && (a->kept || (a->first <= b->last && b->first <= a->last));

            cr_assert(b->pass == DS_PASS_EVAL || apart || !together);
        }
    }
}

Test(pipeline, parts_fit_together)
{
    for (unsigned parts = 2; parts <= MAX_PARTS; parts++)
        for (uint64_t passes = 1; passes <= MAX_PASSES; passes++)
            for (unsigned kind = 0; kind < 8; kind++) {
                struct ds_job job = job_of(parts, passes, kind % 2 == 1);
                struct line line;

                job.zero.stage = kind % 3;
                job.activation.recompute = kind < 4 ? DS_RECOMPUTE_NONE : DS_RECOMPUTE_FULL;
                job.activation.layers = kind == 5 ? 3 : 0;
                job.offload.optim = kind == 6 ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
                build(&line, &job, kind % 2);
                check_blocks(&line);
                check_walk(&line);
                for (unsigned part = 0; part < parts; part++)
                    check_places(&line.plan[part]);
                release(&line);
            }
}

/* --- work and memory -------------------------------------------------------------------------- */

/* As many layers everywhere where the head is little work; fewer at the end where it is much, and
 * what is over goes to the parts behind. */
Test(pipeline, parts_have_the_same_work)
{
    static const struct {
        unsigned parts;
        uint64_t layers, vocab;
        unsigned want[4];
    } table[] = {{2, 8, 64, {4, 4}},         {4, 8, 64, {2, 2, 2, 2}},  {3, 8, 64, {3, 3, 2}},
                 {4, 9, 64, {2, 2, 3, 2}},   {2, 8, 1 << 14, {7, 1}},   {4, 12, 1600, {3, 4, 4, 1}},
                 {4, 12, 800, {3, 3, 4, 2}}, {3, 3, 1 << 16, {1, 1, 1}}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_job job =
            test_job(test_gpt2(table[i].layers, 64, 4, table[i].vocab, 16), 4, 1, 16);

        job.parallel.pipeline = table[i].parts;
        for (unsigned part = 0; part < table[i].parts; part++) {
            const struct ds_plan_args args = {
                .job = &job, .world = table[i].parts, .rank = part, .threads = 1};
            struct ds_plan plan;
            unsigned layers;

            cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
            layers = layers_of(&plan);
            cr_expect_eq(layers, table[i].want[part], "line %zu, part %u has %u", i, part, layers);
            ds_plan_release(&plan);
        }
    }
}

/* Hosts are asked for what their ranks take together: of two parts the sum, not twice the larger. */
Test(pipeline, hosts_hold_what_their_parts_take)
{
    struct ds_job job = job_of(2, 4, false);
    struct ds_plan first, second;
    struct ds_error err = {0};
    struct ds_plan_args args = {.job = &job, .world = 4, .threads = 1};
    uint64_t a, b;

    cr_assert_eq(ds_plan_build(&first, &args, &err), 0, "%s", err.text);
    args.rank = 3;
    cr_assert_eq(ds_plan_build(&second, &args, &err), 0, "%s", err.text);
    a = ds_plan_total_bytes(&first) - first.peer_bytes;
    b = ds_plan_total_bytes(&second) - second.peer_bytes;
    cr_assert_neq(a, b);
    cr_expect(first.part[0].owned_bytes == a && first.part[1].owned_bytes == b);
    cr_expect_eq(ds_plan_ranks_bytes(&second, 4), 2 * a + 2 * b);
    cr_expect_eq(ds_plan_check_fit(&first, 4, 2 * a + 2 * b, &err), 0, "%s", err.text);
    cr_expect_eq(ds_plan_check_fit(&first, 4, 2 * a + 2 * b - 1, &err), -ENOMEM);
    ds_plan_release(&first);
    ds_plan_release(&second);
}

/* --- what cannot be --------------------------------------------------------------------------- */

Test(pipeline, says_what_cannot_be)
{
    static const struct {
        unsigned parts, world;
        uint64_t stage;
        const char *text;
    } table[] = {
        {8, 8, 0, "'parallel.pipeline' 8 is more than 'model.layers' 7"},
        {2, 3, 0,
         "'parallel.pipeline' 2 x 'parallel.sequence' 1 x 'parallel.tensor' 1 "
         "does not divide 3"},
        {4, 2, 0,
         "'parallel.pipeline' 4 x 'parallel.sequence' 1 x 'parallel.tensor' 1 "
         "does not divide 2"},
        {2, 2, 3, "'parallel.pipeline' 2 and 'zero.stage' 3 do not go together"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_job job = job_of(table[i].parts, 8, false);
        const struct ds_plan_args args = {.job = &job, .world = table[i].world, .threads = 1};
        struct ds_error err = {0};
        struct ds_plan plan;

        job.zero.stage = table[i].stage;
        cr_expect_eq(ds_plan_build(&plan, &args, &err), -EINVAL);
        cr_expect(strstr(err.text, table[i].text) == err.text, "%s", err.text);
    }
}
