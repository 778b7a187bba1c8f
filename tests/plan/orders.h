/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * orders.h - whatever order the queues of a program come to, nothing is read before it is there, nothing
 * is written over that is still in use.
 *
 * What happens before what is worked out with one clock per queue; memory is compared by place, so
 * the rooms that buckets share are checked together with the waits that protect them.
 */
#ifndef DS_TESTS_PLAN_ORDERS_H
#define DS_TESTS_PLAN_ORDERS_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/plan/away.h"
#include "tests/plan/fixture.h"

struct setting {
    unsigned model, world, local, stage;
    uint64_t passes, bucket_mb, replicate_below;
    bool recompute, bf16, offload, once, params; /* params: offload.params */
    unsigned divide;                             /* ranks that divide experts */
    uint64_t rank;                               /* of adapters */
    const char *freeze;                          /* (optional) what stays as it is */
};

static inline struct ds_model_shape model(unsigned i)
{
    switch (i) {
    case 0: return test_gpt2(6, 256, 4, 997, 64);
    case 1: return test_llama(5, 256, 8, 2, 688, 3001, 64);
    case 2: return test_gpt2(1, 8, 1, 3, 5);
    case 3: return test_gpt2(12, 768, 12, 50257, 1024);
    default: return test_mixtral(4, 128, 4, 2, 200, 301, 64, 12, 2);
    }
}

static inline void build(struct ds_plan *plan, const struct setting *set)
{
    struct ds_model_shape shape = model(set->model);
    struct ds_job job =
        test_job(shape, set->passes * set->world, 1, shape.context > 64 ? 64 : shape.context);
    const struct ds_plan_args args = {.job = &job,
                                      .world = set->world,
                                      .threads = 1,
                                      .local_world = set->local,
                                      .common = set->once};
    const char *freeze = set->freeze;
    struct ds_error err = {0};

    job.zero.stage = set->stage;
    job.zero.bucket_mb = set->bucket_mb;
    job.zero.replicate_below = set->replicate_below;
    job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    job.activation.recompute = set->recompute ? DS_RECOMPUTE_FULL : DS_RECOMPUTE_NONE;
    job.offload.optim = set->offload ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    job.offload.params = set->params ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    job.precision.compute = set->bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
    job.parallel.expert = set->divide > 0 ? set->divide : 1;
    if (set->rank > 0)
        job.model.shape.lora =
            (struct ds_lora){.rank = set->rank,
                             .alpha = 1.0,
                             .targets = 1U << DS_ADAPTED_QKV | 1U << DS_ADAPTED_PROJ};
    if (set->freeze != NULL)
        job.train.freeze = (struct ds_strings){.count = 1, .item = &freeze};
    cr_assert_eq(ds_plan_build(plan, &args, &err), 0, "%s", err.text);
}

/* --- what an instruction touches, from the drawing in model/net.h ------------------------------ */

enum touch { READS = 1, WRITES = 2 };

static inline unsigned touches(const struct ds_plan *plan, const struct ds_instr *instr,
                               uint32_t bucket)
{
    uint32_t head = ds_model_blocks(&plan->shape) - 1;
    bool forward = instr->op == DS_INSTR_FORWARD;
    unsigned what = 0, all = plan->bucket[bucket].frozen ? READS : READS | WRITES;

    if (instr->op != DS_INSTR_FORWARD && instr->op != DS_INSTR_BACKWARD)
        return 0;
    if (!forward && instr->block < plan->first_trained) /* no gradient comes here */
        return 0;
    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];

        if (param->bucket != bucket)
            continue;
        if (param->param.role == DS_ROLE_HEAD_W ||
            (param->param.role == DS_ROLE_WTE && plan->shape.tie_embeddings &&
             instr->block == head)) {
            if (instr->block == head && forward)
                what |= READS | WRITES;
        } else if (param->param.block == instr->block) {
            if (forward || instr->block > 0)
                what |= READS;
            if (!forward)
                what |= WRITES;
        }
    }
    return what & all;
}

/* --- clocks ------------------------------------------------------------------------------------*/

struct clock {
    uint32_t done[DS_QUEUE_COUNT]; /* instructions of the list, + 1, that came before */
};

static inline void join(struct clock *clock, const struct clock *other)
{
    for (unsigned i = 0; i < DS_QUEUE_COUNT; i++)
        if (other->done[i] > clock->done[i])
            clock->done[i] = other->done[i];
}

/* Of two steps, the second one's instructions numbered on. */
static inline struct clock *clocks_of(const struct ds_program *program, const char *what)
{
    struct clock *clock = calloc(2 * program->count, sizeof(*clock)), queue[DS_QUEUE_COUNT] = {0};
    uint32_t *signaller = calloc(program->events + 1, sizeof(*signaller)); /* of this step */
    uint32_t *last = calloc(program->events + 1, sizeof(*last));           /* of the one before */

    for (uint32_t i = 0; i < 2 * program->count; i++) {
        const struct ds_instr *instr = &program->instr[i % program->count];
        const uint32_t waits[] = {instr->waits_for, instr->room_after};
        const bool before[] = {instr->last_step, instr->room_last_step};

        if (i == program->count) {
            memcpy(last, signaller, (program->events + 1) * sizeof(*last));
            memset(signaller, 0, (program->events + 1) * sizeof(*signaller));
        }
        clock[i] = queue[instr->queue];
        for (unsigned j = 0; j < 2; j++) {
            const uint32_t *by = before[j] ? last : signaller;

            if (waits[j] == DS_NO_EVENT || (before[j] && i < program->count))
                continue;
            cr_assert_lt(waits[j], program->events, "%s: %u", what, i);
            cr_assert_neq(by[waits[j]], 0, "%s: %u waits in vain", what, i);
            join(&clock[i], &clock[by[waits[j]] - 1]);
        }
        clock[i].done[instr->queue] = i + 1;
        queue[instr->queue] = clock[i];
        if (instr->signals == DS_NO_EVENT)
            continue;
        cr_assert_lt(instr->signals, program->events, "%s: %u", what, i);
        cr_assert_eq(signaller[instr->signals], 0, "%s: %u signals again", what, i);
        signaller[instr->signals] = i + 1;
    }
    free(signaller);
    free(last);
    return clock;
}

static inline bool before(const struct ds_program *program, const struct clock *clock, uint32_t a,
                          uint32_t b)
{
    return clock[b].done[program->instr[a % program->count].queue] > a;
}

/* --- rules -------------------------------------------------------------------------------------*/

static inline bool overlap(uint64_t a, uint64_t a_elems, uint64_t b, uint64_t b_elems)
{
    return a < b + b_elems && b < a + a_elems && a_elems > 0 && b_elems > 0;
}

static inline bool same_room(const struct ds_plan *plan, uint32_t a, uint32_t b, bool gathered)
{
    const struct ds_bucket *x = &plan->bucket[a], *y = &plan->bucket[b];

    return gathered ? overlap(x->gathered_at, x->padded_elems, y->gathered_at, y->padded_elems)
                    : overlap(x->staged_at, x->padded_elems, y->staged_at, y->padded_elems);
}

/* Every read of a gathered bucket after its GATHER, and before one that takes its place. */
static inline void check_gathered(const struct ds_plan *plan, const struct ds_program *program,
                                  const struct clock *clock, const char *what)
{
    for (uint32_t bucket = 0; bucket < plan->buckets; bucket++) {
        uint32_t there = UINT32_MAX; /* the GATHER that holds now */

        for (uint32_t i = 0; ds_plan_comes(plan, bucket) && i < program->count; i++) {
            const struct ds_instr *instr = &program->instr[i];

            if (instr->op == DS_INSTR_GATHER && instr->bucket == bucket) {
                cr_assert_leq(plan->bucket[bucket].gathered_at + plan->bucket[bucket].padded_elems,
                              plan->gathered_elems, "%s", what);
                there = i;
                for (uint32_t j = 0; program == &plan->step && j < program->count; j++)
                    for (uint32_t other = 0; other < plan->buckets; other++)
                        if (same_room(plan, bucket, other, true) &&
                            (touches(plan, &program->instr[j], other) & READS))
                            cr_assert(before(program, clock, j, (uint32_t)program->count + i),
                                      "%s: %u comes while a step before reads at %u", what, i, j);
            } else if (instr->op == DS_INSTR_FREE && instr->bucket == bucket) {
                cr_assert_neq(there, UINT32_MAX, "%s: %u frees nothing", what, i);
                there = UINT32_MAX;
            } else if (instr->op == DS_INSTR_GATHER) {
                cr_assert(there == UINT32_MAX || !same_room(plan, bucket, instr->bucket, true),
                          "%s: %u takes the place of bucket %u", what, i, bucket);
                for (uint32_t j = 0; j < i; j++)
                    if (same_room(plan, bucket, instr->bucket, true) &&
                        (touches(plan, &program->instr[j], bucket) & READS))
                        cr_assert(before(program, clock, j, i), "%s: %u may still read at %u", what,
                                  j, i);
            } else if (touches(plan, instr, bucket) & READS) {
                cr_assert_neq(there, UINT32_MAX, "%s: %u reads bucket %u, which is not there", what,
                              i, bucket);
                cr_assert(before(program, clock, there, i), "%s: %u does not wait", what, i);
            }
        }
    }
}

/* A bucket is reduced after every write of its micro-batch; its place is written after that. */
static inline void check_staged(const struct ds_plan *plan, const struct clock *clock,
                                const char *what)
{
    const struct ds_program *program = &plan->step;

    for (uint32_t i = 0; i < program->count; i++) {
        const struct ds_instr *instr = &program->instr[i];

        for (uint32_t j = 0; j < i; j++) {
            const struct ds_instr *other = &program->instr[j];

            if (instr->op == DS_INSTR_REDUCE && (touches(plan, other, instr->bucket) & WRITES))
                cr_assert(before(program, clock, j, i), "%s: %u reduces what %u writes", what, i,
                          j);
            if (other->op != DS_INSTR_REDUCE || plan->stage < 2)
                continue;
            for (uint32_t bucket = 0; bucket < plan->buckets; bucket++)
                if ((touches(plan, instr, bucket) & WRITES) &&
                    same_room(plan, bucket, other->bucket, false))
                    cr_assert(before(program, clock, j, i), "%s: %u writes where %u reduces", what,
                              i, j);
        }
    }
}

/* No two buckets whose gradients are being made lie in one place. */
static inline void check_writing(const struct ds_plan *plan, const char *what)
{
    bool writing[64] = {false};

    cr_assert_leq(plan->buckets, 64);
    for (uint32_t i = 0; i < plan->step.count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i];

        if (instr->op == DS_INSTR_REDUCE)
            writing[instr->bucket] = false;
        for (uint32_t bucket = 0; bucket < plan->buckets; bucket++) {
            if ((touches(plan, instr, bucket) & WRITES) == 0)
                continue;
            writing[bucket] = true;
            for (uint32_t other = 0; other < plan->buckets; other++)
                cr_assert(other == bucket || !writing[other] ||
                              !same_room(plan, bucket, other, false),
                          "%s: %u: buckets %u and %u", what, i, bucket, other);
        }
    }
}

/* The same where all of it lies in the host's memory, whoever updates. */
static inline const char *must_wait_there(const struct ds_plan *plan, const struct ds_instr *a,
                                          const struct ds_instr *b, bool same_step)
{
    (void)plan;
    if (a->bucket != b->bucket && a->op != DS_INSTR_NORM)
        return NULL;
    switch (a->op) {
    case DS_INSTR_GATHER:
        return b->op == DS_INSTR_UPDATE ? "parameters have come before the next ones are made"
                                        : NULL;
    case DS_INSTR_REDUCE:
        return b->op == DS_INSTR_UPDATE ? "gradients are on the host before the update" : NULL;
    case DS_INSTR_NORM:
        return b->op == DS_INSTR_UPDATE && same_step ? "the flags are known before an update"
                                                     : NULL;
    case DS_INSTR_UPDATE:
        if (b->op == DS_INSTR_GATHER)
            return "parameters are new before they come";
        return b->op == DS_INSTR_REDUCE ? "gradients are used before the next ones come" : NULL;
    default: return NULL;
    }
}

/* Is there a rule that `b`, which comes after `a` in the list of two steps, must wait for `a`?  All
 * that moves between device and host, and what is read and written there. */
static inline const char *must_wait(const struct ds_plan *plan, const struct ds_instr *a,
                                    const struct ds_instr *b, bool same_step)
{
    bool bucket = a->bucket == b->bucket,
         compute = b->op == DS_INSTR_FORWARD || b->op == DS_INSTR_BACKWARD;
    bool half = ds_plan_turn(plan, a->bucket) % 2 == ds_plan_turn(plan, b->bucket) % 2;

    switch (a->op) {
    case DS_INSTR_REDUCE:
        return b->op == DS_INSTR_OFFLOAD && bucket ? "gradients are summed before they leave"
                                                   : NULL;
    case DS_INSTR_BACKWARD:
    case DS_INSTR_FORWARD:
        if (b->op == DS_INSTR_OFFLOAD && (touches(plan, a, b->bucket) & WRITES))
            return "gradients are whole before they leave";
        return b->op == DS_INSTR_FETCH && (touches(plan, a, b->bucket) & READS)
                   ? "parameters are read before the next ones come"
                   : NULL;
    case DS_INSTR_NORM:
        return b->op == DS_INSTR_UPDATE ? "the flags are known before an update" : NULL;
    case DS_INSTR_OFFLOAD:
        if (b->op == DS_INSTR_UPDATE && bucket)
            return "gradients are on the host before the update";
        return plan->stage < 2 && !same_step && compute && (touches(plan, b, a->bucket) & WRITES)
                   ? "gradients have left before the next ones are made"
                   : NULL;
    case DS_INSTR_UPDATE:
        if (b->op == DS_INSTR_FETCH && bucket && same_step)
            return "parameters are new before they go back";
        return b->op == DS_INSTR_OFFLOAD && bucket ? "gradients are used before the next ones come"
                                                   : NULL;
    case DS_INSTR_FETCH:
        if (b->op == DS_INSTR_UPDATE && plan->room_elems > 0 && half)
            return "the half of the room is empty before it is filled";
        if (b->op == DS_INSTR_GATHER && bucket)
            return "parameters are back before they are gathered";
        return compute && !same_step && (touches(plan, b, a->bucket) & READS)
                   ? "parameters are back before they are read"
                   : NULL;
    default: return NULL;
    }
}

static inline size_t trained(const struct ds_plan *plan)
{
    size_t count = 0;

    for (size_t i = 0; i < plan->buckets; i++)
        count += !plan->bucket[i].frozen;
    return count;
}

static inline void check_offload(const struct ds_plan *plan, const struct clock *clock,
                                 const char *what)
{
    const struct ds_program *step = &plan->step;
    uint32_t fetched = 0;

    for (uint32_t i = 0; i < step->count; i++)
        fetched += step->instr[i].op == DS_INSTR_FETCH;
    cr_assert_eq(fetched, ds_plan_copies_out(plan) ? trained(plan) : 0, "%s", what);
    for (uint32_t j = 0; j < 2 * step->count; j++)
        for (uint32_t i = 0; i < j; i++) {
            const struct ds_instr *a = &step->instr[i % step->count];
            const struct ds_instr *b = &step->instr[j % step->count];
            const char *rule = (plan->offload_params ? must_wait_there : must_wait)(
                plan, a, b, i / step->count == j / step->count);

            cr_assert(rule == NULL || before(step, clock, i, j), "%s: %u and %u: %s", what, i, j,
                      rule);
        }
}

/* The first layers are back first, and what all of them read before them. */
static inline void check_order(const struct ds_plan *plan, const char *what)
{
    size_t turn = 0;

    for (uint32_t i = 0; i < plan->step.count; i++)
        if (plan->step.instr[i].op == DS_INSTR_UPDATE)
            cr_assert_eq(ds_plan_turn(plan, plan->step.instr[i].bucket), turn++, "%s", what);
}

static inline void check_counts(const struct ds_plan *plan, const char *what)
{
    uint64_t reduces = 0, updates = 0, norms = 0, gathers = 0, whole = 0, alone = 0;
    const uint64_t moved = trained(plan);

    for (size_t i = 0; i < plan->buckets; i++) {
        whole += ds_plan_whole(plan, i) && !plan->bucket[i].frozen;
        alone += ds_plan_holders_of(plan, i).count == 1 && !plan->bucket[i].frozen;
    }
    for (uint32_t i = 0; i < plan->step.count; i++) {
        reduces += plan->step.instr[i].op == DS_INSTR_REDUCE;
        updates += plan->step.instr[i].op == DS_INSTR_UPDATE;
        gathers += plan->step.instr[i].op == DS_INSTR_GATHER;
        cr_assert(plan->step.instr[i].bucket == UINT32_MAX ||
                  !plan->bucket[plan->step.instr[i].bucket].frozen || plan->stage == 3);
        cr_assert(plan->step.instr[i].op != DS_INSTR_GATHER || plan->offload_params ||
                      !ds_plan_whole(plan, plan->step.instr[i].bucket),
                  "%s: %u gathers what is here", what, i);
        if (plan->step.instr[i].op == DS_INSTR_NORM) {
            norms++;
            cr_assert_eq(updates, 0, "%s", what);
        }
    }
    cr_assert_eq(norms, 1, "%s", what);
    cr_assert_eq(updates, moved, "%s", what);
    cr_assert_eq(reduces, plan->stage < 2 ? moved - alone : moved * plan->micro_batches, "%s",
                 what);
    if (plan->stage == 0)
        cr_assert_eq(gathers, 0, "%s", what);
    else if (plan->stage < 3)
        cr_assert_eq(gathers, moved - whole, "%s", what);
    else
        cr_assert_leq(gathers, 2 * plan->micro_batches * (plan->buckets + 1), "%s", what);
}

static inline void check(const struct setting *set)
{
    struct ds_plan plan;
    struct clock *step, *eval;
    char what[240];

    (void)snprintf(what, sizeof(what),
                   "model %u, world %u, groups of %u, stage %u, %u passes, %u MiB, whole below %u, "
                   "recompute %d, offload %d, of parameters %d, %u divide experts, adapters of %u, "
                   "frozen '%s'",
                   set->model, set->world, set->local, set->stage, (unsigned)set->passes,
                   (unsigned)set->bucket_mb, (unsigned)set->replicate_below, set->recompute,
                   set->offload, set->params, set->divide, (unsigned)set->rank,
                   set->freeze != NULL ? set->freeze : "");
    build(&plan, set);
    step = clocks_of(&plan.step, what);
    eval = clocks_of(&plan.eval, what);
    check_counts(&plan, what);
    check_staged(&plan, step, what);
    if (plan.stage >= 2)
        check_writing(&plan, what);
    if (plan.offload || plan.offload_params)
        check_offload(&plan, step, what);
    if (plan.offload)
        check_order(&plan, what);
    if (plan.stage == 3) {
        check_gathered(&plan, &plan.step, step, what);
        check_gathered(&plan, &plan.eval, eval, what);
    }
    free(step);
    free(eval);
    ds_plan_release(&plan);
}

#endif
