/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_hf_config.c - config.json of Hugging Face folders: what is read, what is refused.
 */
#include <errno.h>

#include "runtime/ckpt/hf.h"
#include "tests/ckpt/configs.h"

TestSuite(hf_config, .init = tempdir_make, .fini = tempdir_remove);

/* clang-format off */
static const struct { const char *text; int rc; const char *says; } configs[] = {
    {GPT2 "}", 0, ""},
    {GPT2 ",\"activation_function\":\"gelu_pytorch_tanh\",\"attn_pdrop\":0.1,\"n_ctx\":8}", 0, ""},
    {GPT2 ",\"scale_attn_weights\":true,\"reorder_and_upcast_attn\":false}", 0, ""},
    {GPT2 ",\"quantization_config\":null,\"tie_word_embeddings\":null}", 0, ""},
    {LLAMA "}", 0, ""},
    {LLAMA ",\"rope_scaling\":null,\"head_dim\":null,\"hidden_act\":\"silu\",\"pretraining_tp\":1}", 0, ""},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"default\"}}", 0, ""},
    {LLAMA ",\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"default\"}}", 0, ""},
    {"", -EBADMSG, "config.json"},
    {"[]", -EBADMSG, "not an object"},
    {"{}", -EBADMSG, "'model_type'"},
    {"{\"model_type\":7}", -EBADMSG, "'model_type'"},
    {"{\"model_type\":\"bert\"}", -ENOTSUP, "only 'gpt2', 'llama', 'mixtral', 'qwen2', 'qwen3', 'qwen3_moe', 'phi3', 'olmo2', 'gemma3_text', 'smollm3', 'granite', 'gpt_neox', and 'mistral' are supported"},
    {"{\"model_type\":\"gpt2\"}", -EBADMSG, "'vocab_size' is missing"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":0}", -EBADMSG, "'vocab_size' is 0"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":-5}", -EBADMSG, "'vocab_size' is -5"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":16777217}", -EBADMSG, "not within 0 to 16777216"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":11.5}", -EBADMSG, "'vocab_size' must be a whole number"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":1e400}", -EBADMSG, "config.json"},
    {GPT2 ",\"n_head\":2}", -EBADMSG, "duplicate"},
    {GPT2 ",\"activation_function\":\"relu\"}", -ENOTSUP, "'activation_function' is 'relu'"},
    {GPT2 ",\"activation_function\":\"gelu\"}", -ENOTSUP, "'activation_function' is 'gelu'"},
    {GPT2 ",\"scale_attn_weights\":false}", -ENOTSUP, "'scale_attn_weights' is false"},
    {GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}", -ENOTSUP, "'scale_attn_by_inverse_layer_idx' is true"},
    {GPT2 ",\"reorder_and_upcast_attn\":true}", -ENOTSUP, "'reorder_and_upcast_attn' is true"},
    {GPT2 ",\"add_cross_attention\":true}", -ENOTSUP, "'add_cross_attention' is true"},
    {GPT2 ",\"add_cross_attention\":1}", -ENOTSUP, "'add_cross_attention' is set"},
    {GPT2 ",\"quantization_config\":{}}", -ENOTSUP, "'quantization_config'"},
    {GPT2 ",\"tie_word_embeddings\":\"yes\"}", -EBADMSG, "'tie_word_embeddings'"},
    {LLAMA ",\"hidden_act\":\"gelu\"}", -ENOTSUP, "'hidden_act' is 'gelu'"},
    {LLAMA ",\"attention_bias\":true}", -ENOTSUP, "'attention_bias' is true"},
    {LLAMA ",\"mlp_bias\":true}", -ENOTSUP, "'mlp_bias' is true"},
    {LLAMA ",\"head_dim\":4}", 0, ""},
    {LLAMA ",\"head_dim\":3}", -EINVAL, "head size 3 must be even"},
    {LLAMA ",\"head_dim\":65537}", -EBADMSG, "'head_dim'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}", 0, ""},
    {LLAMA ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":4,\"rope_theta\":5e5}}", 0, ""},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", -EBADMSG, "'rope_scaling'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}}", -EINVAL, "'model.rope_scaling.factor'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}}", -ENOTSUP, "'rope_type' is 'dynamic'"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"none\"}}", -ENOTSUP, "'rope_type' is 'none'"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":7}}", -ENOTSUP, "'rope_type' is set"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", -EBADMSG, "'low_freq_factor'"},
    {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":4}}", -EINVAL, "'model.rope_scaling.high_freq_factor'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0}}", 0, ""},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\"}}", -EBADMSG, "'factor'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":0.5}}", -EINVAL, "'model.rope_scaling.factor'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}}", -EINVAL,
     "'model.rope_scaling.original_context'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":\"x\"}}", -EBADMSG, "'beta_fast'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_slow\":32}}", -EINVAL, "'model.rope_scaling.beta_fast'"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":-1}}", -EINVAL, "attention_factor"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":true}}", 0, ""},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":false}}", -ENOTSUP, "'truncate' is false"},
    {LLAMA ",\"rope_theta\":1,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", -EINVAL, "'model.rope_theta'"},
    {MISTRAL "}", 0, ""},
    {MISTRAL ",\"sliding_window\":null}", 0, ""},
    {MISTRAL ",\"sliding_window\":8}", 0, ""},
    {MISTRAL ",\"sliding_window\":4}", 0, ""},
    {MISTRAL ",\"sliding_window\":0}", -ENOTSUP, "'sliding_window' is set"},
    {MISTRAL ",\"sliding_window\":4.0}", -ENOTSUP, "'sliding_window' is set"},
    {"{\"model_type\":\"mistral\",\"vocab_size\":11,\"max_position_embeddings\":8192,\"hidden_size\":8,"
     "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4}", 0, ""},
    {QWEN2 "}", 0, ""},
    {QWEN2 ",\"use_sliding_window\":false,\"sliding_window\":4,\"max_window_layers\":2}", 0, ""},
    {QWEN2 ",\"use_sliding_window\":true}", 0, ""},
    {QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":4,\"max_window_layers\":0}", 0, ""},
    {QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":4,\"max_window_layers\":1}", -ENOTSUP, "'sliding_window' is of some layers only"},
    {QWEN2 ",\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"sliding_window\":4}", -ENOTSUP, "'sliding_window' is of some layers only"},
    {QWEN3 "}", 0, ""},
    {QWEN3 ",\"head_dim\":6,\"attention_bias\":false,\"sliding_window\":null}", 0, ""},
    {QWEN3 ",\"attention_bias\":true}", -ENOTSUP, "'attention_bias' is true"},
    {PHI3 "}", 0, ""},
    {SMOLLM3 ",\"no_rope_layers\":[1,0]}", -EBADMSG, "'no_rope_layers' does not have a member for each layer"},
    {SMOLLM3 ",\"no_rope_layers\":[1,0,0]}", -ENOTSUP, "'no_rope_layers' is no pattern"},
    {SMOLLM3 ",\"no_rope_layers\":4}", -ENOTSUP, "'no_rope_layers' is set"},
    {SMOLLM3 ",\"no_rope_layer_interval\":0}", -EINVAL, "'model.nope_every' is 0"},
    {SMOLLM3 ",\"sliding_window\":4,\"use_sliding_window\":true,\"layer_types\":[\"full_attention\",\"sliding_attention\","
     "\"full_attention\"]}", -ENOTSUP, "'sliding_window' is of some layers only"},
    {GPT_NEOX ",\"rotary_pct\":0.5,\"hidden_act\":\"gelu\",\"attention_bias\":true}", 0, ""},
    {GPT_NEOX ",\"rotary_pct\":0.5,\"hidden_act\":\"gelu_new\"}", -ENOTSUP, "'hidden_act' is 'gelu_new'"},
    {GPT_NEOX ",\"rotary_pct\":0.5,\"attention_bias\":false}", -ENOTSUP, "'attention_bias' is false"},
    {GPT_NEOX ",\"rotary_pct\":0.5,\"use_parallel_residual\":1}", -EBADMSG, "'use_parallel_residual' must be true or false"},
    {GPT_NEOX "}", -EINVAL, "'model.rope_dims' 1 must be even"},
    {GRANITE ",\"logits_scaling\":0}", -EINVAL, "'model.logits_scaling' must be above 0"},
    {GRANITE ",\"embedding_multiplier\":\"x\"}", -EBADMSG, "'embedding_multiplier'"},
    {LONGROPE("[1.5,2.0]", ""), 0, ""},
    {LONGROPE("[1.5]", ""), -EINVAL, "'model.rope_scaling.long_factor' has 1 numbers, must have 2"},
    {LONGROPE("[1.5,0]", ""), -EINVAL, "'model.rope_scaling.long_factor' must be above 0"},
    {LONGROPE("[1.5,null]", ""), -EBADMSG, "key 'long_factor' must be a list of numbers"},
    {LONGROPE("2.5", ""), -EBADMSG, "key 'long_factor' must be a list of numbers"},
    {LONGROPE("[1,2]", ",\"long_mscale\":1.2"), -ENOTSUP, "'long_mscale' is set"},
    {LONGROPE("[1,2]", ",\"original_max_position_embeddings\":1"), -EBADMSG, "is below 2"},
    {PHI3 ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1.5,2.0]}}", -EBADMSG, "key 'short_factor' is missing"},
    {PHI3 ",\"partial_rotary_factor\":1.0}", 0, ""},
    {PHI3 ",\"partial_rotary_factor\":0.5}", 0, ""},
    {PHI3 ",\"partial_rotary_factor\":0.75}", -EINVAL, "'model.rope_dims' 3 must be even"},
    {PHI3 ",\"partial_rotary_factor\":0.1}", -ENOTSUP, "'partial_rotary_factor' is set"},
    {PHI3 ",\"partial_rotary_factor\":2}", -ENOTSUP, "'partial_rotary_factor' is set"},
    {PHI3 ",\"partial_rotary_factor\":\"half\"}", -ENOTSUP, "'partial_rotary_factor' is 'half'"},
    {OLMO2 "}", 0, ""},
    {OLMO2 ",\"attention_bias\":true}", -ENOTSUP, "'attention_bias' is true"},
    {OLMO2 ",\"partial_rotary_factor\":0.5}", -ENOTSUP, "'partial_rotary_factor' is set"},
    {GEMMA3 "}", 0, ""},
    {GEMMA3 ",\"sliding_window_pattern\":1,\"sliding_window\":3}", 0, ""},
    {GEMMA3 ",\"sliding_window_pattern\":0}", -EINVAL, "'model.full_every' is 0, must be at least 1"},
    {GEMMA3 ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", -ENOTSUP, "'layer_types' is no pattern"},
    {GEMMA3 ",\"layer_types\":[\"sliding_attention\"]}", -EBADMSG, "a member for each layer"},
    {GEMMA3 ",\"final_logit_softcapping\":30.0}", -ENOTSUP, "'final_logit_softcapping' is set"},
    {GEMMA3 ",\"attn_logit_softcapping\":50.0}", -ENOTSUP, "'attn_logit_softcapping' is set"},
    {GEMMA3 ",\"final_logit_softcapping\":null,\"use_bidirectional_attention\":true}", -ENOTSUP, "'use_bidirectional_attention'"},
    {GEMMA3 ",\"hidden_activation\":\"silu\"}", -ENOTSUP, "'hidden_activation' is 'silu'"},
    {GEMMA3 ",\"rope_local_base_freq\":0}", -EINVAL, "'model.rope_local_theta'"},
    {GEMMA3 ",\"query_pre_attn_scalar\":-1}", -EINVAL, "'model.query_scalar'"},
    {GEMMA3 ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"yarn\"},\"sliding_attention\":{}}}", -EBADMSG, "'factor'"},
    {GEMMA3 ",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{\"factor\":2}}}", -ENOTSUP, "'sliding_attention'"},
    {LLAMA ",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{}}}", -ENOTSUP, "'rope_parameters' is set"},
    {PHI3 ",\"attention_bias\":true}", -ENOTSUP, "'attention_bias' is true"},
    {LLAMA ",\"partial_rotary_factor\":0.5}", -ENOTSUP, "'partial_rotary_factor' is set"},
    {QWEN3_MOE "true}", 0, ""},
    {QWEN3_MOE "true,\"mlp_only_layers\":[],\"decoder_sparse_step\":1,\"router_aux_loss_coef\":0.001}", 0, ""},
    {QWEN3_MOE "false}", -ENOTSUP, "'norm_topk_prob' is not true"},
    {QWEN3_MOE "null}", -ENOTSUP, "'norm_topk_prob' is not true"},
    {QWEN3_MOE5 "3}", 0, ""},
    {QWEN3_MOE5 "257}", -EBADMSG, "'num_local_experts' is 257"},
    {QWEN3_MOE "true,\"mlp_only_layers\":[1]}", -ENOTSUP, "'mlp_only_layers' is set"},
    {QWEN3_MOE "true,\"decoder_sparse_step\":2}", -ENOTSUP, "'decoder_sparse_step' is set"},
    {QWEN2 ",\"hidden_act\":\"gelu\"}", -ENOTSUP, "'hidden_act' is 'gelu'"},
    {LLAMA ",\"rope_scaling\":4}", -ENOTSUP, "'rope_scaling' is set"},
    {LLAMA ",\"rope_parameters\":{\"rope_type\":\"longrope\"}}", -EBADMSG, "'short_factor'"},
    {LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", -ENOTSUP, "'rope_parameters'"},
    {LLAMA ",\"rope_theta\":-1}", -EINVAL, "rope_theta"},
    {LLAMA ",\"rope_theta\":\"big\"}", -EBADMSG, "'rope_theta'"},
    {LLAMA ",\"num_key_value_heads\":3}", -EINVAL, "kv_heads"},
    {LLAMA ",\"num_key_value_heads\":0}", -EBADMSG, "'num_key_value_heads' is 0"},
    {LLAMA ",\"rms_norm_eps\":0}", -EINVAL, "norm_eps"},
    {MIXTRAL "}", 0, ""},
    {MIXTRAL ",\"sliding_window\":null,\"router_jitter_noise\":0.0,\"router_aux_loss_coef\":0.02}", 0, ""},
    {MIXTRAL ",\"sliding_window\":8,\"router_jitter_noise\":0,\"output_router_logits\":false}", 0, ""},
    {MIXTRAL ",\"sliding_window\":7}", 0, ""},
    {MIXTRAL ",\"sliding_window\":-1}", -ENOTSUP, "'sliding_window' is set"},
    {MIXTRAL ",\"router_jitter_noise\":0.1}", -ENOTSUP, "'router_jitter_noise' is set"},
    {MIXTRAL ",\"router_aux_loss_coef\":-0.5}", -EINVAL, "expert_balance"},
    {MIXTRAL ",\"router_aux_loss_coef\":\"x\"}", -EBADMSG, "'router_aux_loss_coef'"},
    {MIXTRAL ",\"rope_scaling\":{\"rope_type\":\"longrope\"}}", -EBADMSG, "'short_factor'"},
    {MIXTRAL ",\"head_dim\":0}", -EINVAL, "'model.head_size' is 0"},
    {"{\"model_type\":\"mixtral\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8,"
     "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
     "\"num_local_experts\":3}", -EBADMSG, "'num_experts_per_tok' is missing"},
    {"{\"model_type\":\"mixtral\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8,"
     "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
     "\"num_local_experts\":3,\"num_experts_per_tok\":4}", -EINVAL, "at most 'model.experts' 3"},
    {"{\"model_type\":\"mixtral\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8,"
     "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
     "\"num_local_experts\":257,\"num_experts_per_tok\":4}", -EBADMSG, "not within 0 to 256"},
};
/* clang-format on */

Test(hf_config, configs_are_read_or_refused_by_key)
{
    for (size_t i = 0; i < sizeof(configs) / sizeof(configs[0]); i++) {
        struct ds_model_shape shape = {.layers = 77};
        struct ds_error err = {0};
        int rc = read_config(tempdir_path(""), configs[i].text, &shape, &err);

        cr_assert(rc == configs[i].rc, "case %zu %s: %d %s", i, configs[i].text, rc, err.text);
        cr_assert(strstr(err.text, configs[i].says) != NULL, "case %zu: '%s'", i, err.text);
        cr_assert(rc < 0 ? shape.layers == 77 : shape.layers == 2, "case %zu", i);
        cr_assert(rc == 0 || strstr(err.text, "config.json") != NULL, "case %zu: '%s'", i,
                  err.text);
    }
}

Test(hf_config, what_a_config_leaves_out_is_the_familys_default)
{
    struct ds_model_shape shape;

    cr_assert(read_config(tempdir_path(""), GPT2 "}", &shape, NULL) == 0);
    cr_assert(shape.arch == DS_ARCH_GPT2 && shape.vocab == 11 && shape.context == 8);
    cr_assert(shape.hidden == 6 && shape.heads == 2 && shape.kv_heads == 2 && shape.head_size == 3);
    cr_assert(shape.ffn == 24 && shape.tie_embeddings && shape.norm_eps == 1e-6);
    cr_assert(read_config(tempdir_path(""), GPT2 ",\"n_inner\":10}", &shape, NULL) == -EBADMSG);
    cr_assert(read_config(tempdir_path(""), LLAMA "}", &shape, NULL) == 0);
    cr_assert(shape.arch == DS_ARCH_LLAMA && shape.kv_heads == 4 && shape.head_size == 2);
    cr_assert(!shape.tie_embeddings && shape.norm_eps == 1e-6 && shape.rope_theta == 10000.0);
    cr_assert(read_config(tempdir_path(""),
                          LLAMA
                          ",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"},"
                          "\"num_key_value_heads\":2,\"tie_word_embeddings\":true}",
                          &shape, NULL) == 0);
    cr_assert(shape.rope_theta == 5e5 && shape.kv_heads == 2 && shape.tie_embeddings);
    cr_assert(shape.experts == 0 && shape.experts_each == 0 && shape.balance == 0.0);
    cr_assert(read_config(tempdir_path(""), MIXTRAL "}", &shape, NULL) == 0);
    cr_assert(shape.arch == DS_ARCH_MIXTRAL && shape.experts == 3 && shape.experts_each == 2);
    cr_assert(shape.norm_eps == 1e-5 && shape.rope_theta == 1e6 && shape.balance == 0.0);
    cr_assert(read_config(tempdir_path(""), MIXTRAL ",\"router_aux_loss_coef\":0.02}", &shape,
                          NULL) == 0);
    cr_assert(shape.balance == 0.02);
    cr_assert(shape.rope_scale.kind == DS_ROPE_PLAIN && shape.rope_scale.factor == 1.0);
    cr_assert(read_config(tempdir_path(""), MISTRAL "}", &shape, NULL) == 0);
    cr_assert(shape.arch == DS_ARCH_LLAMA && shape.rope_theta == 1e4);
    cr_assert(read_config(tempdir_path(""),
                          QWEN2 ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32,"
                                "\"low_freq_factor\":1.5,\"high_freq_factor\":5,"
                                "\"original_max_position_embeddings\":4096}}",
                          &shape, NULL) == 0);
    cr_assert(shape.arch == DS_ARCH_QWEN2 && shape.rope_scale.kind == DS_ROPE_LLAMA3);
    cr_assert(shape.rope_scale.factor == 32.0 && shape.rope_scale.low == 1.5);
    cr_assert(shape.head_size == 2);
    cr_assert(read_config(tempdir_path(""), QWEN3 "}", &shape, NULL) == 0);
    cr_assert(shape.arch == DS_ARCH_QWEN3 && shape.head_size == 128);
    cr_assert(read_config(tempdir_path(""), QWEN3_MOE "true,\"head_dim\":6}", &shape, NULL) == 0);
    cr_assert(shape.arch == DS_ARCH_QWEN3_MOE && shape.head_size == 6 && shape.ffn == 12);
    cr_assert(shape.experts == 3 && shape.experts_each == 2);
    cr_assert(read_config(tempdir_path(""),
                          QWEN2 ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32,"
                                "\"low_freq_factor\":1.5,\"high_freq_factor\":5,"
                                "\"original_max_position_embeddings\":4096}}",
                          &shape, NULL) == 0);
    cr_assert(shape.rope_scale.high == 5.0 && shape.rope_scale.original == 4096);
    cr_assert(ds_hf_read_config(tempdir_path("none"), &shape, NULL) == -ENOENT);
}

/* What each family says of windows, and what is written of them again. */
Test(hf_config, windows_of_the_attention)
{
    static const struct {
        const char *text;
        uint64_t window;
        const char *says;
    } table[] = {
        {MISTRAL ",\"sliding_window\":4}", 4, "\"model_type\":\"mistral\""},
        {MISTRAL ",\"sliding_window\":8}", 0, "\"model_type\":\"llama\""},
        {MISTRAL ",\"sliding_window\":null}", 0, "\"LlamaForCausalLM\""},
        {MIXTRAL ",\"sliding_window\":7}", 7, "\"sliding_window\":7"},
        {MIXTRAL "}", 0, "\"sliding_window\":null"},
        {QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":3,\"max_window_layers\":0}", 3,
         "\"use_sliding_window\":true,\"max_window_layers\":0,\"sliding_window\":3"},
        {QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":3,\"max_window_layers\":2}", 0,
         "\"use_sliding_window\":false"},
        {QWEN3 ",\"layer_types\":[\"sliding_attention\",\"sliding_attention\"],"
               "\"sliding_window\":5}",
         5, "\"sliding_window\":5"},
        {QWEN3 ",\"layer_types\":[\"full_attention\",\"full_attention\"],"
               "\"use_sliding_window\":true,\"sliding_window\":5}",
         0, "\"use_sliding_window\":false"},
        {LLAMA ",\"sliding_window\":4}", 0, "\"model_type\":\"llama\""},
        {PHI3 "}", 0, "\"sliding_window\":null"},
        {PHI3 ",\"sliding_window\":5}", 5, "\"pad_token_id\":null"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_model_shape shape, again;
        struct ds_error err = {0};
        struct ds_buf out;

        ds_buf_init(&out, 1 << 16);
        cr_assert_eq(read_config(tempdir_path(""), table[i].text, &shape, &err), 0, "%s", err.text);
        cr_assert_eq(shape.window, table[i].window, "%s", table[i].text);
        cr_assert_eq(ds__hf_write_config(&shape, DS_F32, NULL, &out, &err), 0, "%s", err.text);
        cr_assert_not_null(strstr(ds_buf_text(&out), table[i].says), "%s", ds_buf_text(&out));
        cr_assert_eq(read_config(tempdir_path(""), ds_buf_text(&out), &again, &err), 0, "%s",
                     err.text);
        cr_assert_eq(again.window, shape.window);
        ds_buf_release(&out);
    }
}

/* transformers 5 takes a whole number for no real one, and no real one for a whole one. */
Test(hf_config, numbers_have_the_types_that_are_asked_for)
{
    static const struct {
        const char *text, *says;
    } table[] = {
        {MIXTRAL "}", "\"router_jitter_noise\":0.0,"},
        {MIXTRAL ",\"router_aux_loss_coef\":0.0}", "\"router_aux_loss_coef\":0.0,"},
        {GEMMA3 ",\"head_dim\":2}", "\"query_pre_attn_scalar\":256,"},
        {GEMMA3 ",\"query_pre_attn_scalar\":2}", "\"query_pre_attn_scalar\":2,"},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}", "\"factor\":8.0"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_model_shape shape;
        struct ds_error err = {0};
        struct ds_buf out;

        ds_buf_init(&out, 1 << 16);
        cr_assert_eq(read_config(tempdir_path(""), table[i].text, &shape, &err), 0, "%s", err.text);
        cr_assert_eq(ds__hf_write_config(&shape, DS_F32, NULL, &out, &err), 0, "%s", err.text);
        cr_assert_not_null(strstr(ds_buf_text(&out), table[i].says), "%s", ds_buf_text(&out));
        ds_buf_release(&out);
    }
}

/* Of Gemma's layers one of so many sees all, with positions of its own. */
Test(hf_config, layers_of_two_sorts)
{
    static const struct {
        const char *text;
        uint64_t window, every;
        double theta, local, factor, scalar;
    } table[] = {
        {GEMMA3 "}", 0, 6, 1e6, 1e4, 1.0, 0.0},
        {GEMMA3 ",\"head_dim\":2}", 0, 6, 1e6, 1e4, 1.0, 256.0},
        {GEMMA3 ",\"sliding_window\":3,\"sliding_window_pattern\":2,\"rope_theta\":5e5,"
                "\"rope_local_base_freq\":5e3,\"query_pre_attn_scalar\":168,"
                "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}}",
         3, 2, 5e5, 5e3, 8.0, 168.0},
        {GEMMA3
         ",\"sliding_window\":3,\"layer_types\":[\"sliding_attention\",\"full_attention\"],"
         "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4,"
         "\"rope_theta\":7e5},\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":"
         "9e3}}}",
         3, 2, 7e5, 9e3, 4.0, 0.0},
        {GEMMA3 ",\"sliding_window\":3,\"layer_types\":[\"sliding_attention\","
                "\"sliding_attention\"]}",
         3, 3, 1e6, 1e4, 1.0, 0.0},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_model_shape shape, again;
        struct ds_error err = {0};
        struct ds_buf out;

        ds_buf_init(&out, 1 << 16);
        cr_assert_eq(read_config(tempdir_path(""), table[i].text, &shape, &err), 0, "%s", err.text);
        cr_assert(shape.window == table[i].window && shape.full_every == table[i].every, "case %zu",
                  i);
        cr_assert(shape.rope_theta == table[i].theta && shape.local_theta == table[i].local &&
                      shape.rope_scale.factor == table[i].factor,
                  "case %zu", i);
        cr_assert(shape.query_scalar == table[i].scalar && shape.tie_embeddings, "case %zu", i);
        cr_assert_eq(ds__hf_write_config(&shape, DS_F32, NULL, &out, &err), 0, "%s", err.text);
        cr_assert_eq(ds__hf_parse_config(ds_buf_text(&out), out.len, &again, &err), 0, "%s",
                     err.text);
        cr_assert(memcmp(&shape, &again, sizeof(shape)) == 0, "case %zu: %s", i, ds_buf_text(&out));
        ds_buf_release(&out);
    }
}

/* Whatever part of a head it is, its share is written so that the same comes back. */
Test(hf_config, parts_of_heads_that_positions_turn)
{
    struct ds_model_shape shape, again;
    struct ds_error err = {0};

    cr_assert(read_config(tempdir_path(""), PHI3 ",\"partial_rotary_factor\":0.5}", &shape, NULL) ==
              0);
    cr_assert(shape.rope_dims == 2 && shape.head_size == 4);
    cr_assert(read_config(tempdir_path(""),
                          PHI3 ",\"rope_parameters\":{\"rope_type\":\"default\","
                               "\"partial_rotary_factor\":0.5}}",
                          &shape, &err) == 0);
    cr_assert(shape.rope_dims == 2);
    for (shape.head_size = 2; shape.head_size <= 256; shape.head_size += 2)
        for (shape.rope_dims = 0; shape.rope_dims < shape.head_size; shape.rope_dims += 2) {
            struct ds_buf out;

            ds_buf_init(&out, 1 << 16);
            cr_assert_eq(ds__hf_write_config(&shape, DS_F32, NULL, &out, &err), 0, "%s", err.text);
            cr_assert_eq(ds__hf_parse_config(ds_buf_text(&out), out.len, &again, &err), 0, "%s",
                         err.text);
            cr_assert(again.rope_dims == shape.rope_dims && again.head_size == shape.head_size);
            ds_buf_release(&out);
        }
}

#define YARN(more) LLAMA ",\"rope_scaling\":{\"type\":\"yarn\"" more "}}"

/* The context of these is 8.  The factor of cosines and sines as transformers works it out. */
Test(hf_config, what_yarn_leaves_out)
{
    static const struct {
        const char *text;
        uint64_t original;
        double factor, slow, fast, attention;
    } cases[] = {
        {YARN(",\"factor\":4"), 8, 4, 1, 32, 1.1386294361119891},
        {YARN(",\"factor\":1"), 8, 1, 1, 32, 1},
        {YARN(",\"original_max_position_embeddings\":2"), 2, 4, 1, 32, 1.1386294361119891},
        {YARN(",\"factor\":2,\"original_max_position_embeddings\":2"), 2, 2, 1, 32,
         1.0693147180559945},
        {YARN(",\"factor\":4,\"beta_slow\":2,\"beta_fast\":16,\"attention_factor\":0.5"), 8, 4, 2,
         16, 0.5},
        {YARN(",\"factor\":40,\"mscale\":0.707,\"mscale_all_dim\":1"), 8, 40, 1, 32,
         0.9210423553163399},
        {YARN(",\"factor\":40,\"mscale\":1,\"mscale_all_dim\":1,\"attention_factor\":null"), 8, 40,
         1, 32, 1},
        {YARN(",\"factor\":40,\"mscale\":0.5"), 8, 40, 1, 32, 1.3688879454113936},
        {LLAMA ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,\"rope_theta\":5e5,"
               "\"attention_factor\":2}}",
         8, 4, 1, 32, 2},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_model_shape shape;
        struct ds_error err = {0};
        const struct ds_rope_scale *scale = &shape.rope_scale;

        cr_assert(read_config(tempdir_path(""), cases[i].text, &shape, &err) == 0, "%s", err.text);
        cr_assert(scale->kind == DS_ROPE_YARN && scale->original == cases[i].original, "case %zu",
                  i);
        cr_assert(scale->factor == cases[i].factor && scale->slow == cases[i].slow &&
                      scale->fast == cases[i].fast,
                  "case %zu", i);
        cr_assert_float_eq(scale->attention, cases[i].attention, 1e-14, "case %zu: %.17g", i,
                           scale->attention);
    }
}

/* The context of these is 8.  The factor of cosines and sines as transformers works it out. */
Test(hf_config, what_longrope_leaves_out)
{
    static const struct {
        const char *text;
        uint64_t original;
        double attention;
    } cases[] = {
        {LONGROPE("[1.5,2.0]", ""), 8, 1.0},
        {LONGROPE("[1.5,2.0]", ",\"factor\":4"), 8, 1.2909944487358056},
        {LONGROPE("[1.5,2.0]", ",\"original_max_position_embeddings\":2,\"factor\":3"), 2,
         1.7320508075688772},
        {LONGROPE("[1.5,2.0]", ",\"original_max_position_embeddings\":16"), 16, 1.0},
        {LONGROPE("[1.5,2.0]", ",\"attention_factor\":1.75"), 8, 1.75},
        {PHI3 ",\"original_max_position_embeddings\":4,\"rope_scaling\":{\"type\":\"su\","
              "\"short_factor\":[1,1.25],\"long_factor\":[1.5,2]}}",
         4, 1.2247448713915889},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_model_shape shape, again;
        struct ds_error err = {0};
        struct ds_buf out;

        ds_buf_init(&out, 1 << 16);
        cr_assert(read_config(tempdir_path(""), cases[i].text, &shape, &err) == 0, "%s", err.text);
        cr_assert(shape.rope_scale.kind == DS_ROPE_LONGROPE && shape.rope_short.count == 2);
        cr_assert(shape.rope_short.item[1] == 1.25 && shape.rope_long.item[0] == 1.5);
        cr_assert_eq(shape.rope_scale.original, cases[i].original, "case %zu", i);
        cr_assert_float_eq(shape.rope_scale.attention, cases[i].attention, 1e-14, "case %zu: %.17g",
                           i, shape.rope_scale.attention);
        cr_assert_eq(ds__hf_write_config(&shape, DS_F32, NULL, &out, &err), 0, "%s", err.text);
        cr_assert_eq(ds__hf_parse_config(ds_buf_text(&out), out.len, &again, &err), 0, "%s",
                     err.text);
        cr_assert(memcmp(&shape, &again, sizeof(shape)) == 0, "case %zu: %s", i, ds_buf_text(&out));
        ds_buf_release(&out);
    }
}

Test(hf_config, layers_without_positions)
{
    static const struct {
        const char *text;
        uint64_t every, window;
    } table[] = {
        {SMOLLM3 "}", 4, 0},
        {SMOLLM3 ",\"no_rope_layer_interval\":2,\"sliding_window\":4}", 2, 0},
        {SMOLLM3 ",\"no_rope_layers\":[1,0,1],\"no_rope_layer_interval\":3}", 2, 0},
        {SMOLLM3 ",\"no_rope_layers\":[0,0,0]}", 1, 0},
        {SMOLLM3 ",\"no_rope_layers\":[1,1,1]}", 4, 0},
        {SMOLLM3 ",\"sliding_window\":4,\"use_sliding_window\":true,\"layer_types\":["
                 "\"sliding_attention\",\"sliding_attention\",\"sliding_attention\"]}",
         4, 4},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_model_shape shape, again;
        struct ds_error err = {0};
        struct ds_buf out;

        ds_buf_init(&out, 1 << 16);
        cr_assert_eq(read_config(tempdir_path(""), table[i].text, &shape, &err), 0, "%s", err.text);
        cr_assert(shape.nope_every == table[i].every && shape.window == table[i].window, "case %zu",
                  i);
        cr_assert(shape.rope_theta == 2e6 && shape.tie_embeddings);
        cr_assert_eq(ds__hf_write_config(&shape, DS_F32, NULL, &out, &err), 0, "%s", err.text);
        cr_assert_eq(ds__hf_parse_config(ds_buf_text(&out), out.len, &again, &err), 0, "%s",
                     err.text);
        cr_assert(memcmp(&shape, &again, sizeof(shape)) == 0, "case %zu: %s", i, ds_buf_text(&out));
        ds_buf_release(&out);
    }
}

Test(hf_config, factors)
{
    struct ds_model_shape shape;

    cr_assert(read_config(tempdir_path(""), GRANITE "}", &shape, NULL) == 0);
    cr_assert(shape.embed_scale == 1.0 && shape.residual_scale == 1.0 && shape.logits_scale == 1.0);
    cr_assert_eq(shape.attention_scale, 1.0);
    cr_assert(read_config(tempdir_path(""),
                          GRANITE ",\"embedding_multiplier\":12,\"residual_multiplier\":0.22,"
                                  "\"attention_multiplier\":0.5,\"logits_scaling\":8}",
                          &shape, NULL) == 0);
    cr_assert(shape.embed_scale == 12.0 && shape.residual_scale == 0.22);
    cr_assert_eq(shape.attention_scale, 0.0, "it is the usual one, of a head of 4");
    cr_assert_eq(shape.logits_scale, 8.0);
}

/* By their own names: the base, the part of a head that is turned, how halves of a layer stand. */
Test(hf_config, gpt_neox)
{
    static const struct {
        const char *text;
        uint64_t dims;
        double theta;
        bool parallel;
    } table[] = {
        {GPT_NEOX ",\"rotary_pct\":0.5}", 2, 1e4, true},
        {GPT_NEOX ",\"rotary_pct\":1.0,\"rotary_emb_base\":5000,\"use_parallel_residual\":false}",
         0, 5e3, false},
        {GPT_NEOX ",\"partial_rotary_factor\":0.5,\"rope_theta\":2500.5}", 2, 2500.5, true},
        {GPT_NEOX ",\"rope_parameters\":{\"partial_rotary_factor\":1.0}}", 0, 1e4, true},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_model_shape shape, again;
        struct ds_error err = {0};
        struct ds_buf out;

        ds_buf_init(&out, 1 << 16);
        cr_assert_eq(read_config(tempdir_path(""), table[i].text, &shape, &err), 0, "%s", err.text);
        cr_assert(shape.rope_dims == table[i].dims && shape.rope_theta == table[i].theta,
                  "case %zu", i);
        cr_assert(shape.parallel_residual == table[i].parallel && shape.kv_heads == shape.heads);
        cr_assert_eq(ds__hf_write_config(&shape, DS_F32, NULL, &out, &err), 0, "%s", err.text);
        cr_assert_eq(ds__hf_parse_config(ds_buf_text(&out), out.len, &again, &err), 0, "%s",
                     err.text);
        cr_assert(memcmp(&shape, &again, sizeof(shape)) == 0, "case %zu: %s", i, ds_buf_text(&out));
        ds_buf_release(&out);
    }
}
