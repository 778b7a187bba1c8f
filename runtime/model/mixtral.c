/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mixtral.c - the Mixtral family: Llama, with a router and experts for the feed-forward block.
 *
 * First matrices of all experts stand next to each other, w1 and w3 of one by turns, then the
 * second ones: so that either are one array of matrices (kernels/experts.h).
 *
 * Source  Hugging Face MixtralForCausalLM; Jiang et al., "Mixtral of Experts" (2024).
 * Tests   tests/plan/test_model.c
 */
#include "runtime/model/family.h"

/* clang-format off */
static const struct ds_param_rule embed[] = {
    {"model.embed_tokens.weight", DS_ROLE_WTE, {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
static const struct ds_param_rule layer[] = {
    {"input_layernorm.weight",          DS_ROLE_NORM1_W,  {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"self_attn.q_proj.weight",         DS_ROLE_Q_W,      {DS_EXTENT_Q, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"self_attn.k_proj.weight",         DS_ROLE_K_W,      {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"self_attn.v_proj.weight",         DS_ROLE_V_W,      {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"self_attn.o_proj.weight",         DS_ROLE_PROJ_W,   {DS_EXTENT_HIDDEN, DS_EXTENT_Q}, DS_INIT_NORMAL_RESIDUAL, 0},
    {"post_attention_layernorm.weight", DS_ROLE_NORM2_W,  {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"block_sparse_moe.gate.weight",    DS_ROLE_ROUTER_W, {DS_EXTENT_EXPERTS, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"w1.weight",                       DS_ROLE_GATE_W,   {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 2},
    {"w3.weight",                       DS_ROLE_UP_W,     {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 2},
    {"w2.weight",                       DS_ROLE_DOWN_W,   {DS_EXTENT_HIDDEN, DS_EXTENT_FFN}, DS_INIT_NORMAL_RESIDUAL, 1},
};
static const struct ds_param_rule head[] = {
    {"model.norm.weight", DS_ROLE_NORMF_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"lm_head.weight",    DS_ROLE_HEAD_W,  {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
/* clang-format on */

const struct ds_family ds__family_mixtral = {
    .name = "mixtral",
    .layer_prefix = "model.layers.",
    .expert_prefix = "block_sparse_moe.experts.",
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
};
