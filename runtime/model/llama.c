/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * llama.c - the Llama family and its relatives: RMSNorm, rotary positions, grouped queries, SwiGLU,
 * [out, in].
 *
 *   qwen2      biases of queries, keys and values
 *   qwen3      norms of the heads of queries and keys, whose size is a number of its own
 *   phi3       none, but for what its folders have as one tensor (runtime/ckpt/hf_packed.h)
 *   olmo2      norms behind the halves of a layer, not before; of all queries of a row, of all keys
 *   gemma3     norms before and behind and of heads, GELU for SiLU, embeddings that are multiplied
 *   smollm3    none, but that some layers have no positions
 *   granite    none, but factors of embeddings, scores, halves of layers and logits
 *   mixtral    a router and experts in the place of the feed-forward block
 *   qwen3_moe  both of these
 *
 * q, k, v and gate, up stand next to each other so that each group is one matrix product; their
 * biases do, too.  First matrices of all experts stand next to each other, gate and up of one by
 * turns, then the second ones: so that either are one array of matrices (kernels/experts.h).
 *
 * Source  Hugging Face LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, MixtralForCausalLM,
 *         Qwen3MoeForCausalLM, Phi3ForCausalLM, Olmo2ForCausalLM,
 *         Gemma3ForCausalLM, SmolLM3ForCausalLM, GraniteForCausalLM;
 *         Jiang et al.,
 *         "Mixtral of Experts" (2024).
 * Tests   tests/plan/test_model.c
 */
#include "runtime/model/family.h"

/* clang-format off */
#define ATTENTION_NORM \
    {"input_layernorm.weight",          DS_ROLE_NORM1_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0}
#define QKV \
    {"self_attn.q_proj.weight",         DS_ROLE_Q_W,     {DS_EXTENT_Q, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0}, \
    {"self_attn.k_proj.weight",         DS_ROLE_K_W,     {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0}, \
    {"self_attn.v_proj.weight",         DS_ROLE_V_W,     {DS_EXTENT_KV, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0}
#define QKV_BIASES \
    {"self_attn.q_proj.bias",           DS_ROLE_Q_B,     {DS_EXTENT_Q}, DS_INIT_ZERO, 0}, \
    {"self_attn.k_proj.bias",           DS_ROLE_K_B,     {DS_EXTENT_KV}, DS_INIT_ZERO, 0}, \
    {"self_attn.v_proj.bias",           DS_ROLE_V_B,     {DS_EXTENT_KV}, DS_INIT_ZERO, 0}
#define PROJ \
    {"self_attn.o_proj.weight",         DS_ROLE_PROJ_W,  {DS_EXTENT_HIDDEN, DS_EXTENT_Q}, DS_INIT_NORMAL_RESIDUAL, 0}
#define HEAD_NORMS \
    {"self_attn.q_norm.weight",         DS_ROLE_QNORM_W, {DS_EXTENT_HEAD}, DS_INIT_ONE, 0}, \
    {"self_attn.k_norm.weight",         DS_ROLE_KNORM_W, {DS_EXTENT_HEAD}, DS_INIT_ONE, 0}
#define ROW_NORMS \
    {"self_attn.q_norm.weight",         DS_ROLE_QNORM_W, {DS_EXTENT_Q}, DS_INIT_ONE, 0}, \
    {"self_attn.k_norm.weight",         DS_ROLE_KNORM_W, {DS_EXTENT_KV}, DS_INIT_ONE, 0}
#define POST_NORMS \
    {"post_attention_layernorm.weight",   DS_ROLE_POST1_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0}, \
    {"post_feedforward_layernorm.weight", DS_ROLE_POST2_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0}
#define PRE_FFN_NORM \
    {"pre_feedforward_layernorm.weight",  DS_ROLE_NORM2_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0}
#define FFN_NORM \
    {"post_attention_layernorm.weight", DS_ROLE_NORM2_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0}
/* run 0: of the layer; else of each expert, gate and up by turns. */
#define FFN(gate, up, down, experts) \
    {gate, DS_ROLE_GATE_W, {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, (experts) ? 2 : 0}, \
    {up,   DS_ROLE_UP_W,   {DS_EXTENT_FFN, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, (experts) ? 2 : 0}, \
    {down, DS_ROLE_DOWN_W, {DS_EXTENT_HIDDEN, DS_EXTENT_FFN}, DS_INIT_NORMAL_RESIDUAL, (experts) ? 1 : 0}
#define ONE_FFN FFN("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight", false)
#define ROUTER(name) {name, DS_ROLE_ROUTER_W, {DS_EXTENT_EXPERTS, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0}

static const struct ds_param_rule embed[] = {
    {"model.embed_tokens.weight", DS_ROLE_WTE, {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};
static const struct ds_param_rule head[] = {
    {"model.norm.weight", DS_ROLE_NORMF_W, {DS_EXTENT_HIDDEN}, DS_INIT_ONE, 0},
    {"lm_head.weight",    DS_ROLE_HEAD_W,  {DS_EXTENT_VOCAB, DS_EXTENT_HIDDEN}, DS_INIT_NORMAL, 0},
};

static const struct ds_param_rule llama[] = {ATTENTION_NORM, QKV, PROJ, FFN_NORM, ONE_FFN};
static const struct ds_param_rule qwen2[] = {ATTENTION_NORM, QKV, QKV_BIASES, PROJ, FFN_NORM, ONE_FFN};
static const struct ds_param_rule qwen3[] = {ATTENTION_NORM, QKV, PROJ, HEAD_NORMS, FFN_NORM, ONE_FFN};
static const struct ds_param_rule olmo2[] = {QKV, PROJ, ROW_NORMS, ONE_FFN, POST_NORMS};
static const struct ds_param_rule gemma3[] = {
    ATTENTION_NORM, QKV, PROJ, HEAD_NORMS, PRE_FFN_NORM, ONE_FFN, POST_NORMS};
static const struct ds_param_rule mixtral[] = {
    ATTENTION_NORM, QKV, PROJ, FFN_NORM, ROUTER("block_sparse_moe.gate.weight"),
    FFN("w1.weight", "w3.weight", "w2.weight", true)};
static const struct ds_param_rule qwen3_moe[] = {
    ATTENTION_NORM, QKV, PROJ, HEAD_NORMS, FFN_NORM, ROUTER("mlp.gate.weight"),
    FFN("gate_proj.weight", "up_proj.weight", "down_proj.weight", true)};
/* clang-format on */

/* What all of them have, and the layer's rules. */
#define RELATIVE_BY(family, rules)                                                                 \
    .name = #family, .layer_prefix = "model.layers.", .embed = embed, .layer = (rules),            \
    .head = head, .n_embed = sizeof(embed) / sizeof(embed[0]),                                     \
    .n_layer = sizeof(rules) / sizeof((rules)[0]), .n_head = sizeof(head) / sizeof(head[0]),       \
    .norm = DS_NORM_RMS, .rope = true, .swiglu = true, .weight_out = true
#define RELATIVE(family) RELATIVE_BY(family, family)

const struct ds_family ds__family_llama = {RELATIVE(llama)};
const struct ds_family ds__family_phi3 = {RELATIVE_BY(phi3, llama)};
const struct ds_family ds__family_granite = {RELATIVE_BY(granite, llama)};
const struct ds_family ds__family_smollm3 = {RELATIVE_BY(smollm3, llama)};
const struct ds_family ds__family_qwen2 = {RELATIVE(qwen2), .qkv_bias = true};
const struct ds_family ds__family_qwen3 = {RELATIVE(qwen3)};
const struct ds_family ds__family_olmo2 = {RELATIVE(olmo2), .norms = DS_NORMS_BEHIND};
const struct ds_family ds__family_gemma3 = {RELATIVE(gemma3), .norms = DS_NORMS_AROUND,
                                            .gate = DS_GATE_GELU, .grown = true};
const struct ds_family ds__family_mixtral = {RELATIVE(mixtral),
                                             .expert_prefix = "block_sparse_moe.experts."};
const struct ds_family ds__family_qwen3_moe = {RELATIVE(qwen3_moe),
                                               .expert_prefix = "mlp.experts."};
