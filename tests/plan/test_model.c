/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_model - the parameter tables against the published models, and what is no model at all.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

#include "runtime/model/model.h"
#include "tests/plan/fixture.h"

static void expect(const struct ds_model_shape *shape, size_t i, const char *name, unsigned block,
                   uint64_t rows, uint64_t cols, enum ds_init init)
{
    struct ds_param param;

    ds_model_param(shape, i, &param);
    cr_assert_str_eq(param.name, name);
    cr_assert_eq(param.block, block, "%s: block %u", name, param.block);
    cr_assert_eq(param.shape[0], rows, "%s", name);
    cr_assert_eq(param.ndim, cols == 0 ? 1u : 2u, "%s", name);
    cr_assert(cols == 0 || param.shape[1] == cols, "%s", name);
    cr_assert_eq(param.elems, rows * (cols == 0 ? 1 : cols), "%s", name);
    cr_assert_eq(param.init, init, "%s", name);
}

Test(model, gpt2_124m_is_the_published_one)
{
    struct ds_model_shape shape = test_gpt2(12, 768, 12, 50257, 1024);

    cr_assert_eq(ds_model_param_count(&shape), 148);
    cr_assert_eq(ds_model_elems(&shape), 124439808);
    cr_assert_eq(ds_model_blocks(&shape), 14);
    expect(&shape, 0, "transformer.wte.weight", 0, 50257, 768, DS_INIT_NORMAL);
    expect(&shape, 1, "transformer.wpe.weight", 0, 1024, 768, DS_INIT_NORMAL);
    expect(&shape, 4, "transformer.h.0.attn.c_attn.weight", 1, 768, 2304, DS_INIT_NORMAL);
    expect(&shape, 2 + 11 * 12 + 10, "transformer.h.11.mlp.c_proj.weight", 12, 3072, 768,
           DS_INIT_NORMAL_RESIDUAL);
    expect(&shape, 146, "transformer.ln_f.weight", 13, 768, 0, DS_INIT_ONE);
    expect(&shape, 147, "transformer.ln_f.bias", 13, 768, 0, DS_INIT_ZERO);
}

Test(model, llama_matrices_that_are_used_as_one_are_neighbours)
{
    struct ds_model_shape shape = test_llama(2, 64, 4, 2, 96, 113, 32);

    cr_assert_eq(ds_model_param_count(&shape), 1 + 2 * 9 + 2);
    expect(&shape, 2, "model.layers.0.self_attn.q_proj.weight", 1, 64, 64, DS_INIT_NORMAL);
    expect(&shape, 3, "model.layers.0.self_attn.k_proj.weight", 1, 32, 64, DS_INIT_NORMAL);
    expect(&shape, 4, "model.layers.0.self_attn.v_proj.weight", 1, 32, 64, DS_INIT_NORMAL);
    expect(&shape, 7, "model.layers.0.mlp.gate_proj.weight", 1, 96, 64, DS_INIT_NORMAL);
    expect(&shape, 8, "model.layers.0.mlp.up_proj.weight", 1, 96, 64, DS_INIT_NORMAL);
    expect(&shape, 9, "model.layers.0.mlp.down_proj.weight", 1, 64, 96, DS_INIT_NORMAL_RESIDUAL);
    expect(&shape, 20, "lm_head.weight", 3, 113, 64, DS_INIT_NORMAL);
}

Test(model, qwen2_is_a_llama_with_three_biases)
{
    struct ds_model_shape shape = test_qwen2(24, 896, 14, 2, 4864, 151936, 32768);

    shape.tie_embeddings = true;
    cr_assert_eq(ds_model_elems(&shape), 494032768u); /* Qwen2.5 0.5B */
    expect(&shape, 4, "model.layers.0.self_attn.v_proj.weight", 1, 128, 896, DS_INIT_NORMAL);
    expect(&shape, 5, "model.layers.0.self_attn.q_proj.bias", 1, 896, 0, DS_INIT_ZERO);
    expect(&shape, 6, "model.layers.0.self_attn.k_proj.bias", 1, 128, 0, DS_INIT_ZERO);
    expect(&shape, 7, "model.layers.0.self_attn.v_proj.bias", 1, 128, 0, DS_INIT_ZERO);
    expect(&shape, 8, "model.layers.0.self_attn.o_proj.weight", 1, 896, 896,
           DS_INIT_NORMAL_RESIDUAL);
}

Test(model, qwen3_has_heads_of_any_size_and_norms_of_them)
{
    struct ds_model_shape shape = test_llama(28, 1024, 16, 8, 3072, 151936, 40960);
    const struct ds_model_shape moe = test_qwen3_moe(48, 2048, 32, 128, 768, 151936, 40960, 128, 8);
    struct ds_model_shape sparse = moe;

    shape.arch = DS_ARCH_QWEN3;
    shape.head_size = 128;
    shape.tie_embeddings = true;
    cr_assert_eq(ds_model_elems(&shape), 596049920u); /* Qwen3 0.6B */
    expect(&shape, 2, "model.layers.0.self_attn.q_proj.weight", 1, 2048, 1024, DS_INIT_NORMAL);
    expect(&shape, 5, "model.layers.0.self_attn.o_proj.weight", 1, 1024, 2048,
           DS_INIT_NORMAL_RESIDUAL);
    expect(&shape, 6, "model.layers.0.self_attn.q_norm.weight", 1, 128, 0, DS_INIT_ONE);
    expect(&shape, 7, "model.layers.0.self_attn.k_norm.weight", 1, 128, 0, DS_INIT_ONE);
    sparse.kv_heads = 4;
    cr_assert_eq(ds_model_elems(&sparse), 30532122624u); /* Qwen3 30B-A3B */
    cr_assert_eq(ds_model_active_elems(&sparse),
                 30532122624u - 48 * 120 * 3 * 2048 * UINT64_C(768));
    expect(&sparse, 9, "model.layers.0.mlp.gate.weight", 1, 128, 2048, DS_INIT_NORMAL);
    expect(&sparse, 10, "model.layers.0.mlp.experts.0.gate_proj.weight", 1, 768, 2048,
           DS_INIT_NORMAL);
    expect(&sparse, 10 + 2 * 128, "model.layers.0.mlp.experts.0.down_proj.weight", 1, 2048, 768,
           DS_INIT_NORMAL_RESIDUAL);
}

Test(model, phi3_is_a_llama_of_which_positions_may_turn_a_part)
{
    struct ds_model_shape shape = test_phi3(32, 3072, 24, 8, 8192, 200064, 131072, 96);
    struct ds_error err = {.text = ""};

    shape.tie_embeddings = true;
    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    cr_assert_eq(ds_model_elems(&shape), 3836021760u); /* Phi-4-mini */
    expect(&shape, 3, "model.layers.0.self_attn.k_proj.weight", 1, 1024, 3072, DS_INIT_NORMAL);
    shape.rope_dims = 95;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.rope_dims' 95 must be even") != NULL, "%s", err.text);
    shape.rope_dims = 130;
    cr_assert_eq(ds_model_check(&shape, NULL), -EINVAL);
    shape.rope_dims = 96;
    shape.arch = DS_ARCH_LLAMA;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "must be 0 for arch 'llama'") != NULL, "%s", err.text);
}

Test(model, olmo2_has_norms_behind_and_of_rows)
{
    struct ds_model_shape shape = test_olmo2(32, 4096, 32, 32, 11008, 100352, 4096);
    struct ds_error err = {.text = ""};

    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    cr_assert_eq(ds_model_elems(&shape), 7298617344u); /* OLMo-2 7B */
    expect(&shape, 1, "model.layers.0.self_attn.q_proj.weight", 1, 4096, 4096, DS_INIT_NORMAL);
    expect(&shape, 5, "model.layers.0.self_attn.q_norm.weight", 1, 4096, 0, DS_INIT_ONE);
    expect(&shape, 10, "model.layers.0.post_attention_layernorm.weight", 1, 4096, 0, DS_INIT_ONE);
    expect(&shape, 11, "model.layers.0.post_feedforward_layernorm.weight", 1, 4096, 0, DS_INIT_ONE);
    shape.kv_heads = 8;
    expect(&shape, 6, "model.layers.0.self_attn.k_norm.weight", 1, 1024, 0, DS_INIT_ONE);
}

Test(model, gemma3_has_layers_of_two_sorts)
{
    struct ds_model_shape shape = test_gemma3(26, 1152, 4, 256, 6912, 262144, 32768, 512, 6);
    struct ds_error err = {.text = ""};

    shape.kv_heads = 1;
    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    cr_assert_eq(ds_model_elems(&shape), 999885952u); /* Gemma 3 1B */
    expect(&shape, 8, "model.layers.0.pre_feedforward_layernorm.weight", 1, 1152, 0, DS_INIT_ONE);
    cr_assert(ds_model_local(&shape, 1) && ds_model_local(&shape, 5) && !ds_model_local(&shape, 6));
    cr_assert(ds_model_window(&shape, 25) == 512 && ds_model_window(&shape, 24) == 0);
    cr_assert_float_eq(ds_model_seen(&shape, 1024), (4 * 512.0 + 22 * 384.0) / 26, 1e-9);
    shape.full_every = 0;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.full_every' is 0") != NULL, "%s", err.text);
    shape.full_every = 6;
    shape.local_theta = 0.0;
    cr_assert_eq(ds_model_check(&shape, NULL), -EINVAL);
    shape.local_theta = 1e4;
    shape.arch = DS_ARCH_QWEN3;
    cr_assert_eq(ds_model_check(&shape, NULL), -EINVAL);
}

Test(model, smollm3_has_layers_without_positions)
{
    struct ds_model_shape shape = test_smollm3(36, 2048, 16, 4, 11008, 128256, 65536, 4);
    struct ds_error err = {.text = ""};

    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    cr_assert_eq(ds_model_elems(&shape), 3075098624u); /* SmolLM3 3B */
    cr_assert(ds_model_turns(&shape, 1) && ds_model_turns(&shape, 3) && ds_model_turns(&shape, 5));
    cr_assert(!ds_model_turns(&shape, 4) && !ds_model_turns(&shape, 36));
    cr_assert_eq(ds_model_turning(&shape), 27);
    shape.nope_every = 0;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.nope_every' is 0, must be at least 1") != NULL);
    shape.nope_every = 4;
    shape.arch = DS_ARCH_LLAMA;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    shape = test_gpt2(2, 48, 3, 97, 32);
    cr_assert(!ds_model_turns(&shape, 1) && ds_model_turning(&shape) == 0);
}

Test(model, granite_has_factors)
{
    struct ds_model_shape shape = test_granite(40, 2048, 32, 8, 8192, 49155, 131072);
    struct ds_error err = {.text = ""};

    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    cr_assert_eq(ds_model_elems(&shape), 2533531648u); /* Granite 3.3 2B */
    shape.attention_scale = 0.0;
    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    shape.logits_scale = 0.0;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.logits_scaling' must be above 0") != NULL, "%s", err.text);
    shape.logits_scale = 8.0;
    shape.arch = DS_ARCH_LLAMA;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.embedding_multiplier' must be 0 for arch 'llama'") != NULL);
}

Test(model, gpt_neox_has_biases_and_halves_side_by_side)
{
    struct ds_model_shape shape = test_gpt_neox(16, 2048, 8, 8192, 50304, 2048, true);
    struct ds_error err = {.text = ""};

    shape.rope_dims = 64;
    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    cr_assert_eq(ds_model_elems(&shape), 1011781632u); /* Pythia 1B */
    expect(&shape, 3, "gpt_neox.layers.0.attention.query.weight", 1, 2048, 2048, DS_INIT_NORMAL);
    expect(&shape, 8, "gpt_neox.layers.0.attention.value.bias", 1, 2048, 0, DS_INIT_ZERO);
    expect(&shape, 13, "gpt_neox.layers.0.mlp.dense_h_to_4h.weight", 1, 8192, 2048, DS_INIT_NORMAL);
    cr_assert_eq(ds_model_product(&shape, DS_PRODUCT_FC).out, 8192);
    shape.kv_heads = 4;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "must equal 'model.heads' for arch 'gpt_neox'") != NULL);
    shape.kv_heads = 8;
    shape.head_size = 128;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    shape = test_llama(2, 64, 4, 2, 96, 113, 32);
    shape.parallel_residual = true;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.parallel_residual' must be false for arch 'llama'") != NULL);
}

Test(model, stretched_positions_that_cannot_be_are_refused)
{
    static const struct {
        struct ds_rope_scale scale;
        const char *says;
    } cases[] = {
        {{DS_ROPE_LINEAR, 0.5, 1.0, 4.0, 64, 1.0, 32.0, 1.0},
         "'model.rope_scaling.factor' must be at least 1"},
        {{DS_ROPE_LLAMA3, (double)NAN, 1.0, 4.0, 64, 1.0, 32.0, 1.0}, "factor"},
        {{DS_ROPE_LLAMA3, 8.0, 4.0, 4.0, 64, 1.0, 32.0, 1.0},
         "'model.rope_scaling.high_freq_factor' must be above"},
        {{DS_ROPE_LLAMA3, 8.0, 0.0, 4.0, 64, 1.0, 32.0, 1.0}, "above 0"},
        {{DS_ROPE_LLAMA3, 8.0, 1.0, 4.0, 0, 1.0, 32.0, 1.0},
         "'model.rope_scaling.original_context'"},
        {{DS_ROPE_YARN, 0.5, 1.0, 4.0, 64, 1.0, 32.0, 1.0}, "'model.rope_scaling.factor'"},
        {{DS_ROPE_YARN, 2.0, 1.0, 4.0, 64, 2.0, 2.0, 1.0},
         "'model.rope_scaling.beta_fast' must be above 'model.rope_scaling.beta_slow'"},
        {{DS_ROPE_YARN, 2.0, 1.0, 4.0, 64, 0.0, 2.0, 1.0}, "above 0"},
        {{DS_ROPE_YARN, 2.0, 1.0, 4.0, 0, 1.0, 2.0, 1.0}, "'model.rope_scaling.original_context'"},
        {{DS_ROPE_YARN, 2.0, 1.0, 4.0, 64, 1.0, 2.0, 0.0},
         "'model.rope_scaling.attention_factor' must be above 0"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_model_shape shape = test_qwen2(2, 64, 4, 2, 96, 113, 32);
        struct ds_error err = {.text = ""};

        cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
        shape.rope_scale = cases[i].scale;
        cr_assert_eq(ds_model_check(&shape, &err), -EINVAL, "case %zu", i);
        cr_assert(strstr(err.text, cases[i].says) != NULL, "case %zu: %s", i, err.text);
    }
}

Test(model, longer_sequences_have_other_factors)
{
    struct ds_model_shape shape = test_longrope();
    struct ds_error err = {.text = ""};

    cr_assert_eq(ds_model_check(&shape, &err), 0, "%s", err.text);
    cr_assert(ds_model_rope_each(&shape, 6) == &shape.rope_short);
    cr_assert(ds_model_rope_each(&shape, 7) == &shape.rope_long);
    cr_assert_float_eq(shape.rope_scale.attention, 1.3318053966210992, 1e-14);
    shape.rope_long.item[5] = 0.0;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.rope_scaling.long_factor' must be above 0") != NULL);
    shape.rope_short.count = 5;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    cr_assert(strstr(err.text, "'model.rope_scaling.short_factor' has 5 numbers, must have 6") !=
                  NULL,
              "%s", err.text);
    shape = test_longrope();
    shape.rope_scale.original = 1;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    shape = test_longrope();
    shape.rope_scale.attention = 0.0;
    cr_assert_eq(ds_model_check(&shape, &err), -EINVAL);
    shape = test_qwen2(2, 32, 2, 1, 40, 53, 16);
    cr_assert(ds_model_rope_each(&shape, 100) == NULL);
}

Test(model, matrices_of_all_experts_are_neighbours)
{
    struct ds_model_shape shape = test_mixtral(2, 64, 4, 2, 96, 113, 32, 3, 2);
    const size_t layer = 7 + 3 * 3;
    struct ds_param a, b;

    cr_assert_eq(ds_model_param_count(&shape), 1 + 2 * layer + 2);
    expect(&shape, 7, "model.layers.0.block_sparse_moe.gate.weight", 1, 3, 64, DS_INIT_NORMAL);
    expect(&shape, 8, "model.layers.0.block_sparse_moe.experts.0.w1.weight", 1, 96, 64,
           DS_INIT_NORMAL);
    expect(&shape, 9, "model.layers.0.block_sparse_moe.experts.0.w3.weight", 1, 96, 64,
           DS_INIT_NORMAL);
    expect(&shape, 12, "model.layers.0.block_sparse_moe.experts.2.w1.weight", 1, 96, 64,
           DS_INIT_NORMAL);
    expect(&shape, 14, "model.layers.0.block_sparse_moe.experts.0.w2.weight", 1, 64, 96,
           DS_INIT_NORMAL_RESIDUAL);
    expect(&shape, 16 + layer, "model.layers.1.block_sparse_moe.experts.2.w2.weight", 2, 64, 96,
           DS_INIT_NORMAL_RESIDUAL);
    expect(&shape, 2 * layer + 2, "lm_head.weight", 3, 113, 64, DS_INIT_NORMAL);
    for (size_t i = 8; i + 1 < 17; i++) { /* six of w1 and w3, three of w2 */
        ds_model_param(&shape, i, &a);
        ds_model_param(&shape, i + 1, &b);
        cr_assert_eq(ds_model_same_matrix(&a, &b), i != 13, "%s, %s", a.name, b.name);
        cr_assert_eq(a.expert, i < 14 ? (i - 8) / 2 : i - 14, "%s", a.name);
    }
}

Test(model, what_is_said_of_a_route_does_not_overlap)
{
    const struct ds_model_shape shape = test_mixtral(2, 64, 4, 2, 96, 113, 32, 3, 2);
    const struct ds_model_shape none = test_llama(2, 64, 4, 2, 96, 113, 32);
    const struct ds_model_routes at = ds_model_routes(&shape, 2, 34, 1);
    const struct {
        uint64_t at, bytes;
    } part[] = {{at.probs, 34 * 3 * 4},   {at.chosen, 34 * 2 * 4}, {at.source, 34 * 2 * 4},
                {at.place, 34 * 2 * 4},   {at.offset, 4 * 4},      {at.weight, 34 * 2 * 4},
                {at.dweight, 34 * 2 * 4}, {at.load, 2 * 3 * 4}};

    for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
        cr_assert_eq(part[i].at % 64, 0);
        cr_assert_leq(part[i].at + part[i].bytes, at.bytes);
        for (size_t k = 0; k < i; k++)
            cr_assert(part[k].at + part[k].bytes <= part[i].at ||
                          part[i].at + part[i].bytes <= part[k].at,
                      "parts %zu and %zu", k, i);
    }
    cr_assert_eq(ds_model_routes(&none, 2, 34, 1).bytes, 0);
}

Test(model, mixtral_8x7b_counts_right)
{
    struct ds_model_shape shape = test_mixtral(32, 4096, 32, 8, 14336, 32000, 32768, 8, 2);

    cr_assert_eq(ds_model_elems(&shape), 46702792704u); /* as published, and of a token: */
    cr_assert_eq(ds_model_active_elems(&shape), 12879925248u);
    cr_assert_float_eq(ds_model_flops_per_token(&shape, 4096),
                       6.0 * (12879925248.0 - 32000.0 * 4096) + 6.0 * 32 * 4096 * 4096, 1e3);
    shape = test_llama(32, 4096, 32, 8, 14336, 32000, 32768);
    cr_assert_eq(ds_model_active_elems(&shape), ds_model_elems(&shape));
}

Test(model, llama_7b_and_tied_heads_count_right)
{
    struct ds_model_shape shape = test_llama(32, 4096, 32, 32, 11008, 32000, 4096);

    cr_assert_eq(ds_model_elems(&shape), 6738415616u); /* Llama 2 7B */
    shape = test_llama(16, 2048, 32, 8, 8192, 128256, 4096);
    shape.tie_embeddings = true;
    cr_assert_eq(ds_model_elems(&shape), 1235814400u); /* Llama 3.2 1B */
}

Test(model, elements_are_the_sum_of_the_parameters)
{
    const struct ds_model_shape shapes[] = {test_gpt2(3, 48, 3, 97, 32),
                                            test_llama(2, 64, 4, 2, 96, 113, 32),
                                            test_mixtral(2, 64, 4, 2, 96, 113, 32, 3, 2)};

    for (size_t s = 0; s < 3; s++)
        for (int tied = 0; tied < 2; tied++) {
            struct ds_model_shape shape = shapes[s];
            uint64_t sum = 0;

            shape.tie_embeddings = tied != 0;
            for (size_t i = 0; i < ds_model_param_count(&shape); i++) {
                struct ds_param param;

                ds_model_param(&shape, i, &param);
                sum += param.elems;
            }
            cr_assert_eq(sum, ds_model_elems(&shape), "shape %zu tied %d", s, tied);
        }
}

Test(model, flops_follow_the_convention)
{
    struct ds_model_shape shape = test_gpt2(12, 768, 12, 50257, 1024);

    cr_assert_float_eq(ds_model_flops_per_token(&shape, 1024),
                       6.0 * 124439808 + 6.0 * 12 * 768 * 1024, 1.0);
    shape.tie_embeddings = false; /* one matrix more, and still one that is multiplied */
    cr_assert_float_eq(ds_model_flops_per_token(&shape, 1024),
                       6.0 * 124439808 + 6.0 * 12 * 768 * 1024, 1.0);
}

Test(model, experts_that_cannot_be_are_refused)
{
    static const struct {
        enum ds_arch arch;
        uint64_t experts, each;
        double balance;
        const char *says; /* NULL: it is good */
    } cases[] = {
        {DS_ARCH_MIXTRAL, 1, 1, 0.0, NULL},
        {DS_ARCH_MIXTRAL, 256, 16, 1.0, NULL},
        {DS_ARCH_MIXTRAL, 0, 0, 0.0, "'model.experts' is 0, must be between 1 and 256"},
        {DS_ARCH_MIXTRAL, 257, 2, 0.0, "'model.experts' is 257"},
        {DS_ARCH_MIXTRAL, 4, 5, 0.0, "at most 'model.experts' 4"},
        {DS_ARCH_MIXTRAL, 4, 0, 0.0, "'model.experts_per_token' is 0, must be between 1 and 16"},
        {DS_ARCH_MIXTRAL, 64, 17, 0.0, "'model.experts_per_token' is 17"},
        {DS_ARCH_MIXTRAL, 4, 2, -1.0, "'model.expert_balance'"},
        {DS_ARCH_LLAMA, 4, 2, 0.0, "'model.experts' is 4, must be between 0 and 0"},
        {DS_ARCH_LLAMA, 0, 2, 0.0, "'model.experts_per_token'"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_model_shape shape =
            test_mixtral(1, 64, 4, 2, 96, 97, 32, cases[i].experts, cases[i].each);
        struct ds_error err = {.text = ""};

        shape.arch = cases[i].arch;
        shape.balance = cases[i].balance;
        cr_assert_eq(ds_model_check(&shape, &err), cases[i].says == NULL ? 0 : -EINVAL, "case %zu",
                     i);
        cr_assert(cases[i].says == NULL || strstr(err.text, cases[i].says) != NULL, "case %zu: %s",
                  i, err.text);
    }
}

Test(model, wrong_shapes_are_refused_with_the_key)
{
    static const struct {
        const char *what;
        uint64_t layers, hidden, heads, kv_heads, head_size;
        enum ds_arch arch;
        const char *says;
    } cases[] = {
        {"no layer", 0, 64, 4, 4, 16, DS_ARCH_GPT2, "model.layers"},
        {"too wide", 1, 1 << 20, 4, 4, 16, DS_ARCH_GPT2, "model.hidden"},
        {"no head", 1, 64, 0, 4, 16, DS_ARCH_GPT2, "model.heads"},
        {"heads do not divide", 1, 64, 5, 5, 12, DS_ARCH_GPT2, "model.hidden"},
        {"a head of nothing", 1, 64, 4, 4, 0, DS_ARCH_LLAMA, "model.head_size"},
        {"kv heads do not divide", 1, 64, 4, 3, 16, DS_ARCH_LLAMA, "model.kv_heads"},
        {"gpt2 has no grouped queries", 1, 64, 4, 2, 16, DS_ARCH_GPT2, "model.kv_heads"},
        {"odd head for rope", 1, 60, 4, 4, 15, DS_ARCH_LLAMA, "even"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_model_shape shape = test_gpt2(1, 64, 4, 97, 32);
        struct ds_error err = {0};

        shape.arch = cases[i].arch;
        shape.layers = cases[i].layers;
        shape.hidden = cases[i].hidden;
        shape.heads = cases[i].heads;
        shape.kv_heads = cases[i].kv_heads;
        shape.head_size = cases[i].head_size;
        cr_assert_eq(ds_model_check(&shape, &err), -EINVAL, "%s", cases[i].what);
        cr_assert(strstr(err.text, cases[i].says) != NULL, "%s: %s", cases[i].what, err.text);
    }
}
