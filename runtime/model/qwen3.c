/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * qwen3.c - the Qwen3 family: Llama, with norms of the heads of queries and keys.
 *
 * The heads' size is a number of its own there: all of them may be wider than the stream.
 *
 * Source  Hugging Face Qwen3ForCausalLM.
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
    {"self_attn.o_proj.weight",         DS_ROLE_PROJ_W,  {DS_EXTENT_HIDDEN, DS_EXTENT_Q}, DS_INIT_NORMAL_RESIDUAL, 0},
    {"self_attn.q_norm.weight",         DS_ROLE_QNORM_W, {DS_EXTENT_HEAD}, DS_INIT_ONE, 0},
    {"self_attn.k_norm.weight",         DS_ROLE_KNORM_W, {DS_EXTENT_HEAD}, DS_INIT_ONE, 0},
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

const struct ds_family ds__family_qwen3 = {
    .name = "qwen3",
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
    .head_norm = true,
};
