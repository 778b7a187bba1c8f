/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpt_neox.c - the GPT-NeoX family, which Pythia is of: LayerNorm, rotary positions of a part of
 * each head, GELU by the error function, biases everywhere, [out, in].
 *
 * Queries, keys and values are apart here, next to each other so that they are one matrix product;
 * folders have them as one tensor, head by head (runtime/ckpt/hf_packed.h).
 *
 * Source  Hugging Face GPTNeoXForCausalLM; Black et al., "GPT-NeoX-20B" (2022).
 * Tests   tests/plan/test_model.c
 */
#include "runtime/model/family.h"

/* clang-format off */
static const struct ds_param_rule embed[] = {
    {"gpt_neox.embed_in.weight", DS_ROLE_WTE, {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
static const struct ds_param_rule layer[] = {
    {"input_layernorm.weight",          DS_ROLE_NORM1_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"input_layernorm.bias",            DS_ROLE_NORM1_B, {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"attention.query.weight",          DS_ROLE_Q_W,     {DS_EXTENT_Q, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"attention.key.weight",            DS_ROLE_K_W,     {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"attention.value.weight",          DS_ROLE_V_W,     {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"attention.query.bias",            DS_ROLE_Q_B,     {DS_EXTENT_Q}, DS_INIT_ZERO, 0},
    {"attention.key.bias",              DS_ROLE_K_B,     {DS_EXTENT_KV}, DS_INIT_ZERO, 0},
    {"attention.value.bias",            DS_ROLE_V_B,     {DS_EXTENT_KV}, DS_INIT_ZERO, 0},
    {"attention.dense.weight",          DS_ROLE_PROJ_W,  {DS_EXTENT_HIDDEN, DS_EXTENT_Q}, DS_INIT_NORMAL_RESIDUAL, 0},
    {"attention.dense.bias",            DS_ROLE_PROJ_B,  {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"post_attention_layernorm.weight", DS_ROLE_NORM2_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"post_attention_layernorm.bias",   DS_ROLE_NORM2_B, {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"mlp.dense_h_to_4h.weight",        DS_ROLE_FC_W,    {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"mlp.dense_h_to_4h.bias",          DS_ROLE_FC_B,    {DS_EXTENT_FFN}, DS_INIT_ZERO, 0},
    {"mlp.dense_4h_to_h.weight",        DS_ROLE_DOWN_W,  {DS_EXTENT_HIDDEN, DS_EXTENT_FFN}, DS_INIT_NORMAL_RESIDUAL, 0},
    {"mlp.dense_4h_to_h.bias",          DS_ROLE_DOWN_B,  {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
};
static const struct ds_param_rule head[] = {
    {"gpt_neox.final_layer_norm.weight", DS_ROLE_NORMF_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"gpt_neox.final_layer_norm.bias",   DS_ROLE_NORMF_B, {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"embed_out.weight",                 DS_ROLE_HEAD_W,  {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
/* clang-format on */

const struct ds_family ds__family_gpt_neox = {
    .name = "gpt_neox",
    .layer_prefix = "gpt_neox.layers.",
    .embed = embed,
    .layer = layer,
    .head = head,
    .n_embed = sizeof(embed) / sizeof(embed[0]),
    .n_layer = sizeof(layer) / sizeof(layer[0]),
    .n_head = sizeof(head) / sizeof(head[0]),
    .norm = DS_NORM_LAYER,
    .rope = true,
    .gelu = DS_GELU_ERF,
    .weight_out = true,
};
