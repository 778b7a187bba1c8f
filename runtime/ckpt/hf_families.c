/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_families.c - the contract is in hf_families.h.
 *
 * Source  transformers: models/gpt2/configuration_gpt2.py, models/llama/configuration_llama.py,
 *         models/mixtral/configuration_mixtral.py, models/mistral/configuration_mistral.py,
 *         models/qwen2/configuration_qwen2.py, models/qwen3/configuration_qwen3.py,
 *         models/qwen3_moe/configuration_qwen3_moe.py, models/phi3/configuration_phi3.py,
 *         models/olmo2/configuration_olmo2.py, models/gemma3/configuration_gemma3.py,
 *         models/smollm3/configuration_smollm3.py, models/granite/configuration_granite.py,
 *         models/gpt_neox/configuration_gpt_neox.py.
 */
#include "runtime/ckpt/hf_families.h"

/* clang-format off */
#define SIZE(key, field, max, otherwise) \
    {key, offsetof(struct ds_model_shape, field), max, otherwise}

static const struct ds__hf_size gpt2_sizes[] = {
    SIZE("vocab_size",  vocab,    DS_MAX_VOCAB,   NULL),
    SIZE("n_positions", context,  DS_MAX_CONTEXT, NULL),
    SIZE("n_embd",      hidden,   DS_MAX_HIDDEN,  NULL),
    SIZE("n_layer",     layers,   DS_MAX_LAYERS,  NULL),
    SIZE("n_head",      heads,    DS_MAX_HEADS,   NULL),
    SIZE("n_inner",     ffn,      DS_MAX_FFN,     ""), /* 4 x n_embd */
    {0},
};

/* Of Llama and its relatives, which call the width of the feed-forward block, or of an expert, so. */
#define LLAMA_SIZES(width) \
    SIZE("vocab_size",              vocab,    DS_MAX_VOCAB,   NULL), \
    SIZE("max_position_embeddings", context,  DS_MAX_CONTEXT, NULL), \
    SIZE("hidden_size",             hidden,   DS_MAX_HIDDEN,  NULL), \
    SIZE(width,                     ffn,      DS_MAX_FFN,     NULL), \
    SIZE("num_hidden_layers",       layers,   DS_MAX_LAYERS,  NULL), \
    SIZE("num_attention_heads",     heads,    DS_MAX_HEADS,   NULL), \
    SIZE("num_key_value_heads",     kv_heads, DS_MAX_HEADS,   "num_attention_heads")
#define EXPERT_SIZES(number, otherwise) \
    SIZE(number,                    experts,      DS_MAX_EXPERTS,      otherwise), \
    SIZE("num_experts_per_tok",     experts_each, DS_MAX_EXPERTS_EACH, NULL)

static const struct ds__hf_size llama_sizes[] = {LLAMA_SIZES("intermediate_size"), {0}};
static const struct ds__hf_size mixtral_sizes[] = {
    LLAMA_SIZES("intermediate_size"), EXPERT_SIZES("num_local_experts", NULL), {0}};
static const struct ds__hf_size qwen3_moe_sizes[] = {
    LLAMA_SIZES("moe_intermediate_size"),
    EXPERT_SIZES("num_experts", "num_local_experts"), {0}}; /* so in transformers 5 */

static const struct ds__hf_size gpt_neox_sizes[] = {
    SIZE("vocab_size",              vocab,    DS_MAX_VOCAB,   NULL),
    SIZE("max_position_embeddings", context,  DS_MAX_CONTEXT, NULL),
    SIZE("hidden_size",             hidden,   DS_MAX_HIDDEN,  NULL),
    SIZE("intermediate_size",       ffn,      DS_MAX_FFN,     NULL),
    SIZE("num_hidden_layers",       layers,   DS_MAX_LAYERS,  NULL),
    SIZE("num_attention_heads",     heads,    DS_MAX_HEADS,   NULL),
    {0},
};

static const struct ds__hf_flag gpt_neox_flags[] = {
    {"attention_bias", true},
    {0},
};

static const struct ds__hf_flag gpt2_flags[] = {
    {"scale_attn_weights", true},
    {"scale_attn_by_inverse_layer_idx", false},
    {"reorder_and_upcast_attn", false},
    {"add_cross_attention", false},
    {0},
};

static const struct ds__hf_flag llama_flags[] = {
    {"attention_bias", false},
    {"mlp_bias", false},
    {0},
};

static const struct ds__hf_flag mixtral_flags[] = {
    {"attention_bias", false},
    {0},
};

static const struct ds__hf_flag qwen2_flags[] = {{0}};

static const struct ds__hf_flag qwen3_flags[] = {
    {"attention_bias", false},
    {0},
};

static const struct ds__hf_flag gemma3_flags[] = {
    {"attention_bias", false},
    {"use_bidirectional_attention", false},
    {0},
};

#define LLAMA_NAMES .prefix = "model.", .head = "lm_head.weight", .buffer = {"rotary_emb.inv_freq"}

static const struct ds__hf_family families[] = {
    [DS_ARCH_GPT2] = {
        .model_type = "gpt2", .architecture = "GPT2LMHeadModel",
        .prefix = "transformer.", .head = "lm_head.weight", .buffer = {".attn.bias", ".attn.masked_bias"},
        .size = gpt2_sizes, .flag = gpt2_flags,
        .act_key = "activation_function", .act = {"gelu_new", "gelu_pytorch_tanh"},
        .eps_key = "layer_norm_epsilon", .eps_default = 1e-5, .tie_default = true,
    },
    [DS_ARCH_LLAMA] = {
        .model_type = "llama", .architecture = "LlamaForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = llama_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true,
    },
    [DS_ARCH_MIXTRAL] = {
        .model_type = "mixtral", .architecture = "MixtralForCausalLM",
        LLAMA_NAMES,
        .size = mixtral_sizes, .flag = mixtral_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-5, .tie_default = false,
        .theta_default = 1e6, .rope = true, .window = DS__HF_WINDOW,
    },
    [DS_ARCH_QWEN2] = {
        .model_type = "qwen2", .architecture = "Qwen2ForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = qwen2_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true,
        .window = DS__HF_WINDOW_FROM, .window_default = DS__HF_USUAL_WINDOW,
    },
    [DS_ARCH_QWEN3] = {
        .model_type = "qwen3", .architecture = "Qwen3ForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = qwen3_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true, .head_default = 128,
        .window = DS__HF_WINDOW_FROM, .window_default = DS__HF_USUAL_WINDOW,
    },
    [DS_ARCH_QWEN3_MOE] = {
        .model_type = "qwen3_moe", .architecture = "Qwen3MoeForCausalLM",
        LLAMA_NAMES,
        .size = qwen3_moe_sizes, .flag = qwen3_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true,
        .window = DS__HF_WINDOW_FROM, .window_default = DS__HF_USUAL_WINDOW,
    },
    [DS_ARCH_PHI3] = {
        .model_type = "phi3", .architecture = "Phi3ForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = mixtral_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-5, .tie_default = false,
        .theta_default = 1e4, .rope = true, .window = DS__HF_WINDOW, .pads = true,
    },
    [DS_ARCH_OLMO2] = {
        .model_type = "olmo2", .architecture = "Olmo2ForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = mixtral_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-5, .tie_default = false,
        .theta_default = 1e4, .rope = true, .pads = true,
    },
    [DS_ARCH_GEMMA3] = {
        .model_type = "gemma3_text", .architecture = "Gemma3ForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = gemma3_flags,
        .act_key = "hidden_activation", .act = {"gelu_pytorch_tanh"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = true,
        .theta_default = 1e6, .rope = true, .head_default = 256,
        .window = DS__HF_WINDOW_MIXED, .window_default = DS__HF_USUAL_WINDOW, .pads = true,
    },
    [DS_ARCH_SMOLLM3] = {
        .model_type = "smollm3", .architecture = "SmolLM3ForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = llama_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = true,
        .theta_default = 2e6, .rope = true, .window = DS__HF_WINDOW_FROM, .pads = true,
    },
    [DS_ARCH_GRANITE] = {
        .model_type = "granite", .architecture = "GraniteForCausalLM",
        LLAMA_NAMES,
        .size = llama_sizes, .flag = llama_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true,
    },
    [DS_ARCH_GPT_NEOX] = {
        .model_type = "gpt_neox", .architecture = "GPTNeoXForCausalLM",
        .prefix = "gpt_neox.", .head = "embed_out.weight",
        .buffer = {"rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"},
        .size = gpt_neox_sizes, .flag = gpt_neox_flags,
        .act_key = "hidden_act", .act = {"gelu"},
        .eps_key = "layer_norm_eps", .eps_default = 1e-5, .tie_default = false,
        .theta_default = 1e4, .rope = true,
        .theta_key = "rotary_emb_base", .share_key = "rotary_pct", .share_default = 0.25,
    },
};
/* clang-format on */

const struct ds__hf_family *ds__hf_family_of(enum ds_arch arch)
{
    return &families[arch];
}
