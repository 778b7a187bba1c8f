/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_adapters - which tensors adapters are, whose names they have, and what cannot be adapted; what
 * of a plan is frozen.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

#include "runtime/model/model.h"
#include "runtime/plan/plan.h"
#include "tests/plan/fixture.h"

static struct ds_param param_at(const struct ds_model_shape *shape, size_t i)
{
    struct ds_param param;

    ds_model_param(shape, i, &param);
    return param;
}

static void expect(const struct ds_model_shape *shape, size_t i, const char *name, uint64_t rows,
                   uint64_t columns)
{
    const struct ds_param param = param_at(shape, i);

    cr_assert_str_eq(param.name, name);
    cr_assert(param.ndim == 2 && param.shape[0] == rows && param.shape[1] == columns &&
                  param.elems == rows * columns && ds_model_is_adapter(&param),
              "%s", name);
    cr_assert_eq(param.init, strstr(name, "lora_A") != NULL ? DS_INIT_FAN_IN : DS_INIT_ZERO);
}

Test(adapters, they_follow_the_tensors_of_their_layer)
{
    struct ds_model_shape shape = test_llama(2, 64, 4, 2, 96, 113, 32), base = shape;
    uint64_t elems = 0;

    shape.lora = (struct ds_lora){.rank = 8, .alpha = 16.0};
    shape.lora.targets = ds_model_targets(&shape, "q_proj") | ds_model_targets(&shape, "v_proj") |
                         ds_model_targets(&shape, "mlp.down_proj");
    cr_assert_eq(ds_model_param_count(&shape), 1 + 2 * (9 + 6) + 2);
    cr_assert_str_eq(param_at(&shape, 9).name, "model.layers.0.mlp.down_proj.weight");
    expect(&shape, 10, "model.layers.0.self_attn.q_proj.lora_A.weight", 8, 64);
    expect(&shape, 11, "model.layers.0.self_attn.v_proj.lora_A.weight", 8, 64);
    expect(&shape, 12, "model.layers.0.mlp.down_proj.lora_A.weight", 8, 96);
    expect(&shape, 13, "model.layers.0.self_attn.q_proj.lora_B.weight", 64, 8);
    expect(&shape, 14, "model.layers.0.self_attn.v_proj.lora_B.weight", 32, 8);
    expect(&shape, 15, "model.layers.0.mlp.down_proj.lora_B.weight", 64, 8);
    cr_assert_str_eq(param_at(&shape, 16).name, "model.layers.1.input_layernorm.weight");
    expect(&shape, 30, "model.layers.1.mlp.down_proj.lora_B.weight", 64, 8);
    cr_assert_str_eq(param_at(&shape, 32).name, "lm_head.weight");
    for (size_t i = 0; i < ds_model_param_count(&shape); i++) {
        elems += param_at(&shape, i).elems;
        cr_assert_eq(param_at(&shape, i).block, i == 0 ? 0 : i < 16 ? 1 : i < 31 ? 2 : 3);
    }
    cr_assert_eq(elems, ds_model_elems(&shape));
    cr_assert_eq(elems - ds_model_elems(&base), 2 * 8 * (64 + 64 + 64 + 32 + 96 + 64));
    cr_assert_eq(ds_model_adapted_width(&shape), 24);
    cr_assert_eq(ds_model_adapted_widest(&shape), 16);
    cr_assert_eq(ds_model_adapted_deepest(&shape), 96);
    cr_assert_eq(ds_model_adapting_bytes(&shape, 3, 2), 320); /* 3 rows of 16, in 64s */
    base = ds_model_base(&shape);
    cr_assert_eq(ds_model_param_count(&base), 1 + 2 * 9 + 2);
}

/* Of neighbours the first matrices are used as one, which is nobody else's. */
Test(adapters, first_matrices_of_one_product_are_one)
{
    struct ds_model_shape shape = test_llama(1, 64, 4, 2, 96, 113, 32);
    unsigned same = 0;

    shape.lora = (struct ds_lora){.rank = 4, .alpha = 4.0, .targets = 127};
    for (size_t i = 1; i < ds_model_param_count(&shape); i++) {
        const struct ds_param a = param_at(&shape, i - 1), b = param_at(&shape, i);

        if (!ds_model_is_adapter(&b))
            continue;
        cr_assert(!ds_model_same_matrix(&a, &b) || strstr(b.name, "lora_A") != NULL, "%s", b.name);
        same += ds_model_same_matrix(&a, &b);
    }
    cr_assert_eq(same, 3); /* k and v behind q, up behind gate */
}

Test(adapters, gpt2_has_four_and_experts_none)
{
    struct ds_model_shape gpt2 = test_gpt2(1, 32, 2, 64, 16);
    struct ds_model_shape mixtral = test_mixtral(1, 32, 4, 2, 24, 64, 16, 4, 2);
    struct ds_error err = {0};

    cr_assert_eq(ds_model_targets(&gpt2, "c_proj"), 1U << DS_ADAPTED_PROJ | 1U << DS_ADAPTED_DOWN);
    cr_assert_eq(ds_model_targets(&gpt2, "attn.c_proj"), 1U << DS_ADAPTED_PROJ);
    cr_assert_eq(ds_model_targets(&gpt2, "proj"), 0);
    cr_assert_eq(ds_model_targets(&gpt2, ""), 0);
    cr_assert_eq(ds_model_targets(&mixtral, "w1"), 0);
    cr_assert_eq(ds_model_targets(&mixtral, "gate"), 0);
    gpt2.lora = (struct ds_lora){.rank = 2, .alpha = 1.0, .targets = 1U << DS_ADAPTED_QKV};
    expect(&gpt2, 2 + 12, "transformer.h.0.attn.c_attn.lora_A.weight", 2, 32);
    expect(&gpt2, 2 + 13, "transformer.h.0.attn.c_attn.lora_B.weight", 96, 2);
    cr_assert_eq(ds_model_check(&gpt2, &err), 0, "%s", err.text);
    gpt2.lora.targets = 1U << DS_ADAPTED_K;
    cr_assert_eq(ds_model_check(&gpt2, NULL), -EINVAL);
    gpt2.lora.targets = 0;
    cr_assert_eq(ds_model_check(&gpt2, NULL), -EINVAL);
    gpt2.lora = (struct ds_lora){.rank = 2, .alpha = (double)NAN, .targets = 1};
    cr_assert_eq(ds_model_check(&gpt2, NULL), -EINVAL);
    gpt2.lora = (struct ds_lora){.rank = 2, .alpha = 1.0, .dropout = 1.0, .targets = 1};
    cr_assert_eq(ds_model_check(&gpt2, NULL), -EINVAL);
    gpt2.lora = (struct ds_lora){.rank = 2, .alpha = 1.0, .targets = 1U << 31};
    cr_assert_eq(ds_model_check(&gpt2, NULL), -EINVAL);
    mixtral.lora = (struct ds_lora){.rank = 2, .alpha = 1.0, .targets = 1U << DS_ADAPTED_DOWN};
    cr_assert_eq(ds_model_check(&mixtral, NULL), -EINVAL);
}

static struct ds_plan plan_of(struct ds_job *job)
{
    struct ds_error err = {0};
    struct ds_plan plan;

    cr_assert_eq(
        ds_plan_build(&plan, &(struct ds_plan_args){.job = job, .world = 1, .threads = 1}, &err), 0,
        "%s", err.text);
    return plan;
}

/* 4 FLOPs for each number of a frozen matrix instead of 6, 2 where no gradient passes; of FP8 are
 * those of layers' products without their adapters. */
Test(adapters, what_is_not_computed_is_not_counted)
{
    struct ds_model_shape shape = test_llama(2, 64, 4, 2, 96, 113, 32), adapted = shape;
    struct ds_job job = test_job(shape, 2, 1, 32);
    const char *last[] = {"model.layers.0.*"};
    struct ds_plan all = plan_of(&job), some, none;
    double layer, saved;

    job.train.freeze = (struct ds_strings){.count = 1, .item = last};
    some = plan_of(&job);
    layer = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64 + 2 * 64;
    saved = all.flops_per_token - some.flops_per_token;
    cr_assert_eq(some.first_trained, 0); /* the embedding */
    cr_assert_float_eq(saved, 2.0 * layer, 1e-6);
    ds_plan_release(&some);
    job.train.freeze = (struct ds_strings){
        .count = 2, .item = (const char *[]){"model.layers.0.*", "model.embed*"}};
    some = plan_of(&job);
    saved = all.flops_per_token - some.flops_per_token;
    cr_assert_eq(some.first_trained, 2);
    cr_assert_float_eq(saved, 4.0 * layer + 8.0 * 64 * 16.0, 1e-6);
    ds_plan_release(&some);
    job.train.freeze = (struct ds_strings){.count = 0};
    adapted.lora = (struct ds_lora){.rank = 4, .alpha = 4.0, .targets = 1U << DS_ADAPTED_DOWN};
    job.model.shape = adapted;
    job.precision.compute = DS_COMPUTE_BF16;
    job.precision.matmul = DS_MATMUL_FP8;
    none = plan_of(&job);
    saved = all.flops_per_token - none.flops_per_token;
    cr_assert_float_eq(saved, 2.0 * (2 * layer + 64 + 113 * 64) - 6.0 * 2 * 4 * (64 + 96), 1e-6);
    cr_assert_float_eq(none.fp8_flops_per_token, 4.0 * 2 * (layer - 2 * 64), 1e-6);
    ds_plan_release(&none);
    ds_plan_release(&all);
}

/* Layers before the first trained one hand on what they made, keep none of it and make none of it
 * again. */
Test(adapters, what_no_gradient_comes_to_keeps_nothing)
{
    struct ds_job job = test_job(test_llama(6, 64, 4, 2, 96, 113, 32), 4, 4, 32);
    uint64_t all, few;
    struct ds_plan plan = plan_of(&job);

    all = plan.arena_bytes[DS_ARENA_ACTIVATIONS];
    ds_plan_release(&plan);
    job.train.freeze = (struct ds_strings){
        .count = 2, .item = (const char *[]){"model.embed*", "model.layers.[0-3].*"}};
    job.activation.recompute = DS_RECOMPUTE_FULL;
    job.activation.layers = 5;
    plan = plan_of(&job);
    few = plan.arena_bytes[DS_ARENA_ACTIVATIONS];
    cr_assert_eq(plan.first_trained, 5);
    for (uint32_t block = 1; block <= 6; block++)
        cr_assert_eq(ds_plan_recomputes(&plan, block), block == 5);
    for (size_t i = 0; i < plan.buffers; i++) {
        const struct ds_plan_buffer *buf = &plan.buffer[i];

        if (buf->pass != DS_PASS_TRAIN || buf->block < 1 || buf->block > 4)
            continue;
        /* The output of the last of them is read by the first trained layer on its way back. */
        cr_assert(buf->buffer == DS_BUFFER_OUT || buf->first == buf->last, "%u of block %u",
                  buf->buffer, buf->block);
        cr_assert(buf->buffer != DS_BUFFER_OUT || buf->block == 4 || buf->last == buf->first + 1,
                  "output of block %u", buf->block);
    }
    ds_plan_release(&plan);
    cr_assert_lt(few, all / 2);
}

Test(adapters, what_cannot_be_frozen_is_refused)
{
    static const struct {
        const char *match, *says;
        bool whole; /* beside adapters of q_proj */
    } cases[] = {{"*", "leaves nothing to train", false},
                 {"*k_proj*", "name both or none", false},
                 {"*.wat.*", "'train.freeze' item 1: no tensor matches '*.wat.*'", false},
                 {"*up_proj.weight", "'lora.whole' has one of", true},
                 {"*[qkv]_proj.weight", "which has an adapter", true},
                 {"*lora_A*", "'lora.whole' item 1: no tensor matches '*lora_A*'", true}};

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_job job = test_job(test_llama(2, 64, 4, 2, 96, 113, 32), 2, 1, 32);
        struct ds_plan_args args = {.job = &job, .world = 1, .threads = 1};
        struct ds_error err = {0};
        struct ds_plan plan;

        if (cases[i].whole)
            job.model.shape.lora =
                (struct ds_lora){.rank = 4, .alpha = 4.0, .targets = 1U << DS_ADAPTED_QKV};
        *(cases[i].whole ? &job.lora.whole : &job.train.freeze) =
            (struct ds_strings){.count = 1, .item = (const char *[]){cases[i].match}};
        cr_assert_eq(ds_plan_build(&plan, &args, &err), -EINVAL);
        cr_assert(strstr(err.text, cases[i].says) != NULL, "%s", err.text);
    }
    struct ds_job job = test_job(test_llama(2, 64, 4, 2, 96, 113, 32), 4, 1, 32);
    struct ds_plan_args args = {.job = &job, .world = 2, .threads = 1};
    struct ds_error err = {0};
    struct ds_plan plan;

    job.parallel.pipeline = 2;
    job.train.freeze = (struct ds_strings){
        .count = 2, .item = (const char *[]){"model.layers.0.*", "model.embed*"}};
    cr_assert_eq(ds_plan_build(&plan, &args, &err), -EINVAL);
    cr_assert(strstr(err.text, "part 0 of 'parallel.pipeline' 2 has nothing to train") != NULL,
              "%s", err.text);
}
