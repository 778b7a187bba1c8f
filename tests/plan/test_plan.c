/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_plan - every part of a plan, checked as properties over many shapes, worlds and settings.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <sys/resource.h>

#include "base/json_read.h"
#include "runtime/plan/internal.h"
#include "tests/plan/fixture.h"

struct setting {
    unsigned model, world;
    uint64_t passes, micro_batch, bucket_mb;
    enum ds_recompute recompute;
    bool bf16;
};

static struct ds_model_shape model(unsigned i)
{
    switch (i) {
    case 0: return test_gpt2(2, 48, 3, 97, 32);
    case 1: return test_llama(2, 64, 4, 2, 96, 113, 32);
    case 2: return test_gpt2(1, 8, 1, 3, 5);
    case 3: return test_llama(5, 256, 8, 2, 688, 32000, 64);
    case 4: return test_mixtral(3, 64, 4, 2, 40, 113, 32, 5, 2);
    default: return test_gpt2(12, 768, 12, 50257, 1024);
    }
}

/* Call `check` with the plan of every setting. */
static void for_every_plan(void (*check)(const struct ds_plan *plan, const char *what))
{
    static const unsigned worlds[] = {1, 2, 3, 4, 7};

    for (unsigned i = 0; i < 6 * 5 * 12; i++) {
        struct setting set = {.model = i % 6,
                              .world = worlds[i / 6 % 5],
                              .passes = i % 3 + 1,
                              .micro_batch = i % 2 + 1,
                              .bucket_mb = i % 4 == 0 ? 1 : 0,
                              .recompute = (enum ds_recompute)(i / 30 % 3),
                              .bf16 = i / 90 % 2};
        struct ds_model_shape shape = model(set.model);
        struct ds_job job = test_job(shape, set.passes * set.micro_batch * set.world,
                                     set.micro_batch, shape.context > 64 ? 64 : shape.context);
        struct ds_plan plan;
        struct ds_error err = {0};
        char what[96];

        job.zero.bucket_mb = set.bucket_mb;
        job.activation.recompute = set.recompute;
        job.activation.layers = set.recompute != DS_RECOMPUTE_NONE ? i % 3 % (shape.layers + 1) : 0;
        job.precision.compute = set.bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
        job.precision.matmul =
            set.bf16 && shape.experts == 0 && set.micro_batch * job.train.sequence % 16 == 0
                ? DS_MATMUL_FP8
                : DS_MATMUL_COMPUTE;
        (void)snprintf(what, sizeof(what), "model %u world %u passes %u recompute %u bf16 %d",
                       set.model, set.world, (unsigned)set.passes, set.recompute, set.bf16);
        cr_assert_eq(
            ds_plan_build(
                &plan, &(struct ds_plan_args){.job = &job, .world = set.world, .threads = 1}, &err),
            0, "%s: %s", what, err.text);
        check(&plan, what);
        ds_plan_release(&plan);
    }
}

static void check_buckets(const struct ds_plan *plan, const char *what)
{
    uint64_t at = 0;
    uint32_t block = 0;

    cr_assert_gt(plan->buckets, 0, "%s", what);
    for (size_t i = 0; i < plan->buckets; i++) {
        const struct ds_bucket *bucket = &plan->bucket[i];

        cr_assert_eq(bucket->first_block, block, "%s: bucket %zu", what, i);
        cr_assert_gt(bucket->blocks, 0, "%s: bucket %zu", what, i);
        cr_assert_eq(bucket->offset, at, "%s: bucket %zu", what, i);
        cr_assert_eq(bucket->padded_elems % (plan->world * DS_SHARD_ALIGN), 0, "%s", what);
        cr_assert_eq(bucket->slice_elems * plan->world, bucket->padded_elems, "%s", what);
        cr_assert_geq(bucket->padded_elems, bucket->elems, "%s", what);
        cr_assert_lt(bucket->padded_elems - bucket->elems, plan->world * DS_SHARD_ALIGN, "%s",
                     what);
        block += bucket->blocks;
        at += bucket->padded_elems;
    }
    cr_assert_eq(block, ds_model_blocks(&plan->shape), "%s", what);
    cr_assert_eq(at, plan->padded_elems, "%s", what);
}

static void check_params(const struct ds_plan *plan, const char *what)
{
    uint64_t at = 0, spanned = 0;

    for (size_t i = 0; i < plan->params; i++) {
        const struct ds_plan_param *param = &plan->param[i];
        const struct ds_bucket *bucket = &plan->bucket[param->bucket];

        if (i == 0 || param->bucket != plan->param[i - 1].bucket)
            at = bucket->offset;
        cr_assert_eq(param->offset, at, "%s: gap before %s", what, param->param.name);
        cr_assert(param->param.block >= bucket->first_block &&
                      param->param.block < bucket->first_block + bucket->blocks,
                  "%s: %s is in the wrong bucket", what, param->param.name);
        at += param->param.elems;
        cr_assert_leq(at, bucket->offset + bucket->elems, "%s: %s", what, param->param.name);
    }
    for (size_t i = 0; i < plan->params; i++) { /* every parameter in one span of its kind */
        const struct ds_plan_param *param = &plan->param[i];
        unsigned in = 0;

        for (size_t j = 0; j < plan->spans; j++) {
            const struct ds_plan_span *span = &plan->span[j];

            if (param->offset < span->offset ||
                param->offset + param->param.elems > span->offset + span->elems)
                continue;
            in++;
            cr_assert(span->lr_mult == 1.0 &&
                          (span->weight_decay > 0.0) == (param->param.ndim == 2),
                      "%s: %s", what, param->param.name);
            cr_assert_eq(span->bucket, param->bucket, "%s: %s", what, param->param.name);
        }
        cr_assert_eq(in, 1, "%s: %s is in %u spans", what, param->param.name, in);
    }
    for (size_t j = 0; j < plan->spans; j++)
        spanned += plan->span[j].elems;
    cr_assert_eq(spanned, ds_model_elems(&plan->shape), "%s", what);
}

Test(bucket, every_rank_owns_an_equal_slice_of_every_bucket)
{
    for_every_plan(check_buckets);
}

Test(bucket, parameters_lie_end_to_end_in_the_bucket_of_their_block)
{
    for_every_plan(check_params);
}

Test(bucket, a_model_that_is_large_enough_has_several)
{
    struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), 2, 1, 64);
    struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1};
    struct ds_plan plan;

    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_geq(plan.buckets, 4);
    ds_plan_release(&plan);
    job.zero.bucket_mb = 4096;
    cr_assert_eq(ds_plan_build(&plan, &args, NULL), 0);
    cr_assert_eq(plan.buckets, 1);
    ds_plan_release(&plan);
}

/* Run the list with one rule per instruction: what must have happened before it. */
static void check_schedule(const struct ds_plan *plan, const char *what)
{
    uint32_t blocks = ds_model_blocks(&plan->shape), forward = 0, backward = 0, micro = 0;
    bool signalled[64] = {0}, normed = false;
    uint32_t reduced = 0, updated = 0;

    cr_assert_leq(plan->step.events, 64, "%s", what);
    for (size_t i = 0; i < plan->step.count; i++) {
        const struct ds_instr *instr = &plan->step.instr[i];

        if (instr->waits_for != DS_NO_EVENT)
            cr_assert(signalled[instr->waits_for], "%s: %zu waits in vain", what, i);
        switch (instr->op) {
        case DS_INSTR_FORWARD:
            cr_assert_eq(instr->micro_batch, micro, "%s: %zu", what, i);
            cr_assert_eq(instr->accumulate, micro > 0, "%s: %zu", what, i);
            if (instr->recompute)
                cr_assert_eq(instr->block, blocks - 1 - backward, "%s: %zu", what, i);
            else
                cr_assert_eq(instr->block, forward++, "%s: %zu", what, i);
            break;
        case DS_INSTR_BACKWARD:
            cr_assert_eq(forward, blocks, "%s: %zu", what, i);
            cr_assert_eq(instr->block, blocks - 1 - backward, "%s: %zu", what, i);
            cr_assert_eq(instr->accumulate, micro > 0, "%s: %zu", what, i);
            if (++backward == blocks) {
                forward = backward = 0;
                micro++;
            }
            break;
        case DS_INSTR_REDUCE: {
            uint32_t first = plan->bucket[instr->bucket].first_block;
            bool last_micro = micro == plan->micro_batches ||
                              (micro + 1 == plan->micro_batches && backward >= blocks - first);

            cr_assert(last_micro, "%s: bucket %u is reduced too early", what, instr->bucket);
            cr_assert_eq(instr->queue, DS_QUEUE_REDUCE, "%s: %zu", what, i);
            reduced++;
            break;
        }
        case DS_INSTR_NORM:
            cr_assert_eq(micro, plan->micro_batches, "%s: %zu", what, i);
            cr_assert_eq(reduced, plan->world > 1 ? plan->buckets : 0, "%s: %zu", what, i);
            normed = true;
            break;
        case DS_INSTR_UPDATE:
            cr_assert(normed, "%s: %zu", what, i);
            cr_assert_eq(instr->bucket, updated++, "%s: %zu", what, i);
            break;
        default: cr_assert_fail("%s: unexpected instruction %zu", what, i);
        }
        if (instr->signals != DS_NO_EVENT) {
            cr_assert_lt(instr->signals, plan->step.events, "%s: %zu", what, i);
            cr_assert_not(signalled[instr->signals], "%s: %zu signals again", what, i);
            signalled[instr->signals] = true;
        }
    }
    cr_assert_eq(updated, plan->buckets, "%s", what);
    cr_assert_eq(plan->eval.count, blocks, "%s", what);
}

/* Every real element is in one span, with what its tensor is due. */
Test(bucket, spans_carry_groups)
{
    static struct ds_optim_group groups[] = {{"*.ln_?.*", 0.5, 0.3},
                                             {"*.weight", 2.0, (double)NAN}};
    struct ds_job job = test_job(test_gpt2(2, 8, 2, 11, 6), 4, 2, 6);
    struct ds_plan plan;
    struct ds_error err = {0};
    uint64_t covered = 0;

    job.optim.groups = (struct ds_rows){2, groups};
    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 2, .threads = 1}, &err),
        0, "%s", err.text);
    for (size_t i = 0; i < plan.spans; i++)
        covered += plan.span[i].elems;
    cr_assert_eq(covered, ds_model_elems(&plan.shape));
    for (size_t i = 0; i < plan.params; i++) {
        const struct ds_plan_param *param = &plan.param[i];
        const struct ds_plan_span *span = plan.span;
        bool norm = strstr(param->param.name, ".ln_1.") != NULL ||
                    strstr(param->param.name, ".ln_2.") != NULL ||
                    strstr(param->param.name, ".ln_f.") != NULL;
        bool weight = strstr(param->param.name, ".weight") != NULL;

        while (span->offset + span->elems <= param->offset)
            span++;
        cr_assert_eq(span->bucket, param->bucket);
        cr_assert(span->lr_mult == (norm ? 0.5 : weight ? 2.0 : 1.0), "%s", param->param.name);
        cr_assert(span->weight_decay == (norm                    ? 0.3
                                         : param->param.ndim > 1 ? 0.1
                                                                 : 0.0),
                  "%s", param->param.name);
    }
    ds_plan_release(&plan);
    groups[1].match = "transformer.*.ln_1.bias";
    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 2, .threads = 1}, &err),
        -EINVAL);
    cr_assert_str_eq(err.text,
                     "'optim.groups' item 2: no tensor is left for 'transformer.*.ln_1.bias'; "
                     "tensors are called like 'transformer.ln_f.bias'");
}

Test(schedule, every_instruction_comes_after_what_it_needs)
{
    for_every_plan(check_schedule);
}

Test(schedule, recompute_runs_every_layer_forward_once_more)
{
    struct ds_job job = test_job(test_gpt2(3, 48, 3, 97, 32), 4, 2, 16);
    struct ds_plan plan;
    unsigned again = 0;

    job.activation.recompute = DS_RECOMPUTE_FULL;
    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 1, .threads = 1}, NULL),
        0);
    for (size_t i = 0; i < plan.step.count; i++)
        again += plan.step.instr[i].recompute;
    cr_assert_eq(again, 3 * 2);
    ds_plan_release(&plan);
}

static void check_memory(const struct ds_plan *plan, const char *what)
{
    for (size_t i = 0; i < plan->buffers; i++) {
        const struct ds_plan_buffer *a = &plan->buffer[i];

        cr_assert_leq(a->offset + a->bytes, plan->arena_bytes[DS_ARENA_ACTIVATIONS], "%s", what);
        cr_assert_eq(a->offset % DS_BUFFER_ALIGN, 0, "%s", what);
        cr_assert_leq(a->first, a->last, "%s: %s", what, ds_buffer_name(a->buffer));
        for (size_t j = 0; j < i; j++) {
            const struct ds_plan_buffer *b = &plan->buffer[j];
            bool same_program = (a->pass == DS_PASS_EVAL) == (b->pass == DS_PASS_EVAL);

            if (!same_program || a->last < b->first || b->last < a->first)
                continue;
            cr_assert(a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset,
                      "%s: %s of block %u overlaps %s of block %u", what, ds_buffer_name(a->buffer),
                      a->block, ds_buffer_name(b->buffer), b->block);
        }
    }
}

Test(memory, no_two_live_buffers_overlap)
{
    for_every_plan(check_memory);
}

Test(memory, packing_reuses_the_dead_and_never_the_living)
{
    struct ds_plan_buffer buf[] = {
        {.bytes = 64, .first = 0, .last = 1}, {.bytes = 128, .first = 1, .last = 2},
        {.bytes = 64, .first = 2, .last = 3}, {.bytes = 192, .first = 3, .last = 4},
        {.bytes = 64, .first = 5, .last = 9},
    };
    uint32_t order[5];

    cr_assert_eq(ds__plan_pack(buf, 5, order), 256);
    cr_assert_eq(buf[3].offset, 0);
    cr_assert_eq(buf[1].offset, 0);
    cr_assert_eq(buf[0].offset, 128);
    cr_assert_eq(buf[2].offset, 192);
    cr_assert_eq(buf[4].offset, 0);
}

Test(memory, recompute_and_small_types_take_less)
{
    struct ds_job job = test_job(test_gpt2(12, 768, 12, 50257, 1024), 2, 1, 256);
    struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1};
    struct ds_plan plain, again, low;

    cr_assert_eq(ds_plan_build(&plain, &args, NULL), 0);
    job.activation.recompute = DS_RECOMPUTE_FULL;
    cr_assert_eq(ds_plan_build(&again, &args, NULL), 0);
    job.activation.recompute = DS_RECOMPUTE_NONE;
    job.precision.compute = DS_COMPUTE_BF16;
    cr_assert_eq(ds_plan_build(&low, &args, NULL), 0);
    cr_assert_lt(again.arena_bytes[DS_ARENA_ACTIVATIONS],
                 plain.arena_bytes[DS_ARENA_ACTIVATIONS] / 2);
    cr_assert_lt(low.arena_bytes[DS_ARENA_ACTIVATIONS], plain.arena_bytes[DS_ARENA_ACTIVATIONS]);
    cr_assert_eq(low.arena_bytes[DS_ARENA_PARAMS_LOW] * 2, low.arena_bytes[DS_ARENA_PARAMS]);
    cr_assert_leq(plain.logit_rows * plain.logit_ld * sizeof(float), (size_t)80 << 20);
    cr_assert_lt(plain.logit_rows, (uint64_t)2048);
    ds_plan_release(&plain);
    args.apart = true; /* a GPU has the bytes and not the time for small chunks */
    job.train.micro_batch = 12;
    job.train.global_batch = 24;
    cr_assert_eq(ds_plan_build(&plain, &args, NULL), 0);
    cr_assert_geq(plain.logit_rows, (uint64_t)1024);
    ds_plan_release(&plain);
    ds_plan_release(&again);
    ds_plan_release(&low);
}

static void check_cost(const struct ds_plan *plan, const char *what)
{
    uint64_t line = plan->padded_elems * sizeof(float);

    cr_assert_eq(plan->arena_bytes[DS_ARENA_GRADS], line, "%s", what);
    cr_assert_eq(plan->arena_bytes[DS_ARENA_MOMENTS], 2 * line, "%s", what);
    cr_assert_eq(plan->wire_bytes_per_step * plan->world, 2 * line * (plan->world - 1), "%s", what);
    cr_assert_eq(plan->messages_per_step, plan->world > 1 ? plan->buckets + 1 : 0, "%s", what);
}

Test(cost, bytes_and_messages_follow_the_formulas)
{
    for_every_plan(check_cost);
}

/* What the ranks copy aside for a checkpoint is, all together, every number once. */
Test(cost, a_checkpoint_behind_the_run_takes_a_copy_of_each_ranks_part)
{
    static const struct {
        uint64_t stage, every;
        bool async, copies;
    } cases[] = {{0, 5, true, true},  {1, 5, true, true},   {2, 1, true, true},  {3, 9, true, true},
                 {0, 0, true, false}, {3, 10, true, false}, {1, 5, false, false}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_job job = test_job(model(1), 4, 1, 32);
        uint64_t numbers = 3 * ds_model_elems(&job.model.shape) * sizeof(float), copied, without;
        struct ds_plan plan;

        job.train.steps = 10;
        job.zero.stage = cases[i].stage;
        cr_assert_eq(ds_plan_build(&plan,
                                   &(struct ds_plan_args){.job = &job, .world = 4, .threads = 1},
                                   NULL),
                     0);
        without = plan.arena_bytes[DS_ARENA_STAGING];
        ds_plan_release(&plan);
        job.checkpoint.every = cases[i].every;
        job.checkpoint.async = cases[i].async;
        cr_assert_eq(ds_plan_build(&plan,
                                   &(struct ds_plan_args){.job = &job, .world = 4, .threads = 1},
                                   NULL),
                     0);
        copied = 4 * plan.snapshot_bytes;
        cr_assert_eq(plan.arena_bytes[DS_ARENA_STAGING], without + plan.snapshot_bytes);
        cr_assert(cases[i].copies ? copied >= numbers && copied < numbers + numbers / 10
                                  : copied == 0,
                  "case %zu: %ju of %ju bytes", i, (uintmax_t)copied, (uintmax_t)numbers);
        ds_plan_release(&plan);
    }
}

Test(cost, a_plan_that_does_not_fit_is_refused_with_its_table)
{
    struct ds_job job = test_job(test_gpt2(2, 48, 3, 97, 32), 4, 1, 16);
    struct ds_plan plan;
    struct ds_error err = {0};
    uint64_t one;

    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 4, .threads = 1}, NULL),
        0);
    one = ds_plan_total_bytes(&plan) - plan.peer_bytes;
    cr_assert_eq(ds_plan_check_fit(&plan, 4, 4 * one, &err), 0, "%s", err.text);
    cr_assert_eq(ds_plan_check_fit(&plan, 4, 4 * one - 1, &err), -ENOMEM);
    cr_assert(strstr(err.text, "4 ranks") != NULL, "%s", err.text);
    cr_assert(strstr(err.text, "optimizer") != NULL, "%s", err.text);
    cr_assert_gt(ds_mem_available(), 1 << 20);
    ds_plan_release(&plan);
}

/* Criterion runs each test in a process of its own. */
Test(plan, a_limit_of_addresses_counts)
{
    const uint64_t room = 64 << 20;
    struct rlimit limit;
    uint64_t left;

    cr_assert_eq(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    if (limit.rlim_max == RLIM_INFINITY)
        cr_assert_eq(ds_mem_addresses(), UINT64_MAX);
    limit.rlim_cur = RLIM_INFINITY - 1 < limit.rlim_max ? RLIM_INFINITY - 1 : limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    left = ds_mem_addresses();
    cr_assert_lt(left, limit.rlim_cur, "what it has counts");
    limit.rlim_cur -= left - room; /* what it has, and that much */
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    left = ds_mem_addresses();
    cr_expect(left > 0 && left <= room, "%ju", (uintmax_t)left);
    cr_expect_leq(ds_mem_available(), room);
    limit.rlim_cur = 1 << 20;
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    cr_expect_eq(ds_mem_addresses(), 0, "less than it has");
    limit.rlim_cur = limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
}

/* What the ranks of a host hold once counts once for all of them, and in every rank's own total. */
Test(plan, what_is_held_once_must_fit_once)
{
    struct ds_job job = test_job(test_gpt2(12, 256, 4, 5000, 64), 8, 1, 64);
    struct ds_plan_args args = {.job = &job, .world = 4, .threads = 1, .common = true};
    struct ds_error err = {0};
    struct ds_plan once, copies;
    uint64_t all;

    job.zero.stage = 1;
    cr_assert_eq(ds_plan_build(&once, &args, NULL), 0);
    args.common = false;
    cr_assert_eq(ds_plan_build(&copies, &args, NULL), 0);
    cr_assert_eq(once.common_bytes, once.padded_elems * sizeof(float));
    cr_assert_eq(copies.peer_bytes - once.peer_bytes, once.common_bytes / 4 * 3,
                 "the shards of three peers are read where they are");
    cr_assert_neq(once.hash, copies.hash);
    all = ds_plan_ranks_bytes(&once, 4);
    cr_assert_eq(ds_plan_ranks_bytes(&copies, 4) - all, 3 * once.common_bytes);
    cr_assert_eq(ds_plan_check_fit(&once, 4, all, &err), 0, "%s", err.text);
    cr_assert_eq(ds_plan_check_fit(&once, 4, all - 1, &err), -ENOMEM);
    cr_assert_not_null(strstr(err.text, " of it once"), "%s", err.text);
    cr_assert_eq(ds_plan_check_fit(&once, 4, once.common_bytes - 1, &err), -ENOMEM);
    cr_assert_eq(ds_plan_check_fit(&copies, 4, all, &err), -ENOMEM);
    cr_assert_null(strstr(err.text, " of it once"), "%s", err.text);
    ds_plan_release(&once);
    ds_plan_release(&copies);
}

Test(plan, what_cannot_be_planned_is_refused)
{
    static const struct {
        uint64_t global, micro, sequence, stage, world, threads, says_code;
        const char *says;
    } cases[] = {
        {9, 2, 16, 0, 2, 1, EINVAL, "divisible"},
        {8, 2, 33, 0, 2, 1, EINVAL, "train.sequence"},
        {8, 2, 0, 0, 2, 1, EINVAL, "train.sequence"},
        {8, 2, 16, 0, 0, 1, EINVAL, "ranks"},
        {8, 2, 16, 0, 2, 0, EINVAL, "threads"},
        {8, 0, 16, 0, 2, 1, EINVAL, "train.micro_batch"},
        {1 << 24, 1, 16, 0, 1, 1, EOVERFLOW, "train.micro_batch"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_job job = test_job(test_gpt2(2, 48, 3, 97, 32), cases[i].global, cases[i].micro,
                                     cases[i].sequence);
        struct ds_plan_args args = {
            .job = &job, .world = (unsigned)cases[i].world, .threads = (unsigned)cases[i].threads};
        struct ds_error err = {0};
        struct ds_plan plan;

        job.zero.stage = cases[i].stage;
        cr_assert_eq(ds_plan_build(&plan, &args, &err), -(int)cases[i].says_code, "case %zu: %s", i,
                     err.text);
        cr_assert(strstr(err.text, cases[i].says) != NULL, "case %zu: %s", i, err.text);
    }
}

Test(plan, an_absurd_micro_batch_overflows_politely)
{
    struct ds_model_shape shape = test_gpt2(1000, 65536, 1024, 1 << 24, 1 << 24);
    struct ds_job job = test_job(shape, 1 << 24, 1 << 24, 1 << 24);
    struct ds_plan plan;

    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 1, .threads = 1}, NULL),
        -EOVERFLOW);
}

Test(plan, the_hash_is_of_what_ranks_must_agree_on)
{
    struct ds_job job = test_job(test_gpt2(2, 48, 3, 97, 32), 8, 2, 16);
    struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1};
    struct ds_plan a, b;

    cr_assert_eq(ds_plan_build(&a, &args, NULL), 0);
    args.rank = 1;
    args.threads = 2;
    cr_assert_eq(ds_plan_build(&b, &args, NULL), 0);
    cr_assert_eq(a.hash, b.hash);
    ds_plan_release(&b);
    job.train.micro_batch = 4;
    cr_assert_eq(ds_plan_build(&b, &args, NULL), 0);
    cr_assert_neq(a.hash, b.hash);
    ds_plan_release(&b);
    ds_plan_release(&a);
}

Test(describe, five_lines_a_table_and_json_that_parses)
{
    struct ds_json writer;
    struct ds_job job = test_job(test_llama(2, 64, 4, 2, 96, 113, 32), 8, 2, 17);
    struct ds_plan plan;
    struct ds_buf out;
    unsigned lines = 0;
    json_t *json;

    ds_buf_init(&out, 1 << 20);
    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = &job, .world = 2, .threads = 1}, NULL),
        0);
    ds_plan_describe(&plan, &job, &out);
    for (size_t i = 0; i < out.len; i++)
        lines += out.data[i] == '\n';
    cr_assert_eq(lines, 5, "%s", ds_buf_text(&out));
    cr_assert(strstr(ds_buf_text(&out), "llama") != NULL);
    ds_buf_reset(&out);
    ds_plan_print(&plan, &out);
    ds_plan_print_schedule(&plan, &out);
    cr_assert(strstr(ds_buf_text(&out), "gradients") != NULL);
    cr_assert(strstr(ds_buf_text(&out), "REDUCE") != NULL);
    ds_buf_reset(&out);
    ds_json_init(&writer, &out);
    ds_json_object(&writer, NULL);
    ds_plan_print_json(&plan, true, &writer);
    ds_json_end_object(&writer);
    json = ds_json_parse(out.data, out.len, NULL);
    cr_assert_not_null(json, "%s", ds_buf_text(&out));
    cr_assert_eq(json_array_size(json_object_get(json, "step")), plan.step.count);
    cr_assert_eq(json_integer_value(json_object_get(json, "world")), 2);
    json_decref(json);
    ds_plan_release(&plan);
    ds_buf_release(&out);
}
