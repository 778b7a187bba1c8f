/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * configs.h - what config.json says of a small model of each family; the map is open at its end.
 */
#ifndef DS_TESTS_CKPT_CONFIGS_H
#define DS_TESTS_CKPT_CONFIGS_H

#include <string.h>

#include "runtime/ckpt/ckpt.h"
#include "tests/ckpt/support.h"

/* clang-format off */
#define GPT2 \
    "{\"model_type\":\"gpt2\",\"vocab_size\":11,\"n_positions\":8,\"n_embd\":6,\"n_layer\":2,\"n_head\":2," \
    "\"layer_norm_epsilon\":1e-06,\"resid_pdrop\":0.1,\"n_inner\":null"
#define LLAMA \
    "{\"model_type\":\"llama\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4"
#define MIXTRAL \
    "{\"model_type\":\"mixtral\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4," \
    "\"num_local_experts\":3,\"num_experts_per_tok\":2"
#define MISTRAL \
    "{\"model_type\":\"mistral\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4"
#define QWEN2 \
    "{\"model_type\":\"qwen2\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4"
#define QWEN3 \
    "{\"model_type\":\"qwen3\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4"
#define PHI3 \
    "{\"model_type\":\"phi3\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1"
#define OLMO2 \
    "{\"model_type\":\"olmo2\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2"
#define GEMMA3 \
    "{\"model_type\":\"gemma3_text\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2"
#define QWEN3_MOE \
    "{\"model_type\":\"qwen3_moe\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"intermediate_size\":99,\"moe_intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4," \
    "\"num_experts\":3,\"num_experts_per_tok\":2,\"norm_topk_prob\":"
#define QWEN3_MOE5 /* as transformers 5 writes it */ \
    "{\"model_type\":\"qwen3_moe\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":8," \
    "\"moe_intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":4," \
    "\"num_experts_per_tok\":2,\"norm_topk_prob\":true,\"num_local_experts\":"
/* clang-format on */

static inline int read_config(const char *dir, const char *text, struct ds_model_shape *shape,
                              struct ds_error *err)
{
    spill(at(dir, "config.json"), text, strlen(text));
    return ds_hf_read_config(dir, shape, err);
}

#define SMOLLM3                                                                                    \
    "{\"model_type\":\"smollm3\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":" \
    "8,"                                                                                           \
    "\"intermediate_size\":12,\"num_hidden_layers\":3,\"num_attention_heads\":2"
#define GRANITE                                                                                    \
    "{\"model_type\":\"granite\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_size\":" \
    "8,"                                                                                           \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":2"
#define GPT_NEOX                                                                                   \
    "{\"model_type\":\"gpt_neox\",\"vocab_size\":11,\"max_position_embeddings\":8,\"hidden_"       \
    "size\":8,"                                                                                    \
    "\"intermediate_size\":12,\"num_hidden_layers\":2,\"num_attention_heads\":2"
/* Open behind the lists; the head has 2 pairs. */
#define LONGROPE(factors, more)                                                                    \
    PHI3 ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1.0,1.25],"                   \
         "\"long_factor\":" factors more "}}"

#endif
