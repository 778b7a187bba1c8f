/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * model.h - which parameters a model has: pure tables, no memory, no arithmetic on weights.
 *
 * A model is a line of blocks: block 0 the embedding, 1 .. layers the transformer layers, the last
 * one the head (final norm, classifier, loss).  Parameters are listed block by block, with the
 * names and layouts of the family's Hugging Face checkpoints, so a checkpoint needs no conversion:
 * GPT-2's matrices are [in, out], Llama's [out, in].  A tied head has no tensor of its own.
 *
 * Mixtral is Llama with many feed-forward blocks in a layer, the experts, of which a router gives
 * each token to a few.  First and second matrices of all experts of a layer lie one behind another.
 *
 * With adapters (struct ds_lora) a layer's tensors are followed by theirs, all A before all B, with
 * the names that PEFT gives them.
 *
 * Qwen2 is Llama with biases of queries, keys and values; Qwen3 with norms of their heads, and has
 * experts, too.
 *
 * Phi-3 is Llama whose folders have queries, keys and values as one tensor, gate and up as another;
 * here they are apart, and have Llama's names.
 *
 * OLMo-2 is Llama with norms behind the halves of a layer instead of before, and with norms of all
 * queries of a row and of all keys.
 *
 * Gemma 3 has norms before and behind, of heads, too, GELU in the place of SiLU, embeddings that
 * are multiplied by the root of the width, and of some layers one that sees all, the others a
 * window.
 *
 * SmolLM3 is Llama of which some layers have no positions; Granite is Llama with factors of
 * embeddings, of scores, of what each half of a layer adds, and of logits.
 *
 * GPT-NeoX (Pythia) is GPT-2 with rotary positions, matrices as Llama's, and a feed-forward block
 * that may read the layer's input.
 *
 * Source  Hugging Face transformers GPT2LMHeadModel, LlamaForCausalLM, MixtralForCausalLM,
 *         Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, Phi3ForCausalLM,
 *         Olmo2ForCausalLM, Gemma3ForCausalLM, SmolLM3ForCausalLM,
 *         GraniteForCausalLM, GPTNeoXForCausalLM.
 * Tests   tests/plan/test_model.c
 */
#ifndef DS_RUNTIME_MODEL_H
#define DS_RUNTIME_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "runtime/job.h"

/* What a parameter is for; the same roles in every family. */
/* clang-format off */
enum ds_role {
    DS_ROLE_WTE, DS_ROLE_WPE,
    DS_ROLE_NORM1_W, DS_ROLE_NORM1_B,
    DS_ROLE_QKV_W, DS_ROLE_QKV_B,               /* gpt2: one packed matrix */
    DS_ROLE_Q_W, DS_ROLE_K_W, DS_ROLE_V_W,      /* llama: adjacent, used as one [q+k+v, C] matrix */
    DS_ROLE_Q_B, DS_ROLE_K_B, DS_ROLE_V_B,      /* qwen2: the same */
    DS_ROLE_QNORM_W, DS_ROLE_KNORM_W,           /* qwen3: of each head; olmo2: of all */
    DS_ROLE_PROJ_W, DS_ROLE_PROJ_B,
    DS_ROLE_POST1_W,                            /* the norm of what attention adds to the stream */
    DS_ROLE_NORM2_W, DS_ROLE_NORM2_B,
    DS_ROLE_ROUTER_W,                           /* of families with experts */
    DS_ROLE_FC_W, DS_ROLE_FC_B,                 /* gpt2 */
    DS_ROLE_GATE_W, DS_ROLE_UP_W,               /* llama: adjacent, used as one [2F, C] matrix;
                                                   of all experts, one behind another */
    DS_ROLE_DOWN_W, DS_ROLE_DOWN_B,
    DS_ROLE_POST2_W,                            /* and the feed-forward block */
    DS_ROLE_NORMF_W, DS_ROLE_NORMF_B,
    DS_ROLE_HEAD_W,
    DS_ROLE_LORA_A_QKV, DS_ROLE_LORA_A_K, DS_ROLE_LORA_A_V, /* adapters, by enum ds_adapted; A of */
    DS_ROLE_LORA_A_PROJ, DS_ROLE_LORA_A_FC,                 /* neighbours are used as one matrix */
    DS_ROLE_LORA_A_UP, DS_ROLE_LORA_A_DOWN,
    DS_ROLE_LORA_B_QKV, DS_ROLE_LORA_B_K, DS_ROLE_LORA_B_V, DS_ROLE_LORA_B_PROJ,
    DS_ROLE_LORA_B_FC, DS_ROLE_LORA_B_UP, DS_ROLE_LORA_B_DOWN,
    DS_ROLE_COUNT,
    DS_ROLE_LORA_A = DS_ROLE_LORA_A_QKV, DS_ROLE_LORA_B = DS_ROLE_LORA_B_QKV
};
/* clang-format on */

enum ds_init {
    DS_INIT_NORMAL,
    DS_INIT_NORMAL_RESIDUAL, /* std / sqrt(2 * layers), GPT-2's rule for output projections */
    DS_INIT_ZERO,
    DS_INIT_ONE,
    DS_INIT_FAN_IN /* 1 / sqrt(3 * inputs), the deviation of PyTorch's own linear layers */
};

struct ds_param {
    char name[DS_MAX_TENSOR_NAME + 1]; /* "transformer.h.0.attn.c_attn.weight" */
    unsigned block;
    enum ds_role role;
    unsigned expert; /* 0 where it is of none */
    unsigned ndim;   /* 1 or 2 */
    uint64_t shape[2];
    uint64_t elems;
    enum ds_init init;
};

/* How many parameters tensors the model has, and the i-th of them (i < count). */
size_t ds_model_param_count(const struct ds_model_shape *shape);
void ds_model_param(const struct ds_model_shape *shape, size_t i, struct ds_param *param);
/* Is it of one of the experts? */
bool ds_model_is_expert(const struct ds_model_shape *shape, size_t i);
/* Are both parts of what kernels use as one matrix, or as one array of matrices?  Such stand next
 * to each other, and lie there without gaps. */
bool ds_model_same_matrix(const struct ds_param *a, const struct ds_param *b);

/* The model without its adapters. */
struct ds_model_shape ds_model_base(const struct ds_model_shape *shape);
/* Is it of an adapter? */
static inline bool ds_model_is_adapter(const struct ds_param *param)
{
    return param->role >= DS_ROLE_LORA_A_QKV && param->role <= DS_ROLE_LORA_B_DOWN;
}
/* The factor of what adapters add. */
double ds_model_adapter_scale(const struct ds_lora *lora);
/* Has the tensor one, a matrix? */
bool ds_model_has_adapter(const struct ds_model_shape *shape, const struct ds_param *param);
/* Targets whose module's path is `name` or ends with it behind a dot ("q_proj", "attn.c_proj"), as
 * 1 << enum ds_adapted; 0: the family has no such matrix, or it is of experts. */
unsigned ds_model_targets(const struct ds_model_shape *shape, const char *name);
/* The path of a target's module in a layer, "self_attn.q_proj"; false: the family has none. */
bool ds_model_target_name(const struct ds_model_shape *shape, enum ds_adapted target,
                          char out[DS_MAX_TENSOR_NAME + 1]);

/* Is layer `block` (1 .. layers) one of those that have the window, and local_theta, where not all
 * layers are alike?  What the window of a layer is. */
bool ds_model_local(const struct ds_model_shape *shape, uint64_t block);
uint64_t ds_model_window(const struct ds_model_shape *shape, uint64_t block);

/* Are rotary positions turned in layer `block`?  How many layers do so. */
bool ds_model_turns(const struct ds_model_shape *shape, uint64_t block);
uint64_t ds_model_turning(const struct ds_model_shape *shape);

/* What LONGROPE divides frequencies by where sequences have `longest` tokens at most: one list for
 * all of a run, whatever a sequence has.  NULL with other types. */
const struct ds_numbers *ds_model_rope_each(const struct ds_model_shape *shape, uint64_t longest);

/* Elements of the widest row that a norm is of. */
uint64_t ds_model_normed_width(const struct ds_model_shape *shape);

/* The matrix products of a layer, of rows of width `in` to rows of width `out`. */
enum ds_layer_product {
    DS_PRODUCT_QKV,
    DS_PRODUCT_PROJ,
    DS_PRODUCT_FC,
    DS_PRODUCT_DOWN,
    DS_PRODUCT_COUNT
};
struct ds_extents {
    uint64_t in, out;
};
struct ds_extents ds_model_product(const struct ds_model_shape *shape,
                                   enum ds_layer_product product);
/* Rows that it has for each token: with experts those of FC and DOWN have as many as a token has
 * experts; the extents are those of one expert's matrix. */
uint64_t ds_model_product_rows(const struct ds_model_shape *shape, enum ds_layer_product product);

/* Targets of adapters that are parts of a product: [first, next one's first). */
unsigned ds_model_first_target(enum ds_layer_product product);
/* What all adapters of a layer, and those of a product that has most, make of a row: elements. */
uint64_t ds_model_adapted_width(const struct ds_model_shape *shape);
uint64_t ds_model_adapted_widest(const struct ds_model_shape *shape);
/* The widest row that adapters read; and bytes of room for what they make of `tokens` rows on its
 * way, in F32 and in elements of `act` bytes: behind it is room for what dropout leaves of rows. */
uint64_t ds_model_adapted_deepest(const struct ds_model_shape *shape);
uint64_t ds_model_adapting_bytes(const struct ds_model_shape *shape, uint64_t tokens, size_t act);

/* What products of FP8 work in (runtime/model/fp8.c): bytes of the codes of a pass, a training or a
 * forward one; elements of both operands of the largest product. */
enum { DS_MODEL_FP8_SCALES = 64 }; /* of the first, at its start */
uint64_t ds_model_fp8_bytes(const struct ds_model_shape *shape, uint64_t tokens, bool train);
/* The largest elements (kernels/op.h) of each operand of each product of each layer. */
enum ds_fp8_operand { DS_FP8_ROWS, DS_FP8_WEIGHTS, DS_FP8_GRADIENTS, DS_FP8_OPERANDS };
uint64_t ds_model_fp8_largest_bytes(const struct ds_model_shape *shape);
uint64_t ds_model_fp8_operands(const struct ds_model_shape *shape, uint64_t tokens);

/* Where the parts of DS_BUFFER_ROUTES lie, in bytes from its start: what a layer's router says of
 * the rows of a micro-batch (kernels/experts.h); of those of `ranks` ranks where these divide the
 * experts.  0 bytes without experts. */
struct ds_model_routes {
    uint64_t probs, chosen, source, place, offset, weight, dweight, load, bytes;
};
struct ds_model_routes ds_model_routes(const struct ds_model_shape *shape, uint64_t batch,
                                       uint64_t tokens, uint64_t ranks);
/* Room for sorted rows: each row comes once to each of its experts that is here. */
uint64_t ds_model_sorted_rows(const struct ds_model_shape *shape, uint64_t tokens, uint64_t ranks);

unsigned ds_model_blocks(const struct ds_model_shape *shape); /* layers + 2 */
uint64_t ds_model_elems(const struct ds_model_shape *shape);  /* of all parameters */

/* Of those that a token uses: of the experts of a layer a few. */
uint64_t ds_model_active_elems(const struct ds_model_shape *shape);

/* FLOPs of one trained token, forward and backward: 6 N + 6 L C T (llm.c's convention: causal
 * attention counted once, the embedding counted when tied), N what a token uses; with a window W
 * W (2 - W / T) in the place of T. */
double ds_model_flops_per_token(const struct ds_model_shape *shape, uint64_t sequence);
/* Tokens that one sees, in mean over a sequence and layers: half of it, or what a window leaves. */
double ds_model_seen(const struct ds_model_shape *shape, uint64_t sequence);
/* What of them is products inside layers. */
double ds_model_product_flops_per_token(const struct ds_model_shape *shape);

/* kv_heads | heads, even head_size for rotary positions, hidden = heads x it without them, ... */
int ds_model_check(const struct ds_model_shape *shape, struct ds_error *err) DS_NODISCARD;

#endif
