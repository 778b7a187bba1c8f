/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_stages - the instruction lists of every stage: whatever order the queues come to, nothing is
 * read before it is there, nothing is written over that is still in use; bytes by the formulas.
 *
 * What happens before what is worked out with one clock per queue; memory is compared by place, so
 * the rooms that buckets share are checked together with the waits that protect them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

struct setting {
    unsigned model, world, local, stage;
    uint64_t passes, bucket_mb, replicate_below;
    bool recompute, bf16, offload, once;
    unsigned divide; /* ranks that divide experts */
};

static struct ds_model_shape model(unsigned i)
{
    switch (i) {
    case 0: return test_gpt2(6, 256, 4, 997, 64);
    case 1: return test_llama(5, 256, 8, 2, 688, 3001, 64);
    case 2: return test_gpt2(1, 8, 1, 3, 5);
    case 3: return test_gpt2(12, 768, 12, 50257, 1024);
    default: return test_mixtral(4, 128, 4, 2, 200, 301, 64, 12, 2);
    }
}

static void build(struct ds_plan *plan, const struct setting *set)
{
    struct ds_model_shape shape = model(set->model);
    struct ds_job job =
        test_job(shape, set->passes * set->world, 1, shape.context > 64 ? 64 : shape.context);
    const struct ds_plan_args args = {.job = &job,
                                      .world = set->world,
                                      .threads = 1,
                                      .local_world = set->local,
                                      .common = set->once};
    struct ds_error err = {0};

    job.zero.stage = set->stage;
    job.zero.bucket_mb = set->bucket_mb;
    job.zero.replicate_below = set->replicate_below;
    job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    job.activation.recompute = set->recompute ? DS_RECOMPUTE_FULL : DS_RECOMPUTE_NONE;
    job.offload.optim = set->offload ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
    job.precision.compute = set->bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
    job.parallel.expert = set->divide > 0 ? set->divide : 1;
    cr_assert_eq(ds_plan_build(plan, &args, &err), 0, "%s", err.text);
}

/* --- what an instruction touches, from the drawing in model/net.h ------------------------------ */

enum touch { READS = 1, WRITES = 2 };

static unsigned touches(const struct ds_plan *plan, const struct ds_instr *instr, uint32_t bucket)
{
    uint32_t head = ds_model_blocks(&plan->shape) - 1;
    bool forward = instr->op == DS_INSTR_FORWARD;
    unsigned what = 0;

    if (instr->op != DS_INSTR_FORWARD && instr->op != DS_INSTR_BACKWARD)
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
    return what;
}

/* --- clocks ------------------------------------------------------------------------------------*/

struct clock {
    uint32_t done[DS_QUEUE_COUNT]; /* instructions of the list, + 1, that came before */
};

static void join(struct clock *clock, const struct clock *other)
{
    for (unsigned i = 0; i < DS_QUEUE_COUNT; i++)
        if (other->done[i] > clock->done[i])
            clock->done[i] = other->done[i];
}

/* Of two steps, the second one's instructions numbered on. */
static struct clock *clocks_of(const struct ds_program *program, const char *what)
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

static bool before(const struct ds_program *program, const struct clock *clock, uint32_t a,
                   uint32_t b)
{
    return clock[b].done[program->instr[a % program->count].queue] > a;
}

/* --- rules -------------------------------------------------------------------------------------*/

static bool overlap(uint64_t a, uint64_t a_elems, uint64_t b, uint64_t b_elems)
{
    return a < b + b_elems && b < a + a_elems && a_elems > 0 && b_elems > 0;
}

static bool same_room(const struct ds_plan *plan, uint32_t a, uint32_t b, bool gathered)
{
    const struct ds_bucket *x = &plan->bucket[a], *y = &plan->bucket[b];

    return gathered ? overlap(x->gathered_at, x->padded_elems, y->gathered_at, y->padded_elems)
                    : overlap(x->staged_at, x->padded_elems, y->staged_at, y->padded_elems);
}

/* Every read of a gathered bucket after its GATHER, and before one that takes its place. */
static void check_gathered(const struct ds_plan *plan, const struct ds_program *program,
                           const struct clock *clock, const char *what)
{
    for (uint32_t bucket = 0; bucket < plan->buckets; bucket++) {
        uint32_t there = UINT32_MAX; /* the GATHER that holds now */

        for (uint32_t i = 0; !ds_plan_whole(plan, bucket) && i < program->count; i++) {
            const struct ds_instr *instr = &program->instr[i];

            if (instr->op == DS_INSTR_GATHER && instr->bucket == bucket) {
                cr_assert_leq(plan->bucket[bucket].gathered_at + plan->bucket[bucket].padded_elems,
                              plan->gathered_elems, "%s", what);
                there = i;
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
static void check_staged(const struct ds_plan *plan, const struct clock *clock, const char *what)
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
static void check_writing(const struct ds_plan *plan, const char *what)
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

/* Is there a rule that `b`, which comes after `a` in the list of two steps, must wait for `a`?  All
 * that moves between device and host, and what is read and written there. */
static const char *must_wait(const struct ds_plan *plan, const struct ds_instr *a,
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

static void check_offload(const struct ds_plan *plan, const struct clock *clock, const char *what)
{
    const struct ds_program *step = &plan->step;
    uint32_t fetched = 0;

    for (uint32_t i = 0; i < step->count; i++)
        fetched += step->instr[i].op == DS_INSTR_FETCH;
    cr_assert_eq(fetched, plan->buckets, "%s", what);
    for (uint32_t j = 0; j < 2 * step->count; j++)
        for (uint32_t i = 0; i < j; i++) {
            const struct ds_instr *a = &step->instr[i % step->count];
            const struct ds_instr *b = &step->instr[j % step->count];
            const char *rule = must_wait(plan, a, b, i / step->count == j / step->count);

            cr_assert(rule == NULL || before(step, clock, i, j), "%s: %u and %u: %s", what, i, j,
                      rule);
        }
}

/* The first layers are back first, and what all of them read before them. */
static void check_order(const struct ds_plan *plan, const char *what)
{
    size_t turn = 0;

    for (uint32_t i = 0; i < plan->step.count; i++)
        if (plan->step.instr[i].op == DS_INSTR_UPDATE)
            cr_assert_eq(ds_plan_turn(plan, plan->step.instr[i].bucket), turn++, "%s", what);
}

static void check_counts(const struct ds_plan *plan, const char *what)
{
    uint64_t reduces = 0, updates = 0, norms = 0, gathers = 0, whole = 0, alone = 0;

    for (size_t i = 0; i < plan->buckets; i++) {
        whole += ds_plan_whole(plan, i);
        alone += ds_plan_holders_of(plan, i).count == 1;
    }
    for (uint32_t i = 0; i < plan->step.count; i++) {
        reduces += plan->step.instr[i].op == DS_INSTR_REDUCE;
        updates += plan->step.instr[i].op == DS_INSTR_UPDATE;
        gathers += plan->step.instr[i].op == DS_INSTR_GATHER;
        cr_assert(plan->step.instr[i].op != DS_INSTR_GATHER ||
                      !ds_plan_whole(plan, plan->step.instr[i].bucket),
                  "%s: %u gathers what is here", what, i);
        if (plan->step.instr[i].op == DS_INSTR_NORM) {
            norms++;
            cr_assert_eq(updates, 0, "%s", what);
        }
    }
    cr_assert_eq(norms, 1, "%s", what);
    cr_assert_eq(updates, plan->buckets, "%s", what);
    cr_assert_eq(reduces,
                 plan->stage < 2 ? plan->buckets - alone : plan->buckets * plan->micro_batches,
                 "%s", what);
    if (plan->stage == 0)
        cr_assert_eq(gathers, 0, "%s", what);
    else if (plan->stage < 3)
        cr_assert_eq(gathers, plan->buckets - whole, "%s", what);
    else
        cr_assert_leq(gathers, 2 * plan->micro_batches * (plan->buckets + 1), "%s", what);
}

static void check(const struct setting *set)
{
    struct ds_plan plan;
    struct clock *step, *eval;
    char what[128];

    (void)snprintf(what, sizeof(what),
                   "model %u, world %u, groups of %u, stage %u, %u passes, %u MiB, whole below %u, "
                   "recompute %d, %u divide experts",
                   set->model, set->world, set->local, set->stage, (unsigned)set->passes,
                   (unsigned)set->bucket_mb, (unsigned)set->replicate_below, set->recompute,
                   set->divide);
    build(&plan, set);
    step = clocks_of(&plan.step, what);
    eval = clocks_of(&plan.eval, what);
    check_counts(&plan, what);
    check_staged(&plan, step, what);
    if (plan.stage >= 2)
        check_writing(&plan, what);
    if (plan.offload) {
        check_offload(&plan, step, what);
        check_order(&plan, what);
    }
    if (plan.stage == 3) {
        check_gathered(&plan, &plan.step, step, what);
        check_gathered(&plan, &plan.eval, eval, what);
    }
    free(step);
    free(eval);
    ds_plan_release(&plan);
}

Test(stages, no_order_of_the_queues_reads_early_or_writes_over)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 2}};

    for (unsigned i = 0; i < 3 * 4 * 4 * 4; i++)
        for (unsigned stage = 0; stage < 4; stage++)
            check(&(struct setting){.model = i % 3,
                                    .world = groups[i / 3 % 4][0],
                                    .local = groups[i / 3 % 4][1],
                                    .stage = stage,
                                    .passes = i / 12 % 2 == 0 ? 1 : 3,
                                    .recompute = i / 24 % 2,
                                    .bucket_mb = i / 48 % 2 == 0 ? 1 : 4,
                                    .replicate_below = i / 96 % 2 == 0 ? 0 : 2000,
                                    .bf16 = i % 5 == 0});
}

Test(stages, nothing_is_updated_or_read_before_it_has_been_copied)
{
    static const unsigned groups[][2] = {{1, 1}, {2, 2}, {4, 2}};

    for (unsigned i = 0; i < 3 * 3 * 2 * 2 * 2; i++)
        for (unsigned stage = 0; stage < 4; stage++)
            check(&(struct setting){.model = i % 3,
                                    .world = groups[i / 3 % 3][0],
                                    .local = groups[i / 3 % 3][1],
                                    .stage = stage,
                                    .passes = i / 9 % 2 == 0 ? 1 : 2,
                                    .recompute = i % 2,
                                    .bucket_mb = 1,
                                    .replicate_below = i / 18 % 2 == 0 ? 0 : 2000,
                                    .bf16 = i / 36 % 2,
                                    .offload = true});
}

/* Experts that ranks divide are in buckets of their own, of which some hold a shard, or all. */
Test(stages, divided_experts_come_and_go_like_the_rest)
{
    static const unsigned groups[][3] = {{2, 2, 2}, {4, 4, 2}, {4, 4, 4}, {4, 2, 2},
                                         {4, 2, 4}, {8, 4, 2}, {6, 3, 3}};

    for (unsigned i = 0; i < 7 * 2 * 2 * 2 * 2; i++)
        for (unsigned stage = 0; stage < 4; stage++)
            check(&(struct setting){.model = 4,
                                    .world = groups[i % 7][0],
                                    .local = groups[i % 7][1],
                                    .divide = groups[i % 7][2],
                                    .stage = stage,
                                    .passes = i / 7 % 2 == 0 ? 1 : 3,
                                    .recompute = i / 14 % 2,
                                    .bucket_mb = i / 28 % 2 == 0 ? 1 : 2,
                                    .replicate_below = i / 7 % 3 == 0 ? 2000 : 0,
                                    .bf16 = i % 5 == 0,
                                    .offload = i / 56 % 2});
}

/* --- what is held once ------------------------------------------------------------------------- */

static void check_alike(struct setting set)
{
    struct ds_plan plan[2];
    struct ds_buf list[2];

    for (unsigned i = 0; i < 2; i++) {
        set.stage = 2 + i;
        build(&plan[i], &set);
        ds_buf_init(&list[i], 1 << 24);
        ds_plan_print_schedule(&plan[i], &list[i]);
    }
    cr_assert_str_eq(ds_buf_text(&list[0]), ds_buf_text(&list[1]));
    cr_assert_eq(memcmp(plan[0].arena_bytes, plan[1].arena_bytes, sizeof(plan[0].arena_bytes)), 0);
    cr_assert(plan[1].stage == 3 && !plan[1].ahead && plan[1].prefetch == 0);
    cr_assert_eq(plan[0].common_bytes, plan[1].common_bytes);
    cr_assert_eq(plan[0].wire_bytes_per_step, plan[1].wire_bytes_per_step);
    cr_assert_neq(plan[0].hash, plan[1].hash, "the stages are told apart");
    for (unsigned i = 0; i < 2; i++) {
        ds_buf_release(&list[i]);
        ds_plan_release(&plan[i]);
    }
}

/* The shards of all ranks are what stage 3 would gather: nothing is left to do but to wait. */
Test(stages, stage_3_is_stage_2_where_parameters_are_held_once)
{
    static const unsigned groups[][2] = {{2, 2}, {3, 3}, {4, 2}};

    for (unsigned i = 0; i < 3 * 3 * 8; i++)
        check_alike((struct setting){.model = i % 3,
                                     .world = groups[i / 3 % 3][0],
                                     .local = groups[i / 3 % 3][1],
                                     .passes = i / 9 % 2 == 0 ? 1 : 3,
                                     .bf16 = i / 18 % 2,
                                     .offload = i / 36 % 2,
                                     .recompute = i % 2,
                                     .replicate_below = i % 5 == 0 ? 2000 : 0,
                                     .bucket_mb = 1,
                                     .once = true});
}

/* --- bytes -------------------------------------------------------------------------------------*/

/* 2, 2, G + 1 in units of parameters x 4 bytes x (N - 1) / N; bf16 gathers half of that. */
Test(stages, bytes_on_the_wire_follow_the_formulas)
{
    for (unsigned i = 0; i < 3 * 2 * 4 * 3; i++) {
        struct setting set = {.model = i % 3,
                              .bf16 = i / 3 % 2,
                              .world = i / 6 % 4 + 1,
                              .passes = i / 24 + 1,
                              .bucket_mb = 1};

        set.local = set.world;
        for (set.stage = 0; set.stage < 3; set.stage++) {
            struct ds_plan plan;
            uint64_t unit, gathered, want;

            build(&plan, &set);
            unit = plan.padded_elems / set.world * (set.world - 1) * sizeof(float);
            gathered = set.bf16 ? unit / 2 : unit;
            want = set.stage == 0   ? 2 * unit
                   : set.stage == 1 ? unit + gathered
                                    : set.passes * unit + gathered;
            cr_assert_eq(plan.wire_bytes_per_step, want, "stage %u", set.stage);
            ds_plan_release(&plan);
        }
    }
}

/* 3 G less what need not come again: with one layer a bucket, in every pass the embedding is
 * gathered for itself and for the tied classifier, the last layer stays at the turn; the first one
 * stays from one pass to the next. */
Test(stages, stage_3_gathers_what_it_must_and_no_more)
{
    for (uint64_t passes = 1; passes < 4; passes++) {
        struct setting set = {
            .model = 3, .world = 2, .local = 2, .stage = 3, .passes = passes, .bucket_mb = 1};
        struct ds_plan plan;
        uint64_t gathers[64] = {0}, elems = 0;

        build(&plan, &set);
        cr_assert_eq(plan.buckets, 13);
        cr_assert_eq(plan.prefetch, 1);
        for (size_t i = 0; i < plan.step.count; i++)
            if (plan.step.instr[i].op == DS_INSTR_GATHER)
                gathers[plan.step.instr[i].bucket]++;
        cr_assert_eq(gathers[0], 2 * passes);
        cr_assert_eq(gathers[1], passes + 1);
        for (unsigned i = 2; i < 12; i++)
            cr_assert_eq(gathers[i], 2 * passes, "bucket %u", i);
        cr_assert_eq(gathers[12], passes);
        for (unsigned i = 0; i < 13; i++)
            elems += (gathers[i] + passes) * plan.bucket[i].padded_elems;
        cr_assert_eq(plan.wire_bytes_per_step, elems / 2 * sizeof(float));
        cr_assert_leq(plan.wire_bytes_per_step, 3 * passes * plan.padded_elems / 2 * sizeof(float));
        ds_plan_release(&plan);
    }
}

/* Memory per rank by stage: 16, 12 + 4 / N ... bytes per parameter of fp32, and the rooms. */
Test(stages, a_higher_stage_holds_less)
{
    struct setting set = {.model = 3, .world = 4, .local = 4, .passes = 1};
    uint64_t line, bytes[4];

    for (set.stage = 0; set.stage < 4; set.stage++) {
        struct ds_plan plan;
        uint64_t *arena = plan.arena_bytes;

        build(&plan, &set);
        line = plan.padded_elems * sizeof(float);
        bytes[set.stage] = arena[DS_ARENA_PARAMS] + arena[DS_ARENA_GRADS] +
                           arena[DS_ARENA_MOMENTS] + arena[DS_ARENA_GATHERED] +
                           arena[DS_ARENA_STAGED];
        cr_assert_eq(arena[DS_ARENA_PARAMS], set.stage < 3 ? line : line / 4);
        cr_assert_eq(arena[DS_ARENA_GRADS], set.stage < 2 ? line : line / 4);
        cr_assert_eq(arena[DS_ARENA_MOMENTS], set.stage < 1 ? 2 * line : line / 2);
        cr_assert_lt(arena[DS_ARENA_GATHERED] + arena[DS_ARENA_STAGED], 2 * line);
        cr_assert(set.stage == 0 || bytes[set.stage] < bytes[set.stage - 1], "stage %u", set.stage);
        ds_plan_release(&plan);
    }
}
