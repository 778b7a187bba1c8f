/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * family.h - what distinguishes the model families: their parameter tables and a few switches.
 *
 * A family is data.  model.c expands its table for a shape; the blocks (layer.c, ends.c) are
 * written once and read the switches.
 */
#ifndef DS_RUNTIME_MODEL_FAMILY_H
#define DS_RUNTIME_MODEL_FAMILY_H

#include "kernels/op.h"
#include "runtime/model/model.h"

/* The extents a parameter can have. */
enum ds_extent {
    DS_EXTENT_NONE,
    DS_EXTENT_HIDDEN,
    DS_EXTENT_VOCAB,
    DS_EXTENT_CONTEXT,
    DS_EXTENT_QKV, /* (heads + 2 kv_heads) * head_size */
    DS_EXTENT_Q,   /* heads * head_size */
    DS_EXTENT_KV,  /* kv_heads * head_size */
    DS_EXTENT_HEAD,
    DS_EXTENT_FFN,
    DS_EXTENT_EXPERTS,
};

struct ds_param_rule {
    const char *name; /* of a layer: what follows "<layer_prefix><index>." */
    enum ds_role role;
    enum ds_extent extent[2];
    enum ds_init init;
    unsigned
        run; /* above 0: this and its neighbours, so many, are there for each expert, by turns */
};

/* Where norms stand, beside the one at the end. */
enum ds_norms {
    DS_NORMS_BEFORE, /* of what each half of a layer reads */
    DS_NORMS_BEHIND, /* of what it adds to the stream */
    DS_NORMS_AROUND, /* of both */
};

struct ds_family {
    const char *name, *layer_prefix;
    const char *expert_prefix; /* before an expert's number and rule; NULL: no experts */
    const struct ds_param_rule *embed, *layer, *head;
    unsigned n_embed, n_layer, n_head; /* the last of `head` is HEAD_W: left out when tied */
    enum ds_norm_kind norm;
    enum ds_norms norms;
    enum ds_gate gate; /* of SwiGLU's families */
    bool grown;        /* embeddings are multiplied by the root of the width */
    bool rope;         /* rotary positions; else learned ones are in `embed` */
    bool swiglu;       /* gate and up of width ffn each; else GELU */
    enum ds_gelu gelu; /* of the others */
    bool weight_out;   /* matrices are [out, in]; else [in, out] */
    bool packed;       /* queries, keys and values are one tensor */
    bool qkv_bias;     /* of SwiGLU's families */
};

extern const struct ds_family ds__family_gpt2, ds__family_llama, ds__family_mixtral,
    ds__family_qwen2, ds__family_qwen3, ds__family_qwen3_moe, ds__family_phi3, ds__family_olmo2,
    ds__family_gemma3, ds__family_smollm3, ds__family_granite, ds__family_gpt_neox;

const struct ds_family *ds_family_of(enum ds_arch arch);

static inline bool ds_family_norms_before(const struct ds_family *family)
{
    return family->norms != DS_NORMS_BEHIND;
}

static inline bool ds_family_norms_behind(const struct ds_family *family)
{
    return family->norms != DS_NORMS_BEFORE;
}

/* Can the feed-forward activation be a part of the product before it? */
static inline bool ds_family_fuses_act(const struct ds_family *family)
{
    return !family->swiglu && family->gelu == DS_GELU_TANH;
}

/* Widths of one layer's activations: of the packed query, key and value row, of the feed-forward
 * input (both halves for SwiGLU). */
uint64_t ds_model_qkv_width(const struct ds_model_shape *shape);
uint64_t ds_model_ffn_in_width(const struct ds_model_shape *shape);

/* --- between model.c and adapters.c ---------------------------------------------------------- */

uint64_t ds__extent_of(const struct ds_model_shape *shape, enum ds_extent extent);
/* Tensors of a layer's adapters; the i-th of layer `layer`; elements of those of all layers. */
size_t ds__adapter_params(const struct ds_model_shape *shape);
void ds__adapter_param(const struct ds_model_shape *shape, size_t i, size_t layer,
                       struct ds_param *param);
uint64_t ds__adapter_elems(const struct ds_model_shape *shape);
int ds__adapters_check(const struct ds_model_shape *shape, struct ds_error *err) DS_NODISCARD;

#endif
