/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * qwen2.c - the Qwen2 family: Llama, with biases of queries, keys and values.
 *
 * The biases stand next to each other, as their matrices do.
 *
 * Source  Hugging Face Qwen2ForCausalLM.
 * Tests   tests/plan/test_model.c
 */
#include "runtime/model/family.h"

/* clang-format off */
static const struct ds_param_rule embed[] = {
    {"model.embed_tokens.weight", DS_ROLE_WTE, {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
static const struct ds_param_rule layer[] = {
    {"input_layernorm.weight",          DS_ROLE_NORM1_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"self_attn.q_proj.weight",         DS_ROLE_Q_W,     {DS_EXTENT_Q, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"self_attn.k_proj.weight",         DS_ROLE_K_W,     {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"self_attn.v_proj.weight",         DS_ROLE_V_W,     {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"self_attn.q_proj.bias",           DS_ROLE_Q_B,     {DS_EXTENT_Q}, DS_INIT_ZERO, 0},
    {"self_attn.k_proj.bias",           DS_ROLE_K_B,     {DS_EXTENT_KV}, DS_INIT_ZERO, 0},
    {"self_attn.v_proj.bias",           DS_ROLE_V_B,     {DS_EXTENT_KV}, DS_INIT_ZERO, 0},
    {"self_attn.o_proj.weight",         DS_ROLE_PROJ_W,  {DS_EXTENT_HIDDEN, DS_EXTENT_Q}, DS_INIT_NORMAL_RESIDUAL, 0},
    {"post_attention_layernorm.weight", DS_ROLE_NORM2_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"mlp.gate_proj.weight",            DS_ROLE_GATE_W,  {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"mlp.up_proj.weight",              DS_ROLE_UP_W,    {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"mlp.down_proj.weight",            DS_ROLE_DOWN_W,  {DS_EXTENT_HIDDEN, DS_EXTENT_FFN}, DS_INIT_NORMAL_RESIDUAL, 0},
};
static const struct ds_param_rule head[] = {
    {"model.norm.weight", DS_ROLE_NORMF_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"lm_head.weight",    DS_ROLE_HEAD_W,  {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
/* clang-format on */

const struct ds_family ds__family_qwen2 = {
    .name = "qwen2",
    .layer_prefix = "model.layers.",
    .embed = embed,
    .layer = layer,
    .head = head,
    .n_embed = sizeof(embed) / sizeof(embed[0]),
    .n_layer = sizeof(layer) / sizeof(layer[0]),
    .n_head = sizeof(head) / sizeof(head[0]),
    .norm = DS_NORM_RMS,
    .rope = true,
    .swiglu = true,
    .weight_out = true,
    .qkv_bias = true,
};
