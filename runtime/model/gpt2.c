/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpt2.c - the GPT-2 family: LayerNorm, learned positions, packed qkv, GELU, matrices [in, out].
 *
 * Source  Hugging Face GPT2LMHeadModel (Conv1D stores [in, out]).
 * Tests   tests/plan/test_model.c
 */
#include "runtime/model/family.h"

/* clang-format off */
static const struct ds_param_rule embed[] = {
    {"transformer.wte.weight", DS_ROLE_WTE, {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
    {"transformer.wpe.weight", DS_ROLE_WPE, {DS_EXTENT_CONTEXT, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
static const struct ds_param_rule layer[] = {
    {"ln_1.weight",        DS_ROLE_NORM1_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"ln_1.bias",          DS_ROLE_NORM1_B, {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"attn.c_attn.weight", DS_ROLE_QKV_W,   {DS_EXTENT_HIDDEN, DS_EXTENT_QKV}, DS_INIT_NORMAL, 0},
    {"attn.c_attn.bias",   DS_ROLE_QKV_B,   {DS_EXTENT_QKV}, DS_INIT_ZERO, 0},
    {"attn.c_proj.weight", DS_ROLE_PROJ_W,  {DS_EXTENT_Q, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL_RESIDUAL, 0},
    {"attn.c_proj.bias",   DS_ROLE_PROJ_B,  {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"ln_2.weight",        DS_ROLE_NORM2_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"ln_2.bias",          DS_ROLE_NORM2_B, {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"mlp.c_fc.weight",    DS_ROLE_FC_W,    {DS_EXTENT_HIDDEN, DS_EXTENT_FFN}, DS_INIT_NORMAL, 0},
    {"mlp.c_fc.bias",      DS_ROLE_FC_B,    {DS_EXTENT_FFN}, DS_INIT_ZERO, 0},
    {"mlp.c_proj.weight",  DS_ROLE_DOWN_W,  {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL_RESIDUAL, 0},
    {"mlp.c_proj.bias",    DS_ROLE_DOWN_B,  {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
};
static const struct ds_param_rule head[] = {
    {"transformer.ln_f.weight", DS_ROLE_NORMF_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"transformer.ln_f.bias",   DS_ROLE_NORMF_B, {DS_EXTENT_HIDDEN}, DS_INIT_ZERO, 0},
    {"lm_head.weight",          DS_ROLE_HEAD_W,  {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
/* clang-format on */

const struct ds_family ds__family_gpt2 = {
    .name = "gpt2",
    .layer_prefix = "transformer.h.",
    .embed = embed,
    .layer = layer,
    .head = head,
    .n_embed = sizeof(embed) / sizeof(embed[0]),
    .n_layer = sizeof(layer) / sizeof(layer[0]),
    .n_head = sizeof(head) / sizeof(head[0]),
    .norm = DS_NORM_LAYER,
    .packed = true,
};
